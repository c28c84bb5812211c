//! Rotary positions, also those of latent attention's packed rows.

use super::dims::{LatentPack, LatentPackGrad, Rope};
use super::kinds::LatentDims;
use super::reference::{Args, StepSettings, grid};
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

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
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

impl LatentDims {
    /// Elements of `q`, `kv`, `k_rope` and the packed rows.
    fn elems(&self) -> [usize; 4] {
        let heads = self.rows * self.heads;
        [heads * self.width(), heads * (self.nope + self.value), self.rows * self.rope, 3 * heads * self.width()]
    }

    /// Two products and a sum for each of a pair, of queries, keys and values alike.
    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.heads * self.rope) as f64
    }

    fn curve(&self) -> Dims {
        [self.rows, 3 * self.heads * self.width()].into()
    }

    fn samples(sizes: &Sizes) -> impl Iterator<Item = LatentDims> {
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
        let dims = |[rows, seq, heads, nope, rope, value, cp]: [usize; 7]| LatentDims {
            rows,
            seq,
            heads,
            nope,
            rope,
            value,
            theta: THETA,
            cp,
        };
        given.into_iter().map(dims)
    }

    /// Of a token and head, elements that packing copies: argument, element in it, element in packed rows.
    fn copied(&self, row: usize, head: usize) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let LatentDims { heads, nope, value, .. } = *self;
        let width = self.width();
        let packed = move |kind: usize| ((3 * row + kind) * heads + head) * width;
        let (q, kv) = ((row * heads + head) * width, (row * heads + head) * (nope + value));
        let queries = (0..nope).map(move |c| (0, q + c, packed(0) + c));
        let keys = (0..nope).map(move |c| (1, kv + c, packed(1) + c));
        queries.chain(keys).chain((0..value).map(move |c| (1, kv + nope + c, packed(2) + c)))
    }

    /// Of a token and head, pairs that turn: their angle at `at`, argument, the first's element in it, and in packed rows; the
    /// second stands `rope / 2` behind. The keys' are all heads' alike.
    fn turning(&self, row: usize, head: usize, at: Coord) -> impl Iterator<Item = (f64, [usize; 3])> + use<> {
        let LatentDims { seq, heads, nope, rope, theta, cp, .. } = *self;
        let width = self.width();
        let packed = |kind: usize| ((3 * row + kind) * heads + head) * width + nope;
        let place = position(row % seq, seq, cp, at.cp);
        let firsts = [[0, (row * heads + head) * width + nope, packed(0)], [2, row * rope, packed(1)]];
        let pairs = move |[arg, own, packed]: [usize; 3]| {
            (0..rope / 2).map(move |i| (angle(place, i, rope, theta), [arg, own + i, packed + i]))
        };
        firsts.into_iter().flat_map(pairs)
    }
}

impl Spec for LatentPack {
    fn class(&self) -> &'static str {
        "latent-pack"
    }

    fn params(&self) -> Signature {
        let [q, kv, k_rope, qkv] = self.dims.elems();
        [
            float("q", Mode::In, q).fresh(),
            float("kv", Mode::In, kv).fresh(),
            float("k_rope", Mode::In, k_rope).fresh(),
            float("qkv", Mode::Out, qkv),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        self.dims.flops()
    }

    fn dims(&self) -> Dims {
        self.dims.curve()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        LatentDims::samples(sizes).map(Op::LatentPack).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let (dims, half) = (self.dims, self.dims.rope / 2);
        x[3].fill(0.0);
        for (row, head) in grid(dims.rows, dims.heads) {
            dims.copied(row, head).for_each(|(arg, from, to)| x[3][to] = x[arg][from]);
            for (angle, [arg, from, to]) in dims.turning(row, head, at) {
                (x[3][to], x[3][to + half]) = turned((x[arg][from], x[arg][from + half]), angle);
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.dims.rows, self.dims.seq)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Op::LatentPack(LatentDims { rows, ..self.dims }))
    }

    fn shards(&self) -> usize {
        self.dims.cp
    }
}

impl Spec for LatentPackGrad {
    fn class(&self) -> &'static str {
        "latent-pack-grad"
    }

    fn params(&self) -> Signature {
        let [q, kv, k_rope, qkv] = self.dims.elems();
        [
            float("dqkv", Mode::In, qkv).fresh(),
            float("dq", Mode::Out, q),
            float("dkv", Mode::Out, kv),
            float("dk_rope", Mode::Out, k_rope),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        self.dims.flops()
    }

    fn dims(&self) -> Dims {
        self.dims.curve()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        LatentDims::samples(sizes).map(Op::LatentPackGrad).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let (dims, half) = (self.dims, self.dims.rope / 2);
        x[1..].iter_mut().for_each(|gradient| gradient.fill(0.0));
        for (row, head) in grid(dims.rows, dims.heads) {
            dims.copied(row, head).for_each(|(arg, to, from)| x[1 + arg][to] = x[0][from]);
            for (angle, [arg, to, from]) in dims.turning(row, head, at) {
                let (a, b) = turned((x[0][from], x[0][from + half]), -angle);
                x[1 + arg][to] += a;
                x[1 + arg][to + half] += b;
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.dims.rows, self.dims.seq)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Op::LatentPackGrad(LatentDims { rows, ..self.dims }))
    }

    fn shards(&self) -> usize {
        self.dims.cp
    }
}
