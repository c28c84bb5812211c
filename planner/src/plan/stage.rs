//! A stage's layers: how many, and how each keeps or makes again what backward reads.
//!
//! In: a plan's `[[stages]]`. Out: [`Stage`], the [`Recompute`] of each of its layers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What of a layer's activations is made again in backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: all that backward reads is kept.
    None,
    /// The outputs of norms and activations: large, and cheap to make again (attention never stores its scores).
    Selective,
    /// Everything but the layer's input (Chen et al. 2016).
    Full,
}

impl Recompute {
    /// Every mode, by memory: most first.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Selective, Recompute::Full];
}

/// A chunk of a pipeline stage (all of it, but for interleaved schedules): how many layers, and how many recompute. The first,
/// which has the embedding, and the last, which has the head, may do without layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Layers in all.
    pub layers: usize,
    /// Of these, the first so many recompute everything.
    #[serde(default)]
    pub full: usize,
    /// And the next so many recompute selectively.
    #[serde(default)]
    pub selective: usize,
    /// The first so many keep their activations in the host's memory until backward needs them (Rhu et al. 2016).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offload: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Stage {
    /// The mode of the stage's `i`-th layer.
    pub fn mode(&self, i: usize) -> Recompute {
        if i < self.full {
            Recompute::Full
        } else if i < self.full + self.selective {
            Recompute::Selective
        } else {
            Recompute::None
        }
    }
}

/// Layers of each stage: what does not divide goes to the inner stages, which have no table or head.
pub fn layers_of(layers: usize, stages: usize) -> Vec<usize> {
    let (each, extra) = (layers / stages, layers % stages);
    let inner_first = |stage: usize| if stages > 2 { (stage + stages - 1) % stages } else { stage };
    (0..stages).map(|stage| each + usize::from(inner_first(stage) < extra)).collect()
}
