//! Places: which buffer what is kept of a microbatch lies in, of pieces that keep as much.
//!
//! In: a stage's actions, its pieces. Out: [`SlotPlaces`].
//!
//! A place is taken as something begins to be kept and given back as it ends; the one that was given back first is taken first, so
//! that a stage of one chunk goes round its places. Chunks of a stage share them.
//!
//! Invariant: as many places as [`Peaks::together`](crate::schedule::Peaks::together) says, each of one piece of one microbatch at
//! a time.

use std::collections::VecDeque;

use crate::schedule::{Action, SlotSpan};

/// The places of pieces that keep as much, and who has which.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotPlaces {
    /// By place: the piece that took it first.
    pub(super) first: Vec<usize>,
    /// By piece, as given, and microbatch: its place.
    pub(super) of: Vec<Vec<usize>>,
    /// The same of what backward leaves, where both share places.
    pub(super) left: Vec<Vec<usize>>,
}

impl SlotPlaces {
    /// Of `pieces`, each with its chunk.
    pub(super) fn of(actions: &[Action], pieces: &[(usize, usize)], span: SlotSpan, splits: bool) -> SlotPlaces {
        let none = vec![Vec::new(); pieces.len()];
        let mut places = SlotPlaces { first: Vec::new(), of: none.clone(), left: none };
        let both = span == SlotSpan::Either;
        let mut free = VecDeque::new();
        let of_chunk = |at: usize| pieces.iter().enumerate().filter(move |(_, (_, chunk))| *chunk == at);
        for &action in actions {
            if let Some((chunk, mb)) = span.begins(action, splits) {
                for (i, &(piece, _)) in of_chunk(chunk) {
                    let place = free.pop_front().unwrap_or_else(|| {
                        places.first.push(piece);
                        places.first.len() - 1
                    });
                    let left = both && matches!(action, Action::Backward(..));
                    let taken = if left { &mut places.left[i] } else { &mut places.of[i] };
                    debug_assert_eq!(taken.len(), mb, "microbatches come in order");
                    taken.push(place);
                }
            }
            if let Some((chunk, mb)) = span.ends(action, splits) {
                let left = both && matches!(action, Action::Weights(..));
                let taken = if left { &places.left } else { &places.of };
                free.extend(of_chunk(chunk).map(|(i, _)| taken[i][mb]));
            }
        }
        places
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
                    let places = SlotPlaces::of(&actions, &pieces, span, splits);
                    let peaks = Peaks::of(&actions, chunks, span, splits);
                    assert_eq!(places.first.len(), peaks.together(|chunk| if chunk == 0 { 2 } else { 1 }));
                    let mut taken = vec![false; places.first.len()];
                    for &action in &actions {
                        for (i, &(_, chunk)) in pieces.iter().enumerate() {
                            let mine = |at: Option<(usize, usize)>| at.filter(|(other, _)| *other == chunk);
                            if let Some((_, mb)) = mine(span.begins(action, splits)) {
                                assert!(!std::mem::replace(&mut taken[places.of[i][mb]], true), "{schedule:?}");
                            }
                            if let Some((_, mb)) = mine(span.ends(action, splits)) {
                                assert!(std::mem::take(&mut taken[places.of[i][mb]]));
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
            let places = SlotPlaces::of(&actions, &[(0, 0), (1, 1)], SlotSpan::Either, true);
            assert_eq!(places.first.len(), 2 * 4 + 1);
            let mut taken = vec![false; places.first.len()];
            for action in actions {
                let (chunk, mb) = match action {
                    Action::Forward(chunk, mb) | Action::Backward(chunk, mb) | Action::Weights(chunk, mb) => {
                        (chunk, mb)
                    }
                };
                let (kept, left) = (places.of[chunk][mb], places.left[chunk][mb]);
                let (begins, ends) = match action {
                    Action::Forward(..) => (Some(kept), None),
                    Action::Backward(..) => (Some(left), Some(kept)),
                    Action::Weights(..) => (None, Some(left)),
                };
                assert!(begins.is_none_or(|place| !std::mem::replace(&mut taken[place], true)));
                assert!(ends.is_none_or(|place| std::mem::take(&mut taken[place])));
            }
        }
    }

    #[test]
    fn one_chunk_goes_round_its_places() {
        let pipeline = Pipeline { schedule: Schedule::OneFOneB, stages: 4, chunks: 1, microbatches: 8 };
        let places = SlotPlaces::of(&pipeline.orders()[1], &[(7, 0), (9, 0)], SlotSpan::Whole, false);
        assert_eq!(places.first, [7, 9, 7, 9, 7, 9]);
        assert_eq!(places.of, [[0, 2, 4, 0, 2, 4, 0, 2], [1, 3, 5, 1, 3, 5, 1, 3]]);
    }
}
