//! Pipeline schedules: the order in which a stage runs forward and backward of its chunks' microbatches.
//!
//! In: a schedule, the number of stages, of chunks a stage, of microbatches. Out: a list of [`Action`]s a stage.
//!
//! Invariant: each microbatch of each chunk is run forward once, then backward once, then (where backward is split) its
//! weights' gradients once, always in the order of microbatches; all stages together never wait in a circle.

use serde::{Deserialize, Serialize};

/// In which order a stage runs its microbatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Schedule {
    /// All forward, then all backward (Huang et al. 2019).
    #[serde(rename = "gpipe")]
    GPipe,
    /// One forward, one backward, after a warm-up (Narayanan et al. 2019): fewer microbatches in flight. With several chunks
    /// a stage it is the interleaved schedule (Narayanan et al. 2021).
    #[serde(rename = "1f1b")]
    OneFOneB,
    /// 1F1B with the gradients of weights put off into what would be bubbles (Qi et al. 2023).
    #[serde(rename = "zb-h1")]
    ZeroBubble,
    /// Two chunks a stage in the form of a V, with weights put off (Qi et al. 2024; DeepSeek-AI 2025).
    #[serde(rename = "dualpipe-v")]
    DualPipeV,
}

impl Schedule {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::GPipe => "gpipe",
            Schedule::OneFOneB => "1f1b",
            Schedule::ZeroBubble => "zb-h1",
            Schedule::DualPipeV => "dualpipe-v",
        }
    }

    /// Whether the gradients of weights are a pass of their own.
    pub fn splits(self) -> bool {
        match self {
            Schedule::GPipe | Schedule::OneFOneB => false,
            Schedule::ZeroBubble | Schedule::DualPipeV => true,
        }
    }
}

/// What a stage does next, for a chunk and a microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward.
    Forward(usize, usize),
    /// Backward; of inputs alone, if the schedule splits it.
    Backward(usize, usize),
    /// The gradients of weights.
    Weights(usize, usize),
}

/// How microbatches go through stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipeline {
    /// Order of microbatches.
    pub schedule: Schedule,
    /// Stages.
    pub stages: usize,
    /// Chunks a stage.
    pub chunks: usize,
    /// Microbatches a step.
    pub microbatches: usize,
}

impl Pipeline {
    /// What every stage does in a step.
    pub fn orders(&self) -> Vec<Vec<Action>> {
        let &Pipeline { schedule, stages, chunks, microbatches } = self;
        if schedule == Schedule::DualPipeV {
            return v_shaped(stages, microbatches);
        }
        (0..stages).map(|stage| actions(schedule, stage, stages, chunks, microbatches)).collect()
    }

    /// The place in the model's order of a stage's chunk.
    pub fn place(&self, stage: usize, chunk: usize) -> usize {
        match self.schedule {
            Schedule::DualPipeV if chunk == 1 => 2 * self.stages - 1 - stage,
            _ => chunk * self.stages + stage,
        }
    }

    /// The stage and chunk at a place in the model's order.
    pub fn chunk_at(&self, place: usize) -> (usize, usize) {
        match self.schedule {
            Schedule::DualPipeV if place >= self.stages => (2 * self.stages - 1 - place, 1),
            _ => (place % self.stages, place / self.stages),
        }
    }

    /// Microbatches after which no more are under way at once than before: the warm-up and a few rounds.
    pub fn settled(&self) -> usize {
        match self.schedule {
            Schedule::GPipe => self.microbatches,
            Schedule::OneFOneB | Schedule::ZeroBubble | Schedule::DualPipeV => self.microbatches.min(4 * self.stages),
        }
    }
}

/// One stage's list, of schedules that are known stage by stage.
fn actions(schedule: Schedule, stage: usize, stages: usize, chunks: usize, microbatches: usize) -> Vec<Action> {
    let after = stages - 1 - stage;
    match schedule {
        Schedule::GPipe => one_f_one_b(microbatches, 1, 1, microbatches, None),
        Schedule::OneFOneB if chunks == 1 => one_f_one_b(microbatches, 1, 1, after, None),
        // Twice as far ahead, so that a chunk's backward never waits for another's (Narayanan et al. 2021, §2.2.2).
        Schedule::OneFOneB => one_f_one_b(microbatches, stages, chunks, 2 * after + (chunks - 1) * stages, None),
        // Later stages put weights off for as many microbatches as earlier ones are ahead (Qi et al. 2023, ZB-H1).
        Schedule::ZeroBubble => one_f_one_b(microbatches, 1, 1, after, Some(stage)),
        Schedule::DualPipeV => unreachable!("it is made for all stages at once"),
    }
}

/// Forward `ahead` times, then backward and forward in turns. Chunks take turns after `group` microbatches; weights run
/// `behind` backwards later, where they are apart.
fn one_f_one_b(microbatches: usize, group: usize, chunks: usize, ahead: usize, behind: Option<usize>) -> Vec<Action> {
    let total = microbatches * chunks;
    let place = |i: usize| (i / group % chunks, i / (group * chunks) * group + i % group);
    let forward = |i| {
        let (chunk, mb) = place(i);
        Action::Forward(chunk, mb)
    };
    let backward = |i| {
        let (chunk, mb) = place(i);
        Action::Backward(chunks - 1 - chunk, mb)
    };
    let ahead = ahead.min(total);
    let mut all: Vec<Action> = (0..ahead).map(forward).collect();
    let mut weights = 0;
    for i in 0..total {
        if ahead + i < total {
            all.push(forward(ahead + i));
        }
        all.push(backward(i));
        // At the end there is time to wait for the next backward: it is filled.
        let late = behind.is_some_and(|behind| ahead + i >= total || i + 1 - weights > behind);
        if late && weights < total {
            all.push(Action::Weights(0, weights));
            weights += 1;
        }
    }
    if behind.is_some() {
        all.extend((weights..total).map(|mb| Action::Weights(0, mb)));
    }
    all
}

/// Two chunks a stage in the form of a V: chunk 0 goes down the stages, chunk 1 back up; weights fill what would be
/// bubbles (Qi et al. 2024, ZB-V; DeepSeek-AI 2025, DualPipeV). A simulation in which forward, backward and weights take
/// one tick each, and no more microbatches than stages are under way, decides the order.
fn v_shaped(stages: usize, microbatches: usize) -> Vec<Vec<Action>> {
    let depth = 2 * stages;
    let mut lists = vec![Vec::new(); stages];
    // By place in the model: microbatches done forward, backward and weights, and what was done before this tick.
    let mut done = vec![[0usize; 3]; depth];
    while done.iter().any(|passes| passes[2] < microbatches) {
        let before = done.clone();
        for (stage, list) in lists.iter_mut().enumerate() {
            let places = [stage, depth - 1 - stage];
            let ready = |k: usize, pass: usize| {
                let mb = before[k][pass];
                mb < microbatches
                    && match pass {
                        0 if k == 0 => mb < before[0][2] + stages.min(microbatches),
                        0 => mb < before[k - 1][0],
                        1 if k + 1 == depth => mb < before[k][0],
                        1 => mb < before[k + 1][1],
                        _ => mb < before[k][1],
                    }
            };
            let wanted = [(1, 1), (0, 1), (1, 0), (0, 0), (1, 2), (0, 2)];
            if let Some((chunk, pass)) = wanted.into_iter().find(|&(chunk, pass)| ready(places[chunk], pass)) {
                let mb = before[places[chunk]][pass];
                done[places[chunk]][pass] += 1;
                list.push([Action::Forward, Action::Backward, Action::Weights][pass](chunk, mb));
            }
        }
    }
    lists
}

/// The most microbatches of a chunk that are under way at once in a list: between forward and their end, and between
/// backward and weights.
pub fn under_way(actions: &[Action], chunk: usize, splits: bool) -> (usize, usize) {
    let (mut kept, mut held, mut most) = (0, 0, (0, 0));
    for action in actions {
        match *action {
            Action::Forward(at, _) if at == chunk => kept += 1,
            Action::Backward(at, _) if at == chunk => held += 1,
            Action::Weights(at, _) if at == chunk => {}
            _ => continue,
        }
        most = (most.0.max(kept), most.1.max(held));
        match action {
            Action::Backward(..) if !splits => (kept, held) = (kept - 1, 0),
            Action::Weights(..) => (kept, held) = (kept - 1, held - 1),
            Action::Forward(..) | Action::Backward(..) => {}
        }
    }
    if splits { most } else { (most.0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn orders(schedule: Schedule, stages: usize, chunks: usize, microbatches: usize) -> Vec<Vec<Action>> {
        Pipeline { schedule, stages, chunks, microbatches }.orders()
    }

    const ALL: [(Schedule, usize); 5] = [
        (Schedule::GPipe, 1),
        (Schedule::OneFOneB, 1),
        (Schedule::OneFOneB, 3),
        (Schedule::ZeroBubble, 1),
        (Schedule::DualPipeV, 2),
    ];

    /// When each action of every stage ends, if each takes one tick and all wait for what they need.
    fn ticks(schedule: Schedule, stages: usize, chunks: usize, lists: &[Vec<Action>]) -> usize {
        let depth = stages * chunks;
        let place = |stage: usize, chunk: usize| match schedule {
            Schedule::DualPipeV if chunk == 1 => depth - 1 - stage,
            _ => chunk * stages + stage,
        };
        let mut ended = std::collections::HashMap::new();
        let (mut next, mut free) = (vec![0; stages], vec![0; stages]);
        loop {
            let mut moved = false;
            for stage in 0..stages {
                while let Some(&action) = lists[stage].get(next[stage]) {
                    let needs = match action {
                        Action::Forward(c, mb) => (place(stage, c) > 0).then(|| (0, place(stage, c) - 1, mb)),
                        Action::Backward(c, mb) if place(stage, c) + 1 == depth => Some((0, place(stage, c), mb)),
                        Action::Backward(c, mb) => Some((1, place(stage, c) + 1, mb)),
                        Action::Weights(c, mb) => Some((1, place(stage, c), mb)),
                    };
                    let Some(start) = needs.map_or(Some(0), |key| ended.get(&key).copied()) else { break };
                    let end = free[stage].max(start) + 1;
                    let key = match action {
                        Action::Forward(c, mb) => (0, place(stage, c), mb),
                        Action::Backward(c, mb) => (1, place(stage, c), mb),
                        Action::Weights(c, mb) => (2, place(stage, c), mb),
                    };
                    assert_eq!(ended.insert(key, end), None, "{action:?} twice");
                    (free[stage], next[stage], moved) = (end, next[stage] + 1, true);
                }
            }
            if !moved {
                break;
            }
        }
        assert!((0..stages).all(|stage| next[stage] == lists[stage].len()), "{schedule:?}: a circle");
        *free.iter().max().unwrap()
    }

    proptest! {
        #[test]
        fn everything_runs_once_in_order_and_nobody_waits_for_ever(
            stages in 1usize..6, rounds in 1usize..4, more in 0usize..5, which in 0usize..5,
        ) {
            let (schedule, chunks) = ALL[which];
            // Only interleaving goes in whole rounds.
            let microbatches = rounds * stages + if which == 2 { 0 } else { more };
            let lists = orders(schedule, stages, chunks, microbatches);
            ticks(schedule, stages, chunks, &lists);
            for list in &lists {
                let splits = schedule.splits();
                prop_assert_eq!(list.len(), microbatches * chunks * if splits { 3 } else { 2 });
                for chunk in 0..chunks {
                    let run = |pick: fn(&Action) -> Option<(usize, usize)>| -> Vec<usize> {
                        list.iter().filter_map(pick).filter(|&(c, _)| c == chunk).map(|(_, mb)| mb).collect()
                    };
                    let forward = run(|a| if let Action::Forward(c, mb) = a { Some((*c, *mb)) } else { None });
                    let backward = run(|a| if let Action::Backward(c, mb) = a { Some((*c, *mb)) } else { None });
                    prop_assert!(forward == backward && forward.is_sorted() && forward.len() == microbatches);
                }
            }
        }
    }

    #[test]
    fn as_many_microbatches_are_under_way_as_the_papers_say() {
        let most = |schedule, chunks, stage: usize, chunk| {
            under_way(&orders(schedule, 4, chunks, 8)[stage], chunk, Schedule::splits(schedule)).0
        };
        assert_eq!([0, 1, 2, 3].map(|stage| most(Schedule::OneFOneB, 1, stage, 0)), [4, 3, 2, 1]);
        assert_eq!([0, 1, 2, 3].map(|stage| most(Schedule::ZeroBubble, 1, stage, 0)), [4, 4, 4, 4]);
        assert_eq!(most(Schedule::GPipe, 1, 0, 0), 8);
        assert!((0..4).all(|stage| most(Schedule::DualPipeV, 2, stage, 0) <= 4));
    }

    #[test]
    fn bubbles_shrink_from_gpipe_to_dualpipe() {
        // Forward, backward and weights of a whole stage are 1, 1 and 1 tick; unsplit backward is counted by hand.
        let (stages, microbatches) = (4, 16);
        let zero = ticks(Schedule::ZeroBubble, stages, 1, &orders(Schedule::ZeroBubble, stages, 1, microbatches));
        let v = ticks(Schedule::DualPipeV, stages, 2, &orders(Schedule::DualPipeV, stages, 2, microbatches));
        let (work, v_work) = (3 * microbatches, 6 * microbatches);
        let bubble_1f1b = 3 * (stages - 1);
        assert!(zero - work < stages && zero - work < bubble_1f1b, "{zero}");
        assert!((v - v_work) as f64 / 2.0 <= (stages - 1) as f64, "{v}");
    }
}
