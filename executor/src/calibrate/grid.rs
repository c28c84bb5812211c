//! Which ops a calibration times when nobody says otherwise.
//!
//! In: what weights and activations are, and for what kind of device. Out: ops of every class: for a CPU, over the sizes that
//! models of a few to a few hundred million parameters use; for a GPU, up to those of some billions.
//!
//! Invariant: what is for a CPU fits 64 MiB of floats.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, AttentionDims, ContextDims, Layout, NormKind, Op};
use meshwright_hardware::program::Elem;

/// What sizes a kind of device is asked for.
struct Sizes {
    /// Tokens of matmuls, and features of their rows.
    tokens: &'static [usize],
    features: &'static [usize],
    /// More matmuls: tokens, width, depth.
    matmuls: &'static [[usize; 3]],
    /// Tokens of a sequence, sequences and heads, widths of heads, and FLOPs at most.
    sequences: &'static [usize],
    groups: &'static [[usize; 2]],
    widths: &'static [usize],
    attention: f64,
    /// Rows and columns of what goes row by row, and elements at most.
    rows: &'static [usize],
    cols: &'static [usize],
    elems: usize,
    /// Tokens with logits, words of vocabularies, and logits at most.
    targets: &'static [usize],
    vocabularies: &'static [usize],
    logits: usize,
    /// Elements of whole vectors.
    vectors: &'static [usize],
}

const CPU: Sizes = Sizes {
    tokens: &[128, 512, 2048],
    features: &[64, 256, 1024],
    matmuls: &[[512, 4096, 1024], [512, 1024, 4096]],
    sequences: &[64, 256, 1024],
    groups: &[[1, 2], [1, 8], [4, 8]],
    widths: &[32, 64, 128],
    attention: 2.5e9,
    rows: &[128, 512, 2048],
    cols: &[64, 256, 1024, 4096],
    elems: 1 << 21,
    targets: &[128, 512, 2048],
    vocabularies: &[64, 256, 1024, 4096],
    logits: 1 << 21,
    vectors: &[1 << 12, 1 << 16, 1 << 20, 3 << 20],
};

const GPU: Sizes = Sizes {
    tokens: &[1024, 4096, 16_384, 65_536],
    features: &[768, 2048, 4096],
    matmuls: &[
        [4096, 16_384, 2048],
        [16_384, 16_384, 2048],
        [4096, 2048, 8192],
        [16_384, 2048, 8192],
        [4096, 131_072, 2048],
        [4096, 49_152, 768],
        [32_768, 49_152, 768],
    ],
    sequences: &[1024, 4096, 8192],
    groups: &[[1, 32], [4, 32], [32, 12]],
    widths: &[64, 128],
    attention: 2e12,
    rows: &[1024, 8192, 65_536],
    cols: &[256, 1024, 2048, 4096, 16_384],
    elems: 1 << 28,
    targets: &[512, 4096, 32_768],
    vocabularies: &[8192, 49_152, 131_072],
    logits: 1 << 31,
    vectors: &[1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 27],
};

/// Matmuls, attention, row-wise ops and whole-vector ops over a grid of sizes; in two bytes, updates have fp32 weights beside.
pub fn default_ops(elem: Elem, gpu: bool) -> Vec<Op> {
    let sizes = if gpu { GPU } else { CPU };
    let master = elem != Elem::F32;
    let mut ops = matmuls(&sizes);
    ops.extend(attentions(&sizes));
    ops.extend(contexts());
    for &rows in sizes.rows {
        for &cols in sizes.cols.iter().filter(|&&cols| rows * cols <= sizes.elems) {
            ops.extend(row_wise(rows, cols));
        }
    }
    for &rows in sizes.targets {
        for &vocab in sizes.vocabularies.iter().filter(|&&vocab| rows * vocab <= sizes.logits) {
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
    let pairs = sizes.features.iter().flat_map(|&wide| sizes.features.iter().map(move |&deep| (wide, deep)));
    let all = sizes.tokens.iter().flat_map(|&tokens| pairs.clone().map(move |(wide, deep)| [tokens, wide, deep]));
    let mut ops = Vec::new();
    for [tokens, wide, deep] in all.chain(sizes.matmuls.iter().copied()) {
        // The gradient of the input has width and depth the other way round.
        ops.push(matmul(Layout::Nt, tokens, wide, deep));
        ops.push(matmul(Layout::Nn, tokens, deep, wide));
        ops.push(matmul(Layout::Tn, wide, deep, tokens));
    }
    ops
}

fn attentions(sizes: &Sizes) -> Vec<Op> {
    let mut ops = Vec::new();
    for &seq in sizes.sequences {
        for &[batch, heads] in sizes.groups {
            for &head_dim in sizes.widths {
                let dims = AttentionDims { batch, seq, heads, kv_heads: heads, head_dim, causal: true };
                if dims.forward_flops() < sizes.attention {
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
