//! A model as a file describes it: its architecture, its sizes, and how its family differs.
//!
//! In: strict TOML ([`crate::models`] or a user's). Out: a checked [`Model`].
//!
//! Invariant: a `Model` that was read satisfies its `check`; it names no hardware and no partitioning.

use meshwright_hardware::profile::Routing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::window::AttentionWindow;

/// Which usual decoder: what stands between its matmuls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Learned positions, LayerNorm, GELU, biases (Radford et al. 2019).
    Gpt2,
    /// RoPE, RMSNorm, SwiGLU, no biases (Touvron et al. 2023).
    Llama,
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name in tables.
    pub name: String,
    /// Which usual decoder.
    #[serde(alias = "dress")]
    pub architecture: Architecture,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; as many as `heads` without grouped-query attention.
    pub kv_heads: usize,
    /// Width of the feed-forward layer (of each of the gate and up projections in a LLaMA).
    pub ffn: usize,
    /// Tokens in the vocabulary; what pads it for tensor parallelism is not counted.
    pub vocab: usize,
    /// Whether the head's weight is the token embedding's.
    pub tied: bool,
    /// Base of the rotary positions.
    #[serde(default = "usual_theta")]
    pub rope_theta: f32,
    /// How it differs from the usual decoder of its architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
}

fn usual_theta() -> f32 {
    10_000.0
}

impl Model {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.family.as_ref().and_then(|family| family.head_dim).unwrap_or(self.hidden / self.heads)
    }

    /// The kind of a layer.
    pub fn kind(&self, layer: usize) -> LayerKind {
        let routes =
            |e: &Experts| layer >= e.dense_layers && (layer - e.dense_layers + 1).is_multiple_of(e.every.max(1));
        let half = match layer {
            _ if self.depth() == self.layers => ModelHalf::Whole,
            layer if layer + 1 < self.layers => ModelHalf::Encoder,
            layer if layer < self.layers => ModelHalf::EncoderEnd,
            _ => ModelHalf::Decoder,
        };
        let windowed = self.window().is_some_and(|window| window.is_of(layer));
        LayerKind { half, experts: self.experts().is_some_and(routes), windowed }
    }

    /// Layers in all: a decoder's beside an encoder's count too.
    pub fn depth(&self) -> usize {
        let decoder = self.family.as_ref().and_then(|family| family.decoder_layers);
        self.layers.saturating_add(decoder.unwrap_or(0))
    }

    /// Rows of the table, and columns of the head, on each of `tp` ranks. What does not divide is padded as in Megatron-LM, to a
    /// multiple of 128 a rank.
    pub fn vocab_on(&self, tp: usize) -> usize {
        if self.vocab.is_multiple_of(tp) { self.vocab / tp } else { self.vocab.div_ceil(tp).next_multiple_of(128) }
    }

    /// Key/value heads on each of `tp` ranks: at least one.
    pub fn kv_heads_on(&self, tp: usize) -> usize {
        (self.kv_heads / tp).max(1)
    }

    /// Neighbours among `tp` ranks that hold the same key/value heads: several where there are fewer heads than ranks.
    pub fn kv_copies(&self, tp: usize) -> usize {
        (tp / self.kv_heads).max(1)
    }

    /// Its experts, if it has some.
    pub fn experts(&self) -> Option<&Experts> {
        self.family.as_ref()?.experts.as_ref()
    }

    /// Whether linear layers and norms have biases.
    pub fn biased(&self) -> bool {
        self.architecture == Architecture::Gpt2
    }

    /// Whether feed-forward parts have a gate.
    pub fn gated(&self) -> bool {
        self.family.as_ref().and_then(|family| family.gated).unwrap_or(self.architecture == Architecture::Llama)
    }

    /// Whether positions are learned.
    pub fn learned_positions(&self) -> bool {
        self.family
            .as_ref()
            .and_then(|family| family.learned_positions)
            .unwrap_or(self.architecture == Architecture::Gpt2)
    }

    /// Rows of the table of learned positions, where sequences have so many tokens.
    pub fn position_rows(&self, seq: usize) -> usize {
        self.family.as_ref().and_then(|family| family.positions).unwrap_or(seq)
    }

    /// Parameters that no op reads.
    pub fn unpriced(&self) -> usize {
        self.family.as_ref().map_or(0, |family| family.unpriced)
    }

    /// Whether a token sees only earlier ones.
    pub fn causal(&self) -> bool {
        self.family.as_ref().is_none_or(|family| !family.bidirectional)
    }

    /// Whether a layer behind the last predicts a token further.
    pub fn predicts_further(&self) -> bool {
        self.family.as_ref().is_some_and(|family| family.mtp_layers > 0)
    }

    /// Its window, if attention has one.
    pub fn window(&self) -> Option<AttentionWindow> {
        self.family.as_ref()?.window
    }

    /// Tokens that a token of a layer of a kind sees, where these are not all.
    pub fn window_of(&self, kind: LayerKind) -> Option<usize> {
        self.window().filter(|_| kind.windowed).map(|window| window.tokens)
    }

    /// Whether all layers are a decoder's with keys and values of heads.
    pub(super) fn decodes_by_heads(&self) -> bool {
        let latent = self.family.as_ref().is_some_and(|family| family.latent.is_some());
        self.causal() && self.depth() == self.layers && !latent
    }

    /// Whether attention and feed-forward run side by side.
    pub fn parallel_block(&self) -> bool {
        self.family.as_ref().is_some_and(|family| family.parallel_block)
    }
}

/// A mixture of experts in place of the feed-forward part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts a layer.
    pub count: usize,
    /// Experts a token goes to.
    pub top_k: usize,
    /// Groups of experts, where tokens go to experts of some of them alone (DeepSeek-AI 2024, §2.1.2). Priced, not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ExpertGroups>,
    /// Width of one.
    pub ffn: usize,
    /// Width of those that every token goes to, together.
    #[serde(default)]
    pub shared_ffn: usize,
    /// Leading layers that are dense.
    #[serde(default)]
    pub dense_layers: usize,
    /// Every how many layers one has experts.
    #[serde(default = "one")]
    pub every: usize,
    /// Tokens an expert has room for, over an even share (Lepikhin et al. 2020, §2.2); `"dropless"` where it takes all (Gale et
    /// al. 2022).
    #[serde(default = "usual_capacity", with = "super::capacity")]
    #[schemars(with = "f64")]
    pub capacity: f64,
    /// Weight of the balancing loss (Fedus et al. 2021, §2.2).
    #[serde(default)]
    pub balance: f32,
}

/// Groups of neighbouring experts of which a token chooses some, and its experts among theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpertGroups {
    /// Groups.
    pub count: usize,
    /// Groups that a token chooses.
    pub top: usize,
}

fn usual_capacity() -> f64 {
    1.25
}

impl Experts {
    /// Whether no token is ever dropped. Sizes are then those of balanced routing: every expert has its even share.
    pub fn is_dropless(&self) -> bool {
        self.capacity == super::capacity::DROPLESS
    }

    /// To which experts tokens go.
    pub fn routing(&self) -> Routing {
        let ExpertGroups { count: groups, top: top_groups } = self.groups.unwrap_or(ExpertGroups { count: 1, top: 1 });
        Routing { experts: self.count, top_k: self.top_k, groups, top_groups }
    }

    /// Tokens that experts take at most, over an even share.
    pub fn capacity_factor(&self) -> f64 {
        if self.is_dropless() { 1.0 } else { self.capacity }
    }

    /// Experts that a token goes to and is not dropped by, where routing is balanced.
    pub fn met(&self) -> f64 {
        self.top_k as f64 * self.capacity_factor().min(1.0)
    }
}

fn one() -> usize {
    1
}

/// How a model file differs from the usual decoder of its architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Family {
    /// Width of a head, where it is not `hidden / heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Layers of the decoder of an encoder-decoder, whose encoder's are `layers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_layers: Option<usize>,
    /// Whether a token sees later ones too: an encoder.
    pub bidirectional: bool,
    /// Whether the feed-forward part has a gate, where that is not as the architecture has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated: Option<bool>,
    /// Whether positions are learned, where that is not as the architecture has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_positions: Option<bool>,
    /// Rows of the table of learned positions, which no sequence is longer than; by default as many as sequences have tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// A window within which a token sees others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<AttentionWindow>,
    /// Parameters of parts that no op of a program reads, such as a vision tower: kept and updated with the embedding, while the
    /// time that they take is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: usize,
    /// Whether attention and feed-forward run side by side.
    pub parallel_block: bool,
    /// Mixture of experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// Multi-head latent attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<Latent>,
    /// Layers behind the last that predict a token further each, with the model's head (DeepSeek-AI 2024b, §2.2): one at the most. They
    /// count in no number of parameters that models are known by.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtp_layers: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Ranks and widths of multi-head latent attention (DeepSeek-AI 2024, §2.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Rank of queries.
    pub q_rank: usize,
    /// Rank of keys and values.
    pub kv_rank: usize,
    /// Width of a head's part without positions.
    pub nope: usize,
    /// Width of a head's rotary part, shared by all heads' keys.
    pub rope: usize,
    /// Width of a head's values.
    pub value: usize,
}

/// Kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerKind {
    /// Of which half of the model.
    pub half: ModelHalf,
    /// Whether it has experts, and no dense feed-forward part.
    pub experts: bool,
    /// Whether its attention has the model's window.
    pub windowed: bool,
}

/// Halves of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelHalf {
    /// There is but one.
    Whole,
    /// Encoder.
    Encoder,
    /// The encoder's last layer, with the norm behind it.
    EncoderEnd,
    /// Decoder, which attends to the encoder's output too.
    Decoder,
}
