//! The kernel vocabulary: every op, forward **and** backward, with its arguments, FLOPs and bytes.
//!
//! An [`Op`] is a kernel with its local (already sharded) dims fixed. [`Op::signature`] lists its arguments in call
//! order; the verifier checks buffers against it, the executor binds them by it. All matrices are row-major.
//!
//! Invariant: no wildcard arm over [`Op`] anywhere, so a new op is found by the compiler in every match.

use crate::elem::Elem;
use crate::mesh::Axis;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};

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

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// LayerNorm: mean and variance, gain and bias (Ba et al. 2016).
    Layer,
    /// RMSNorm: root mean square and gain (Zhang & Sennrich 2019).
    Rms,
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

/// A kernel with its dims fixed. `rows` are tokens; `shards` counts the ranks that share a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)] // dims carry their field names
pub enum Op {
    /// `out[r] = table[ids[r] - first]`, zero where the id is another shard's.
    Embed {
        rows: usize,
        cols: usize,
        vocab: usize,
        shards: usize,
    },
    EmbedGrad {
        rows: usize,
        cols: usize,
        vocab: usize,
        shards: usize,
    },
    /// Learned positions added in place: `x[r] += table[position of r]`. Of a microbatch's tokens, `sp` ranks of tensor
    /// parallelism hold `rows` each; of each sequence, `cp` ranks hold `seq` tokens each ([`position`]).
    Positions {
        rows: usize,
        seq: usize,
        cols: usize,
        sp: usize,
        cp: usize,
    },
    PositionsGrad {
        rows: usize,
        seq: usize,
        cols: usize,
        sp: usize,
        cp: usize,
    },
    Norm {
        kind: NormKind,
        rows: usize,
        cols: usize,
    },
    NormGrad {
        kind: NormKind,
        rows: usize,
        cols: usize,
        accumulate: bool,
    },
    Matmul {
        layout: Layout,
        m: usize,
        n: usize,
        k: usize,
        bias: bool,
        accumulate: bool,
    },
    /// As many products as experts and sources: `a` is `[sources, experts, …]`, `b` `[experts, …]`. In `tn`, `c` is
    /// `[experts, m, n]`, summed over sources; else `[sources, experts, m, n]`. In `tn`, `k` rows a source are summed over.
    ExpertMatmul {
        layout: Layout,
        experts: usize,
        sources: usize,
        m: usize,
        n: usize,
        k: usize,
        accumulate: bool,
    },
    /// Softmax over experts, of which a token goes to the `top_k` likeliest, as long as they have room for `room` tokens
    /// (Lepikhin et al. 2020): probabilities, shares (which add up to one, if there are several), and places among
    /// `experts · room`, or `u32::MAX` where there is no room.
    Route {
        rows: usize,
        experts: usize,
        top_k: usize,
        room: usize,
    },
    /// Gradient of the logits, with that of the balancing loss (Fedus et al. 2021, eq. 4) times `balance`.
    RouteGrad {
        rows: usize,
        experts: usize,
        top_k: usize,
        room: usize,
        balance: f32,
    },
    /// Tokens to their places; zeros where none goes.
    Dispatch {
        rows: usize,
        cols: usize,
        top_k: usize,
        places: usize,
    },
    DispatchGrad {
        rows: usize,
        cols: usize,
        top_k: usize,
        places: usize,
        accumulate: bool,
    },
    /// A token's sum of what stands at its places, by its shares.
    Combine {
        rows: usize,
        cols: usize,
        top_k: usize,
        places: usize,
    },
    CombineGrad {
        rows: usize,
        cols: usize,
        top_k: usize,
        places: usize,
    },
    /// Queries, keys and values of latent attention as packed rows (DeepSeek-AI 2024, §2.1): of each head, `q` is
    /// `[nope | rope]`, `kv` `[nope | value]`; `k_rope` `[rope]` is all heads' alike. Rotary parts are turned; values get the
    /// width of keys, with zeros behind.
    LatentPack {
        rows: usize,
        seq: usize,
        heads: usize,
        nope: usize,
        rope: usize,
        value: usize,
        theta: f32,
        cp: usize,
    },
    LatentPackGrad {
        rows: usize,
        seq: usize,
        heads: usize,
        nope: usize,
        rope: usize,
        value: usize,
        theta: f32,
        cp: usize,
    },
    /// Copies `cols` columns from `first` on of rows of `stride`, or, with `into`, to there.
    Columns {
        rows: usize,
        stride: usize,
        first: usize,
        cols: usize,
        into: bool,
    },
    /// Column sums: `db += Σ_r dy[r]`.
    BiasGrad {
        rows: usize,
        cols: usize,
    },
    /// Rotary positions (Su et al. 2021) over the first `heads` heads of packed rows; `inverse` is its backward.
    Rope {
        rows: usize,
        seq: usize,
        stride: usize,
        heads: usize,
        head_dim: usize,
        theta: f32,
        cp: usize,
        inverse: bool,
    },
    /// Fused attention that never stores the scores (Dao et al. 2022).
    Attention(AttentionDims),
    AttentionGrad(AttentionDims),
    /// Attention of a rank's queries to one block of keys and values, or to all, of those that share the sequence.
    ContextAttention(ContextDims),
    ContextAttentionGrad(ContextDims),
    Activation {
        kind: ActivationKind,
        rows: usize,
        cols: usize,
    },
    ActivationGrad {
        kind: ActivationKind,
        rows: usize,
        cols: usize,
    },
    /// `out = a + b (+ bias)`: the residual.
    Add {
        rows: usize,
        cols: usize,
        bias: bool,
    },
    /// Per row: local max, Σ exp(x − max), the target's logit: what shards of a vocabulary exchange.
    LossStats {
        rows: usize,
        vocab: usize,
        shards: usize,
    },
    /// Cross-entropy from the gathered stats; logits become `(softmax − onehot) · scale`, the loss adds up.
    Loss {
        rows: usize,
        vocab: usize,
        shards: usize,
        scale: f32,
    },
    Zero {
        n: usize,
    },
    /// `dst = src`.
    Copy {
        n: usize,
    },
    /// `dst += src`.
    Accumulate {
        n: usize,
    },
    /// Adds `Σ g²` of this rank's share over `replicas`: elements from `whole` on are replicated on `copies` ranks and count
    /// `1/copies`. The vector is shard `i` of `shards`, by position on `axis`, of a longer one, in which `whole` counts.
    SquaredNorm {
        n: usize,
        whole: usize,
        copies: usize,
        replicas: usize,
        shards: usize,
        axis: Axis,
    },
    /// AdamW (Loshchilov & Hutter 2019) over shard `i` of `shards`, by position on `axis`; elements before `decayed` of the
    /// whole decay. With `master`, fp32 weights are updated and rounded to the narrower ones.
    AdamW {
        n: usize,
        decayed: usize,
        shards: usize,
        axis: Axis,
        master: bool,
    },
}

/// How an op uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Read only.
    In,
    /// Written whole, what was there is lost.
    Out,
    /// Read and written.
    InOut,
}

/// Which elements an argument may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DtypeClass {
    /// Any floats: weights and activations. Kernels compute in fp32 and round what they write once, to nearest even.
    Float,
    /// f32 alone: statistics, sums of gradients, state of the optimizer.
    Full,
    /// u32: numbers of tokens and places.
    Ids,
}

impl DtypeClass {
    /// Whether elements of this kind will do.
    pub fn accepts(self, elem: Elem) -> bool {
        match self {
            DtypeClass::Float => elem != Elem::U32,
            DtypeClass::Full => elem == Elem::F32,
            DtypeClass::Ids => elem == Elem::U32,
        }
    }

    /// What elements of this kind are where weights and activations are `model`.
    pub fn elem(self, model: Elem) -> Elem {
        match self {
            DtypeClass::Float => model,
            DtypeClass::Full => Elem::F32,
            DtypeClass::Ids => Elem::U32,
        }
    }
}

/// Equal ops are of as many elements; what else tells them apart `==` sees.
impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        self.signature().iter().for_each(|param| param.elems.hash(state));
    }
}

/// Numbers in ops are finite.
impl Eq for Op {}

/// One argument of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in listings.
    pub name: &'static str,
    /// How it is used.
    pub mode: Mode,
    /// Number of elements.
    pub elems: usize,
    /// Which elements it may have.
    pub takes: DtypeClass,
}

impl Param {
    /// Size in bytes where weights and activations are `model`.
    pub fn bytes(&self, model: Elem) -> u64 {
        self.elems as u64 * self.takes.elem(model).bytes()
    }
}

fn param(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param { name, mode, elems, takes: DtypeClass::Float }
}

fn full(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param { takes: DtypeClass::Full, ..param(name, mode, elems) }
}

fn ids(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param { takes: DtypeClass::Ids, ..param(name, mode, elems) }
}

impl Op {
    /// The arguments in call order.
    pub fn signature(&self) -> Vec<Param> {
        use Mode::*;
        match *self {
            Op::Embed { rows, cols, vocab, .. } => {
                vec![ids("ids", In, rows), param("table", In, vocab * cols), param("out", Out, rows * cols)]
            }
            Op::EmbedGrad { rows, cols, vocab, .. } => {
                vec![ids("ids", In, rows), param("dy", In, rows * cols), full("dtable", InOut, vocab * cols)]
            }
            Op::Positions { rows, seq, cols, cp, .. } => {
                vec![param("table", In, cp * seq * cols), param("x", InOut, rows * cols)]
            }
            Op::PositionsGrad { rows, seq, cols, cp, .. } => {
                vec![param("dy", In, rows * cols), full("dtable", InOut, cp * seq * cols)]
            }
            Op::Norm { kind, rows, cols } => {
                let mut all = vec![param("x", In, rows * cols), param("gain", In, cols)];
                if kind == NormKind::Layer {
                    all.push(param("bias", In, cols));
                }
                all.extend([param("y", Out, rows * cols), full("stats", Out, 2 * rows)]);
                all
            }
            Op::NormGrad { kind, rows, cols, accumulate } => {
                let dx = if accumulate { InOut } else { Out };
                let mut all = vec![
                    param("x", In, rows * cols),
                    param("gain", In, cols),
                    full("stats", In, 2 * rows),
                    param("dy", In, rows * cols),
                    param("dx", dx, rows * cols),
                    full("dgain", InOut, cols),
                ];
                if kind == NormKind::Layer {
                    all.push(full("dbias", InOut, cols));
                }
                all
            }
            Op::Matmul { m, n, k, bias, accumulate, .. } => {
                let mut all = vec![param("a", In, m * k), param("b", In, n * k)];
                if bias {
                    all.push(param("bias", In, n));
                }
                all.push(param("c", if accumulate { InOut } else { Out }, m * n));
                all
            }
            Op::BiasGrad { rows, cols } => vec![param("dy", In, rows * cols), full("db", InOut, cols)],
            Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
                let (a, b, c) = match layout {
                    Layout::Tn => (sources * k * m, sources * k * n, m * n),
                    Layout::Nt | Layout::Nn => (sources * m * k, n * k, sources * m * n),
                };
                let out = if accumulate { InOut } else { Out };
                let c = param("c", out, experts * c);
                // Sums over sources are not rounded between.
                let takes = if layout == Layout::Tn { DtypeClass::Full } else { c.takes };
                vec![param("a", In, experts * a), param("b", In, experts * b), Param { takes, ..c }]
            }
            Op::Route { rows, experts, top_k, .. } => vec![
                param("logits", In, rows * experts),
                full("probs", Out, rows * experts),
                full("shares", Out, rows * top_k),
                ids("places", Out, rows * top_k),
            ],
            Op::RouteGrad { rows, experts, top_k, .. } => vec![
                full("probs", In, rows * experts),
                full("dshares", In, rows * top_k),
                param("dlogits", Out, rows * experts),
            ],
            Op::Dispatch { rows, cols, top_k, places } => {
                vec![param("x", In, rows * cols), ids("places", In, rows * top_k), param("out", Out, places * cols)]
            }
            Op::DispatchGrad { rows, cols, top_k, places, accumulate } => vec![
                ids("places", In, rows * top_k),
                param("dout", In, places * cols),
                param("dx", if accumulate { InOut } else { Out }, rows * cols),
            ],
            Op::Combine { rows, cols, top_k, places } => vec![
                param("y", In, places * cols),
                ids("places", In, rows * top_k),
                full("shares", In, rows * top_k),
                param("out", Out, rows * cols),
            ],
            Op::CombineGrad { rows, cols, top_k, places } => vec![
                param("y", In, places * cols),
                ids("places", In, rows * top_k),
                full("shares", In, rows * top_k),
                param("dout", In, rows * cols),
                param("dy", Out, places * cols),
                full("dshares", Out, rows * top_k),
            ],
            Op::LatentPack { rows, heads, nope, rope, value, .. } => vec![
                param("q", In, rows * heads * (nope + rope)),
                param("kv", In, rows * heads * (nope + value)),
                param("k_rope", In, rows * rope),
                param("qkv", Out, 3 * rows * heads * (nope + rope)),
            ],
            Op::LatentPackGrad { rows, heads, nope, rope, value, .. } => vec![
                param("dqkv", In, 3 * rows * heads * (nope + rope)),
                param("dq", Out, rows * heads * (nope + rope)),
                param("dkv", Out, rows * heads * (nope + value)),
                param("dk_rope", Out, rows * rope),
            ],
            Op::Columns { rows, stride, cols, into, .. } => {
                if into {
                    vec![param("part", In, rows * cols), param("rows", InOut, rows * stride)]
                } else {
                    vec![param("rows", In, rows * stride), param("part", Out, rows * cols)]
                }
            }
            Op::ContextAttention(d) => {
                let result = if d.hop > 0 { InOut } else { Out };
                vec![
                    param("q", In, d.rows() * d.stride),
                    param("kv", In, d.kv_elems()),
                    param("out", result, d.rows() * d.heads * d.head_dim),
                    full("lse", result, d.rows() * d.heads),
                ]
            }
            Op::ContextAttentionGrad(d) => {
                let wide = d.rows() * d.heads * d.head_dim;
                vec![
                    param("q", In, d.rows() * d.stride),
                    param("kv", In, d.kv_elems()),
                    param("out", In, wide),
                    full("lse", In, d.rows() * d.heads),
                    param("dout", In, wide),
                    param("dq", if d.hop > 0 { InOut } else { Out }, d.rows() * d.stride),
                    param("dkv", Out, d.kv_elems()),
                ]
            }
            Op::Rope { rows, stride, .. } => vec![param("x", InOut, rows * stride)],
            Op::Attention(d) => vec![
                param("qkv", In, d.rows() * d.qkv_cols()),
                param("out", Out, d.rows() * d.heads * d.head_dim),
                full("lse", Out, d.rows() * d.heads),
            ],
            Op::AttentionGrad(d) => {
                let wide = d.rows() * d.heads * d.head_dim;
                vec![
                    param("qkv", In, d.rows() * d.qkv_cols()),
                    param("out", In, wide),
                    full("lse", In, d.rows() * d.heads),
                    param("dout", In, wide),
                    param("dqkv", Out, d.rows() * d.qkv_cols()),
                ]
            }
            Op::Activation { kind, rows, cols } => {
                vec![param("u", In, rows * cols * kind.width()), param("out", Out, rows * cols)]
            }
            Op::ActivationGrad { kind, rows, cols } => vec![
                param("u", In, rows * cols * kind.width()),
                param("dout", In, rows * cols),
                param("du", Out, rows * cols * kind.width()),
            ],
            Op::Add { rows, cols, bias } => {
                let mut all = vec![param("a", In, rows * cols), param("b", In, rows * cols)];
                if bias {
                    all.push(param("bias", In, cols));
                }
                all.push(param("out", Out, rows * cols));
                all
            }
            Op::LossStats { rows, vocab, .. } => {
                vec![param("logits", In, rows * vocab), ids("targets", In, rows), full("stats", Out, 3 * rows)]
            }
            Op::Loss { rows, vocab, shards, .. } => vec![
                ids("targets", In, rows),
                full("stats", In, shards * 3 * rows),
                param("logits", InOut, rows * vocab),
                full("loss", InOut, 1),
            ],
            Op::Zero { n } => vec![param("x", Out, n)],
            Op::Copy { n } => vec![param("src", In, n), param("dst", Out, n)],
            Op::Accumulate { n } => vec![param("src", In, n), param("dst", InOut, n)],
            Op::SquaredNorm { n, .. } => vec![full("g", In, n), full("sum", InOut, 1)],
            Op::AdamW { n, master, .. } => {
                let w = if master { param("w", Out, n) } else { full("w", InOut, n) };
                let mut all = vec![full("norm", In, 1), full("g", In, n), w];
                all.extend([full("m", InOut, n), full("v", InOut, n)]);
                if master {
                    all.push(full("master", InOut, n));
                }
                all
            }
        }
    }

    /// Floating-point operations: matmuls and attention exactly, the rest by operations an element.
    pub fn flops(&self) -> f64 {
        match *self {
            Op::Matmul { m, n, k, .. } => 2.0 * m as f64 * n as f64 * k as f64,
            Op::Attention(d) => d.forward_flops(),
            // Five matmuls backward to two forward: scores are recomputed (Dao et al. 2022, §3.1).
            Op::AttentionGrad(d) => 2.5 * d.forward_flops(),
            Op::ExpertMatmul { experts, sources, m, n, k, .. } => 2.0 * (experts * sources * m * n) as f64 * k as f64,
            Op::ContextAttention(d) => d.forward_flops(),
            Op::ContextAttentionGrad(d) => 2.5 * d.forward_flops(),
            Op::Route { rows, experts, .. } | Op::RouteGrad { rows, experts, .. } => 6.0 * (rows * experts) as f64,
            Op::Combine { rows, cols, top_k, .. } | Op::DispatchGrad { rows, cols, top_k, .. } => {
                2.0 * (rows * cols * top_k) as f64
            }
            Op::LatentPack { rows, heads, rope, .. } | Op::LatentPackGrad { rows, heads, rope, .. } => {
                6.0 * (rows * heads * rope) as f64
            }
            Op::CombineGrad { rows, cols, top_k, .. } => 3.0 * (rows * cols * top_k) as f64,
            Op::Embed { .. } | Op::Zero { .. } | Op::Copy { .. } | Op::Dispatch { .. } | Op::Columns { .. } => 0.0,
            Op::EmbedGrad { rows, cols, .. } | Op::BiasGrad { rows, cols } => (rows * cols) as f64,
            Op::Positions { rows, cols, .. } | Op::PositionsGrad { rows, cols, .. } => (rows * cols) as f64,
            Op::Norm { rows, cols, .. } => 6.0 * (rows * cols) as f64,
            Op::NormGrad { rows, cols, .. } => 12.0 * (rows * cols) as f64,
            Op::Rope { rows, heads, head_dim, .. } => 3.0 * (rows * heads * head_dim) as f64,
            Op::Activation { rows, cols, .. } => 12.0 * (rows * cols) as f64,
            Op::ActivationGrad { rows, cols, .. } => 20.0 * (rows * cols) as f64,
            Op::Add { rows, cols, bias } => (rows * cols * if bias { 2 } else { 1 }) as f64,
            Op::LossStats { rows, vocab, .. } => 6.0 * (rows * vocab) as f64,
            Op::Loss { rows, vocab, .. } => 6.0 * (rows * vocab) as f64,
            Op::Accumulate { n } => n as f64,
            Op::SquaredNorm { n, .. } => 2.0 * n as f64,
            Op::AdamW { n, .. } => 14.0 * n as f64,
        }
    }

    /// Bytes that must cross memory once where the arguments have these elements, in the order of [`Op::signature`].
    pub fn traffic(&self, elems: impl IntoIterator<Item = Elem>) -> Bytes {
        let arguments = self.signature().into_iter().zip(elems).enumerate();
        Bytes(arguments.map(|(at, (param, elem))| self.touched(at, &param) as u64 * elem.bytes()).sum())
    }

    /// The same where all are of four bytes: what curves are over.
    pub fn bytes(&self) -> u64 {
        self.traffic(std::iter::repeat(Elem::F32)).0
    }

    /// Elements of an argument that must cross memory once: each that is read, written or both; an embedding touches only
    /// its rows.
    fn touched(&self, at: usize, param: &Param) -> usize {
        let both = if param.mode == Mode::InOut { 2 } else { 1 };
        match *self {
            Op::Embed { rows, cols, .. } | Op::EmbedGrad { rows, cols, .. } if at > 0 => both * rows * cols,
            Op::Rope { rows, heads, head_dim, .. } => both * rows * heads * head_dim,
            Op::Columns { rows, cols, .. } => rows * cols,
            Op::Embed { .. }
            | Op::EmbedGrad { .. }
            | Op::ExpertMatmul { .. }
            | Op::Route { .. }
            | Op::RouteGrad { .. }
            | Op::Dispatch { .. }
            | Op::DispatchGrad { .. }
            | Op::Combine { .. }
            | Op::CombineGrad { .. }
            | Op::LatentPack { .. }
            | Op::LatentPackGrad { .. }
            | Op::ContextAttention(_)
            | Op::ContextAttentionGrad(_)
            | Op::Positions { .. }
            | Op::PositionsGrad { .. }
            | Op::Norm { .. }
            | Op::NormGrad { .. }
            | Op::Matmul { .. }
            | Op::BiasGrad { .. }
            | Op::Attention(_)
            | Op::AttentionGrad(_)
            | Op::Activation { .. }
            | Op::ActivationGrad { .. }
            | Op::Add { .. }
            | Op::LossStats { .. }
            | Op::Loss { .. }
            | Op::Zero { .. }
            | Op::Copy { .. }
            | Op::Accumulate { .. }
            | Op::SquaredNorm { .. }
            | Op::AdamW { .. } => both * param.elems,
        }
    }

    /// The class under which a profile's measured curve prices this op.
    pub fn class(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::EmbedGrad { .. } => "embed-grad",
            Op::Positions { .. } => "positions",
            Op::PositionsGrad { .. } => "positions-grad",
            Op::Norm { kind: NormKind::Layer, .. } => "layer-norm",
            Op::Norm { kind: NormKind::Rms, .. } => "rms-norm",
            Op::NormGrad { kind: NormKind::Layer, .. } => "layer-norm-grad",
            Op::NormGrad { kind: NormKind::Rms, .. } => "rms-norm-grad",
            Op::Matmul { layout: Layout::Nt, .. } => "matmul-nt",
            Op::Matmul { layout: Layout::Nn, .. } => "matmul-nn",
            Op::Matmul { layout: Layout::Tn, .. } => "matmul-tn",
            Op::ExpertMatmul { layout: Layout::Nt, .. } => "expert-matmul-nt",
            Op::ExpertMatmul { layout: Layout::Nn, .. } => "expert-matmul-nn",
            Op::ExpertMatmul { layout: Layout::Tn, .. } => "expert-matmul-tn",
            Op::Route { .. } => "route",
            Op::RouteGrad { .. } => "route-grad",
            Op::Dispatch { .. } => "dispatch",
            Op::DispatchGrad { .. } => "dispatch-grad",
            Op::Combine { .. } => "combine",
            Op::CombineGrad { .. } => "combine-grad",
            Op::LatentPack { .. } => "latent-pack",
            Op::LatentPackGrad { .. } => "latent-pack-grad",
            Op::Columns { .. } => "columns",
            Op::ContextAttention(_) => "context-attention",
            Op::ContextAttentionGrad(_) => "context-attention-grad",
            Op::BiasGrad { .. } => "bias-grad",
            Op::Rope { .. } => "rope",
            Op::Attention(_) => "attention",
            Op::AttentionGrad(_) => "attention-grad",
            Op::Activation { kind: ActivationKind::Gelu, .. } => "gelu",
            Op::Activation { kind: ActivationKind::SwiGlu, .. } => "swiglu",
            Op::ActivationGrad { kind: ActivationKind::Gelu, .. } => "gelu-grad",
            Op::ActivationGrad { kind: ActivationKind::SwiGlu, .. } => "swiglu-grad",
            Op::Add { .. } => "add",
            Op::LossStats { .. } => "loss-stats",
            Op::Loss { .. } => "loss",
            Op::Zero { .. } => "zero",
            Op::Copy { .. } => "copy",
            Op::Accumulate { .. } => "accumulate",
            Op::SquaredNorm { .. } => "squared-norm",
            Op::AdamW { .. } => "adamw",
        }
    }

    /// What the op's measured curve is over: FLOPs for matmuls and attention, bytes for the rest.
    pub fn work(&self) -> f64 {
        if self.is_matrix() { self.flops() } else { self.bytes() as f64 }
    }

    /// Whether the op runs on the matrix units: a matmul or attention.
    pub fn is_matrix(&self) -> bool {
        matches!(
            self,
            Op::Matmul { .. }
                | Op::ExpertMatmul { .. }
                | Op::Attention(_)
                | Op::AttentionGrad(_)
                | Op::ContextAttention(_)
                | Op::ContextAttentionGrad(_)
        )
    }
}

/// The place in its whole sequence of a token that is the `at`-th of the `seq` that rank `rank` of `cp` holds. A sequence is
/// cut into `2·cp` parts of which a rank holds one from each end, so that causal attention is as much work for all (Llama
/// Team 2024, §3.3.2).
pub fn position(at: usize, seq: usize, cp: usize, rank: usize) -> usize {
    let half = seq / 2;
    if cp == 1 {
        at
    } else if at < half {
        rank * half + at
    } else {
        (2 * cp - 1 - rank) * half + at - half
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matmul_counts_two_flops_a_multiply_and_every_operand_once() {
        let op = Op::Matmul { layout: Layout::Nt, m: 3, n: 5, k: 7, bias: false, accumulate: true };
        assert_eq!(op.flops(), 210.0);
        assert_eq!(op.bytes(), 4 * (21 + 35 + 2 * 15));
    }

    #[test]
    fn causal_attention_counts_its_triangle() {
        let dims = AttentionDims { batch: 2, seq: 8, heads: 3, kv_heads: 1, head_dim: 4, causal: false };
        let causal = AttentionDims { causal: true, ..dims };
        assert_eq!(dims.forward_flops(), 4.0 * 2.0 * 3.0 * 4.0 * 64.0);
        assert_eq!(causal.forward_flops() * 16.0, dims.forward_flops() * 9.0);
    }
}
