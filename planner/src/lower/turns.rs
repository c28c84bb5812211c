//! How many buffers microbatches take in turns.
//!
//! In: a pipeline, what a stage runs. Out: buffers for activations, for gradients, and for what moves to the host.
//!
//! Invariant: no buffer is written while somebody still reads it.

use crate::schedule::{Action, Pipeline};

/// Places on the device for layers that move to the host, and for those that come back: one is on its way while another
/// computes; forward, its output already goes to the place of a third.
pub const OFFLOAD_SLOTS: [usize; 2] = [3, 2];

/// Places of both kinds for so many layers that move, each of so many microbatches.
pub fn offload_slots(layers: usize, microbatches: usize) -> [usize; 2] {
    OFFLOAD_SLOTS.map(|places| places.min(layers * microbatches))
}

/// How many buffers a chunk takes in turns for its activations on their way, and for the gradients that flow through it. A
/// message may be under way while the next is made; where the next chunk is on the same stage, all that it has not taken.
pub(super) fn turns(pipeline: &Pipeline, (stage, chunk): (usize, usize), actions: &[Action]) -> (usize, usize) {
    let depth = pipeline.stages * pipeline.chunks;
    let usual = if depth > 1 { pipeline.microbatches.min(2) } else { 1 };
    let next = pipeline.virtual_stage(stage, chunk) + 1;
    let neighbour = |place: Option<usize>| {
        let (other, at) = pipeline.chunk_at(place.filter(|&place| place < depth)?);
        (other == stage).then_some(at)
    };
    let most = |from: &dyn Fn(&Action) -> bool, to: &dyn Fn(&Action) -> bool| {
        let (mut ahead, mut most) = (0usize, 0);
        for action in actions {
            ahead = ahead + usize::from(from(action)) - usize::from(to(action));
            most = most.max(ahead);
        }
        most
    };
    let out = neighbour(Some(next)).map(|after| {
        most(
            &|a| matches!(a, Action::Forward(c, _) if *c == chunk),
            &|a| matches!(a, Action::Forward(c, _) if *c == after),
        )
    });
    let flow = neighbour((next - 1).checked_sub(1)).map(|before| {
        most(
            &|a| matches!(a, Action::Backward(c, _) if *c == chunk),
            &|a| matches!(a, Action::Backward(c, _) if *c == before),
        )
    });
    (usual.max(out.unwrap_or(0)), usual.max(flow.unwrap_or(0)))
}
