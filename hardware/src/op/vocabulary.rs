//! The list of ops: names and dims, by family.
//!
//! In: nothing. Out: [`Op`], a struct of dims for each, and the list for other macros.
//!
//! Invariant: an op stands here once.

use serde::{Deserialize, Serialize};

use super::kinds::{ActivationKind, AttentionDims, ContextDims, LatentDims, Layout, NormKind, Packing, Rule};
#[allow(unused_imports)] // docs
use super::position;
use crate::mesh::Axis;

/// Of ops, by family: the enum, and structs of their dims (in `dims`).
macro_rules! declare {
    ($($family:ident { $(
        $(#[$doc:meta])* $name:ident $({ $($field:ident: $ty:ty),* $(,)? })? $(($dims:ident: $of:ty))?,
    )* })*) => {
        /// A kernel with its dims fixed. `rows` are tokens; `shards` counts the ranks that share a vocabulary.
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        #[allow(missing_docs)] // dims carry their field names
        pub enum Op { $($(
            $(#[$doc])* $name $({ $($field: $ty),* })? $(($of))?,
        )*)* }

        /// The dims of each op, which its family's file implements [`super::spec::Spec`] for.
        pub(super) mod dims {
            use super::*;
            $($(
                $(#[derive(Clone, Copy)] pub struct $name { $(pub $field: $ty),* })?
                $(#[derive(Clone, Copy)] pub struct $name { pub $dims: $of })?

                impl From<$name> for Op {
                    fn from(of: $name) -> Op {
                        $(let $name { $($field),* } = of;)?
                        $(let $name { $dims } = of;)?
                        Op::$name $({ $($field),* })? $(($dims))?
                    }
                }
            )*)*
        }
    };
}

/// Gives every op, by family, to a macro.
macro_rules! vocabulary {
    ($then:ident) => {
        $then! {
            embed {
                /// `out[r] = table[ids[r] - first]`, zero where the id is another shard's.
                Embed { rows: usize, cols: usize, vocab: usize, shards: usize },
                EmbedGrad { rows: usize, cols: usize, vocab: usize, shards: usize },
                /// Learned positions added in place: `x[r] += table[position of r]`. Of a microbatch's tokens, `sp` ranks
                /// of tensor parallelism hold `rows` each; of each sequence, `cp` ranks hold `seq` tokens each
                /// ([`position`]).
                Positions { rows: usize, seq: usize, cols: usize, sp: usize, cp: usize },
                PositionsGrad { rows: usize, seq: usize, cols: usize, sp: usize, cp: usize },
            }
            norm {
                Norm { kind: NormKind, rows: usize, cols: usize },
                NormGrad { kind: NormKind, rows: usize, cols: usize, accumulate: bool },
            }
            matmul {
                Matmul { layout: Layout, m: usize, n: usize, k: usize, bias: bool, accumulate: bool },
                /// As many products as experts and sources: `a` is `[sources, experts, …]`, `b` `[experts, …]`. In `tn`,
                /// `c` is `[experts, m, n]`, summed over sources; else `[sources, experts, m, n]`. In `tn`, `k` rows a
                /// source are summed over.
                ExpertMatmul {
                    layout: Layout,
                    experts: usize,
                    sources: usize,
                    m: usize,
                    n: usize,
                    k: usize,
                    accumulate: bool,
                },
            }
            attention {
                /// Fused attention that never stores the scores (Dao et al. 2022).
                Attention(dims: AttentionDims),
                AttentionGrad(dims: AttentionDims),
                /// The same where a token sees the last `window` alone, itself among them: on paper.
                WindowAttention { dims: AttentionDims, window: usize },
                WindowAttentionGrad { dims: AttentionDims, window: usize },
            }
            context {
                /// Attention of a rank's queries to one block of keys and values, or to all, of those that share the
                /// sequence.
                ContextAttention(dims: ContextDims),
                ContextAttentionGrad(dims: ContextDims),
            }
            rotary {
                /// Rotary positions (Su et al. 2021) over the first `heads` heads of packed rows; `inverse` is its
                /// backward.
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
                /// Queries, keys and values of latent attention as packed rows (DeepSeek-AI 2024, §2.1): of each head, `q`
                /// is `[nope | rope]`, `kv` `[nope | value]`; `k_rope` `[rope]` is all heads' alike. Rotary parts are
                /// turned; values get the width of keys, with zeros behind.
                LatentPack(dims: LatentDims),
                LatentPackGrad(dims: LatentDims),
            }
            experts {
                /// Softmax over experts, of which a token goes to the `top_k` likeliest, as long as they have slots left of
                /// their `capacity` (Lepikhin et al. 2020): probabilities, shares (which add up to one, if there are
                /// several), and slots among `experts · capacity`, or [`NONE`](super::NONE) where none is left.
                Route { rows: usize, experts: usize, top_k: usize, capacity: usize },
                /// Gradient of the logits, with that of the balancing loss (Fedus et al. 2021, eq. 4) times `balance`.
                RouteGrad { rows: usize, experts: usize, top_k: usize, capacity: usize, balance: f32 },
                /// Tokens to their slots; zeros where none goes.
                Dispatch { rows: usize, cols: usize, top_k: usize, slots: usize },
                DispatchGrad { rows: usize, cols: usize, top_k: usize, slots: usize, accumulate: bool },
                /// A token's sum of what stands at its slots, by its shares.
                Combine { rows: usize, cols: usize, top_k: usize, slots: usize },
                CombineGrad { rows: usize, cols: usize, top_k: usize, slots: usize },
            }
            pointwise {
                Activation { kind: ActivationKind, rows: usize, cols: usize },
                ActivationGrad { kind: ActivationKind, rows: usize, cols: usize },
                /// `out = a + b (+ bias)`: the residual.
                Add { rows: usize, cols: usize, bias: bool },
                /// Copies `cols` columns from `first` on of rows of `stride`, or, with `into`, to there.
                Columns { rows: usize, stride: usize, first: usize, cols: usize, into: bool },
                /// Column sums: `db += Σ_r dy[r]`.
                BiasGrad { rows: usize, cols: usize },
            }
            adapters {
                /// Adds `scale` times `part` to `cols` columns from `first` on of rows of `stride`; with `back`, which is its
                /// gradient, `part` becomes `scale` times these columns.
                AddColumns { rows: usize, stride: usize, first: usize, cols: usize, scale: f32, back: bool },
                /// Weights from the codes and scales of frozen ones.
                Dequantize { n: usize, packing: Packing },
            }
            optimizers {
                /// A step of another optimizer than AdamW, whose arguments it has: of so many elements of state (`kept`).
                Update { rule: Rule, n: usize, kept: usize, decayed: usize, shards: usize, axis: Axis, master: bool },
                /// Muon's matrices among `n` gradients, of which a rank has one part of `shards`: each becomes the nearest that is
                /// orthogonal (Jordan et al. 2024).
                Orthogonalize { n: usize, rows: usize, cols: usize, matrices: usize, shards: usize },
            }
            loss {
                /// Per row: local max, Σ exp(x − max), the target's logit: what shards of a vocabulary exchange.
                /// Of the `shards · vocab` columns the first `words` are words; those behind are padding, which counts nothing.
                LossStats { rows: usize, vocab: usize, words: usize, shards: usize },
                /// Cross-entropy from the gathered stats; logits become `(softmax − onehot) · scale`, zero in padding, the
                /// loss adds up.
                Loss { rows: usize, vocab: usize, words: usize, shards: usize, scale: f32 },
            }
            vector {
                Zero { n: usize },
                /// `dst = src`.
                Copy { n: usize },
                /// `dst += src`.
                Accumulate { n: usize },
                /// Adds `Σ g²` of this rank's share over `replicas`: elements from `whole` on are replicated on `copies`
                /// ranks and count `1/copies`. The vector is shard `i` of `shards`, by position on `axis`, of a longer one,
                /// in which `whole` counts.
                SquaredNorm { n: usize, whole: usize, copies: usize, replicas: usize, shards: usize, axis: Axis },
                /// AdamW (Loshchilov & Hutter 2019) over shard `i` of `shards`, by position on `axis`; elements before
                /// `decayed` of the whole decay. With `master`, fp32 weights are updated and rounded to the narrower ones.
                AdamW { n: usize, decayed: usize, shards: usize, axis: Axis, master: bool },
            }
        }
    };
}
pub(super) use vocabulary;

vocabulary!(declare);
