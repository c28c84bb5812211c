//! How many microbatches are under way at once, of all chunks of a stage together.
//!
//! In: a stage's actions. Out: [`Peaks`].
//!
//! Chunks do not have their most microbatches at the same time, so that what is kept of them fits in fewer places than each of them
//! needs at its own time (Narayanan et al. 2021, §2.2.2, count all chunks of interleaved 1F1B together).
//!
//! Invariant: at every time there is a peak at which every chunk has as many or more.

use rustc_hash::FxHashSet;

use super::Action;

/// The passes between which something is kept of a microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSpan {
    /// From forward to its end: backward, or the gradients of weights where they are apart.
    Whole,
    /// From forward to backward, which makes gradients of inputs alone where it is split.
    Brief,
    /// From backward to the gradients of weights, where they are apart.
    PutOff,
    /// Both of these, each of which is kept of a microbatch for itself: where backward is split.
    Either,
}

impl SlotSpan {
    /// The chunk and microbatch of which it begins with an action, of a schedule that `splits` backward or does not.
    pub fn begins(self, action: Action, splits: bool) -> Option<(usize, usize)> {
        match (self, action) {
            (SlotSpan::Whole | SlotSpan::Brief | SlotSpan::Either, Action::Forward(chunk, mb)) => Some((chunk, mb)),
            (SlotSpan::PutOff | SlotSpan::Either, Action::Backward(chunk, mb)) if splits => Some((chunk, mb)),
            (SlotSpan::Whole | SlotSpan::Brief | SlotSpan::PutOff | SlotSpan::Either, _) => None,
        }
    }

    /// The same of its end.
    pub fn ends(self, action: Action, splits: bool) -> Option<(usize, usize)> {
        match (self, action) {
            (SlotSpan::Whole, Action::Backward(chunk, mb)) if !splits => Some((chunk, mb)),
            (SlotSpan::Brief | SlotSpan::Either, Action::Backward(chunk, mb)) => Some((chunk, mb)),
            (SlotSpan::Whole | SlotSpan::PutOff | SlotSpan::Either, Action::Weights(chunk, mb)) => Some((chunk, mb)),
            (SlotSpan::Whole | SlotSpan::Brief | SlotSpan::PutOff | SlotSpan::Either, _) => None,
        }
    }
}

/// Microbatches under way by chunk, at the times when they are most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peaks(Vec<Vec<usize>>);

impl Peaks {
    /// Of a stage of so many chunks.
    pub fn of(actions: &[Action], chunks: usize, span: SlotSpan, splits: bool) -> Peaks {
        let mut now = vec![0; chunks];
        let (mut grew, mut all) = (false, FxHashSet::default());
        for &action in actions {
            if let Some((chunk, _)) = span.begins(action, splits) {
                now[chunk] += 1;
                grew = true;
            }
            if let Some((chunk, _)) = span.ends(action, splits) {
                if grew && !all.contains(&now) {
                    all.insert(now.clone());
                }
                now[chunk] -= 1;
                grew = false;
            }
        }
        let mut all: Vec<Vec<usize>> = all.into_iter().collect();
        all.sort_unstable_by_key(|peak| std::cmp::Reverse((peak.iter().sum::<usize>(), peak.clone())));
        let mut peaks: Vec<Vec<usize>> = Vec::new();
        for peak in all {
            let under = |other: &Vec<usize>| peak.iter().zip(other).all(|(own, other)| own <= other);
            if !peaks.iter().any(under) {
                peaks.push(peak);
            }
        }
        Peaks(peaks)
    }

    /// The most of a chunk.
    pub fn of_chunk(&self, chunk: usize) -> usize {
        self.0.iter().map(|peak| peak[chunk]).max().unwrap_or(0)
    }

    /// The most of all chunks together, of each of which a microbatch counts as often as said.
    pub fn together(&self, times: impl Fn(usize) -> usize) -> usize {
        let sum = |peak: &Vec<usize>| peak.iter().enumerate().map(|(chunk, under_way)| under_way * times(chunk)).sum();
        self.0.iter().map(sum).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pipeline, Schedule};
    use super::*;

    /// By hand, of interleaved 1F1B on p stages of v chunks: stage s is 2·(p − s − 1) + (v − 1)·p forwards ahead, and one more.
    #[test]
    fn chunks_together_have_as_many_as_interleaving_says() {
        let (stages, chunks) = (8, 5);
        let pipeline = Pipeline { schedule: Schedule::OneFOneB, stages, chunks, microbatches: 64 };
        for (stage, actions) in pipeline.orders().iter().enumerate() {
            let peaks = Peaks::of(actions, chunks, SlotSpan::Whole, false);
            assert_eq!(peaks.together(|_| 1), 2 * (stages - stage - 1) + (chunks - 1) * stages + 1);
            let apart: usize = (0..chunks).map(|chunk| peaks.of_chunk(chunk)).sum();
            assert!(apart > peaks.together(|_| 1), "{apart}");
        }
    }

    #[test]
    fn a_peak_is_of_one_time() {
        use Action::{Backward, Forward};
        let actions = [Forward(0, 0), Forward(0, 1), Backward(0, 0), Forward(1, 0), Backward(0, 1), Backward(1, 0)];
        let peaks = Peaks::of(&actions, 2, SlotSpan::Whole, false);
        assert_eq!([peaks.of_chunk(0), peaks.of_chunk(1)], [2, 1]);
        assert_eq!([peaks.together(|_| 1), peaks.together(|chunk| 1 + 2 * chunk)], [2, 4]);
        assert_eq!(Peaks::of(&actions, 2, SlotSpan::PutOff, false).together(|_| 1), 0);
    }
}
