//! A step played piece by piece: the bound of a plan whose stages are decided.
//!
//! In: a plan, costs by stage. Out: seconds of a step.
//!
//! Every stage runs its schedule on four streams, as the program does: a piece's pass is one piece of work on the compute
//! stream; gathered weights and scattered gradients go in program order on the second, moves to the host and back on the third, messages
//! and what goes round a ring on the fourth. The host issues passes ahead of them. What is left out (contention, copies into buckets, a ring's order within a pass) only adds.
//!
//! Invariant: bound ≤ simulated step (tests over every schedule).

mod chunk;
mod late;
mod update;

use std::rc::Rc;

use crate::lower::OFFLOAD_SLOTS;
use crate::plan::Plan;
use crate::schedule::{Action, Pipeline};

use super::times::Costs;
use chunk::{Chunk, Item};
use late::Late;

/// A stage's state.
#[derive(Clone, Default)]
struct StageState {
    /// When each stream is free: kernels, collectives beside them, moves to the host, messages and rings.
    free: [f64; 4],
    /// Forward and backward: when the places for what is on its way to the host, and back, are free.
    places: [[f64; 3]; 2],
    /// How many layers have moved.
    moved: [usize; 2],
    /// The pieces whose weights each bucket holds, and since when.
    loaded: [Option<(usize, f64)>; 2],
    /// The latest scattered gradients.
    late: Late,
    /// By piece: when its gradients are summed.
    summed: Vec<f64>,
    /// When this stage's part of a tied table's gradient is whole.
    table: f64,
    /// The action to play next.
    next: usize,
    /// Kernels and arrivals of the actions that are left.
    left: f64,
    /// When the host has issued all so far.
    issued: f64,
    /// Of a collective's time beside compute, what it takes from compute.
    shown: f64,
    /// When the latest pass was done: what others wait for, as they do not for what collectives take and what is added up then.
    done: f64,
}

/// A step being played.
struct Play<'a> {
    plan: &'a Plan,
    pipeline: Pipeline,
    costs: &'a [&'a Costs],
    hop: f64,
    chunks: Vec<Vec<Rc<Chunk>>>,
    orders: Vec<Vec<Action>>,
    stages: Vec<StageState>,
    /// By place and microbatch: when what forward and backward made has come where it is needed; never, before.
    came: [Vec<f64>; 2],
}

/// A step of decided stages, each with its own costs.
pub fn step(plan: &Plan, costs: &[&Costs]) -> f64 {
    step_before(plan, costs, f64::INFINITY)
}

/// The same as far as it ends before a time: else no less than that, and no more than the step.
pub fn step_before(plan: &Plan, costs: &[&Costs], before: f64) -> f64 {
    let mut play = Play::of(plan, costs);
    let stages = plan.mesh.pp;
    if let Some(late) = (0..stages).map(|stage| play.least(stage)).find(|least| *least >= before) {
        return late;
    }
    play.begin();
    for stage in 0..stages {
        let clear: f64 = play.shares(stage).map(|share| share.clear).sum();
        let issue = play.shares(stage).map(|share| share.issue.clear).sum();
        let state = &mut play.stages[stage];
        state.free[0] += clear;
        state.issue(issue);
        state.free[0] = state.free[0].max(state.issued);
    }
    let mut moved = true;
    while moved {
        moved = false;
        for stage in 0..stages {
            while play.act(stage) {
                moved = true;
            }
            let least = play.least(stage);
            if least >= before {
                return least;
            }
        }
    }
    play.update()
}

/// How long a stage of one chunk is busy with its actions, were the others endlessly fast.
pub fn alone(plan: &Plan, costs: &Costs, stage: usize, actions: &[Action]) -> f64 {
    let (first, last) = (stage == 0, stage + 1 == plan.mesh.pp);
    let chunk = [Rc::new(Chunk::of(plan, costs, stage, 0))];
    let mut state = StageState::of(costs);
    for (at, action) in actions.iter().enumerate() {
        let (what, arrives, sends) = match action {
            Action::Forward(..) => (0, if first { costs.load[0] } else { costs.recv }, !last),
            Action::Backward(..) => (1, if last { costs.load[1] } else { costs.recv }, !first),
            Action::Weights(..) => (2, 0.0, false),
        };
        state.free[0] += arrives;
        state.run_all(&chunk[0].passes[what][0], upcoming(&chunk, &actions[at + 1..]), what);
        if sends {
            state.send(costs.hop);
        }
    }
    state.free[0]
}

/// The first piece that needs weights in later actions.
fn upcoming<'a>(chunks: &'a [Rc<Chunk>], later: &[Action]) -> Option<&'a Item> {
    let mut firsts = later.iter().filter_map(|action| match *action {
        Action::Forward(chunk, _) => chunks[chunk].passes[0][0].first(),
        Action::Backward(chunk, _) => chunks[chunk].passes[1][0].first(),
        Action::Weights(..) => None,
    });
    firsts.next()
}

impl<'a> Play<'a> {
    fn of(plan: &'a Plan, costs: &'a [&'a Costs]) -> Play<'a> {
        let pipeline = plan.pipeline();
        let stages = pipeline.stages;
        let mut known = Vec::new();
        let mut of_stage = |stage: usize| -> Vec<Rc<Chunk>> {
            (0..plan.chunks).map(|chunk| Chunk::known(&mut known, plan, costs[stage], (stage, chunk))).collect()
        };
        let mut play = Play {
            plan,
            pipeline,
            costs,
            hop: costs.iter().map(|costs| costs.hop).fold(f64::INFINITY, f64::min),
            chunks: (0..stages).map(&mut of_stage).collect(),
            orders: Vec::new(),
            stages: costs.iter().map(|costs| StageState::of(costs)).collect(),
            came: Default::default(),
        };
        for stage in 0..stages {
            play.stages[stage].left = play.work(stage);
        }
        play
    }

    /// Before the first action.
    fn begin(&mut self) {
        let Pipeline { stages, chunks, microbatches, .. } = self.pipeline;
        self.orders = self.pipeline.orders();
        self.came = [(); 2].map(|_| vec![f64::INFINITY; stages * chunks * microbatches]);
    }

    /// Seconds of all kernels and arrivals of a stage.
    fn work(&self, stage: usize) -> f64 {
        let (each, last) = ((self.pipeline.microbatches - 1) as f64, self.pipeline.microbatches as f64);
        let of = |(chunk, passes): (usize, &Rc<Chunk>)| {
            let place = self.pipeline.virtual_stage(stage, chunk);
            let kernels: f64 = passes.kernels.iter().map(|[other, final_one]| each * other + final_one).sum();
            kernels + last * (self.arrival(stage, place, 0) + self.arrival(stage, place, 1))
        };
        self.chunks[stage].iter().enumerate().map(of).sum()
    }

    /// What a stage takes at the least from what it has played; a little less, for sums that are rounded.
    fn least(&self, stage: usize) -> f64 {
        let state = &self.stages[stage];
        (state.free[0] + state.left) * (1.0 - 1e-9)
    }

    /// Seconds in which what forward (0) or backward (1) at a place needs is loaded or received.
    fn arrival(&self, stage: usize, place: usize, what: usize) -> f64 {
        let (costs, depth) = (self.costs[stage], self.pipeline.stages * self.pipeline.chunks);
        match what {
            0 if place == 0 => costs.load[0],
            0 => self.received(stage, place - 1, costs),
            1 if place + 1 == depth => costs.load[1],
            1 => self.received(stage, place + 1, costs),
            _ => 0.0,
        }
    }

    /// Plays a stage's next action, if there is one and what it needs has come.
    fn act(&mut self, stage: usize) -> bool {
        let Some(&action) = self.orders[stage].get(self.stages[stage].next) else { return false };
        let (chunk, mb, what) = match action {
            Action::Forward(chunk, mb) => (chunk, mb, 0),
            Action::Backward(chunk, mb) => (chunk, mb, 1),
            Action::Weights(chunk, mb) => (chunk, mb, 2),
        };
        let (place, depth) = (self.pipeline.virtual_stage(stage, chunk), self.plan.mesh.pp * self.plan.chunks);
        let at = |place: usize| place * self.pipeline.microbatches + mb;
        let costs = self.costs[stage];
        let needs = match what {
            0 if place == 0 => 0.0,
            0 => self.came[0][at(place - 1)],
            1 if place + 1 == depth => self.came[0][at(place)],
            1 => self.came[1][at(place + 1)],
            _ => 0.0,
        };
        if needs.is_infinite() {
            return false;
        }
        let arrival = self.arrival(stage, place, what);
        let state = &mut self.stages[stage];
        state.free[0] = state.free[0].max(needs).max(state.issued) + arrival;
        state.done = state.free[0];
        if arrival > 0.0 {
            state.issue(costs.issue_once);
        }
        let last = usize::from(mb + 1 == self.pipeline.microbatches);
        self.stages[stage].left -= arrival + self.chunks[stage][chunk].kernels[what][last];
        let next = upcoming(&self.chunks[stage], &self.orders[stage][self.stages[stage].next + 1..]);
        self.stages[stage].run_all(&self.chunks[stage][chunk].passes[what][last], next, what);
        let to = if what == 0 { place + 1 } else { place.wrapping_sub(1) };
        let end = if what < 2 && to < depth && self.pipeline.chunk_at(to).0 != stage {
            self.stages[stage].issue(costs.issue_once);
            self.stages[stage].send(self.hop)
        } else {
            self.stages[stage].done
        };
        if what < 2 {
            self.came[what][at(place)] = end;
        }
        self.stages[stage].next += 1;
        true
    }

    /// Seconds of receiving from another place.
    fn received(&self, stage: usize, from: usize, costs: &Costs) -> f64 {
        if self.pipeline.chunk_at(from).0 == stage { 0.0 } else { costs.recv }
    }
}

impl StageState {
    fn of(costs: &Costs) -> StageState {
        let (issued, shown) = (costs.starts, costs.shown);
        StageState { free: [issued; 4], issued, shown, ..StageState::default() }
    }

    /// Runs an action's pieces; `after` is the first piece of a later one.
    fn run_all(&mut self, items: &[Item], after: Option<&Item>, what: usize) {
        for (i, item) in items.iter().enumerate() {
            let next = items[i + 1..].iter().find(|item| item.kernels > 0.0).or(after);
            self.run(item, next, what);
        }
    }

    /// The host issues something.
    fn issue(&mut self, seconds: f64) {
        self.issued += seconds;
    }

    /// A collective begins beside compute, and takes its share from that.
    fn take(&mut self, collective: f64) {
        self.free[0] += self.shown * collective;
    }

    /// Sends what the latest kernels made; when it has come.
    fn send(&mut self, hop: f64) -> f64 {
        let messages = &mut self.free[3];
        *messages = messages.max(self.done) + hop;
        *messages
    }

    /// Runs a piece's part of an action; `next` is the piece that is gathered meanwhile.
    fn run(&mut self, item: &Item, next: Option<&Item>, what: usize) {
        // What runs nothing needs no weights.
        if let Some(piece) = item.gathers.filter(|_| what < 2 && item.kernels > 0.0) {
            let turn = self.gather(piece, item, None);
            let next = next.and_then(|next| Some((next.gathers?, next)));
            if let Some((next, item)) = next.filter(|(next, _)| *next != piece) {
                self.gather(next, item, Some(turn));
            }
            let (_, since) = self.loaded[turn].expect("it was just gathered");
            // The bucket of gradients is cleared before weights are there, and experts' come while others are in use.
            let ahead = item.gather_experts + if what == 1 { item.apart } else { 0.0 };
            self.free[0] = self.free[0].max(since - ahead);
        }
        let [compute, _, host, messages] = &mut self.free;
        let moves = item.moves.map(|moves| (moves, self.moved[what] % OFFLOAD_SLOTS[what]));
        if let Some((moves, turn)) = moves {
            if what == 1 {
                *host = host.max(self.places[1][turn]);
                *compute = compute.max(*host + moves.first - item.apart);
                *host += moves.all;
            } else {
                *compute = compute.max(self.places[0][turn]);
            }
        }
        let ringed = if item.ring > 0.0 { messages.max(*compute) + item.ring } else { 0.0 };
        *messages = messages.max(ringed);
        let run = compute.max(self.issued) + item.kernels;
        self.issued += item.issue;
        *compute = run.max(ringed).max(self.issued);
        self.done = *compute;
        if let Some((moves, turn)) = moves {
            self.moved[what] += 1;
            self.places[what][turn] = if what == 0 {
                let started = host.max(*compute - item.apart);
                *host = started + moves.all;
                // What is written after the piece before it waits for this.
                started + moves.first
            } else {
                *compute
            };
        }
        if item.scatter > 0.0 {
            self.free[1] = (self.free[1] + item.parts).max(self.free[0]) + item.scatter - item.parts;
            self.take(item.scatter);
            self.issue(item.shared.sums);
            // The piece before is added up after this one's kernels.
            let Item { settle, last_settle: last, replicate, piece, shared, .. } = *item;
            let next = Late { came: self.free[1], settle, last, issue: shared.settle, replicate, piece };
            let late = std::mem::replace(&mut self.late, next);
            self.settle(late);
        }
        let [compute, beside, ..] = &mut self.free;
        if item.reduce > 0.0 {
            *beside = (*beside + item.parts).max(*compute) + item.reduce - item.parts;
            let came = *beside;
            self.summed(item.piece, came);
            self.issue(item.shared.sums);
        }
        if item.table {
            self.table = self.free[0];
        }
        self.take(item.reduce);
    }

    fn summed(&mut self, piece: usize, at: f64) {
        self.summed.resize(self.summed.len().max(piece + 1), 0.0);
        self.summed[piece] = at;
    }

    /// Gathers a piece's weights, unless a bucket has them, into one that is not `busy`.
    fn gather(&mut self, piece: usize, item: &Item, busy: Option<usize>) -> usize {
        let there = |loaded: &Option<(usize, f64)>| loaded.is_some_and(|(other, _)| other == piece);
        if let Some(turn) = self.loaded.iter().position(there) {
            return turn;
        }
        let turn = busy.map_or(0, |busy| 1 - busy);
        self.issue(item.shared.gather);
        let [compute, beside, ..] = &mut self.free;
        // Of several banks the first is gathered while others are copied.
        *beside = beside.max(*compute) + item.gather;
        *compute += item.copy;
        self.loaded[turn] = Some((piece, *beside));
        self.take(item.gather);
        turn
    }
}
