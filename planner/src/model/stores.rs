//! Steps while which something has to stand beside their tensors: attention's scores, copies of logits.
//!
//! In: a [`Step`]. Out: [`Stores`], how much of which [`super::Beside`] says.

use meshwright_hardware::op::Op;

use super::tape::Step;

/// A step while which something has to stand beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// Attention, forward or backward.
    Scores {
        /// Whether backward.
        backward: bool,
    },
    /// The first pass over logits, from which on there are copies.
    Logits,
}

impl Step {
    /// What stands beside a step's tensors while it runs.
    pub fn stores(&self) -> Option<Stores> {
        let Step::Call(op, _) = self else { return None };
        match op {
            Op::Attention(_) | Op::WindowAttention { .. } | Op::ContextAttention(_) => {
                Some(Stores::Scores { backward: false })
            }
            Op::AttentionGrad(_) | Op::WindowAttentionGrad { .. } | Op::ContextAttentionGrad(_) => {
                Some(Stores::Scores { backward: true })
            }
            Op::LossStats { .. } => Some(Stores::Logits),
            _ => None,
        }
    }
}
