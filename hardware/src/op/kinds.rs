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

/// Which step an optimizer takes, beside AdamW's, which is an op of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// AdamW's with moments of a byte, and an fp32 scale for 256 of them (Dettmers et al. 2022).
    Adam8bit,
    /// By the mean squares of rows and columns (Shazeer & Stern 2018).
    Adafactor,
    /// By the sign of an interpolated momentum (Chen et al. 2023).
    Lion,
    /// Along the gradient.
    Sgd,
    /// Along a momentum of gradients.
    Momentum,
}

/// How frozen weights are kept narrow: codes and the scales of their blocks, in words of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// A byte (E4M3), and an fp32 scale for 128 × 128 of them (DeepSeek-AI 2024, §3.3.2).
    Fp8,
    /// Half a byte (NormalFloat), a byte of scale for 64 of them and an fp32 for 256 of these: 4.127 bits a weight (Dettmers et
    /// al. 2023, §3).
    Nf4,
}

/// The quantiles of a normal distribution that NF4's codes stand for (Dettmers et al. 2023, appendix E).
const NF4: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

impl Packing {
    /// Weights a word, a scale of the first kind, and one of the second; scales that there are not are of all.
    fn blocks(self) -> [usize; 3] {
        match self {
            Packing::Fp8 => [4, usize::MAX, 128 * 128],
            Packing::Nf4 => [8, 64, 64 * 256],
        }
    }

    /// Where codes, scales of a byte and scales of fp32 end, of so many weights.
    fn ends(self, n: usize) -> [usize; 3] {
        let [codes, bytes, full] = self.blocks();
        let codes = n.div_ceil(codes);
        let bytes = if bytes == usize::MAX { 0 } else { n.div_ceil(bytes).div_ceil(4) };
        [codes, codes + bytes, codes + bytes + n.div_ceil(full)]
    }

    /// Words of so many weights.
    pub fn words(self, n: usize) -> usize {
        self.ends(n)[2]
    }

    /// The `i`-th of `n` weights in such words.
    pub(super) fn weight(self, words: &[u32], n: usize, i: usize) -> f64 {
        let ([each, block, large], [codes, bytes, _]) = (self.blocks(), self.ends(n));
        let scale = f64::from(f32::from_bits(words[bytes + i / large]));
        match self {
            Packing::Fp8 => scale * e4m3((words[i / each] >> (8 * (i % each))) as u8),
            Packing::Nf4 => {
                let code = words[i / each] >> (4 * (i % each)) & 15;
                let small = (words[codes + i / block / 4] >> (8 * (i / block % 4))) as u8 as i8;
                scale * f64::from(small) / 127.0 * NF4[code as usize]
            }
        }
    }
}

/// The number that a byte stands for: a sign, four bits of exponent, three of mantissa (Micikevicius et al. 2022, table 1).
fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
    let size = if exponent == 0 { mantissa * 2f64.powi(-6) } else { (1.0 + mantissa) * 2f64.powi(exponent - 7) };
    if byte & 128 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_take_the_bits_of_their_papers_and_decode() {
        let n = 1 << 20;
        assert_eq!(Packing::Nf4.words(n) * 32, n * 4 + n / 64 * 8 + n / (64 * 256) * 32);
        assert_eq!(Packing::Fp8.words(n) * 4, n + n / (128 * 128) * 4);
        let scale = 2f32.to_bits();
        // Codes 15 and 0, a scale of 127 / 127.
        let two = [0x0f, 127, scale];
        assert_eq!([0, 1].map(|i| Packing::Nf4.weight(&two, 8, i)), [2.0, -2.0]);
        // One, minus a half, 448.
        let three = [0x007e_b038, scale];
        assert_eq!([0, 1, 2].map(|i| Packing::Fp8.weight(&three, 4, i)), [2.0, -1.0, 896.0]);
    }
}
