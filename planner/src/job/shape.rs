//! Transformers of every family as sizes: encoders, decoders, encoder-decoders, mixtures of experts, latent attention.
//!
//! In: a [`Model`], a Hugging Face `config.json`, or sizes. Out: [`Shape`] with parameter counts and FLOPs.
//!
//! Invariant: sizes alone; which of them can be lowered to a program stands in [`crate::lower`].

use super::model::{Architecture, Experts, Latent, Model};
use super::window::AttentionWindow;

/// A transformer's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Name in tables.
    pub name: String,
    /// Layers of self-attention and feed-forward: all of a decoder, the encoder's of an encoder-decoder.
    pub layers: usize,
    /// The decoder of an encoder-decoder: its layers, which also attend to the encoder, and its tokens a sequence.
    pub decoder: Option<(usize, usize)>,
    /// Whether a token sees only earlier ones.
    pub causal: bool,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a dense layer's feed-forward part.
    pub ffn: usize,
    /// Whether the feed-forward part has a gate (SwiGLU and kin).
    pub gated: bool,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Whether the head's weight is the embedding's.
    pub tied: bool,
    /// Whether linear layers and norms have biases.
    pub biased: bool,
    /// Whether positions are learned.
    pub learned_positions: bool,
    /// Rows of their table; as many as a sequence has tokens where that is not said.
    pub positions: Option<usize>,
    /// Parameters that no op reads.
    pub unpriced: usize,
    /// Whether attention and feed-forward run side by side (Wang & Komatsuzaki 2021; PaLM, Falcon).
    pub parallel_block: bool,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Multi-head latent attention.
    pub latent: Option<Latent>,
    /// A window of attention.
    pub window: Option<AttentionWindow>,
    /// Layers behind the last that predict a token further each.
    pub mtp_layers: usize,
}

impl From<&Model> for Shape {
    fn from(model: &Model) -> Shape {
        let gpt = model.architecture == Architecture::Gpt2;
        let family = model.family.clone().unwrap_or_default();
        Shape {
            name: model.name.clone(),
            layers: model.layers,
            decoder: family.decoder_layers.map(|layers| (layers, USUAL_TARGET)),
            causal: !family.bidirectional && family.decoder_layers.is_none(),
            hidden: model.hidden,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim(),
            ffn: model.ffn,
            gated: family.gated.unwrap_or(!gpt),
            vocab: model.vocab,
            tied: model.tied,
            biased: gpt,
            learned_positions: family.learned_positions.unwrap_or(gpt),
            positions: family.positions,
            unpriced: family.unpriced,
            parallel_block: family.parallel_block,
            experts: family.experts,
            latent: family.latent,
            window: family.window,
            mtp_layers: family.mtp_layers,
        }
    }
}

impl Model {
    /// Parameters; a tied embedding counts once. `seq` is the learned positions' number.
    pub fn parameters(&self, seq: usize) -> u64 {
        if self.family.is_some() {
            return Shape::from(self).parameters(seq) as u64;
        }
        let (h, f, kv) = (self.hidden as u64, self.ffn as u64, (self.kv_heads * self.head_dim()) as u64);
        let table = self.vocab as u64 * h;
        let tables = if self.tied { table } else { 2 * table };
        match self.architecture {
            Architecture::Gpt2 => {
                let layer = h * (h + 2 * kv) + (h + 2 * kv) + h * h + h + 2 * h * f + f + h + 4 * h;
                self.layers as u64 * layer + tables + seq as u64 * h + 2 * h
            }
            Architecture::Llama => {
                let layer = h * (h + 2 * kv) + h * h + 3 * h * f + 2 * h;
                self.layers as u64 * layer + tables + h
            }
        }
    }
}

/// Tokens of an encoder-decoder's target where a model file says nothing of it (Raffel et al. 2020, §3.1.4).
pub const USUAL_TARGET: usize = 128;

impl Shape {
    /// Width of all query heads' outputs.
    pub fn q(&self) -> f64 {
        (self.heads * self.latent.as_ref().map_or(self.head_dim, |latent| latent.value)) as f64
    }

    /// Width of all key heads, and of all value heads; of their mean where they differ.
    pub fn kv(&self) -> f64 {
        match &self.latent {
            Some(latent) => (self.heads * (latent.nope + latent.rope + latent.value)) as f64 / 2.0,
            None => (self.kv_heads * self.head_dim) as f64,
        }
    }

    /// Width over which scores are summed: query and key heads'.
    pub fn score_width(&self) -> f64 {
        (self.heads * self.latent.as_ref().map_or(self.head_dim, |latent| latent.nope + latent.rope)) as f64
    }

    /// Layers of encoder and decoder.
    pub fn all_layers(&self) -> usize {
        self.layers + self.decoder.map_or(0, |(layers, _)| layers)
    }

    /// Whether a layer, counted from 0, has experts.
    pub fn has_experts(&self, layer: usize) -> bool {
        self.experts
            .as_ref()
            .is_some_and(|e| layer >= e.dense_layers && (layer - e.dense_layers + 1).is_multiple_of(e.every.max(1)))
    }

    /// Layers with experts.
    pub fn expert_layers(&self) -> usize {
        self.experts.as_ref().map_or(0, |e| (self.all_layers() - e.dense_layers.min(self.layers)) / e.every.max(1))
    }

    /// Share of layers with experts.
    pub fn expert_share(&self) -> f64 {
        self.expert_layers() as f64 / self.all_layers().max(1) as f64
    }

    /// Linear layers of attention.
    pub fn attention_linears(&self) -> Vec<Linear> {
        let h = self.hidden as f64;
        let heads = self.heads as f64;
        match &self.latent {
            None => vec![Linear::columns(h, self.q() + 2.0 * self.kv()), Linear::rows(self.q(), h)],
            Some(l) => {
                let (q_rank, kv_rank) = (l.q_rank as f64, l.kv_rank as f64);
                let (nope, rope, value) = (l.nope as f64, l.rope as f64, l.value as f64);
                let mut all = if l.q_rank > 0 {
                    vec![Linear::whole(h, q_rank), Linear::columns(q_rank, heads * (nope + rope))]
                } else {
                    vec![Linear::columns(h, heads * (nope + rope))]
                };
                all.extend([
                    Linear::whole(h, kv_rank + rope),
                    Linear::columns(kv_rank, heads * (nope + value)),
                    Linear::rows(heads * value, h),
                ]);
                all
            }
        }
    }

    /// Linear layers of a feed-forward part of this width.
    pub fn ffn_linears(&self, ffn: f64) -> Vec<Linear> {
        let h = self.hidden as f64;
        vec![Linear::columns(h, ffn * if self.gated { 2.0 } else { 1.0 }), Linear::rows(ffn, h)]
    }

    /// Parameters of attention, norms included.
    pub fn attention_parameters(&self) -> f64 {
        let norms = if self.parallel_block { 1.0 } else { 2.0 } * self.norm_parameters();
        norms + self.attention_linears().iter().map(|linear| linear.parameters(self.biased)).sum::<f64>()
    }

    /// Parameters of a norm.
    pub fn norm_parameters(&self) -> f64 {
        let vectors = if self.biased { 2.0 } else { 1.0 };
        vectors * self.hidden as f64
    }

    /// Parameters of the experts that every token goes to; without biases at their end.
    fn shared_parameters(&self, experts: &Experts) -> f64 {
        if experts.shared_ffn == 0 { 0.0 } else { self.ffn_parameters(experts.shared_ffn as f64) }
    }

    /// Parameters of a layer with experts that are in none of the routed ones nor in attention: the router, shared experts.
    pub fn beside_experts(&self) -> f64 {
        self.experts.as_ref().map_or(0.0, |e| (e.count * self.hidden) as f64 + self.shared_parameters(e))
    }

    /// Parameters of one routed expert; it has no biases.
    pub fn expert_parameters(&self, experts: &Experts) -> f64 {
        self.ffn_linears(experts.ffn as f64).iter().map(|linear| linear.parameters(false)).sum()
    }

    /// Parameters of a feed-forward part of this width.
    pub fn ffn_parameters(&self, ffn: f64) -> f64 {
        self.ffn_linears(ffn).iter().map(|linear| linear.parameters(self.biased)).sum()
    }

    /// Parameters of the token table, which the head may share.
    pub fn table_parameters(&self) -> f64 {
        self.vocab as f64 * self.hidden as f64
    }

    /// All parameters: in layers, of which in routed experts, and in tables.
    pub fn parameters(&self, seq: usize) -> f64 {
        let tables = self.table_parameters() * if self.tied { 1.0 } else { 2.0 };
        let rows = self.positions.unwrap_or(seq);
        let positions = if self.learned_positions { (rows * self.hidden) as f64 } else { 0.0 };
        self.layer_parameters() + tables + positions + self.norm_parameters() + self.unpriced as f64
    }

    /// Parameters of all layers.
    pub fn layer_parameters(&self) -> f64 {
        let expert_layers = self.expert_layers() as f64;
        let dense = self.all_layers() as f64 - expert_layers;
        let crossed = self.decoder.map_or(0, |(layers, _)| layers);
        let attentions = (self.all_layers() + crossed) as f64;
        let mut all = attentions * self.attention_parameters() + dense * self.ffn_parameters(self.ffn as f64);
        if let Some(e) = &self.experts {
            all += expert_layers * (e.count as f64 * self.expert_parameters(e) + self.beside_experts());
        }
        all
    }

    /// Parameters of matmuls that a token meets in layers that predict further, head included.
    pub fn further_parameters(&self) -> f64 {
        let fed = match &self.experts {
            Some(e) if self.has_experts(self.layers - 1) => e.met() * self.expert_parameters(e) + self.beside_experts(),
            _ => self.ffn_parameters(self.ffn as f64),
        };
        let joined = 2.0 * (self.hidden * self.hidden) as f64;
        self.mtp_layers as f64 * (joined + self.attention_parameters() + fed + self.table_parameters())
    }

    /// Parameters of matmuls that a token meets in the layers, of routed experts those of [`Experts::met`].
    pub fn active_layer_parameters(&self) -> f64 {
        let idle = self
            .experts
            .as_ref()
            .map_or(0.0, |e| (e.count as f64 - e.met()) * self.expert_parameters(e) * self.expert_layers() as f64);
        self.layer_parameters() - idle
    }

    /// Tokens that a token of a sequence of so many may see, summed over layers; without regard to its mask.
    pub fn seen(&self, seq: f64) -> f64 {
        self.window.map_or(self.layers as f64 * seq, |window| window.seen(self.layers, seq))
    }

    /// FLOPs of scores and values a token forward in all layers, every token seeing every other, or those of its window.
    pub fn attention_flops(&self, seq: f64) -> f64 {
        2.0 * self.seen(seq) * (self.score_width() + self.q())
    }
}

/// A linear layer and how tensor parallelism splits it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Inputs.
    pub inputs: f64,
    /// Outputs.
    pub outputs: f64,
    /// Split.
    pub split: LinearSplit,
}

/// Which side of a weight tensor parallelism splits (Shoeybi et al. 2019).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearSplit {
    /// Its outputs.
    Columns,
    /// Its inputs.
    Rows,
    /// Neither.
    Whole,
}

impl Linear {
    fn columns(inputs: f64, outputs: f64) -> Linear {
        Linear { inputs, outputs, split: LinearSplit::Columns }
    }

    fn rows(inputs: f64, outputs: f64) -> Linear {
        Linear { inputs, outputs, split: LinearSplit::Rows }
    }

    fn whole(inputs: f64, outputs: f64) -> Linear {
        Linear { inputs, outputs, split: LinearSplit::Whole }
    }

    /// Weights, and biases where there are some.
    pub fn parameters(&self, biased: bool) -> f64 {
        self.inputs * self.outputs + if biased { self.outputs } else { 0.0 }
    }

    /// Inputs and outputs on one of `tp` ranks.
    pub fn on_rank(&self, tp: f64) -> (f64, f64) {
        match self.split {
            LinearSplit::Columns => (self.inputs, self.outputs / tp),
            LinearSplit::Rows => (self.inputs / tp, self.outputs),
            LinearSplit::Whole => (self.inputs, self.outputs),
        }
    }
}
