//! Fused attention of a rank's own sequences.

use super::Op;
use super::dims::{Attention, AttentionGrad};
use super::kinds::AttentionDims;
use super::reference::{Args, StepSettings, dot, grid, results};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, float, full};
use crate::mesh::Coord;

impl AttentionDims {
    /// Elements of the output.
    fn out(&self) -> usize {
        self.rows() * self.heads * self.head_dim
    }

    fn curve(&self) -> Dims {
        [self.seq, self.batch * self.heads, self.head_dim].into()
    }
}

/// Matmuls backward to one forward: scores are recomputed, so five to two (Dao et al. 2022, §3.1).
pub(super) const BACKWARD: f64 = 2.5;

impl Spec for Attention {
    fn class(&self) -> &'static str {
        "attention"
    }

    fn params(&self) -> Signature {
        let d = self.dims;
        [
            float("qkv", Mode::In, d.rows() * d.qkv_cols()).fresh(),
            float("out", Mode::Out, d.out()),
            full("lse", Mode::Out, d.rows() * d.heads),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        self.dims.forward_flops()
    }

    fn dims(&self) -> Dims {
        self.dims.curve()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.attention.iter().map(|&dims| Op::Attention(dims)).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let (dims, d) = (self.dims, self.dims.head_dim);
        for head in SequenceHead::all(&dims) {
            for query in 0..dims.seq {
                let scores = head.scores(&x[0], query);
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = greatest + scores.iter().map(|s| (s - greatest).exp()).sum::<f64>().ln();
                x[2][head.lse(query)] = lse;
                for c in 0..d {
                    let weighted = scores.iter().enumerate().map(|(key, s)| (s - lse).exp() * x[0][head.v(key) + c]);
                    x[1][head.lse(query) * d + c] = weighted.sum();
                }
            }
        }
    }

    fn is_matrix(&self) -> bool {
        true
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.dims.batch, 1)
    }

    fn over(&self, batch: usize) -> Option<Op> {
        Some(Op::Attention(AttentionDims { batch, ..self.dims }))
    }
}

impl Spec for AttentionGrad {
    fn class(&self) -> &'static str {
        "attention-grad"
    }

    fn params(&self) -> Signature {
        let d = self.dims;
        [
            float("qkv", Mode::In, d.rows() * d.qkv_cols()),
            float("out", Mode::In, d.out()),
            full("lse", Mode::In, d.rows() * d.heads),
            float("dout", Mode::In, d.out()).fresh(),
            float("dqkv", Mode::Out, d.rows() * d.qkv_cols()),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        BACKWARD * self.dims.forward_flops()
    }

    fn dims(&self) -> Dims {
        self.dims.curve()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.attention.iter().map(|&dims| Op::AttentionGrad(dims)).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let (dims, d) = (self.dims, self.dims.head_dim);
        let root = (d as f64).sqrt();
        x[4].fill(0.0);
        for head in SequenceHead::all(&dims) {
            for query in 0..dims.seq {
                let (scores, lse) = (head.scores(&x[0], query), x[2][head.lse(query)]);
                let dout = x[3][head.lse(query) * d..][..d].to_vec();
                let p: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
                let dp: Vec<f64> = (0..p.len()).map(|key| dot(&dout, &x[0][head.v(key)..][..d])).collect();
                // Σ p·dp by what was kept of it (Dao et al. 2022, §B.2), rounded or not.
                let delta = dot(&x[1][head.lse(query) * d..][..d], &dout);
                for (key, (p, dp)) in p.iter().zip(&dp).enumerate() {
                    let ds = p * (dp - delta) / root;
                    for (c, dout) in dout.iter().enumerate() {
                        x[4][head.q(query) + c] += ds * x[0][head.k(key) + c];
                        x[4][head.k(key) + c] += ds * x[0][head.q(query) + c];
                        x[4][head.v(key) + c] += p * dout;
                    }
                }
            }
        }
    }

    fn settle(&self, x: &mut Args) {
        let mut made = results(Op::Attention(self.dims), &[&x[0]]);
        x[2] = made.pop().unwrap_or_default();
        x[1] = made.pop().unwrap_or_default();
    }

    fn is_matrix(&self) -> bool {
        true
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.dims.batch, 1)
    }

    fn over(&self, batch: usize) -> Option<Op> {
        Some(Op::AttentionGrad(AttentionDims { batch, ..self.dims }))
    }
}

/// A head of a sequence: where a token's query, key, value, output and lse lie, and the scores of a query.
struct SequenceHead<'a> {
    dims: &'a AttentionDims,
    row: usize,
    head: usize,
}

impl SequenceHead<'_> {
    fn all(dims: &AttentionDims) -> impl Iterator<Item = SequenceHead<'_>> {
        grid(dims.batch, dims.heads).map(move |(b, head)| SequenceHead { dims, row: b * dims.seq, head })
    }

    fn packed(&self, token: usize, head: usize) -> usize {
        (self.row + token) * self.dims.qkv_cols() + head * self.dims.head_dim
    }

    fn q(&self, token: usize) -> usize {
        self.packed(token, self.head)
    }

    fn k(&self, token: usize) -> usize {
        self.packed(token, self.dims.heads + self.head / (self.dims.heads / self.dims.kv_heads))
    }

    fn v(&self, token: usize) -> usize {
        self.k(token) + self.dims.kv_heads * self.dims.head_dim
    }

    fn lse(&self, token: usize) -> usize {
        (self.row + token) * self.dims.heads + self.head
    }

    /// Scaled scores of the keys that a query sees.
    fn scores(&self, qkv: &[f64], query: usize) -> Vec<f64> {
        let (d, seen) = (self.dims.head_dim, if self.dims.causal { query + 1 } else { self.dims.seq });
        let score = |key: usize| dot(&qkv[self.q(query)..][..d], &qkv[self.k(key)..][..d]);
        (0..seen).map(|key| score(key) / (d as f64).sqrt()).collect()
    }
}
