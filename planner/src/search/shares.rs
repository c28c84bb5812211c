//! Microbatches → replicas of unlike speed, by mixed-integer linear programming.
//!
//! In: [`SharesProblem`]: how long a microbatch takes each class of replicas. Out: [`Shares`]: how many each replica takes, the
//! step they make, and a bound that proves how good that is.
//!
//! Class i has n_i replicas, which take a_i seconds a microbatch and f_i a step besides (fill and drain of the pipeline,
//! gradients, updates). M microbatches are handed out u at a time (rounds of an interleaved schedule):
//!   minimise    t
//!   f_i + u·a_i·c_i ≤ t  for every class i,   Σ_i n_i·u·c_i ≥ M,   c_i ∈ {1, 2, …}
//! c_i is the most rounds of any of the class's replicas; what is handed out beyond M is taken back from the replicas that
//! would end last, so that replicas of a class differ by a few rounds at most. The relaxation, c_i ≥ 1, is the bound: where
//! no c_i is 1 it is t = (M + Σ n_i·f_i/a_i) / Σ n_i/a_i, at which all replicas end together.
//!
//! Invariant: the shares are whole rounds, at least one a replica, and M microbatches in all.

use good_lp::{Expression, Solution, SolverModel, Variable, constraint, variable, variables};

use meshwright_hardware::price::PriceError;
use meshwright_hardware::profile::Cluster;

use super::bound::of_stage;
use super::cached_prices::CachedPrices;
use super::cost::ShapeWork;
use super::pool_assignment::{self, PoolAssignment};
use super::solver;
use super::times::Costs;
use crate::lower::PieceSizes;
use crate::plan::Plan;

/// Replicas that are alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaClass {
    /// How many.
    pub replicas: usize,
    /// Seconds a microbatch: of the replica's slowest stage.
    pub seconds: f64,
    /// Seconds a step besides, however many microbatches.
    pub fixed: f64,
}

/// How to share a batch among replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct SharesProblem {
    /// Classes of replicas, in the order of the data axis.
    pub classes: Vec<ReplicaClass>,
    /// Microbatches a step, of all replicas together.
    pub microbatches: usize,
    /// Microbatches of a replica come in multiples of this.
    pub unit: usize,
}

/// A way to share.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Microbatches of each replica.
    pub shares: Vec<usize>,
    /// The step they make.
    pub seconds: f64,
    /// What no shares can undercut.
    pub bound: f64,
}

impl Shares {
    /// How much of the step at most is above the best there is: a fraction.
    pub fn gap(&self) -> f64 {
        if self.seconds > 0.0 { ((self.seconds - self.bound) / self.seconds).max(0.0) } else { 0.0 }
    }
}

impl SharesProblem {
    /// How a plan's batch can be shared on a cluster: by the pools that its replicas sit on, whatever shares it has.
    ///
    /// # Errors
    /// [`PriceError`] if an op has no price there.
    pub fn of(plan: &Plan, cluster: &Cluster) -> Result<SharesProblem, PriceError> {
        let plan = &plan.under(&cluster.stack);
        let costs = pool_assignment::prices(cluster, plan.job.precision)?.into_iter().map(|prices| {
            let mut links = CachedPrices::new(prices);
            let work = ShapeWork::of(plan, &mut links.prices)?;
            Costs::of(plan, &work, &PieceSizes::of(plan, &work.frames), &mut links)
        });
        let costs: Vec<Costs> = costs.collect::<Result<_, PriceError>>()?;
        let pools = match PoolAssignment::of(cluster, &plan.mesh) {
            Some(PoolAssignment::Replicas(pools)) => pools,
            Some(PoolAssignment::Stages(_)) | None => vec![0; plan.mesh.dp],
        };
        Ok(SharesProblem::among(plan, &pools.iter().map(|&pool| &costs[pool]).collect::<Vec<_>>()))
    }

    /// The same among replicas, each with its costs.
    pub(crate) fn among(plan: &Plan, replicas: &[&Costs]) -> SharesProblem {
        let runs = replicas.chunk_by(|a, b| std::ptr::eq(*a, *b));
        let class = |run: &[&Costs]| {
            let mut class = ReplicaClass { replicas: run.len(), seconds: 0.0, fixed: 0.0 };
            for stage in 0..plan.mesh.pp {
                let (seconds, tail) = of_stage(plan, run[0], stage);
                // Fill and drain: every stage but the slowest, once; by chunks where there are several.
                class.fixed += class.seconds.min(seconds) / plan.chunks as f64;
                // The first stage is the last to end.
                class.fixed += if stage == 0 { tail } else { 0.0 };
                class.seconds = class.seconds.max(seconds);
            }
            class
        };
        let classes = runs.map(class).collect();
        let unit = plan.pipeline().round();
        SharesProblem { classes, microbatches: plan.job.global_batch / plan.microbatch, unit }
    }

    /// The best shares; `None` if there are fewer rounds than replicas, or no whole number of rounds.
    pub fn solve(&self) -> Option<Shares> {
        let replicas: usize = self.classes.iter().map(|class| class.replicas).sum();
        let rounds = self.microbatches / self.unit.max(1);
        if replicas == 0 || rounds < replicas || rounds * self.unit != self.microbatches {
            return None;
        }
        let bound = self.program(rounds, false)?.0;
        let (_, most) = self.program(rounds, true)?;
        let shares = self.hand_out(&most, rounds);
        let seconds = self.seconds_of(&shares);
        // The bound is the solver's floating point; no shares end before it, but its last digits may say so.
        Some(Shares { bound: bound.min(seconds), shares, seconds })
    }

    /// The step that shares make.
    pub fn seconds_of(&self, shares: &[usize]) -> f64 {
        let each = self.classes.iter().flat_map(|class| std::iter::repeat_n(class, class.replicas));
        each.zip(shares).map(|(class, &share)| class.fixed + class.seconds * share as f64).fold(0.0, f64::max)
    }

    fn round(&self, class: &ReplicaClass) -> f64 {
        class.seconds * self.unit as f64
    }

    /// The least step and the most rounds of each class's replicas, in whole numbers or relaxed.
    fn program(&self, rounds: usize, whole: bool) -> Option<(f64, Vec<f64>)> {
        // Times count in a typical step, so that the solver sees numbers near one.
        let replicas: usize = self.classes.iter().map(|class| class.replicas).sum();
        let even = rounds.div_ceil(replicas) as f64;
        let typical = |class: &ReplicaClass| class.fixed + even * self.round(class);
        let step = self.classes.iter().map(typical).fold(f64::MIN_POSITIVE, f64::max);
        variables! { vars: 0 <= slowest; }
        let most = (rounds - replicas + 1) as f64;
        let count = || if whole { variable().integer() } else { variable() };
        let c: Vec<Variable> = self.classes.iter().map(|_| vars.add(count().min(1.0).max(most))).collect();
        let mut model = vars.minimise(slowest).using(solver::solver);
        let mut handed = Expression::default();
        for (class, &c) in self.classes.iter().zip(&c) {
            model.add_constraint(constraint!(class.fixed / step + self.round(class) / step * c <= slowest));
            handed += class.replicas as f64 * c;
        }
        model.add_constraint(constraint!(handed >= rounds as f64));
        let solution = model.solve().ok()?;
        Some((solution.value(slowest) * step, c.iter().map(|&c| solution.value(c)).collect()))
    }

    /// Whole shares of at most `most` rounds, those that end last giving back what is too much.
    fn hand_out(&self, most: &[f64], rounds: usize) -> Vec<usize> {
        let counts = self.classes.iter().zip(most);
        let mut each: Vec<(ReplicaClass, usize)> = counts
            .flat_map(|(&class, &most)| std::iter::repeat_n((class, (most.round() as usize).max(1)), class.replicas))
            .collect();
        let mut handed: usize = each.iter().map(|(_, count)| count).sum();
        let ends = |&(class, count): &(ReplicaClass, usize)| class.fixed + self.round(&class) * count as f64;
        while handed > rounds {
            // Of replicas that end together the last gives, so that the first of each class stay alike.
            let able = each.iter_mut().filter(|(_, count)| *count > 1);
            let Some(last) = able.max_by(|a, b| ends(a).total_cmp(&ends(b))) else { break };
            last.1 -= 1;
            handed -= 1;
        }
        each.into_iter().map(|(_, count)| count * self.unit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The best step of all ways to share.
    fn by_enumeration(problem: &SharesProblem, shares: &mut Vec<usize>, replicas: usize, left: usize) -> f64 {
        if shares.len() + 1 == replicas {
            shares.push(left);
            let seconds = problem.seconds_of(shares);
            shares.pop();
            return seconds;
        }
        let after = (replicas - shares.len() - 1) * problem.unit;
        let counts = (problem.unit..=left - after).step_by(problem.unit);
        counts.fold(f64::INFINITY, |best, share| {
            shares.push(share);
            let seconds = by_enumeration(problem, shares, replicas, left - share);
            shares.pop();
            best.min(seconds)
        })
    }

    #[test]
    fn a_replica_twice_as_fast_takes_twice_as_much() {
        let class = |replicas, seconds| ReplicaClass { replicas, seconds, fixed: 0.5 };
        let problem = SharesProblem { classes: vec![class(2, 1.0), class(4, 2.0)], microbatches: 32, unit: 1 };
        let found = problem.solve().unwrap();
        assert_eq!(found.shares, [8, 8, 4, 4, 4, 4]);
        assert!((found.seconds - 8.5).abs() < 1e-9 && found.gap() < 1e-9, "{found:?}");
        // What does not come out even is taken from those that would end last.
        let odd = SharesProblem { microbatches: 31, ..problem.clone() }.solve().unwrap();
        assert_eq!((odd.shares.iter().sum::<usize>(), odd.seconds), (31, 8.5));
        assert_eq!(SharesProblem { microbatches: 5, ..problem.clone() }.solve(), None);
        assert_eq!(SharesProblem { unit: 3, ..problem }.solve(), None);
    }

    proptest! {
        #[test]
        fn shares_are_as_good_as_the_best_of_all(
            counts in prop::collection::vec((1usize..3, 0.2f64..3.0, 0.0f64..4.0), 1..4),
            more in 0usize..9, unit in 1usize..3,
        ) {
            let classes: Vec<ReplicaClass> =
                counts.iter().map(|&(replicas, seconds, fixed)| ReplicaClass { replicas, seconds, fixed }).collect();
            let replicas: usize = classes.iter().map(|class| class.replicas).sum();
            let problem = SharesProblem { classes, microbatches: (replicas + more) * unit, unit };
            let found = problem.solve().unwrap();
            let best = by_enumeration(&problem, &mut Vec::new(), replicas, problem.microbatches);
            prop_assert_eq!(found.shares.len(), replicas);
            prop_assert_eq!(found.shares.iter().sum::<usize>(), problem.microbatches);
            prop_assert!(found.shares.iter().all(|&share| share > 0 && share.is_multiple_of(unit)));
            prop_assert!(found.seconds <= best * (1.0 + 1e-6), "{} for {best}", found.seconds);
            prop_assert!(found.bound <= best * (1.0 + 1e-9), "{} above {best}", found.bound);
        }
    }
}
