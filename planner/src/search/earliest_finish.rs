//! Spreadings of layers over stages that may end before a time.
//!
//! In: the paths of [`super::partition_bound`], a time. Out: one such partition, or all.
//!
//! For each number of layers from stage s on, going from the last stage to the first: the earliest that the last backward of s
//! ends, the shortest trip of a microbatch through those stages and back, and the least that they stay behind the pace:
//!
//! - in 1F1B a stage's backward of microbatch m, the backwards after it down to stage a, the next forward that a does then, and
//!   the forwards up again take Σ t + 2·(n − 1)·h over the n stages from a on, and n microbatches pass meanwhile. A step of T
//!   seconds has (M − p) / n such trips and one through all stages, W in all, so that for any n stages in a row
//!   Σ (t + 2h − τ) ≤ 2h, where τ = (T − W − 2·(p − 1)·h) / (M − p)
//!
//! Invariant: what is left out ends later when played (tests against enumeration).

use crate::job::Model;
use crate::schedule::Pipeline;

use super::partition_bound::{Least, Paths};
use super::times::Costs;

/// What is known of all stages from one on that have so many layers.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// When the first's last backward ends, at the earliest.
    last: f64,
    /// How many layers it has then.
    own: usize,
    /// The shortest trip through them and back.
    trip: f64,
    /// What they stay behind the pace at the least, those in a row from the first on.
    excess: f64,
}

impl Behind {
    const NEVER: Behind = Behind { last: f64::INFINITY, own: 0, trip: f64::INFINITY, excess: f64::INFINITY };
    const NOTHING: Behind = Behind { last: f64::NEG_INFINITY, own: 0, trip: 0.0, excess: 0.0 };

    fn is_never(&self) -> bool {
        self.last == f64::INFINITY
    }
}

/// By stage and layers from there on.
type BehindTable = Vec<Vec<Behind>>;

/// A search for partitions that may end before a time.
struct EarliestFinish<'a> {
    paths: &'a Paths<'a>,
    least: &'a Least<'a>,
    before: f64,
    /// Seconds a microbatch that keep pace, where there is one.
    pace: f64,
}

impl<'a> EarliestFinish<'a> {
    fn of(paths: &'a Paths, least: &'a Least, before: f64) -> Self {
        let stages = paths.pipeline.stages;
        let mut all = paths.low[paths.low.len() - 1];
        all.plus(&paths.ends(0));
        all.plus(&paths.ends(stages - 1));
        let trip = all.total() + 2.0 * (stages - 1) as f64 * paths.hop;
        let mut earliest = EarliestFinish { paths, least, before, pace: f64::INFINITY };
        earliest.pace = earliest.pace(trip);
        earliest
    }

    /// Seconds a microbatch that keep pace if a trip through all stages takes so many or more.
    fn pace(&self, trip: f64) -> f64 {
        let pipeline = self.paths.pipeline;
        match pipeline.schedule.order().trips(pipeline) {
            0 => f64::INFINITY,
            trips => (self.before - self.paths.rest - trip) / trips as f64,
        }
    }

    /// What is known from each stage on, once by the trip of all work and once by the shortest that memory allows.
    fn table(&mut self) -> BehindTable {
        let table = self.looked();
        let whole = &table[0][self.layers()];
        let pace = self.pace(whole.trip);
        if whole.is_never() || pace >= self.pace {
            return table;
        }
        self.pace = pace;
        self.looked()
    }

    fn layers(&self) -> usize {
        self.paths.low.len() - 1
    }

    fn looked(&self) -> BehindTable {
        let (stages, layers) = (self.paths.pipeline.stages, self.layers());
        let mut all = vec![vec![Behind::NEVER; layers + 1]];
        all[0][0] = Behind::NOTHING;
        for stage in (0..stages).rev() {
            let mut next = vec![Behind::NEVER; layers + 1];
            for (held, behind) in all[stages - 1 - stage].iter().enumerate().take(layers - stage) {
                if behind.is_never() {
                    continue;
                }
                let to = layers - held;
                for from in (stage..to).rev() {
                    match self.with(stage, (from, to), behind) {
                        With::May(found) => {
                            let known = &mut next[layers - from];
                            if found.last < known.last {
                                (known.last, known.own) = (found.last, found.own);
                            }
                            known.trip = known.trip.min(found.trip);
                            known.excess = known.excess.min(found.excess);
                        }
                        With::Late => {}
                        With::Never => break,
                    }
                }
            }
            all.push(next);
        }
        all.reverse();
        all
    }

    /// A stage of layers `from..to` before those that are known.
    fn with(&self, stage: usize, (from, to): (usize, usize), behind: &Behind) -> With {
        let Some(takes) = (self.least)(stage, to - from) else { return With::Never };
        let paths = self.paths;
        let hops = if stage + 1 < paths.pipeline.stages { 2.0 * paths.hop } else { 0.0 };
        let passed = paths.pass(stage, (from, to), takes, behind.trip + hops);
        if passed.busy >= self.before {
            return With::Never;
        }
        let own = passed.passes.forward + passed.passes.backward;
        let excess = behind.excess.max(0.0) + own + 2.0 * paths.hop - self.pace;
        let last = passed.last.max(behind.last + paths.hop + passed.passes.backward);
        let step = last + passed.weights + passed.exposed + paths.rest;
        if step >= self.before || excess > 2.0 * paths.hop {
            return With::Late;
        }
        With::May(Behind { last, own: to - from, trip: behind.trip + hops + own, excess })
    }

    /// Adds to `found` every partition that begins so; false if there are more than so many.
    fn each(&self, table: &BehindTable, held: &mut Vec<usize>, found: &mut Vec<Vec<usize>>, most: usize) -> bool {
        let (stage, layers) = (held.len(), self.layers());
        let from = held.iter().sum::<usize>();
        if stage == self.paths.pipeline.stages {
            found.push(held.clone());
            return found.len() <= most;
        }
        for to in from + 1..=layers {
            let behind = &table[stage + 1][layers - to];
            if behind.is_never() {
                continue;
            }
            match self.with(stage, (from, to), behind) {
                With::May(_) => {
                    held.push(to - from);
                    let few = self.each(table, held, found, most);
                    held.pop();
                    if !few {
                        return false;
                    }
                }
                With::Late => {}
                With::Never => break,
            }
        }
        true
    }
}

/// Whether a stage may be in a step that ends before the time.
enum With {
    May(Behind),
    Late,
    /// Nor with more layers.
    Never,
}

/// A partition of layers over stages that may end before a time, if there is one.
pub fn may_end(model: &Model, pipeline: &Pipeline, costs: &[&Costs], least: &Least, before: f64) -> Option<Vec<usize>> {
    let paths = Paths::of(model, pipeline, costs);
    let table = EarliestFinish::of(&paths, least, before).table();
    let mut left = model.depth();
    if table[0][left].is_never() {
        return None;
    }
    let held = table[..pipeline.stages].iter().map(|all| {
        let own = all[left].own;
        left -= own;
        own
    });
    Some(held.collect())
}

/// All partitions that may end before a time; none if there are more than `most`.
pub fn all(
    model: &Model,
    pipeline: &Pipeline,
    costs: &[&Costs],
    least: &Least,
    (before, most): (f64, usize),
) -> Option<Vec<Vec<usize>>> {
    let paths = Paths::of(model, pipeline, costs);
    let mut earliest = EarliestFinish::of(&paths, least, before);
    let (table, mut found) = (earliest.table(), Vec::new());
    earliest.each(&table, &mut Vec::new(), &mut found, most).then_some(found)
}
