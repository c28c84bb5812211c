//! What variants of ops are told apart by: kinds, layouts, dims of attention.
//!
//! In: nothing. Out: enums and structs that stand in ops.
//!
//! Invariant: they hold sizes and choices alone, no data.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)] // docs
use super::position;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// LayerNorm: mean and variance, gain and bias (Ba et al. 2016).
    Layer,
    /// RMSNorm: root mean square and gain (Zhang & Sennrich 2019).
    Rms,
}

/// How a matmul reads its operands; C is always `[m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A `[m, k]` · B `[n, k]`ᵀ: a linear layer's forward with its weight stored `[out, in]`.
    Nt,
    /// A `[m, k]` · B `[k, n]`: the gradient of a linear layer's input.
    Nn,
    /// A `[k, m]`ᵀ · B `[k, n]`: the gradient of a linear layer's weight.
    Tn,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];
}

/// Dims of an attention kernel on this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionDims {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub seq: usize,
    /// Query heads on this rank.
    pub heads: usize,
    /// Key/value heads on this rank.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
}

impl AttentionDims {
    /// Tokens: `batch · seq`.
    pub fn rows(&self) -> usize {
        self.batch * self.seq
    }

    /// Width of a packed q|k|v row.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// FLOPs of the two score matmuls forward; causal attention counts the triangle it computes.
    pub fn forward_flops(&self) -> f64 {
        let full = 4.0 * (self.batch * self.heads * self.head_dim) as f64 * (self.seq * self.seq) as f64;
        if self.causal { full * (self.seq + 1) as f64 / (2 * self.seq) as f64 } else { full }
    }
}

/// Dims of attention to keys and values of ranks that share sequences. Keys and values of a block are rows `[k | v]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // those of AttentionDims
pub struct ContextDims {
    pub batch: usize,
    /// Queries of a sequence on a rank.
    pub seq: usize,
    /// Keys of a sequence in a block.
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of a row that begins with the queries.
    pub stride: usize,
    pub causal: bool,
    /// Ranks that share a sequence.
    pub cp: usize,
    /// Blocks given: all, in the order of ranks, or one.
    pub blocks: usize,
    /// Of one block: that of so many ranks before. Results add to those of earlier hops.
    pub hop: usize,
}

impl ContextDims {
    /// Tokens: `batch · seq`.
    pub fn rows(&self) -> usize {
        self.batch * self.seq
    }

    /// Elements of all given blocks.
    pub fn kv_elems(&self) -> usize {
        self.blocks * self.batch * self.keys * 2 * self.kv_heads * self.head_dim
    }

    /// FLOPs forward; causal attention computes half, of whichever blocks, thanks to [`position`].
    pub fn forward_flops(&self) -> f64 {
        let full = 4.0 * (self.rows() * self.heads * self.head_dim) as f64 * (self.blocks * self.keys) as f64;
        if self.causal { full / 2.0 } else { full }
    }
}

/// Dims of latent attention's packed rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentDims {
    /// Tokens.
    pub rows: usize,
    /// Tokens of a sequence on a rank.
    pub seq: usize,
    /// Heads on this rank.
    pub heads: usize,
    /// Width of a query's and a key's part without positions.
    pub nope: usize,
    /// Width of their rotary part.
    pub rope: usize,
    /// Width of a value.
    pub value: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Ranks that share a sequence.
    pub cp: usize,
}

impl LatentDims {
    /// Width of a query or key.
    pub fn width(&self) -> usize {
        self.nope + self.rope
    }
}

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationKind {
    /// GELU, tanh form (Hendrycks & Gimpel 2016).
    Gelu,
    /// silu(gate) · up over packed `[gate | up]` rows (Shazeer 2020).
    SwiGlu,
}

impl ActivationKind {
    /// Input columns an output column.
    pub fn width(self) -> usize {
        match self {
            ActivationKind::Gelu => 1,
            ActivationKind::SwiGlu => 2,
        }
    }
}
