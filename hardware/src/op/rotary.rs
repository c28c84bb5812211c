//! Rotary positions, also those of latent attention's packed rows.

use super::dims::{LatentPack, LatentPackGrad, Rope};
use super::reference::{Args, Step, grid};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, float};
use super::{Op, position};
use crate::mesh::Coord;

/// The usual base of frequencies.
const THETA: f32 = 1e4;
/// Tokens a sequence and width of a head that are timed.
const TIMED: (usize, usize) = (128, 32);

/// The angle of pair `i` of a vector of `width` at a position. It is fp32's, as everybody's who trains in it.
fn angle(position: usize, i: usize, width: usize, theta: f32) -> f64 {
    let frequency = f64::from(theta).powf(-2.0 * i as f64 / width as f64) as f32;
    f64::from(position as f32 * frequency)
}

/// A pair, turned.
fn turned((a, b): (f64, f64), angle: f64) -> (f64, f64) {
    let (sin, cos) = angle.sin_cos();
    (a * cos - b * sin, b * cos + a * sin)
}

impl Spec for Rope {
    fn class(&self) -> &'static str {
        "rope"
    }

    fn params(&self) -> Signature {
        let Rope { rows, stride, heads, head_dim, .. } = *self;
        [float("x", Mode::InOut, rows * stride).fresh().moving(2 * rows * heads * head_dim)].into()
    }

    fn flops(&self) -> f64 {
        3.0 * (self.rows * self.heads * self.head_dim) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.heads * self.head_dim].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let (seq, head_dim) = TIMED;
        if !sizes.edges {
            let of = |&[rows, cols]: &[usize; 2]| {
                let (stride, heads) = (cols, cols / head_dim);
                Op::Rope { rows, seq, stride, heads, head_dim, theta: THETA, cp: 1, inverse: false }
            };
            return sizes.rows.iter().map(of).collect();
        }
        let edges = [[1, 1, 1, 2, 0], [9, 3, 3, 6, 5], [2100, 2100, 1, 16, 0], [70, 35, 5, 64, 128], [6, 4, 2, 128, 1]];
        let of = |[rows, seq, heads, head_dim, rest]: [usize; 5]| {
            let stride = heads * head_dim + rest;
            [(THETA, 1, false), (5e5, 2, true)].map(|(theta, cp, inverse)| Op::Rope {
                rows,
                seq,
                stride,
                heads,
                head_dim,
                theta,
                cp,
                inverse,
            })
        };
        edges.into_iter().flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &Step) {
        let Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } = *self;
        let half = head_dim / 2;
        for ((row, head), i) in grid(rows, heads).flat_map(|at| (0..half).map(move |i| (at, i))) {
            let angle = angle(position(row % seq, seq, cp, at.cp), i, head_dim, theta);
            let first = row * stride + head * head_dim + i;
            let pair = turned((x[0][first], x[0][first + half]), if inverse { -angle } else { angle });
            (x[0][first], x[0][first + half]) = pair;
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, self.seq)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Rope { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.cp
    }
}

/// Elements of `q`, `kv`, `k_rope` and the packed rows.
fn latent_elems([rows, heads, nope, rope, value]: [usize; 5]) -> [usize; 4] {
    let width = nope + rope;
    [rows * heads * width, rows * heads * (nope + value), rows * rope, 3 * rows * heads * width]
}

/// Rows, tokens a sequence, heads, widths without and with positions and of values, ranks that share a sequence.
fn latents(sizes: &Sizes) -> impl Iterator<Item = [usize; 7]> {
    let edges = [[2, 2, 1, 1, 2, 1, 1], [12, 6, 3, 8, 4, 7, 2], [70, 70, 2, 33, 64, 97, 1]];
    let given: Vec<[usize; 7]> = if sizes.edges {
        edges.to_vec()
    } else {
        let (seq, _) = TIMED;
        // A head's halves are of 32 with a position and 32 without, or a third as DeepSeek's: 128 and 64.
        let of = |&[rows, heads, width]: &[usize; 3]| {
            let rope = if width.is_multiple_of(3) { width / 3 } else { width / 2 };
            [rows, seq, heads, width - rope, rope, width - rope, 1]
        };
        sizes.latents.iter().map(of).collect()
    };
    given.into_iter()
}

/// Of a token and head, elements that packing copies: argument, element in it, element in packed rows.
fn copied(
    [heads, nope, rope, value]: [usize; 4],
    row: usize,
    head: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let width = nope + rope;
    let packed = move |kind: usize| ((3 * row + kind) * heads + head) * width;
    let (q, kv) = ((row * heads + head) * width, (row * heads + head) * (nope + value));
    let queries = (0..nope).map(move |c| (0, q + c, packed(0) + c));
    let keys = (0..nope).map(move |c| (1, kv + c, packed(1) + c));
    queries.chain(keys).chain((0..value).map(move |c| (1, kv + nope + c, packed(2) + c)))
}

/// Of a token and head, the first elements of what turns: argument, element in it, element in packed rows. The keys' are
/// all heads' alike.
fn turning([heads, nope, rope, _]: [usize; 4], row: usize, head: usize) -> [(usize, usize, usize); 2] {
    let width = nope + rope;
    let packed = |kind: usize| ((3 * row + kind) * heads + head) * width + nope;
    [(0, (row * heads + head) * width + nope, packed(0)), (2, row * rope, packed(1))]
}

impl Spec for LatentPack {
    fn class(&self) -> &'static str {
        "latent-pack"
    }

    fn params(&self) -> Signature {
        let LatentPack { rows, heads, nope, rope, value, .. } = *self;
        let [q, kv, k_rope, qkv] = latent_elems([rows, heads, nope, rope, value]);
        [
            float("q", Mode::In, q).fresh(),
            float("kv", Mode::In, kv).fresh(),
            float("k_rope", Mode::In, k_rope).fresh(),
            float("qkv", Mode::Out, qkv),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.heads * self.rope) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, 3 * self.heads * (self.nope + self.rope)].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let of = |[rows, seq, heads, nope, rope, value, cp]: [usize; 7]| Op::LatentPack {
            rows,
            seq,
            heads,
            nope,
            rope,
            value,
            theta: THETA,
            cp,
        };
        latents(sizes).map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &Step) {
        let LatentPack { rows, seq, heads, nope, rope, value, theta, cp } = *self;
        let (sizes, half) = ([heads, nope, rope, value], rope / 2);
        x[3].fill(0.0);
        for (row, head) in grid(rows, heads) {
            copied(sizes, row, head).for_each(|(arg, from, to)| x[3][to] = x[arg][from]);
            for ((arg, from, to), i) in
                turning(sizes, row, head).into_iter().flat_map(|at| (0..half).map(move |i| (at, i)))
            {
                let angle = angle(position(row % seq, seq, cp, at.cp), i, rope, theta);
                (x[3][to + i], x[3][to + half + i]) = turned((x[arg][from + i], x[arg][from + half + i]), angle);
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, self.seq)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(LatentPack { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.cp
    }
}

impl Spec for LatentPackGrad {
    fn class(&self) -> &'static str {
        "latent-pack-grad"
    }

    fn params(&self) -> Signature {
        let LatentPackGrad { rows, heads, nope, rope, value, .. } = *self;
        let [q, kv, k_rope, qkv] = latent_elems([rows, heads, nope, rope, value]);
        [
            float("dqkv", Mode::In, qkv).fresh(),
            float("dq", Mode::Out, q),
            float("dkv", Mode::Out, kv),
            float("dk_rope", Mode::Out, k_rope),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.heads * self.rope) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, 3 * self.heads * (self.nope + self.rope)].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let of = |[rows, seq, heads, nope, rope, value, cp]: [usize; 7]| Op::LatentPackGrad {
            rows,
            seq,
            heads,
            nope,
            rope,
            value,
            theta: THETA,
            cp,
        };
        latents(sizes).map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &Step) {
        let LatentPackGrad { rows, seq, heads, nope, rope, value, theta, cp } = *self;
        let (sizes, half) = ([heads, nope, rope, value], rope / 2);
        x[1..].iter_mut().for_each(|gradient| gradient.fill(0.0));
        for (row, head) in grid(rows, heads) {
            copied(sizes, row, head).for_each(|(arg, to, from)| x[1 + arg][to] = x[0][from]);
            for ((arg, to, from), i) in
                turning(sizes, row, head).into_iter().flat_map(|at| (0..half).map(move |i| (at, i)))
            {
                let angle = angle(position(row % seq, seq, cp, at.cp), i, rope, theta);
                let (a, b) = turned((x[0][from + i], x[0][from + half + i]), -angle);
                x[1 + arg][to + i] += a;
                x[1 + arg][to + half + i] += b;
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, self.seq)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(LatentPackGrad { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.cp
    }
}
