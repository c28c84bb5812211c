//! Every schedule of the registry keeps what the rest relies on.

use super::*;
use proptest::prelude::*;

/// Every schedule in every form that the space has, up to three chunks a stage.
fn forms() -> Vec<(Schedule, usize)> {
    Schedule::forms(3).collect()
}

fn pipeline((schedule, chunks): (Schedule, usize), stages: usize, microbatches: usize) -> Pipeline {
    Pipeline { schedule, stages, chunks, microbatches }
}

/// How many ticks all take, if each action takes one and waits for what it needs; panics if they wait in a circle.
fn ticks(pipeline: &Pipeline) -> usize {
    let &Pipeline { stages, chunks, .. } = pipeline;
    let (lists, depth) = (pipeline.orders(), stages * chunks);
    let at = |stage, chunk| pipeline.virtual_stage(stage, chunk);
    let mut ended = std::collections::HashMap::new();
    let (mut next, mut free) = (vec![0; stages], vec![0; stages]);
    loop {
        let mut moved = false;
        for stage in 0..stages {
            while let Some(&action) = lists[stage].get(next[stage]) {
                let needs = match action {
                    Action::Forward(c, mb) => (at(stage, c) > 0).then(|| (0, at(stage, c) - 1, mb)),
                    Action::Backward(c, mb) if at(stage, c) + 1 == depth => Some((0, at(stage, c), mb)),
                    Action::Backward(c, mb) => Some((1, at(stage, c) + 1, mb)),
                    Action::Weights(c, mb) => Some((1, at(stage, c), mb)),
                };
                let Some(start) = needs.map_or(Some(0), |key| ended.get(&key).copied()) else { break };
                let end = free[stage].max(start) + 1;
                let key = match action {
                    Action::Forward(c, mb) => (0, at(stage, c), mb),
                    Action::Backward(c, mb) => (1, at(stage, c), mb),
                    Action::Weights(c, mb) => (2, at(stage, c), mb),
                };
                assert_eq!(ended.insert(key, end), None, "{action:?} twice");
                (free[stage], next[stage], moved) = (end, next[stage] + 1, true);
            }
        }
        if !moved {
            break;
        }
    }
    assert!((0..stages).all(|stage| next[stage] == lists[stage].len()), "{pipeline:?}: a circle");
    *free.iter().max().unwrap()
}

proptest! {
    #[test]
    fn everything_runs_once_in_order_and_nobody_waits_for_ever(
        stages in 1usize..6, rounds in 1usize..4, more in 0usize..5, which in 0..forms().len(),
    ) {
        let form = forms()[which];
        let any = pipeline(form, stages, 1);
        let least = form.0.order().least(stages, form.1);
        let pipeline = Pipeline { microbatches: (rounds * stages + more).max(least), ..any };
        ticks(&pipeline);
        for list in pipeline.orders() {
            let splits = form.0.splits();
            prop_assert_eq!(list.len(), pipeline.microbatches * form.1 * if splits { 3 } else { 2 });
            for chunk in 0..form.1 {
                let run = |pick: fn(&Action) -> Option<(usize, usize)>| -> Vec<usize> {
                    list.iter().filter_map(pick).filter(|&(c, _)| c == chunk).map(|(_, mb)| mb).collect()
                };
                let forward = run(|a| if let Action::Forward(c, mb) = a { Some((*c, *mb)) } else { None });
                let backward = run(|a| if let Action::Backward(c, mb) = a { Some((*c, *mb)) } else { None });
                let weights = run(|a| if let Action::Weights(c, mb) = a { Some((*c, *mb)) } else { None });
                prop_assert!(forward == backward && forward.is_sorted() && forward.len() == pipeline.microbatches);
                prop_assert_eq!(weights, if splits { forward } else { Vec::new() });
            }
        }
    }

    #[test]
    fn virtual_stages_are_each_one_chunk_and_say_which(stages in 1usize..6, which in 0..forms().len()) {
        let pipeline = pipeline(forms()[which], stages, 1);
        for stage in 0..stages * pipeline.chunks {
            let (at, chunk) = pipeline.chunk_at(stage);
            prop_assert!(at < stages && chunk < pipeline.chunks);
            prop_assert_eq!(pipeline.virtual_stage(at, chunk), stage);
        }
    }

    /// What a schedule says beside its order is so: of microbatches in flight and of weights that are left.
    #[test]
    fn schedules_say_of_themselves_what_their_orders_do(
        stages in 1usize..6, microbatches in 1usize..30, which in 0..forms().len(),
    ) {
        let (form, any) = (forms()[which], pipeline(forms()[which], stages, 1));
        let pipeline = Pipeline { microbatches: microbatches.max(form.0.order().least(stages, form.1)), ..any };
        let (order, splits) = (form.0.order(), form.0.splits());
        let settled = Pipeline { microbatches: pipeline.settled(), ..pipeline };
        prop_assert!(settled.check().is_ok() || pipeline.check().is_err());
        for (stage, (list, few)) in pipeline.orders().iter().zip(settled.orders()).enumerate() {
            let peaks = |list: &[Action], span| Peaks::of(list, form.1, span, splits);
            for span in [SlotSpan::Whole, SlotSpan::Brief, SlotSpan::PutOff] {
                prop_assert_eq!(peaks(list, span), peaks(&few, span));
            }
            if form.1 == 1 {
                prop_assert!(order.least_in_flight(&pipeline, stage) <= peaks(list, SlotSpan::Brief).of_chunk(0));
                let last = list.iter().rposition(|action| matches!(action, Action::Backward(..)));
                let left = list.len() - 1 - last.unwrap();
                prop_assert!(left as f64 <= order.weights_left(&pipeline, stage), "{} left of {:?}", left, pipeline);
            }
        }
    }
}

#[test]
fn names_are_one_a_schedule_and_read_back() {
    let mut names: Vec<&str> = Schedule::ALL.iter().map(|schedule| schedule.name()).collect();
    for schedule in Schedule::ALL {
        let text = serde_json::to_string(schedule).unwrap();
        assert_eq!(text, format!("{:?}", schedule.name()));
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), *schedule);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Schedule::ALL.len());
}

#[test]
fn chunks_and_microbatches_that_a_schedule_cannot_have_are_refused_with_those_it_can() {
    let refused = |form, stages, microbatches, words: &str| {
        let problem = pipeline(form, stages, microbatches).check().unwrap_err();
        assert!(problem.contains(words), "{problem}");
    };
    refused((Schedule::GPipe, 2), 4, 8, "gpipe has one chunk a stage");
    refused((Schedule::DualPipeV, 1), 4, 8, "dualpipe-v has 2 chunks a stage");
    refused((Schedule::DualPipeV, 2), 1, 8, "on several stages");
    refused((Schedule::OneFOneB, 2), 1, 8, "one chunk a stage, or more on several stages");
    refused((Schedule::OneFOneB, 2), 4, 3, "needs 4 microbatches or more, not 3");
    assert!([4, 6, 8].iter().all(|&microbatches| pipeline((Schedule::OneFOneB, 2), 4, microbatches).check().is_ok()));
}

/// Of five microbatches on four stages all five go through a chunk before the next one's turn, as in Megatron Core; of nine, five
/// and then four.
#[test]
fn interleaved_chunks_take_turns_after_longer_groups_where_microbatches_are_no_whole_rounds() {
    let forwards = |microbatches| -> Vec<(usize, usize)> {
        let list = pipeline((Schedule::OneFOneB, 2), 4, microbatches).orders().swap_remove(0);
        list.iter()
            .filter_map(|action| if let Action::Forward(c, mb) = action { Some((*c, *mb)) } else { None })
            .collect()
    };
    let turn = |chunk, from: usize, to: usize| (from..to).map(move |mb| (chunk, mb));
    assert_eq!(forwards(5), turn(0, 0, 5).chain(turn(1, 0, 5)).collect::<Vec<_>>());
    let nine = turn(0, 0, 5).chain(turn(1, 0, 5)).chain(turn(0, 5, 9)).chain(turn(1, 5, 9));
    assert_eq!(forwards(9), nine.collect::<Vec<_>>());
}

#[test]
fn as_many_microbatches_are_in_flight_as_the_papers_say() {
    let most = |schedule: Schedule, chunks, stage: usize| {
        let actions = &pipeline((schedule, chunks), 4, 8).orders()[stage];
        Peaks::of(actions, chunks, SlotSpan::Whole, schedule.splits()).of_chunk(0)
    };
    assert_eq!([0, 1, 2, 3].map(|stage| most(Schedule::OneFOneB, 1, stage)), [4, 3, 2, 1]);
    assert_eq!([0, 1, 2, 3].map(|stage| most(Schedule::ZeroBubble, 1, stage)), [4, 4, 4, 4]);
    assert_eq!([0, 1, 2, 3].map(|stage| most(Schedule::ZeroBubble2p, 1, stage)), [7, 7, 7, 7]);
    assert_eq!(most(Schedule::GPipe, 1, 0), 8);
    // One chunk more than there are virtual stages, as in the table of DeepSeek's repository.
    for (stage, actions) in pipeline((Schedule::DualPipeV, 2), 4, 16).orders().iter().enumerate() {
        let together = Peaks::of(actions, 2, SlotSpan::Whole, true).together(|_| 1);
        assert!(together <= 2 * 4 + 1, "stage {stage}: {together}");
    }
    // As many chunks, each of half a stage's layers, as 1F1B's first stage has in whole stages.
    for (stage, actions) in pipeline((Schedule::ZbV, 2), 4, 16).orders().iter().enumerate() {
        let peaks = |span| Peaks::of(actions, 2, span, true).together(|_| 1);
        assert_eq!(peaks(SlotSpan::Whole), 8, "stage {stage}");
        assert!(peaks(SlotSpan::PutOff) <= 1 + 2 * stage, "stage {stage}: {}", peaks(SlotSpan::PutOff));
    }
}

#[test]
fn bubbles_shrink_from_gpipe_to_dualpipe() {
    // Forward, backward and weights of a whole stage are 1, 1 and 1 tick; unsplit backward is counted by hand.
    let (stages, microbatches) = (4, 16);
    let zero = ticks(&pipeline((Schedule::ZeroBubble, 1), stages, microbatches));
    let v = ticks(&pipeline((Schedule::DualPipeV, 2), stages, microbatches));
    // Each of p − 1 stages waits once for a forward, which is all of the bubble that is left.
    assert_eq!(ticks(&pipeline((Schedule::ZeroBubble2p, 1), stages, microbatches)), 3 * microbatches + stages - 1);
    let (work, v_work) = (3 * microbatches, 6 * microbatches);
    let bubble_1f1b = 3 * (stages - 1);
    assert!(zero - work < stages && zero - work < bubble_1f1b, "{zero}");
    assert!((v - v_work) as f64 / 2.0 <= (stages - 1) as f64, "{v}");
}
