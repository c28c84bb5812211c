//! Which layers go to which stage of a pipeline, and what each stage recomputes or keeps on the host.
//!
//! In: for each stage (of whichever pool) and number of layers, the fastest way that fits: its seconds a microbatch. Out: the
//! stages' layers, and a bound.
//!
//! With time(s, k) of k layers on stage s, z[s,k] ∈ {0, 1} saying that stage s has k, and M microbatches:
//!
//!   minimise   (M − 1)·B + Σ_s,k time(s, k)·z[s,k]
//!   where      Σ_k z[s,k] = 1,   Σ_s,k k·z[s,k] = layers,   Σ_k time(s, k)·z[s,k] ≤ B for every stage s,   B ≥ B*
//!
//! (the objective is Narayanan et al. 2021, §2.2, with unlike stages). B*, the least time in which the stages together can
//! hold all layers, is a cut that makes the relaxation nearly whole; numbers k that cost more than any optimum can are left out.
//! [`Problem::milp`] solves it by good_lp, [`Problem::relaxation`] without whole numbers, as a bound. Since stages form a chain,
//! [`Problem::solve`] is exact too, and a hundred times faster: for each B, the least Σ over stages is a shortest path.
//!
//! Invariant: an answer satisfies every constraint in whole numbers.

use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, WithMipGap, WithTimeLimit, constraint, variable,
    variables,
};

use super::solver;
use crate::plan::Stage;

/// A number of layers on a stage, in the fastest way that fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The layers, and what becomes of their activations.
    pub stage: Stage,
    /// Seconds a microbatch.
    pub seconds: f64,
}

/// A partitioning problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Layers in all.
    pub layers: usize,
    /// Microbatches a step.
    pub microbatches: usize,
    /// By stage: its choices.
    pub choices: Vec<Vec<Choice>>,
}

/// How long the solver may look; then its best answer so far stands.
const LIMIT_SECONDS: f64 = 2.0;
/// Relative gap at which an answer is good enough: far below what a price is known to.
const GAP: f32 = 0.0005;

impl Problem {
    /// The best stages, or `None` if no partition fits.
    pub fn solve(&self) -> Option<Vec<Stage>> {
        let least = self.least_bottleneck()?;
        let mut limits: Vec<f64> = self.choices.iter().flatten().map(|c| c.seconds).filter(|&t| t >= least).collect();
        limits.sort_by(f64::total_cmp);
        limits.dedup_by(|a, b| *a <= *b * (1.0 + 1e-9));
        let fewest = self.shortest(f64::INFINITY)?.0;
        let mut best: Option<(f64, Vec<Stage>)> = None;
        for limit in limits {
            let enough = (self.microbatches - 1) as f64 * limit + fewest;
            if best.as_ref().is_some_and(|(seconds, _)| enough >= *seconds) {
                break;
            }
            let Some((sum, stages)) = self.shortest(limit * (1.0 + 1e-9)) else { continue };
            let seconds = (self.microbatches - 1) as f64 * limit + sum;
            if best.as_ref().is_none_or(|(other, _)| seconds < *other) {
                best = Some((seconds, stages));
            }
        }
        best.map(|(_, stages)| stages)
    }

    /// The least sum of times with no stage above a limit: a shortest path over stages and layers placed so far.
    fn shortest(&self, limit: f64) -> Option<(f64, Vec<Stage>)> {
        let width = self.layers + 1;
        let mut least = vec![f64::INFINITY; width];
        least[0] = 0.0;
        let mut taken: Vec<Vec<Option<usize>>> = Vec::with_capacity(self.choices.len());
        for all in &self.choices {
            let (mut next, mut how) = (vec![f64::INFINITY; width], vec![None; width]);
            for (index, choice) in all.iter().enumerate().filter(|(_, choice)| choice.seconds <= limit) {
                let reach = width.saturating_sub(choice.stage.layers);
                for (placed, so_far) in least[..reach].iter().enumerate() {
                    let (sum, at) = (so_far + choice.seconds, placed + choice.stage.layers);
                    if sum < next[at] {
                        (next[at], how[at]) = (sum, Some(index));
                    }
                }
            }
            taken.push(how);
            least = next;
        }
        let sum = least[self.layers];
        let (mut at, mut stages) = (self.layers, Vec::new());
        for (all, how) in self.choices.iter().zip(&taken).rev() {
            let stage = all[how[at]?].stage;
            at -= stage.layers;
            stages.push(stage);
        }
        stages.reverse();
        Some((sum, stages))
    }

    /// The least time of the slowest stage at which all layers find a place; `None` if they never do.
    pub fn least_bottleneck(&self) -> Option<f64> {
        let holds = |limit: f64| {
            let most = |all: &Vec<Choice>| all.iter().filter(|c| c.seconds <= limit).map(|c| c.stage.layers).max();
            self.choices.iter().map(most).sum::<Option<usize>>().is_some_and(|layers| layers >= self.layers)
        };
        let mut limits: Vec<f64> = self.choices.iter().flatten().map(|c| c.seconds).collect();
        limits.sort_by(f64::total_cmp);
        limits.get(limits.partition_point(|&limit| !holds(limit))).copied()
    }

    /// The objective of a partition, in seconds.
    pub fn seconds_of(&self, stages: &[Stage]) -> f64 {
        let time = |(all, stage): (&Vec<Choice>, &Stage)| {
            all.iter().find(|choice| choice.stage == *stage).map_or(f64::INFINITY, |choice| choice.seconds)
        };
        let times = || self.choices.iter().zip(stages).map(time);
        (self.microbatches - 1) as f64 * times().fold(0.0, f64::max) + times().sum::<f64>()
    }

    /// The same by good_lp's branch and bound; `None` if nothing fits or the time is over.
    pub fn milp(&self) -> Option<Vec<Stage>> {
        let least = self.least_bottleneck()?;
        let worthy = self.worthy(least);
        let model = MilpModel::of(&worthy, least, true);
        let solution = model.problem.with_time_limit(LIMIT_SECONDS).with_mip_gap(GAP).ok()?.solve().ok()?;
        let chosen = |(all, z): (&Vec<Choice>, &Vec<Variable>)| {
            all.iter().zip(z).find(|(_, z)| solution.value(**z) > 0.5).map(|(choice, _)| choice.stage)
        };
        let stages: Vec<Stage> = worthy.choices.iter().zip(&model.z).map(chosen).collect::<Option<_>>()?;
        (stages.iter().map(|stage| stage.layers).sum::<usize>() == self.layers).then_some(stages)
    }

    /// What no partition's objective undercuts: the linear relaxation, in seconds.
    pub fn relaxation(&self) -> Option<f64> {
        let least = self.least_bottleneck()?;
        let model = MilpModel::of(&self.worthy(least), least, false);
        let objective = model.objective.clone();
        let solution = model.problem.solve().ok()?;
        Some(solution.eval(objective) * least)
    }

    /// Without choices that no optimum has: even the least bottleneck with p stages as slow as it costs less.
    fn worthy(&self, least: f64) -> Problem {
        let worth = least * (1.0 + self.choices.len() as f64 / (self.microbatches - 1).max(1) as f64) * (1.0 + 1e-9);
        let keep = |all: &Vec<Choice>| all.iter().copied().filter(|choice| choice.seconds <= worth).collect();
        Problem { choices: self.choices.iter().map(keep).collect(), ..*self }
    }
}

/// The linear program of a problem; times count in the least bottleneck, so that the solver sees numbers near one.
struct MilpModel {
    problem: solver::Model,
    objective: Expression,
    z: Vec<Vec<Variable>>,
}

impl MilpModel {
    fn of(problem: &Problem, least: f64, whole: bool) -> MilpModel {
        variables! { vars: 1 <= slowest; }
        let one = |vars: &mut ProblemVariables| {
            let free = variable().min(0.0).max(1.0);
            vars.add(if whole { free.integer() } else { free })
        };
        let z: Vec<Vec<Variable>> =
            problem.choices.iter().map(|all| all.iter().map(|_| one(&mut vars)).collect()).collect();
        let time = |s: usize| -> Expression {
            problem.choices[s].iter().zip(&z[s]).map(|(c, &z)| c.seconds / least * z).sum()
        };
        let total: Expression = (0..z.len()).map(time).sum();
        let objective = (problem.microbatches - 1) as f64 * slowest + total;
        let mut model = vars.minimise(objective.clone()).using(solver::solver);
        for (s, all) in z.iter().enumerate() {
            model.add_constraint(constraint!(time(s) <= slowest));
            model.add_constraint(constraint!(all.iter().sum::<Expression>() == 1));
        }
        let layers = problem.choices.iter().flatten().zip(z.iter().flatten());
        let layers: Expression = layers.map(|(c, &z)| c.stage.layers as f64 * z).sum();
        model.add_constraint(constraint!(layers == problem.layers as f64));
        MilpModel { problem: model, objective, z }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stages whose layers take longer where there are many: they recompute.
    fn problem(layers: usize, microbatches: usize, stages: &[(f64, f64, usize)]) -> Problem {
        let of = |&(own, each, capacity): &(f64, f64, usize)| {
            let choice = |k: usize| {
                let full = k.saturating_sub(capacity);
                let stage = Stage { layers: k, full, selective: 0, offload: 0 };
                (full <= k / 2).then_some(Choice { stage, seconds: own + each * (k as f64 + full as f64 / 3.0) })
            };
            (1..=layers).map_while(choice).collect()
        };
        Problem { layers, microbatches, choices: stages.iter().map(of).collect() }
    }

    fn best_by_enumeration(problem: &Problem) -> Option<f64> {
        fn go(problem: &Problem, chosen: &mut Vec<Stage>, left: usize, best: &mut Option<f64>) {
            if chosen.len() == problem.choices.len() {
                if left == 0 {
                    let seconds = problem.seconds_of(chosen);
                    *best = Some(best.map_or(seconds, |b: f64| b.min(seconds)));
                }
                return;
            }
            for choice in problem.choices[chosen.len()].iter().filter(|choice| choice.stage.layers <= left) {
                chosen.push(choice.stage);
                go(problem, chosen, left - choice.stage.layers, best);
                chosen.pop();
            }
        }
        let mut best = None;
        go(problem, &mut Vec::new(), problem.layers, &mut best);
        best
    }

    proptest! {
        #[test]
        fn shortest_paths_and_the_milp_agree_with_enumeration_above_the_relaxation(
            layers in 1usize..8, microbatches in 1usize..20,
            stages in prop::collection::vec((0.0f64..1.0, 0.2f64..2.0, 0usize..6), 1..5),
        ) {
            let problem = problem(layers, microbatches, &stages);
            match (problem.solve(), best_by_enumeration(&problem)) {
                (Some(ours), Some(best)) => {
                    let ours = problem.seconds_of(&ours);
                    prop_assert!((ours - best).abs() <= 1e-6 * best, "{ours} for {best}");
                    let bound = problem.relaxation().unwrap();
                    prop_assert!(bound <= best * (1.0 + 1e-6), "{bound} above {best}");
                    let milp = problem.seconds_of(&problem.milp().unwrap());
                    prop_assert!(milp <= best * (1.0 + 2.0 * f64::from(GAP)), "{milp} for {best}");
                }
                (ours, best) => {
                    prop_assert!(ours.is_none() && best.is_none(), "{ours:?} for {best:?}");
                    prop_assert_eq!(problem.milp(), None);
                }
            }
        }
    }

    #[test]
    fn large_problems_are_solved_whole() {
        for (layers, stages) in [(96, 64), (96, 16), (126, 32)] {
            let mut all = vec![(0.05, 1.0, 9); stages];
            all[stages - 1].0 = 0.8;
            let problem = problem(layers, 96, &all);
            let found = problem.solve().expect("it fits");
            assert_eq!(found.iter().map(|s| s.layers).sum::<usize>(), layers);
            let bound = problem.relaxation().expect("it fits");
            assert!(problem.seconds_of(&found) <= bound * 1.02, "{} for {bound}", problem.seconds_of(&found));
        }
    }
}
