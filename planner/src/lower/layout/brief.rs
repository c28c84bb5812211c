//! Brief: what is kept of a microbatch until the gradients of inputs are made, where those of weights follow later.
//!
//! In: what a piece keeps, its pass of weights. Out: the tensors that this pass has no use for; they lie in slots of their own, of
//! which there are as many as microbatches between forward and backward, which are fewer than those that still wait for weights.
//!
//! Zero-bubble schedules keep the rest alone until the pass of weights (Qi et al. 2023, §2.1): inputs of linear layers.
//!
//! Invariant: streams that enter a piece lie in one slot, as they came.

use super::{Slot, StageLayout};
use crate::lower::code::Piece;
use crate::lower::format::{ByClass, Class};
use crate::model::Value;

/// Where what is brief of a piece lies.
#[derive(Clone, Debug)]
pub struct Brief {
    /// Saved buffers, taken in turns by microbatches.
    slots: Vec<Slot>,
    /// Whether any tensor lies in those of a class: no instruction touches what stands beside tensors.
    holds: ByClass<bool>,
    /// Whether what enters the piece does.
    enters: bool,
}

impl Brief {
    /// Of a piece, in these buffers.
    pub(super) fn of(piece: &Piece, slots: Vec<Slot>) -> Brief {
        let holds = |class: Class| piece.brief.iter().any(|&t| piece.class(Value::Tensor(t)) == class);
        let enters = piece.tape.streams().any(|t| piece.brief.contains(&t));
        Brief { slots, holds: Class::ALL.map(holds), enters }
    }

    /// Buffers that hold something for a microbatch, which the gradients of inputs are the last to read.
    pub fn held(&self, mb: usize) -> impl Iterator<Item = u32> {
        let slot = self.slots[mb % self.slots.len()];
        slot.into_iter().zip(self.holds).filter_map(|(buffer, holds)| buffer.filter(|_| holds))
    }
}

impl StageLayout {
    /// A piece's slot for a microbatch: of what is brief, or of the rest.
    pub fn slot(&self, index: usize, brief: bool, mb: usize) -> Slot {
        let slots = if brief { &self.brief[index].slots } else { &self.slots[index] };
        slots[mb % slots.len()]
    }

    /// Its slot for what enters it.
    pub fn entry_slot(&self, index: usize, mb: usize) -> Slot {
        self.slot(index, self.brief[index].enters, mb)
    }
}
