//! Attention of a rank's queries to keys and values of ranks that share sequences (context parallelism), or of an encoder.

use super::attention::BACKWARD;
use super::dims::{ContextAttention, ContextAttentionGrad};
use super::kinds::ContextDims;
use super::reference::{Args, StepSettings, dot, grid, results};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Signature, Spec, float, full, result};
use super::{Op, position};
use crate::mesh::Coord;

impl ContextDims {
    /// Elements of the output.
    fn out(&self) -> usize {
        self.rows() * self.heads * self.head_dim
    }

    fn curve(&self) -> Dims {
        [self.keys * self.blocks, self.batch * self.heads, self.head_dim].into()
    }

    /// Keys of a block that a query sees: first elements in the blocks' rows.
    fn seen(&self, rank: usize, sequence: usize, query: usize) -> Vec<usize> {
        let at = position(query, self.seq, self.cp, rank);
        let all = grid(self.blocks, self.keys).filter(|&(block, key)| {
            let owner = if self.blocks == self.cp { block } else { (rank + self.cp - self.hop) % self.cp };
            !self.causal || position(key, self.keys, self.cp, owner) <= at
        });
        let width = 2 * self.kv_heads * self.head_dim;
        all.map(|(block, key)| ((block * self.batch + sequence) * self.keys + key) * width).collect()
    }

    /// Each query's head: its number, its first element, and first elements of the keys that it sees.
    fn lines(&self, rank: usize) -> Vec<(usize, usize, Vec<usize>)> {
        let all = grid(self.rows(), self.heads).map(|(row, head)| {
            let kv = head / (self.heads / self.kv_heads) * self.head_dim;
            let keys = self.seen(rank, row / self.seq, row % self.seq).into_iter().map(|key| key + kv).collect();
            (row * self.heads + head, row * self.stride + head * self.head_dim, keys)
        });
        all.collect()
    }
}

impl Spec for ContextAttention {
    fn class(&self) -> &'static str {
        "context-attention"
    }

    fn params(&self) -> Signature {
        let d = self.dims;
        [
            float("q", Mode::In, d.rows() * d.stride).fresh(),
            float("kv", Mode::In, d.kv_elems()),
            float("out", result(d.hop > 0), d.out()),
            full("lse", result(d.hop > 0), d.rows() * d.heads),
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
        sizes.context.iter().map(|&dims| Op::ContextAttention(dims)).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let d = self.dims;
        let (n, values) = (d.head_dim, d.kv_heads * d.head_dim);
        for (line, q, keys) in d.lines(at.cp) {
            let score = |&key: &usize| dot(&x[0][q..q + n], &x[1][key..key + n]) / (n as f64).sqrt();
            let weights: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let before = if d.hop > 0 { x[3][line].exp() } else { 0.0 };
            let total = before + weights.iter().sum::<f64>();
            for c in 0..n {
                let sum: f64 = keys.iter().zip(&weights).map(|(key, w)| w * x[1][key + values + c]).sum();
                x[2][line * n + c] = (before * if d.hop > 0 { x[2][line * n + c] } else { 0.0 } + sum) / total;
            }
            x[3][line] = total.ln();
        }
    }

    fn is_matrix(&self) -> bool {
        true
    }

    fn shards(&self) -> usize {
        self.dims.cp
    }
}

impl Spec for ContextAttentionGrad {
    fn class(&self) -> &'static str {
        "context-attention-grad"
    }

    fn params(&self) -> Signature {
        let d = self.dims;
        [
            float("q", Mode::In, d.rows() * d.stride),
            float("kv", Mode::In, d.kv_elems()),
            float("out", Mode::In, d.out()),
            full("lse", Mode::In, d.rows() * d.heads),
            float("dout", Mode::In, d.out()).fresh(),
            float("dq", result(d.hop > 0), d.rows() * d.stride),
            float("dkv", Mode::Out, d.kv_elems()),
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
        sizes.context.iter().map(|&dims| Op::ContextAttentionGrad(dims)).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let d = self.dims;
        let (n, values, root) = (d.head_dim, d.kv_heads * d.head_dim, (d.head_dim as f64).sqrt());
        if d.hop == 0 {
            x[5].fill(0.0);
        }
        x[6].fill(0.0);
        for (line, q, keys) in d.lines(at.cp) {
            let dout = x[4][line * n..(line + 1) * n].to_vec();
            let delta = dot(&x[2][line * n..(line + 1) * n], &dout);
            for key in keys {
                let p = (dot(&x[0][q..q + n], &x[1][key..key + n]) / root - x[3][line]).exp();
                let ds = p * (dot(&dout, &x[1][key + values..key + values + n]) - delta) / root;
                for c in 0..n {
                    x[5][q + c] += ds * x[1][key + c];
                    x[6][key + c] += ds * x[0][q + c];
                    x[6][key + values + c] += p * dout[c];
                }
            }
        }
    }

    fn settle(&self, x: &mut Args) {
        // As of one hop alone.
        let mut made = results(
            Op::ContextAttention(self.dims),
            &[&x[0], &x[1], &[0.0].repeat(self.dims.out()), &[-1.0].repeat(self.dims.rows() * self.dims.heads)],
        );
        x[3] = made.pop().unwrap_or_default();
        x[2] = made.pop().unwrap_or_default();
    }

    fn is_matrix(&self) -> bool {
        true
    }

    fn shards(&self) -> usize {
        self.dims.cp
    }
}
