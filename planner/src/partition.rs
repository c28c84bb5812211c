//! Layers → stages and recompute modes, by mixed-integer linear programming.
//!
//! In: [`Problem`]: what a layer costs in time and bytes, what each stage holds beside layers. Out: the stages.
//!
//! For each stage s and number of layers k, the fastest mix of recompute modes that fits gives time(s, k); then
//!   minimise    (M − 1)·B + Σ_s,k time(s, k)·z[s,k]     steady state, then fill and drain of M microbatches
//!   Σ_k z[s,k] = 1,   Σ_s,k k·z[s,k] = layers,   Σ_k time(s, k)·z[s,k] ≤ B for every stage s,   z ∈ {0, 1}
//! (the objective is Narayanan et al. 2021, §2.2, with unlike stages). B* ≤ B, where B* is the least time in which the
//! stages together can hold all layers, is a cut that makes the relaxation nearly whole; numbers k that cost more than any
//! optimum can are left out.
//!
//! Invariant: the answer satisfies every constraint in whole numbers, checked after the solver's floating point.

use good_lp::{
    Expression, Solution, SolverModel, Variable, WithMipGap, WithTimeLimit, constraint, microlp, variable, variables,
};

use crate::plan::Stage;

/// What stands beside a stage's layers.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    /// Seconds a microbatch: embedding, head, messages.
    pub seconds: f64,
    /// Bytes, working memory included.
    pub bytes: f64,
    /// Microbatches whose activations it holds.
    pub in_flight: usize,
}

/// A partitioning problem; layers are alike.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Layers in all.
    pub layers: usize,
    /// Microbatches a step.
    pub microbatches: usize,
    /// Seconds a layer and microbatch, forward and backward, by recompute mode.
    pub seconds: [f64; 3],
    /// Bytes of a layer's weights, gradients and optimizer state.
    pub state: f64,
    /// Bytes of a layer's slot, by recompute mode.
    pub slot: [f64; 3],
    /// The stages.
    pub stages: Vec<Fixed>,
    /// Bytes a stage may hold.
    pub capacity: f64,
}

/// How long the solver may look; then its best answer so far stands.
const LIMIT_SECONDS: f64 = 0.25;
/// Relative gap at which an answer is good enough: far below what a price is known to.
const GAP: f32 = 0.002;

impl Problem {
    /// The best stages, or `None` if no partition fits.
    pub fn solve(&self) -> Option<Vec<Stage>> {
        let choices: Vec<Vec<Choice>> = self.stages.iter().map(|fixed| self.choices(fixed)).collect();
        let least = self.least_bottleneck(&choices)?;
        let worth = least * (1.0 + self.stages.len() as f64 / (self.microbatches - 1).max(1) as f64);
        let worthy = |all: Vec<Choice>| all.into_iter().filter(|c| c.seconds <= worth * (1.0 + 1e-9)).collect();
        let choices: Vec<Vec<Choice>> = choices.into_iter().map(worthy).collect();
        let stages = if choices.len() == 1 {
            vec![choices[0].iter().find(|c| c.stage.layers == self.layers)?.stage]
        } else {
            self.milp(&choices, least)?
        };
        (stages.iter().map(|s| s.layers).sum::<usize>() == self.layers).then_some(stages)
    }

    /// What no partition's step can undercut: all microbatches through a stage as slow as the slowest must be; `None` if no
    /// partition fits.
    pub fn floor(&self) -> Option<f64> {
        let choices: Vec<Vec<Choice>> = self.stages.iter().map(|fixed| self.choices(fixed)).collect();
        Some(self.least_bottleneck(&choices)? * self.microbatches as f64)
    }

    /// The objective of a partition, in seconds.
    pub fn seconds_of(&self, stages: &[Stage]) -> f64 {
        let times = || self.stages.iter().zip(stages).map(|(fixed, stage)| self.stage_seconds(fixed, stage));
        (self.microbatches - 1) as f64 * times().fold(0.0, f64::max) + times().sum::<f64>()
    }

    fn stage_seconds(&self, fixed: &Fixed, stage: &Stage) -> f64 {
        let counts = counts(stage);
        fixed.seconds + counts.iter().zip(self.seconds).map(|(&n, t)| n as f64 * t).sum::<f64>()
    }

    /// For each number of layers that fits a stage, the fastest mix of modes.
    fn choices(&self, fixed: &Fixed) -> Vec<Choice> {
        let most = self.layers - (self.stages.len() - 1).min(self.layers);
        let [none, selective, _] = self.slot.map(|slot| fixed.in_flight as f64 * slot);
        let of = |layers: usize| {
            // For each number of full ones, the fewest selective ones that make the rest fit.
            let timed = (0..=layers).filter_map(|full| {
                let over = self.stage_bytes(fixed, &Stage { layers, full, selective: 0, offload: 0 }) - self.capacity;
                let selective =
                    if over > 0.0 { (over / (none - selective).max(f64::MIN_POSITIVE)).ceil() } else { 0.0 };
                let stage = Stage { layers, full, selective: selective as usize, offload: 0 };
                let fits = full + stage.selective <= layers && self.stage_bytes(fixed, &stage) <= self.capacity;
                fits.then(|| Choice { seconds: self.stage_seconds(fixed, &stage), stage })
            });
            timed.min_by(|a, b| a.seconds.total_cmp(&b.seconds))
        };
        (1..=most).map_while(of).collect()
    }

    /// The least time of the slowest stage at which all layers find a place; `None` if they never do.
    fn least_bottleneck(&self, choices: &[Vec<Choice>]) -> Option<f64> {
        let holds = |limit: f64| {
            let most = |all: &Vec<Choice>| all.iter().filter(|c| c.seconds <= limit).map(|c| c.stage.layers).max();
            choices.iter().map(most).sum::<Option<usize>>().is_some_and(|layers| layers >= self.layers)
        };
        let mut limits: Vec<f64> = choices.iter().flatten().map(|c| c.seconds).collect();
        limits.sort_by(f64::total_cmp);
        limits.get(limits.partition_point(|&limit| !holds(limit))).copied()
    }

    fn stage_bytes(&self, fixed: &Fixed, stage: &Stage) -> f64 {
        let each = counts(stage).into_iter().zip(self.slot);
        fixed.bytes + each.map(|(n, slot)| n as f64 * (self.state + fixed.in_flight as f64 * slot)).sum::<f64>()
    }

    fn milp(&self, choices: &[Vec<Choice>], least: f64) -> Option<Vec<Stage>> {
        variables! { vars: 1 <= slowest; } // times count in the least bottleneck, so that the solver sees numbers near one
        let z: Vec<Vec<Variable>> =
            choices.iter().map(|all| all.iter().map(|_| vars.add(variable().binary())).collect()).collect();
        let time = |s: usize| -> Expression { choices[s].iter().zip(&z[s]).map(|(c, &z)| c.seconds / least * z).sum() };
        let total: Expression = (0..z.len()).map(time).sum();
        let solver = vars.minimise((self.microbatches - 1) as f64 * slowest + total).using(microlp);
        let mut model = solver.with_time_limit(LIMIT_SECONDS).with_mip_gap(GAP).ok()?;
        for (s, all) in z.iter().enumerate() {
            model.add_constraint(constraint!(time(s) <= slowest));
            model.add_constraint(constraint!(all.iter().sum::<Expression>() == 1));
        }
        let layers = choices.iter().flatten().zip(z.iter().flatten());
        let layers: Expression = layers.map(|(c, &z)| c.stage.layers as f64 * z).sum();
        model.add_constraint(constraint!(layers == self.layers as f64));
        let solution = model.solve().ok()?;
        let chosen = |(all, z): (&Vec<Choice>, &Vec<Variable>)| {
            all.iter().zip(z).find(|(_, z)| solution.value(**z) > 0.5).map(|(choice, _)| choice.stage)
        };
        choices.iter().zip(&z).map(chosen).collect()
    }
}

/// A number of layers on a stage, in its fastest mix.
#[derive(Clone, Copy, Debug)]
struct Choice {
    stage: Stage,
    seconds: f64,
}

/// Layers of a stage by recompute mode.
fn counts(stage: &Stage) -> [usize; 3] {
    [stage.layers - stage.full - stage.selective, stage.selective, stage.full]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(layers: usize, stages: usize, capacity: f64) -> Problem {
        let fixed = |s: usize| Fixed {
            seconds: if s == 0 {
                0.1
            } else if s + 1 == stages {
                0.8
            } else {
                0.05
            },
            bytes: 1.0,
            in_flight: stages - s,
        };
        Problem {
            layers,
            microbatches: 16,
            seconds: [1.0, 1.07, 1.33],
            state: 2.0,
            slot: [1.0, 0.7, 0.1],
            stages: (0..stages).map(fixed).collect(),
            capacity,
        }
    }

    fn best_by_enumeration(problem: &Problem) -> Option<f64> {
        fn go(problem: &Problem, chosen: &mut Vec<Stage>, left: usize, best: &mut Option<f64>) {
            if chosen.len() == problem.stages.len() {
                if left == 0 {
                    let seconds = problem.seconds_of(chosen);
                    *best = Some(best.map_or(seconds, |b: f64| b.min(seconds)));
                }
                return;
            }
            let fixed = problem.stages[chosen.len()];
            for layers in 1..=left {
                for full in 0..=layers {
                    for selective in 0..=layers - full {
                        let stage = Stage { layers, full, selective, offload: 0 };
                        if problem.stage_bytes(&fixed, &stage) <= problem.capacity {
                            chosen.push(stage);
                            go(problem, chosen, left - layers, best);
                            chosen.pop();
                        }
                    }
                }
            }
        }
        let mut best = None;
        go(problem, &mut Vec::new(), problem.layers, &mut best);
        best
    }

    #[test]
    fn the_milp_agrees_with_enumeration_where_memory_is_ample_tight_and_too_little() {
        for (layers, stages) in [(4, 1), (5, 2), (7, 3), (6, 4)] {
            for capacity in [4.0, 8.0, 9.5, 12.0, 15.0, 22.0, 1e9] {
                let problem = problem(layers, stages, capacity);
                let ours = problem.solve().map(|stages| problem.seconds_of(&stages));
                match (ours, best_by_enumeration(&problem)) {
                    (Some(ours), Some(best)) => {
                        assert!(
                            ours <= best * (1.0 + 2.0 * GAP as f64),
                            "{layers}/{stages}/{capacity}: {ours} for {best}"
                        );
                    }
                    (ours, best) => assert_eq!(ours, best, "{layers} layers, {stages} stages, {capacity}"),
                }
            }
        }
    }

    #[test]
    fn large_problems_end_soon_and_fit() {
        for (layers, stages, capacity) in [(96, 64, 1e9), (96, 16, 60.0), (96, 32, 40.0)] {
            let problem = problem(layers, stages, capacity);
            let found = problem.solve().expect("it fits");
            let fits = |(fixed, stage): (&Fixed, &Stage)| problem.stage_bytes(fixed, stage) <= capacity;
            assert!(problem.stages.iter().zip(&found).all(fits));
            assert_eq!(found.iter().map(|s| s.layers).sum::<usize>(), layers);
        }
    }
}
