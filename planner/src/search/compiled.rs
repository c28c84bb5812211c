//! Decided plans whose step is wanted again and again, under other prices.
//!
//! In: a plan, then clusters. Out: [`Compiled`]; seconds of its step.
//!
//! Invariant: no more than the simulation of the same plan.

use meshwright_hardware::profile::{Cluster, Stack};

use super::cached_prices::CachedPrices;
use super::cost::ShapeWork;
use super::pass_ops::ShapeOps;
use super::times::Costs;
use super::{pool_assignment, timeline};
use crate::error::PlanError;
use crate::lower::PieceSizes;
use crate::plan::Plan;

/// A decided plan whose ops are known, to be priced on clusters again and again.
#[derive(Clone, Debug)]
pub struct Compiled {
    plan: Plan,
    ops: ShapeOps,
    sizes: PieceSizes,
}

impl Compiled {
    /// A plan as a stack runs it.
    pub fn of(plan: &Plan, stack: &Stack) -> Compiled {
        let plan = plan.under(stack);
        let ops = ShapeOps::of(&plan);
        let sizes = PieceSizes::of(&plan, &ops.frames);
        Compiled { plan, ops, sizes }
    }

    /// Seconds of its step on a cluster whose stack differs in its overheads alone, played piece by piece: no more than its
    /// simulation, and known a hundred times sooner.
    ///
    /// # Errors
    /// [`PlanError::Price`] if the cluster is too small or lacks a price that the plan needs.
    pub fn step(&self, cluster: &Cluster) -> Result<f64, PlanError> {
        let prices = pool_assignment::prices(cluster, self.plan.job.precision)?;
        let mut links: Vec<CachedPrices> = prices.into_iter().map(CachedPrices::new).collect();
        let work = ShapeWork::priced(&self.ops, &mut links[0].prices)?;
        let costs = Costs::of(&self.plan, &work, &self.sizes, &mut links[0])?;
        Ok(timeline::step(&self.plan, &vec![&costs; self.plan.mesh.pp]))
    }
}

/// Seconds of a decided plan's step, played piece by piece ([`Compiled::step`]).
///
/// # Errors
/// [`PlanError::Price`] if the cluster is too small or lacks a price that the plan needs.
pub fn played_step(plan: &Plan, cluster: &Cluster) -> Result<f64, PlanError> {
    Compiled::of(plan, &cluster.stack).step(cluster)
}
