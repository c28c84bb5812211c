//! Passes: a stage's actions piece by piece.
//!
//! In: a plan, the pieces' code, a layout, the stage's actions. Out: a list of [`Pass`]es.

use super::code::Pieces;
use super::layout::StageLayout;
use crate::plan::Plan;
use crate::schedule::Action;

/// What a pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Results.
    Forward,
    /// Gradients; of inputs alone where those of weights are apart.
    Backward,
    /// Gradients of weights.
    Weights,
}

/// One piece's part of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Chunk of the stage.
    pub chunk: usize,
    /// Piece of the stage.
    pub index: usize,
    /// Microbatch.
    pub mb: usize,
    /// What it computes.
    pub what: What,
    /// Whether the action begins with it.
    pub first: bool,
    /// Whether the action ends with it.
    pub last: bool,
    /// Whether nothing that was kept of the piece for this microbatch is needed afterwards.
    pub ends: bool,
    /// Whether the piece's gradients are whole afterwards.
    pub done: bool,
}

/// The passes of a stage.
pub fn passes(plan: &Plan, pieces: &Pieces, layout: &StageLayout, actions: &[Action]) -> Vec<Pass> {
    let final_mb = plan.microbatches() - 1;
    let mut all = Vec::new();
    for action in actions {
        let (chunk, mb, what) = match *action {
            Action::Forward(chunk, mb) => (chunk, mb, What::Forward),
            Action::Backward(chunk, mb) => (chunk, mb, What::Backward),
            Action::Weights(chunk, mb) => (chunk, mb, What::Weights),
        };
        let split = |index: usize| !layout.pieces[index].piece(plan, pieces).weights.segments.is_empty();
        let mut order: Vec<usize> = layout.chunks[chunk].clone().collect();
        match what {
            What::Forward => {}
            What::Backward => order.reverse(),
            What::Weights => {
                order.retain(|&index| split(index));
                order.reverse();
            }
        }
        let ends = order.len();
        all.extend(order.into_iter().enumerate().map(|(at, index)| {
            let over = what != What::Forward && (what == What::Weights || !split(index));
            let (first, last) = (at == 0, at + 1 == ends);
            Pass { chunk, index, mb, what, first, last, ends: over, done: over && mb == final_mb }
        }));
    }
    all
}
