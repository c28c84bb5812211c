//! Fine-tuning: what of a model is trained, and how the rest is kept.
//!
//! In: a job's `[tuning]`. Out: [`Tuning`], parameters and FLOPs of its adapters.
//!
//! Of LoRA (Hu et al. 2021) the base is frozen: its weights have no gradients and no optimizer state, and a product with one takes
//! two passes of three. Every adapted linear layer `W` of `k` inputs and `n` outputs goes with `A [rank, k]` and `B [n, rank]`:
//! `y = W·x + alpha / rank · B·A·x`.
//!
//! Invariant: parameters are those of the lowered program (tests over every known model).

use meshwright_hardware::op::Packing;
use meshwright_hardware::units::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::{Experts, Model};
use super::shape::Shape;
use crate::error::Fault;
use crate::limits::{self, number, sizes};

/// Which way to fine-tune.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Adapters of low rank beside a frozen base (Hu et al. 2021).
    Lora,
}

/// What a frozen base is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// The format of the model.
    #[default]
    Model,
    /// A byte a weight of the layers' linear layers, widened before each product.
    Fp8,
    /// Four bits and scales of the same: QLoRA (Dettmers et al. 2023).
    Nf4,
}

/// Linear layers that adapters go with, as checkpoints call them. A mixture's experts have their own; routers and the head none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterTarget {
    /// Queries; of latent attention both their layers.
    Q,
    /// Keys; of latent attention all layers of keys and values.
    K,
    /// Values.
    V,
    /// What attention's heads are projected by.
    O,
    /// The gate of a feed-forward part that has one.
    Gate,
    /// The way up.
    Up,
    /// The way down.
    Down,
}

impl AdapterTarget {
    /// All of them.
    pub const ALL: [AdapterTarget; 7] = [
        AdapterTarget::Q,
        AdapterTarget::K,
        AdapterTarget::V,
        AdapterTarget::O,
        AdapterTarget::Gate,
        AdapterTarget::Up,
        AdapterTarget::Down,
    ];
}

/// A job's fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Which way.
    pub method: Method,
    /// Rank of adapters.
    pub rank: usize,
    /// What they are scaled by, times `rank`.
    #[serde(default = "usual_alpha")]
    pub alpha: f32,
    /// Which linear layers have one: all, as QLoRA found needed (Dettmers et al. 2023, §4), and tools' `all-linear` means.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub targets: Vec<AdapterTarget>,
    /// What the base is kept in.
    #[serde(default, skip_serializing_if = "is_model")]
    pub base: Base,
}

/// Of Dettmers et al. 2023, appendix B.2.
fn usual_alpha() -> f32 {
    16.0
}

fn all() -> Vec<AdapterTarget> {
    AdapterTarget::ALL.to_vec()
}

fn is_all(targets: &[AdapterTarget]) -> bool {
    AdapterTarget::ALL.iter().all(|target| targets.contains(target))
}

fn is_model(base: &Base) -> bool {
    *base == Base::Model
}

impl Base {
    /// How its words are packed, if they are.
    pub fn packing(self) -> Option<Packing> {
        match self {
            Base::Model => None,
            Base::Fp8 => Some(Packing::Fp8),
            Base::Nf4 => Some(Packing::Nf4),
        }
    }
}

impl Tuning {
    /// What adapters' products are multiplied by.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Refuses what no adapter has.
    pub(super) fn check(&self, precision: Precision) -> Result<(), Fault> {
        sizes(&[("rank", self.rank, 1..=limits::HIDDEN)])?;
        number("alpha", self.alpha.into(), 0.0..=1e6)?;
        if self.targets.is_empty() {
            return Err(Fault::new(
                "targets",
                "empty",
                "nothing would be trained: name some of q, k, v, o, gate, up, down",
            ));
        }
        if self.base != Base::Model && precision.stored().bytes() > 2 {
            let problem =
                format!("it is widened to 16 bits for products, and the job's precision is {precision}: `model`");
            return Err(Fault::new("base", format!("{:?}", self.base).to_lowercase(), problem));
        }
        Ok(())
    }

    /// Parameters of all adapters of a model: trained, and those that a token meets.
    pub(super) fn adapters(&self, model: &Model) -> [f64; 2] {
        let shape = Shape::from(model);
        let (depth, routed) = (shape.all_layers() as f64, shape.expert_layers() as f64);
        let crossed = shape.decoder.map_or(0.0, |(layers, _)| layers as f64);
        let attention = self.attention(&shape);
        let usual = attention.iter().sum::<f64>() * depth + self.usual_attention(&shape) * crossed;
        let dense = usual + (depth - routed) * self.feed_forward(&shape, shape.ffn);
        let Some(Experts { count, top_k, ffn, shared_ffn, .. }) = shape.experts else { return [dense; 2] };
        let shared = if shared_ffn > 0 { self.feed_forward(&shape, shared_ffn) } else { 0.0 };
        let each = self.feed_forward(&shape, ffn);
        [count, top_k].map(|experts| dense + routed * (shared + experts as f64 * each))
    }

    /// Parameters of an adapter, if a layer has one.
    fn of(&self, target: AdapterTarget, inputs: usize, outputs: usize) -> f64 {
        if self.targets.contains(&target) { (self.rank * (inputs + outputs)) as f64 } else { 0.0 }
    }

    fn usual_attention(&self, shape: &Shape) -> f64 {
        let (h, q, kv) = (shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        self.of(AdapterTarget::Q, h, q)
            + self.of(AdapterTarget::K, h, kv)
            + self.of(AdapterTarget::V, h, kv)
            + self.of(AdapterTarget::O, q, h)
    }

    fn attention(&self, shape: &Shape) -> Vec<f64> {
        let Some(latent) = &shape.latent else { return vec![self.usual_attention(shape)] };
        let (h, heads) = (shape.hidden, shape.heads);
        let wide = heads * (latent.nope + latent.rope);
        let queries = match latent.q_rank {
            0 => vec![self.of(AdapterTarget::Q, h, wide)],
            rank => vec![self.of(AdapterTarget::Q, h, rank), self.of(AdapterTarget::Q, rank, wide)],
        };
        let keys = [(h, latent.kv_rank), (h, latent.rope), (latent.kv_rank, heads * (latent.nope + latent.value))];
        let keys = keys.map(|(inputs, outputs)| self.of(AdapterTarget::K, inputs, outputs));
        [&queries[..], &keys, &[self.of(AdapterTarget::O, heads * latent.value, h)]].concat()
    }

    fn feed_forward(&self, shape: &Shape, ffn: usize) -> f64 {
        let gate = if shape.gated { self.of(AdapterTarget::Gate, shape.hidden, ffn) } else { 0.0 };
        gate + self.of(AdapterTarget::Up, shape.hidden, ffn) + self.of(AdapterTarget::Down, ffn, shape.hidden)
    }
}
