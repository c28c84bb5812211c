//! Stages: for a candidate, layers of each stage and what becomes of their activations, under the stages' memory.
//!
//! In: a plan without stages, its costs and sizes, the bytes each stage may hold. Out: stages by [`Problem`], or none.
//!
//! Where stages have several chunks, layers are spread evenly, as interleaved schedules are defined; each stage then recomputes as
//! little as fits.
//!
//! Invariant: what is returned fits, by [`PieceSizes::stage`].

use std::cell::OnceCell;

use super::partition::{Choice, Problem};
use super::within::{UniformRecompute, Within};
use crate::job::Fix;
use crate::lower::{InFlight, Once, PieceSize, PieceSizes, offload_slots};
use crate::plan::{Plan, Recompute, Stage};
use crate::schedule::{Action, Pipeline};

use super::bound::ends;
use super::partition_bound::LeastTime;
use super::times::{Costs, Times};

/// Numbers of layers recomputed in full that are tried, from the fewest that fit.
const TRIED: usize = 3;

/// A candidate whose stages are to be decided.
pub struct Undecided<'a> {
    /// The plan; its stages do not count.
    pub plan: &'a Plan,
    /// Its costs, by stage.
    pub costs: &'a [&'a Costs],
    /// Its sizes.
    pub sizes: &'a PieceSizes,
    /// Microbatches in flight, by stage.
    pub flights: &'a [InFlight],
    /// Bytes that each stage may hold.
    pub capacity: &'a [u64],
    /// What stages do in a few microbatches, and in all.
    pub orders: [OnceCell<Vec<Vec<Action>>>; 2],
    /// The engine to plan for.
    pub within: Option<&'a Within<'a>>,
    /// What the user has fixed.
    pub fix: &'a Fix,
}

impl Undecided<'_> {
    /// The best stages that fit; and of which problem, where layers may be partitioned over several.
    pub fn decide(&self) -> Option<(Vec<Stage>, Option<Problem>)> {
        if self.plan.chunks > 1 || self.within.is_some_and(|within| !within.ability.uneven) {
            return self.even().map(|stages| (stages, None));
        }
        let mut problem = self.partitions(false)?;
        let mut stages = self.solve(&mut problem)?;
        if let Some(within) = self.within.filter(|within| !within.recomputes(&stages)) {
            stages = self.alike(within, &problem)?.0;
        }
        let problem = (self.plan.mesh.pp > 1).then_some(problem);
        Some((stages, problem)).filter(|(stages, _)| self.fits(stages))
    }

    /// The best stages of a problem whose moves were not played yet: what is chosen is played until nothing more is.
    fn solve(&self, problem: &mut Problem) -> Option<Vec<Stage>> {
        let mut played = Vec::new();
        loop {
            let stages = problem.solve()?;
            let new = |(stage, way): &(usize, &Stage)| way.offload > 0 && !played.contains(&(*stage, way.layers));
            let moving: Vec<(usize, usize)> =
                stages.iter().enumerate().filter(new).map(|(stage, way)| (stage, way.layers)).collect();
            if moving.is_empty() {
                return Some(stages);
            }
            for &(stage, layers) in &moving {
                let choice = problem.choices[stage].iter_mut().find(|choice| choice.stage.layers == layers)?;
                *choice = self.fastest(stage, layers, true)?;
            }
            played.extend(moving);
        }
    }

    /// The best stages of those that recompute alike, as an engine does; and of which problem.
    fn alike(&self, within: &Within, problem: &Problem) -> Option<(Vec<Stage>, Problem)> {
        let most = problem.choices.iter().flatten().map(|choice| choice.stage.layers).max()?;
        let solve = |way: UniformRecompute| {
            let choices = problem.choices.iter().enumerate().map(|(stage, all)| {
                let windows = all.iter().map(|choice| Window::of(self, stage, choice.stage.layers));
                let fitting = windows.filter(|window| window.bytes(&way.stage(window.count)) <= self.capacity[stage]);
                let choice = |window: Window| {
                    let stage = way.stage(window.count);
                    Choice { seconds: window.seconds(&stage), stage }
                };
                fitting.map(choice).collect()
            });
            let alike = Problem { choices: choices.collect(), ..*problem };
            alike.solve().map(|stages| (stages, alike))
        };
        let (full, less): (Vec<UniformRecompute>, Vec<UniformRecompute>) =
            within.uniform(most).into_iter().partition(|way| matches!(way, UniformRecompute::Full(_)));
        // The fewest that make a partition fit, and those that leave more choice of it.
        let fewest = least(0, full.len(), |at| solve(full[at]).is_some());
        let best = less.into_iter().chain(full.into_iter().skip(fewest).take(TRIED)).filter_map(solve);
        let seconds = |(stages, problem): &(Vec<Stage>, Problem)| problem.seconds_of(stages);
        best.min_by(|a, b| seconds(a).total_cmp(&seconds(b)))
    }

    /// Stages of so many layers that recompute alike, and no more than makes them fit.
    pub fn least_alike(&self, within: &Within, held: &[usize]) -> Option<Vec<Stage>> {
        let most = held.iter().copied().max()?;
        let stages = |way: UniformRecompute| held.iter().map(|&layers| way.stage(layers)).collect::<Vec<_>>();
        within.uniform(most).into_iter().map(stages).find(|stages| self.fits(stages))
    }

    /// Whether stages fit, exactly.
    pub fn fits(&self, stages: &[Stage]) -> bool {
        let plan = Plan { stages: stages.to_vec(), ..self.plan.clone() };
        (0..plan.mesh.pp).all(|stage| self.sizes.stage(&plan, &self.flights[stage], stage) <= self.capacity[stage])
    }

    /// The partitioning problem; `None` if a stage holds no layer at all.
    pub fn problem(&self) -> Option<Problem> {
        self.partitions(true)
    }

    /// The problem of the best stages: where an engine recomputes alike on all, that of its best way.
    pub fn alike_problem(&self) -> Option<Problem> {
        let problem = self.problem()?;
        match self.within {
            Some(within) if within.ability.uneven => self.alike(within, &problem).map(|(_, problem)| problem),
            Some(_) => None,
            None => Some(problem),
        }
    }

    /// The partitioning problem, moves to the host played or by their own time alone.
    fn partitions(&self, played: bool) -> Option<Problem> {
        let (layers, stages) = (self.plan.job.model.depth(), self.plan.mesh.pp);
        let choices: Vec<Vec<Choice>> = (0..stages).map(|stage| self.choices(stage, played)).collect();
        if choices.iter().any(Vec::is_empty) {
            return None;
        }
        Some(Problem { layers, microbatches: self.plan.microbatches(), choices })
    }

    /// The fastest way that fits for each number of layers of a stage.
    fn choices(&self, stage: usize, played: bool) -> Vec<Choice> {
        let (layers, stages) = (self.plan.job.model.depth(), self.plan.mesh.pp);
        let most = layers + 1 - stages;
        let least = if stages == 1 { layers } else { 1 };
        // A stage of so many even shares alone takes longer than a step of even ones, bubble included.
        let longest = 2 + stages.div_ceil(self.plan.microbatches());
        let most = most.min(longest * layers.div_ceil(stages) + 3);
        (least..=most).map_while(|count| self.fastest(stage, count, played)).collect()
    }

    /// The fastest way that fits for so many layers.
    fn fastest(&self, stage: usize, count: usize, played: bool) -> Option<Choice> {
        let window = Window::of(self, stage, count);
        let ways = window.ways(self.capacity[stage]);
        let mut timed: Vec<Choice> =
            ways.into_iter().map(|stage| Choice { seconds: window.seconds(&stage), stage }).collect();
        let here = timed.iter().filter(|way| way.stage.offload == 0).map(|way| way.seconds).reduce(f64::min);
        let moving = |way: &&mut Choice| way.stage.offload > 0 && here.is_some_and(|here| way.seconds <= here);
        for way in timed.iter_mut().filter(|_| played).filter(moving) {
            // Moves come in each other's way: the warm-up and a few rounds show how much.
            way.seconds = way.seconds.max(self.alone(&window, way.stage, false));
        }
        timed.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// Seconds a microbatch that a stage is busy with `way`, were the others endlessly fast: by all microbatches, or by the warm-up
    /// and a few rounds.
    fn alone(&self, window: &Window, way: Stage, all: bool) -> f64 {
        let (stage, pipeline) = (window.stage, self.plan.pipeline());
        let microbatches = if all { pipeline.microbatches } else { pipeline.settled() };
        let orders = self.orders[usize::from(all)].get_or_init(|| Pipeline { microbatches, ..pipeline }.orders());
        let mut stages = vec![Stage { layers: 0, full: 0, selective: 0, offload: 0 }; self.plan.mesh.pp];
        stages[0].layers = window.first;
        stages[stage] = way;
        let plan = Plan { stages, ..self.plan.clone() };
        super::timeline::alone(&plan, self.costs[stage], stage, &orders[stage]) / microbatches as f64
    }

    /// All ways in which so many layers fit on a stage, and what they take a microbatch at the least: `played` alone, or sooner
    /// known.
    pub fn ways(&self, stage: usize, count: usize, played: bool) -> Vec<(Stage, LeastTime)> {
        let window = Window::of(self, stage, count);
        let timed = |way: Stage| {
            let alone = if played { self.alone(&window, way, true) } else { 0.0 };
            let busy = alone.max(window.seconds(&way));
            (way, LeastTime { busy, kernels: window.kernels(&way) })
        };
        window.ways(self.capacity[stage]).into_iter().map(timed).collect()
    }

    /// Layers spread over chunks as evenly as they allow, those of the middle one more; each stage recomputes alike.
    fn even(&self) -> Option<Vec<Stage>> {
        let plan = self.plan;
        let (depth, layers) = (plan.mesh.pp * plan.chunks, plan.job.model.depth());
        let held = crate::plan::layers_of(layers, depth);
        if let Some(within) = self.within {
            return self.least_alike(within, &held);
        }
        let mut all: Vec<Stage> = held.iter().map(|&layers| UniformRecompute::Nothing.stage(layers)).collect();
        let mut whole = Plan { stages: all.clone(), ..plan.clone() };
        for stage in 0..plan.mesh.pp {
            let places: Vec<usize> = (0..plan.chunks).map(|chunk| plan.virtual_stage(stage, chunk)).collect();
            let most = places.iter().map(|&place| all[place].layers).max()?;
            let mut steps = (0..=most).map(|n| (0, n)).chain((1..=most).map(|n| (n, most - n)));
            // Least first: so many selective, then some of them full.
            let found = steps.find(|&(full, selective)| {
                for &place in &places {
                    let layers = all[place].layers;
                    let full = full.min(layers);
                    whole.stages[place] = Stage { layers, full, selective: selective.min(layers - full), offload: 0 };
                }
                places.iter().all(|&place| whole.stages[place].is_permitted(self.fix))
                    && self.sizes.stage(&whole, &self.flights[stage], stage) <= self.capacity[stage]
            });
            found?;
            places.iter().for_each(|&place| all[place] = whole.stages[place]);
        }
        Some(all)
    }
}

/// So many layers on a stage of one chunk.
struct Window<'a> {
    undecided: &'a Undecided<'a>,
    stage: usize,
    first: usize,
    count: usize,
    /// Of each layer, by recompute mode.
    sizes: Vec<&'a [PieceSize; 3]>,
    fixed: u64,
    once: Once,
}

impl<'a> Window<'a> {
    /// Unlike layers count as those around the stage's share of the model.
    fn of(undecided: &'a Undecided, stage: usize, count: usize) -> Self {
        let model = &undecided.plan.job.model;
        let (layers, stages) = (model.depth(), undecided.plan.mesh.pp);
        let first = (stage * layers / stages).min(layers - count);
        let (fixed, once) = undecided.sizes.fixed(undecided.plan, &undecided.flights[stage], stage);
        let sizes = (first..first + count).map(|layer| &undecided.sizes.layers[&model.kind(layer)]).collect();
        Window { undecided, stage, first, count, sizes, fixed, once }
    }

    fn kinds(&self) -> impl Iterator<Item = crate::job::LayerKind> + '_ {
        let model = &self.undecided.plan.job.model;
        (self.first..self.first + self.count).map(|layer| model.kind(layer))
    }

    /// Bytes of a mix.
    fn bytes(&self, mix: &Stage) -> u64 {
        let flight = &self.undecided.flights[self.stage];
        let (mut bytes, mut once, mut away) = (self.fixed, self.once, [0u64; 4]);
        for (i, modes) in self.sizes.iter().enumerate() {
            let piece = &modes[mix.mode(i) as usize];
            bytes += piece.state;
            once = once.max(piece.once);
            if i < mix.offload {
                away = std::array::from_fn(|class| away[class].max(piece.slots[class]));
            } else {
                bytes += flight.saved(piece, |_| 1);
            }
        }
        let places = offload_slots(mix.offload, self.undecided.plan.microbatches()).iter().sum::<usize>() as u64;
        bytes + places * away.iter().sum::<u64>() + once.bytes()
    }

    /// Seconds of a mix's kernels a microbatch.
    fn kernels(&self, mix: &Stage) -> f64 {
        let costs = self.undecided.costs[self.stage];
        let mut times = Times::default();
        self.kinds().enumerate().for_each(|(i, kind)| times.layer(costs.layer(kind), mix.mode(i)));
        ends(&mut times, (self.stage, self.undecided.plan.mesh.pp), costs);
        times.total()
    }

    /// Seconds of a mix a microbatch: forward and backward each with what travels beside them, but for those of two pieces at
    /// each turn, which buckets may hold from before.
    fn seconds(&self, mix: &Stage) -> f64 {
        let plan = self.undecided.plan;
        let costs = self.undecided.costs[self.stage];
        let mut times = Times::default();
        let (mut gathers, mut scatters) = ([0.0, 0.0f64], [0.0, 0.0f64]);
        let (mut moves, mut most) = (0.0, 0.0f64);
        for (i, kind) in self.kinds().enumerate() {
            let piece = costs.layer(kind);
            times.layer(piece, mix.mode(i));
            for (sum, one) in [(&mut gathers, piece.share.gather), (&mut scatters, piece.share.scatter)] {
                *sum = [sum[0] + one, sum[1].max(one)];
            }
            if i < mix.offload {
                moves += piece.moves.all;
                most = most.max(piece.moves.all);
            }
        }
        let inner = (moves - 2.0 * most).max(0.0);
        ends(&mut times, (self.stage, plan.mesh.pp), costs);
        let [gathered, scattered] = [gathers, scatters].map(|[sum, most]| (sum - 2.0 * most).max(0.0));
        let forward = times.forward.max(gathered).max(inner);
        let backward = times.backward.max(gathered + scattered).max(inner);
        let beside = times.beside + 2.0 * gathered;
        (forward + backward + times.weights).max(beside).max(2.0 * moves)
    }

    /// Mixes that fit, the fastest among them: of mixes of two numbers that save enough, only those at the corners can be.
    fn ways(&self, capacity: u64) -> Vec<Stage> {
        let layers = self.count;
        let mix = |full: usize, selective: usize| Stage { layers, full, selective, offload: 0 };
        let fix = self.undecided.fix;
        let fits = |stage: &Stage| self.bytes(stage) <= capacity;
        let may_be = |stage: &Stage| stage.is_permitted(fix) && fits(stage);
        if may_be(&mix(0, 0)) {
            return vec![mix(0, 0)];
        }
        if let Some(within) = self.undecided.within {
            // What recomputes least: another may be needed beside other stages, but takes longer.
            let all = within.uniform(layers);
            return all.into_iter().map(|way| way.stage(layers)).find(fits).into_iter().collect();
        }
        let mut ways: Vec<Stage> = self.offloaded(capacity).into_iter().filter(may_be).collect();
        if !fits(&mix(layers, 0)) {
            return ways;
        }
        let fewest = |fits: &dyn Fn(usize) -> bool| least(0, layers, fits);
        let alone = fewest(&|full| fits(&mix(full, 0)));
        let beside = fewest(&|full| fits(&mix(full, layers - full)));
        let mut corners = vec![alone, alone.saturating_sub(1), beside];
        if fix.recompute.is_some() {
            corners.extend([0, layers]);
        }
        for full in corners {
            let fewest = least(0, layers - full, &|selective| fits(&mix(full, selective)));
            // What no layer may do without takes all of them.
            let most = fix.recompute.as_ref().map(|_| layers - full);
            let selective = [Some(fewest), most].into_iter().flatten();
            ways.extend(selective.map(|selective| mix(full, selective)).find(may_be));
        }
        ways
    }

    /// The fewest layers on the host that make the rest fit.
    fn offloaded(&self, capacity: u64) -> Option<Stage> {
        let plan = self.undecided.plan;
        let room = self.undecided.costs[self.stage].host_capacity;
        if plan.schedule.splits() || room == 0 {
            return None;
        }
        let mix = |offload: usize| Stage { layers: self.count, full: 0, selective: 0, offload };
        let offload = least(1, self.count, &|offload| self.bytes(&mix(offload)) <= capacity);
        let moved: u64 =
            self.sizes[..offload].iter().map(|modes| self.undecided.flights[self.stage].saved(&modes[0], |_| 1)).sum();
        Some(mix(offload)).filter(|way| self.bytes(way) <= capacity && moved <= room)
    }
}

/// The least number in a range at which a condition that stays true once it is holds; the range's end if it never does.
pub fn least(from: usize, to: usize, mut holds: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = (low + high) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Whether even full recomputation is too much for all stages together, which have so much capacity.
pub fn hopeless(plan: &Plan, sizes: &PieceSizes, capacity: u64) -> bool {
    let splits = plan.schedule.splits();
    let model = &plan.job.model;
    let layers: u64 = sizes.layers.iter().fold(0, |sum, (kind, modes)| {
        let count = (0..model.depth()).filter(|&layer| model.kind(layer) == *kind).count() as u64;
        let least = &modes[Recompute::Full as usize];
        sum + count * (least.state + if splits { 0 } else { least.slot })
    });
    layers + sizes.embed.state + sizes.head.state > capacity
}
