//! Slots: which buffer what is kept of a microbatch lies in, of pieces that keep as much.
//!
//! In: a stage's actions, its pieces. Out: [`SlotPool`].
//!
//! A slot is taken as something begins to be kept and given back as it ends; the one that was given back first is taken first, so
//! that a stage of one chunk goes round its slots. Chunks of a stage share them.
//!
//! Invariant: as many slots as [`Peaks::together`](crate::schedule::Peaks::together) says, each of one piece of one microbatch at
//! a time.

use std::collections::VecDeque;

use crate::schedule::{Action, SlotSpan};

/// The slots of pieces that keep as much, and who has which.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotPool {
    /// By slot: the piece that took it first.
    pub(super) first: Vec<usize>,
    /// By piece, as given, and microbatch: its slot.
    pub(super) of: Vec<Vec<usize>>,
    /// The same of what backward leaves, where both share slots.
    pub(super) left: Vec<Vec<usize>>,
}

impl SlotPool {
    /// Of `pieces`, each with its chunk.
    pub(super) fn of(actions: &[Action], pieces: &[(usize, usize)], span: SlotSpan, splits: bool) -> SlotPool {
        let none = vec![Vec::new(); pieces.len()];
        let mut slots = SlotPool { first: Vec::new(), of: none.clone(), left: none };
        let both = span == SlotSpan::Either;
        let mut free = VecDeque::new();
        let of_chunk = |at: usize| pieces.iter().enumerate().filter(move |(_, (_, chunk))| *chunk == at);
        for &action in actions {
            if let Some((chunk, mb)) = span.begins(action, splits) {
                for (i, &(piece, _)) in of_chunk(chunk) {
                    let slot = free.pop_front().unwrap_or_else(|| {
                        slots.first.push(piece);
                        slots.first.len() - 1
                    });
                    let left = both && matches!(action, Action::Backward(..));
                    let taken = if left { &mut slots.left[i] } else { &mut slots.of[i] };
                    debug_assert_eq!(taken.len(), mb, "microbatches come in order");
                    taken.push(slot);
                }
            }
            if let Some((chunk, mb)) = span.ends(action, splits) {
                let left = both && matches!(action, Action::Weights(..));
                let taken = if left { &slots.left } else { &slots.of };
                free.extend(of_chunk(chunk).map(|(i, _)| taken[i][mb]));
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Peaks, Pipeline, Schedule};

    #[test]
    fn there_are_as_many_places_as_peaks_say_and_nobody_shares_one_at_a_time() {
        for (schedule, chunks) in Schedule::forms(3) {
            let pipeline = Pipeline { schedule, stages: 4, chunks, microbatches: 12 };
            let splits = schedule.splits();
            // Two layers of the first chunk, one of each other.
            let pieces: Vec<(usize, usize)> = (0..=chunks).map(|piece| (piece, piece.saturating_sub(1))).collect();
            for actions in pipeline.orders() {
                for span in [SlotSpan::Whole, SlotSpan::Brief] {
                    let slots = SlotPool::of(&actions, &pieces, span, splits);
                    let peaks = Peaks::of(&actions, chunks, span, splits);
                    assert_eq!(slots.first.len(), peaks.together(|chunk| if chunk == 0 { 2 } else { 1 }));
                    let mut taken = vec![false; slots.first.len()];
                    for &action in &actions {
                        for (i, &(_, chunk)) in pieces.iter().enumerate() {
                            let mine = |at: Option<(usize, usize)>| at.filter(|(other, _)| *other == chunk);
                            if let Some((_, mb)) = mine(span.begins(action, splits)) {
                                assert!(!std::mem::replace(&mut taken[slots.of[i][mb]], true), "{schedule:?}");
                            }
                            if let Some((_, mb)) = mine(span.ends(action, splits)) {
                                assert!(std::mem::take(&mut taken[slots.of[i][mb]]));
                            }
                        }
                    }
                }
            }
        }
    }

    /// ZB-V has 2p chunks under way on each of p stages, and what one leaves beside it while its backward runs.
    #[test]
    fn what_backward_leaves_lies_where_what_it_frees_lay() {
        let pipeline = Pipeline { schedule: Schedule::ZbV, stages: 4, chunks: 2, microbatches: 12 };
        for actions in pipeline.orders() {
            let slots = SlotPool::of(&actions, &[(0, 0), (1, 1)], SlotSpan::Either, true);
            assert_eq!(slots.first.len(), 2 * 4 + 1);
            let mut taken = vec![false; slots.first.len()];
            for action in actions {
                let (chunk, mb) = match action {
                    Action::Forward(chunk, mb) | Action::Backward(chunk, mb) | Action::Weights(chunk, mb) => {
                        (chunk, mb)
                    }
                };
                let (kept, left) = (slots.of[chunk][mb], slots.left[chunk][mb]);
                let (begins, ends) = match action {
                    Action::Forward(..) => (Some(kept), None),
                    Action::Backward(..) => (Some(left), Some(kept)),
                    Action::Weights(..) => (None, Some(left)),
                };
                assert!(begins.is_none_or(|slot| !std::mem::replace(&mut taken[slot], true)));
                assert!(ends.is_none_or(|slot| std::mem::take(&mut taken[slot])));
            }
        }
    }

    #[test]
    fn one_chunk_goes_round_its_places() {
        let pipeline = Pipeline { schedule: Schedule::OneFOneB, stages: 4, chunks: 1, microbatches: 8 };
        let slots = SlotPool::of(&pipeline.orders()[1], &[(7, 0), (9, 0)], SlotSpan::Whole, false);
        assert_eq!(slots.first, [7, 9, 7, 9, 7, 9]);
        assert_eq!(slots.of, [[0, 2, 4, 0, 2, 4, 0, 2], [1, 3, 5, 1, 3, 5, 1, 3]]);
    }
}
