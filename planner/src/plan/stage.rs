//! A stage's layers: how many, and how each keeps or makes again what backward reads.
//!
//! In: a plan's `[[stages]]`. Out: [`Stage`], the [`Recompute`] of each of its layers.

use crate::job::Fix;
pub use crate::job::Recompute;

/// A chunk of a pipeline stage (all of it, but for interleaved schedules): how many layers, and how many recompute. The first,
/// which has the embedding, and the last, which has the head, may do without layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage {
    /// Layers in all.
    pub layers: usize,
    /// Of these, the first so many recompute everything.
    pub full: usize,
    /// And the next so many recompute selectively.
    pub selective: usize,
    /// The first so many keep their activations in the host's memory until backward needs them (Rhu et al. 2016).
    pub offload: usize,
}

pub(super) fn is_zero(n: &usize) -> bool {
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

    /// Whether its layers recompute, and are on the host, only as is fixed.
    pub fn is_permitted(&self, fix: &Fix) -> bool {
        let permitted = |mode: Recompute| fix.recompute.as_ref().is_none_or(|kinds| kinds.contains(&mode));
        (self.offload == 0 || fix.offload != Some(false)) && (0..self.layers).all(|layer| permitted(self.mode(layer)))
    }
}

/// Layers of each stage: what does not divide goes to the inner stages, which have no table or head.
pub fn layers_of(layers: usize, stages: usize) -> Vec<usize> {
    let (each, extra) = (layers / stages, layers % stages);
    let inner_first = |stage: usize| if stages > 2 { (stage + stages - 1) % stages } else { stage };
    (0..stages).map(|stage| each + usize::from(inner_first(stage) < extra)).collect()
}
