//! Pipeline schedules: the order in which a stage runs forward and backward of its microbatches.
//!
//! In: a schedule, the stage, the stages' number, the microbatches. Out: a list of [`Action`]s.
//!
//! Invariant: each microbatch is run forward once, then backward once; all stages together never wait in a circle.

use crate::plan::Schedule;

/// What a stage does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward of a microbatch.
    Forward(usize),
    /// Backward of a microbatch.
    Backward(usize),
}

/// What stage `stage` of `stages` does in a step of `microbatches`.
pub fn actions(schedule: Schedule, stage: usize, stages: usize, microbatches: usize) -> Vec<Action> {
    let ahead = match schedule {
        Schedule::GPipe => microbatches,
        Schedule::OneFOneB => (stages - 1 - stage).min(microbatches),
    };
    let warm_up = (0..ahead).map(Action::Forward);
    let steady = (ahead..microbatches).flat_map(|mb| [Action::Forward(mb), Action::Backward(mb - ahead)]);
    let drain = (microbatches - ahead..microbatches).map(Action::Backward);
    warm_up.chain(steady).chain(drain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_microbatch_runs_forward_then_backward_and_few_are_in_flight(
            stages in 1usize..6, microbatches in 1usize..9, one_f_one_b: bool,
        ) {
            let schedule = if one_f_one_b { Schedule::OneFOneB } else { Schedule::GPipe };
            for stage in 0..stages {
                let (mut forward, mut backward, mut most) = (0, 0, 0);
                for action in actions(schedule, stage, stages, microbatches) {
                    match action {
                        Action::Forward(mb) => { prop_assert_eq!(mb, forward); forward += 1; }
                        Action::Backward(mb) => { prop_assert_eq!(mb, backward); backward += 1; }
                    }
                    prop_assert!(backward <= forward);
                    most = most.max(forward - backward);
                }
                prop_assert_eq!((forward, backward), (microbatches, microbatches));
                let bound = if one_f_one_b { microbatches.min(stages - stage) } else { microbatches };
                prop_assert_eq!(most, bound);
            }
        }
    }
}
