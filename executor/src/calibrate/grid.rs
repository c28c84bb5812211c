//! Which ops a calibration times when nobody says otherwise.
//!
//! In: what weights and activations are, and for what kind of device. Out: ops of every class: for a CPU, over the sizes that
//! models of a few to a few hundred million parameters use; for a GPU, up to those of some billions.
//!
//! Invariant: what is for a CPU fits 64 MiB of floats.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, AttentionDims, ContextDims, Layout, NormKind, Op};
use meshwright_hardware::program::Elem;

/// Sizes for a kind of device.
struct Sizes {
    /// Tokens at once, features of a row of matmuls, and both of those that are larger in one of them.
    matmuls: (&'static [usize], &'static [usize], &'static [(usize, usize, usize)]),
    /// Tokens of a sequence, sequences and heads, widths of heads, and FLOPs of the largest.
    attentions: (&'static [usize], &'static [(usize, usize)], &'static [usize], f64),
    /// Rows and columns of what goes row by row, and elements of the largest.
    rows: (&'static [usize], &'static [usize], usize),
    /// Tokens, and words of a vocabulary; logits at most.
    losses: (&'static [usize], &'static [usize], usize),
    /// Elements of what goes over whole vectors.
    vectors: &'static [usize],
}

const CPU: Sizes = Sizes {
    matmuls: (&[128, 512, 2048], &[64, 256, 1024], &[(512, 4096, 1024), (512, 1024, 4096)]),
    attentions: (&[64, 256, 1024], &[(1, 2), (1, 8), (4, 8)], &[32, 64, 128], 2.5e9),
    rows: (&[128, 512, 2048], &[64, 256, 1024, 4096], 1 << 21),
    losses: (&[128, 512, 2048], &[64, 256, 1024, 4096], 1 << 21),
    vectors: &[1 << 12, 1 << 16, 1 << 20, 3 << 20],
};

const GPU: Sizes = Sizes {
    matmuls: (
        &[1024, 4096, 16_384, 65_536],
        &[768, 2048, 4096],
        &[
            (4096, 16_384, 2048),
            (16_384, 16_384, 2048),
            (4096, 2048, 8192),
            (16_384, 2048, 8192),
            (4096, 131_072, 2048),
            (4096, 49_152, 768),
            (32_768, 49_152, 768),
        ],
    ),
    attentions: (&[1024, 4096, 8192], &[(1, 32), (4, 32), (32, 12)], &[64, 128], 2e12),
    rows: (&[1024, 8192, 65_536], &[256, 1024, 2048, 4096, 16_384], 1 << 28),
    losses: (&[512, 4096, 32_768], &[8192, 49_152, 131_072], 1 << 31),
    vectors: &[1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 27],
};

/// Matmuls, attention, row-wise ops and whole-vector ops over a grid of sizes; in two bytes, updates have fp32 weights beside.
pub fn default_ops(elem: Elem, gpu: bool) -> Vec<Op> {
    let sizes = if gpu { GPU } else { CPU };
    let master = elem != Elem::F32;
    let mut ops = matmuls(&sizes);
    ops.extend(attentions(&sizes));
    ops.extend(contexts());
    let (rows, cols, most) = sizes.rows;
    for &rows in rows {
        for &cols in cols.iter().filter(|&&cols| rows * cols <= most) {
            ops.extend(row_wise(rows, cols));
        }
    }
    let (rows, vocabularies, most) = sizes.losses;
    for &rows in rows {
        for &vocab in vocabularies.iter().filter(|&&vocab| rows * vocab <= most) {
            let shards = 1;
            ops.extend([Op::LossStats { rows, vocab, shards }, Op::Loss { rows, vocab, shards, scale: 1.0 }]);
        }
    }
    for &n in sizes.vectors {
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
fn matmuls(sizes: &Sizes) -> Vec<Op> {
    let matmul = |layout, m, n, k| Op::Matmul { layout, m, n, k, bias: false, accumulate: layout == Layout::Tn };
    let (tokens, features, others) = sizes.matmuls;
    let pairs = features.iter().flat_map(|&wide| features.iter().map(move |&deep| (wide, deep)));
    let all = tokens.iter().flat_map(|&tokens| pairs.clone().map(move |(wide, deep)| (tokens, wide, deep)));
    let mut ops = Vec::new();
    for (tokens, wide, deep) in all.chain(others.iter().copied()) {
        // The gradient of the input has width and depth the other way round.
        ops.push(matmul(Layout::Nt, tokens, wide, deep));
        ops.push(matmul(Layout::Nn, tokens, deep, wide));
        ops.push(matmul(Layout::Tn, wide, deep, tokens));
    }
    ops
}

fn attentions(sizes: &Sizes) -> Vec<Op> {
    let (sequences, groups, widths, most) = sizes.attentions;
    let mut ops = Vec::new();
    for &seq in sequences {
        for &(batch, heads) in groups {
            for &head_dim in widths {
                let dims = AttentionDims { batch, seq, heads, kv_heads: heads, head_dim, causal: true };
                if dims.forward_flops() < most {
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
    let (seq, shards, accumulate) = (128, 1, true);
    let mut ops = vec![
        Op::Embed { rows, cols, vocab: 256, shards },
        Op::EmbedGrad { rows, cols, vocab: 256, shards },
        Op::Positions { rows, seq, cols, sp: 1, cp: 1 },
        Op::PositionsGrad { rows, seq, cols, sp: 1, cp: 1 },
        Op::BiasGrad { rows, cols },
        Op::Rope { rows, seq, stride: cols, heads: cols / 32, head_dim: 32, theta: 1e4, cp: 1, inverse: false },
        Op::Add { rows, cols, bias: false },
        Op::Columns { rows, stride: 3 * cols, first: cols, cols, into: false },
    ];
    for kind in [NormKind::Layer, NormKind::Rms] {
        ops.extend([Op::Norm { kind, rows, cols }, Op::NormGrad { kind, rows, cols, accumulate }]);
    }
    for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu] {
        ops.extend([Op::Activation { kind, rows, cols }, Op::ActivationGrad { kind, rows, cols }]);
    }
    ops
}
