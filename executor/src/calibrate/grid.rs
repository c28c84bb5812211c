//! Which ops a calibration times when nobody says otherwise.
//!
//! In: what weights and activations are. Out: ops of every class, over the sizes that models of a few to a few hundred million parameters use.
//!
//! Invariant: every op fits the arena that operands are taken from.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, AttentionDims, ContextDims, Layout, NormKind, Op};
use meshwright_hardware::program::Elem;

/// Tokens at once.
const ROWS: [usize; 3] = [128, 512, 2048];
/// Features of a row.
const COLS: [usize; 4] = [64, 256, 1024, 4096];
/// The longest row-wise op, elements.
const MOST: usize = 1 << 21;

/// Matmuls, attention, row-wise ops and whole-vector ops over a grid of sizes; in two bytes, updates have fp32 weights beside.
pub fn default_ops(elem: Elem) -> Vec<Op> {
    let master = elem != Elem::F32;
    let mut ops = matmuls();
    ops.extend(attentions());
    ops.extend(contexts());
    for rows in ROWS {
        for cols in COLS.into_iter().filter(|cols| rows * cols <= MOST) {
            ops.extend(row_wise(rows, cols));
        }
    }
    for n in [1 << 12, 1 << 16, 1 << 20, 3 << 20] {
        ops.extend([
            Op::Zero { n },
            Op::Accumulate { n },
            Op::Copy { n },
            Op::SquaredNorm { n, whole: n, copies: 1, replicas: 1, shards: 1, axis: Axis::Data },
            Op::AdamW { n, decayed: n, shards: 1, axis: Axis::Data, master },
        ]);
    }
    ops
}

/// Every layout of a linear layer: forward, the gradient of its input, that of its weight.
fn matmuls() -> Vec<Op> {
    let matmul = |layout, m, n, k| Op::Matmul { layout, m, n, k, bias: false, accumulate: layout == Layout::Tn };
    let mut ops = Vec::new();
    for tokens in ROWS {
        for (wide, deep) in [64, 256, 1024].into_iter().flat_map(|wide| [64, 256, 1024].map(|deep| (wide, deep))) {
            ops.extend([Layout::Nt, Layout::Nn].map(|layout| matmul(layout, tokens, wide, deep)));
            ops.push(matmul(Layout::Tn, wide, deep, tokens));
        }
    }
    for (wide, deep) in [(4096, 1024), (1024, 4096)] {
        ops.extend([Layout::Nt, Layout::Nn].map(|layout| matmul(layout, 512, wide, deep)));
        ops.push(matmul(Layout::Tn, wide, deep, 512));
    }
    ops
}

fn attentions() -> Vec<Op> {
    let mut ops = Vec::new();
    for seq in [64, 256, 1024] {
        for (batch, heads) in [(1, 2), (1, 8), (4, 8)] {
            for head_dim in [32, 64, 128] {
                let dims = AttentionDims { batch, seq, heads, kv_heads: heads, head_dim, causal: true };
                if dims.forward_flops() < 2.5e9 {
                    ops.extend([Op::Attention(dims), Op::AttentionGrad(dims)]);
                }
            }
        }
    }
    ops
}

/// Attention of two ranks that share sequences, as [`position`](meshwright_hardware::op::position) cuts them: to all keys at
/// once, or to a block, which are the same work a key.
fn contexts() -> Vec<Op> {
    let mut ops = Vec::new();
    for keys in [64, 256, 1024] {
        for (batch, heads) in [(1, 2), (1, 8), (4, 8)] {
            for head_dim in [32, 64, 128] {
                let (cp, kv_heads, seq) = (2, heads, keys / 2);
                let stride = (heads + 2 * kv_heads) * head_dim;
                let d = ContextDims {
                    batch,
                    seq,
                    keys: seq,
                    heads,
                    kv_heads,
                    head_dim,
                    stride,
                    causal: true,
                    cp,
                    blocks: cp,
                    hop: 0,
                };
                if d.forward_flops() < 3e8 {
                    ops.extend([Op::ContextAttention(d), Op::ContextAttentionGrad(d)]);
                }
            }
        }
    }
    ops
}

fn row_wise(rows: usize, cols: usize) -> Vec<Op> {
    let (seq, vocab, shards, accumulate) = (128, cols, 1, true);
    let mut ops = vec![
        Op::Embed { rows, cols, vocab: 256, shards },
        Op::EmbedGrad { rows, cols, vocab: 256, shards },
        Op::Positions { rows, seq, cols, sp: 1, cp: 1 },
        Op::PositionsGrad { rows, seq, cols, sp: 1, cp: 1 },
        Op::BiasGrad { rows, cols },
        Op::Rope { rows, seq, stride: cols, heads: cols / 32, head_dim: 32, theta: 1e4, cp: 1, inverse: false },
        Op::Add { rows, cols, bias: false },
        Op::Columns { rows, stride: 3 * cols, first: cols, cols, into: false },
        Op::LossStats { rows, vocab, shards },
        Op::Loss { rows, vocab, shards, scale: 1.0 },
    ];
    for kind in [NormKind::Layer, NormKind::Rms] {
        ops.extend([Op::Norm { kind, rows, cols }, Op::NormGrad { kind, rows, cols, accumulate }]);
    }
    for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu] {
        ops.extend([Op::Activation { kind, rows, cols }, Op::ActivationGrad { kind, rows, cols }]);
    }
    ops
}
