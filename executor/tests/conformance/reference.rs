//! Every op in plain `f64` loops, written from the formulas, not from any kernel.
//!
//! In: arguments in the order of the signature, ids as numbers. Out: the same arguments after the op.
//!
//! Invariant: no code is shared with the executor.

use meshwright_executor::device::StepArgs;
use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{ActivationKind, AttentionDims, Layout, NormKind, Op};

use crate::spread;

/// Arguments of an op.
pub type Args = [Vec<f64>];

const EPS: f64 = 1e-5;

/// Runs `op` for the rank at `at`.
pub fn run(op: &Op, x: &mut Args, at: Coord, step: &StepArgs) {
    match *op {
        Op::Embed { rows, cols, vocab, shards } => {
            for (r, c) in grid(rows, cols) {
                let id = local(x[0][r], vocab, shards, at.tp);
                x[2][r * cols + c] = id.map_or(0.0, |id| x[1][id * cols + c]);
            }
        }
        Op::EmbedGrad { rows, cols, vocab, shards } => {
            for (r, c) in grid(rows, cols) {
                if let Some(id) = local(x[0][r], vocab, shards, at.tp) {
                    x[2][id * cols + c] += x[1][r * cols + c];
                }
            }
        }
        Op::Positions { rows, seq, cols, sp, cp } => {
            let first = if sp == 1 { 0 } else { at.tp * rows };
            let at = |r: usize| place((first + r) % seq, seq, cp, at.cp);
            grid(rows, cols).for_each(|(r, c)| x[1][r * cols + c] += x[0][at(r) * cols + c]);
        }
        Op::PositionsGrad { rows, seq, cols, sp, cp } => {
            let first = if sp == 1 { 0 } else { at.tp * rows };
            let at = |r: usize| place((first + r) % seq, seq, cp, at.cp);
            grid(rows, cols).for_each(|(r, c)| x[1][at(r) * cols + c] += x[0][r * cols + c]);
        }
        Op::Norm { kind, rows, cols } => norm(kind, rows, cols, x),
        Op::NormGrad { kind, rows, cols, accumulate } => norm_grad(kind, rows, cols, accumulate, x),
        Op::Matmul { layout, m, n, k, bias, accumulate } => matmul(layout, (m, n, k), bias, accumulate, x),
        Op::BiasGrad { rows, cols } => grid(rows, cols).for_each(|(r, c)| x[1][c] += x[0][r * cols + c]),
        Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
            let half = head_dim / 2;
            for ((row, head), i) in grid(rows, heads).flat_map(|at| (0..half).map(move |i| (at, i))) {
                let frequency = f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
                // The angle is fp32's, as everybody's who trains in it.
                let angle = f64::from(place(row % seq, seq, cp, at.cp) as f32 * frequency as f32);
                let (sin, cos) = (if inverse { -angle } else { angle }).sin_cos();
                let first = row * stride + head * head_dim + i;
                let (a, b) = (x[0][first], x[0][first + half]);
                x[0][first] = a * cos - b * sin;
                x[0][first + half] = b * cos + a * sin;
            }
        }
        Op::Columns { rows, stride, first, cols, into } => {
            for (r, c) in grid(rows, cols) {
                let (part, whole) = (r * cols + c, r * stride + first + c);
                if into { x[1][whole] = x[0][part] } else { x[1][part] = x[0][whole] }
            }
        }
        Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
            spread::expert_matmul(layout, [experts, sources, m, n, k], accumulate, x);
        }
        Op::Route { rows, experts, top_k, room } => spread::route([rows, experts, top_k, room], x),
        Op::RouteGrad { rows, experts, top_k, balance, .. } => {
            let balance = f64::from(balance) * f64::from(step.loss_scale);
            spread::route_grad([rows, experts, top_k], balance, x);
        }
        Op::Dispatch { rows, cols, top_k, .. } => {
            x[2].fill(0.0);
            for ((i, to), c) in spread::seated(&x[1], rows * top_k).flat_map(|at| (0..cols).map(move |c| (at, c))) {
                x[2][to * cols + c] = x[0][i / top_k * cols + c];
            }
        }
        Op::DispatchGrad { rows, cols, top_k, accumulate, .. } => {
            if !accumulate {
                x[2].fill(0.0);
            }
            for ((i, from), c) in spread::seated(&x[0], rows * top_k).flat_map(|at| (0..cols).map(move |c| (at, c))) {
                x[2][i / top_k * cols + c] += x[1][from * cols + c];
            }
        }
        Op::Combine { rows, cols, top_k, .. } => {
            x[3].fill(0.0);
            for ((i, from), c) in spread::seated(&x[1], rows * top_k).flat_map(|at| (0..cols).map(move |c| (at, c))) {
                x[3][i / top_k * cols + c] += x[2][i] * x[0][from * cols + c];
            }
        }
        Op::CombineGrad { rows, cols, top_k, .. } => {
            x[4].fill(0.0);
            x[5].fill(0.0);
            for ((i, at), c) in spread::seated(&x[1], rows * top_k).flat_map(|at| (0..cols).map(move |c| (at, c))) {
                let d = x[3][i / top_k * cols + c];
                x[4][at * cols + c] = x[2][i] * d;
                x[5][i] += x[0][at * cols + c] * d;
            }
        }
        Op::ContextAttention(dims) => spread::context(&dims, at.cp, x),
        Op::ContextAttentionGrad(dims) => spread::context_grad(&dims, at.cp, x),
        Op::LatentPack { rows, seq, heads, nope, rope, value, theta, cp } => {
            spread::latent([rows, seq, heads, nope, rope, value], theta, |r| place(r, seq, cp, at.cp), false, x);
        }
        Op::LatentPackGrad { rows, seq, heads, nope, rope, value, theta, cp } => {
            spread::latent([rows, seq, heads, nope, rope, value], theta, |r| place(r, seq, cp, at.cp), true, x);
        }
        Op::Attention(dims) => attention(&dims, x),
        Op::AttentionGrad(dims) => attention_grad(&dims, x),
        Op::Activation { kind, rows, cols } => {
            for (r, c) in grid(rows, cols) {
                x[1][r * cols + c] = match kind {
                    ActivationKind::Gelu => gelu(x[0][r * cols + c]).0,
                    ActivationKind::SwiGlu => silu(x[0][r * 2 * cols + c]).0 * x[0][r * 2 * cols + cols + c],
                };
            }
        }
        Op::ActivationGrad { kind, rows, cols } => {
            for (r, c) in grid(rows, cols) {
                let d = x[1][r * cols + c];
                match kind {
                    ActivationKind::Gelu => x[2][r * cols + c] = d * gelu(x[0][r * cols + c]).1,
                    ActivationKind::SwiGlu => {
                        let (gate, up) = (r * 2 * cols + c, r * 2 * cols + cols + c);
                        let (value, slope) = silu(x[0][gate]);
                        x[2][gate] = d * x[0][up] * slope;
                        x[2][up] = d * value;
                    }
                }
            }
        }
        Op::Add { rows, cols, bias } => {
            let out = x.len() - 1;
            for (r, c) in grid(rows, cols) {
                let i = r * cols + c;
                x[out][i] = x[0][i] + x[1][i] + if bias { x[2][c] } else { 0.0 };
            }
        }
        Op::LossStats { rows, vocab, shards } => {
            for r in 0..rows {
                let row = &x[0][r * vocab..(r + 1) * vocab];
                let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum = row.iter().map(|x| (x - greatest).exp()).sum();
                let target = local(x[1][r], vocab, shards, at.tp).map_or(0.0, |id| row[id]);
                (x[2][r], x[2][rows + r], x[2][2 * rows + r]) = (greatest, sum, target);
            }
        }
        Op::Loss { rows, vocab, shards, scale } => {
            loss((rows, vocab, shards), f64::from(scale), f64::from(step.loss_scale), at.tp, x)
        }
        Op::Zero { .. } => x[0].fill(0.0),
        Op::Copy { n } => (0..n).for_each(|i| x[1][i] = x[0][i]),
        Op::Accumulate { n } => (0..n).for_each(|i| x[1][i] += x[0][i]),
        Op::SquaredNorm { n, whole, copies, replicas, shards, .. } => {
            let first = if shards == 1 { 0 } else { at.dp * n };
            let share = |i: usize| if first + i < whole { 1.0 } else { 1.0 / copies as f64 };
            x[1][0] += (0..n).map(|i| x[0][i] * x[0][i] * share(i)).sum::<f64>() / replicas as f64;
        }
        Op::AdamW { n, decayed, shards, master, .. } => {
            let first = if shards == 1 { 0 } else { at.dp * n };
            (0..n).for_each(|i| adamw(i, first + i < decayed, master, step, x));
        }
    }
}

/// Where in its sequence the `at`-th token of a rank stands: each of `cp` ranks has one of `2·cp` parts from either end.
pub fn place(at: usize, seq: usize, cp: usize, rank: usize) -> usize {
    let part = seq / 2;
    match at {
        at if cp == 1 => at,
        at if at < part => rank * part + at,
        at => (2 * cp - 1 - rank) * part + (at - part),
    }
}

pub fn grid(rows: usize, cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |r| (0..cols).map(move |c| (r, c)))
}

/// An id's row in this rank's shard.
fn local(id: f64, vocab: usize, shards: usize, tp: usize) -> Option<usize> {
    let first = if shards == 1 { 0 } else { tp * vocab };
    (first..first + vocab).contains(&(id as usize)).then(|| id as usize - first)
}

fn norm(kind: NormKind, rows: usize, cols: usize, x: &mut Args) {
    let (n, layer, last) = (cols as f64, kind == NormKind::Layer, x.len() - 1);
    for r in 0..rows {
        let row = x[0][r * cols..(r + 1) * cols].to_vec();
        let mean = if layer { row.iter().sum::<f64>() / n } else { 0.0 };
        let rstd = 1.0 / (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
        for (c, value) in row.iter().enumerate() {
            x[last - 1][r * cols + c] = (value - mean) * rstd * x[1][c] + if layer { x[2][c] } else { 0.0 };
        }
        (x[last][2 * r], x[last][2 * r + 1]) = (mean, rstd);
    }
}

fn norm_grad(kind: NormKind, rows: usize, cols: usize, accumulate: bool, x: &mut Args) {
    let (n, layer) = (cols as f64, kind == NormKind::Layer);
    for r in 0..rows {
        let (mean, rstd) = (x[2][2 * r], x[2][2 * r + 1]);
        let hat = |x: &Args, c: usize| (x[0][r * cols + c] - mean) * rstd;
        let g = |x: &Args, c: usize| x[3][r * cols + c] * x[1][c];
        let mean_g = if layer { (0..cols).map(|c| g(x, c)).sum::<f64>() / n } else { 0.0 };
        let mean_gx = (0..cols).map(|c| g(x, c) * hat(x, c)).sum::<f64>() / n;
        for c in 0..cols {
            let (dy, hat) = (x[3][r * cols + c], hat(x, c));
            let dx = rstd * (g(x, c) - mean_g - hat * mean_gx);
            x[4][r * cols + c] = dx + if accumulate { x[4][r * cols + c] } else { 0.0 };
            x[5][c] += dy * hat;
            if layer {
                x[6][c] += dy;
            }
        }
    }
}

fn matmul(layout: Layout, (m, n, k): (usize, usize, usize), bias: bool, accumulate: bool, x: &mut Args) {
    let out = x.len() - 1;
    for (i, j) in grid(m, n) {
        let term = |p: usize| match layout {
            Layout::Nt => x[0][i * k + p] * x[1][j * k + p],
            Layout::Nn => x[0][i * k + p] * x[1][p * n + j],
            Layout::Tn => x[0][p * m + i] * x[1][p * n + j],
        };
        let before = if accumulate { x[out][i * n + j] } else { 0.0 };
        x[out][i * n + j] = (0..k).map(term).sum::<f64>() + before + if bias { x[2][j] } else { 0.0 };
    }
}

/// A head of a sequence: where a token's query, key, value, output and lse lie, and the scores of a query.
struct Head<'a> {
    dims: &'a AttentionDims,
    row: usize,
    head: usize,
}

impl Head<'_> {
    fn all(dims: &AttentionDims) -> impl Iterator<Item = Head<'_>> {
        grid(dims.batch, dims.heads).map(move |(b, head)| Head { dims, row: b * dims.seq, head })
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
        let dot = |key: usize| (0..d).map(|c| qkv[self.q(query) + c] * qkv[self.k(key) + c]).sum::<f64>();
        (0..seen).map(|key| dot(key) / (d as f64).sqrt()).collect()
    }
}

fn attention(dims: &AttentionDims, x: &mut Args) {
    let d = dims.head_dim;
    for head in Head::all(dims) {
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

fn attention_grad(dims: &AttentionDims, x: &mut Args) {
    let (d, root) = (dims.head_dim, (dims.head_dim as f64).sqrt());
    x[4].fill(0.0);
    for head in Head::all(dims) {
        for query in 0..dims.seq {
            let (scores, lse) = (head.scores(&x[0], query), x[2][head.lse(query)]);
            let dout = x[3][head.lse(query) * d..][..d].to_vec();
            let p: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
            let dp = |x: &Args, key: usize| (0..d).map(|c| dout[c] * x[0][head.v(key) + c]).sum::<f64>();
            let dp: Vec<f64> = (0..p.len()).map(|key| dp(x, key)).collect();
            // Σ p·dp by what was kept of it (Dao et al. 2022, §B.2), rounded or not.
            let out = &x[1][head.lse(query) * d..][..d];
            let delta: f64 = out.iter().zip(&dout).map(|(out, dout)| out * dout).sum();
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

/// GELU's tanh form and its slope.
fn gelu(x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + 0.044_715 * x.powi(3))).tanh();
    let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), slope)
}

/// x·σ(x) and its slope.
fn silu(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

fn loss((rows, vocab, shards): (usize, usize, usize), scale: f64, gradients: f64, tp: usize, x: &mut Args) {
    for r in 0..rows {
        let stat = |kind: usize, shard: usize| x[1][(shard * 3 + kind) * rows + r];
        let row = r * vocab..(r + 1) * vocab;
        if x[0][r] == f64::from(u32::MAX) {
            x[2][row].fill(0.0);
            continue;
        }
        let sum: f64 = (0..shards).map(|shard| stat(1, shard) * stat(0, shard).exp()).sum();
        let target: f64 = (0..shards).map(|shard| stat(2, shard)).sum();
        let mine = local(x[0][r], vocab, shards, tp);
        x[2][row.clone()].iter_mut().for_each(|logit| *logit = logit.exp() / sum * scale * gradients);
        if let Some(id) = mine {
            x[2][row.start + id] -= scale * gradients;
        }
        x[3][0] += scale * (sum.ln() - target);
    }
}

fn adamw(i: usize, decays: bool, master: bool, step: &StepArgs, x: &mut Args) {
    let h = &step.adamw;
    let [lr, beta1, beta2, eps, bias1, bias2] = [h.lr, h.beta1, h.beta2, h.eps, h.bias1, h.bias2].map(f64::from);
    let decay = if decays { f64::from(h.weight_decay) } else { 0.0 };
    let scale = f64::from(step.loss_scale);
    let norm = x[0][0].sqrt() / scale;
    let shrink = if step.clip > 0.0 { (f64::from(step.clip) / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let g = x[1][i] / scale * shrink;
    x[3][i] = beta1 * x[3][i] + (1.0 - beta1) * g;
    x[4][i] = beta2 * x[4][i] + (1.0 - beta2) * g * g;
    let w = if master { x[5][i] } else { x[2][i] };
    let moved = w * (1.0 - lr * decay) - lr * (x[3][i] / bias1) / ((x[4][i] / bias2).sqrt() + eps);
    x[2][i] = moved;
    if master {
        x[5][i] = moved;
    }
}
