//! A plan's layers to stages and their recompute modes, decided again by mixed-integer linear programming.
//!
//! In: a plan, its cluster. Out: [`Repartitioned`]: the plan with the program's stages, simulated, and what no partition undercuts.
//!
//! The program is that of [`super::partition`], which good_lp solves; the search itself decides it by shortest paths, which are as
//! exact and far quicker. The plan's mesh, schedule and microbatch stay.
//!
//! Invariant: the stages fit in memory, exactly; their objective is within the solver's tolerance of the shortest paths'.

use meshwright_hardware::price::PriceError;
use meshwright_hardware::profile::Cluster;

use super::cached_prices::CachedPrices;
use super::cost::ShapeWork;
use super::partition::Problem;
use super::pool_assignment::{self, PoolAssignment};
use super::stages::Undecided;
use super::times::Costs;
use super::within::Within;
use crate::ability::Ability;
use crate::error::PlanError;
use crate::job::Fix;
use crate::lower::{InFlight, PieceSizes};
use crate::plan::{Plan, Stage};
use crate::predict::{Figures, predict_figures};

/// A plan whose stages a linear program decided.
#[derive(Clone, Debug)]
pub struct Repartitioned {
    /// The plan.
    pub plan: Plan,
    /// What it does, simulated.
    pub figures: Figures,
    /// What the program minimises, in seconds: (M − 1) times the slowest stage, and all stages once.
    pub objective_s: f64,
    /// What no partition's objective undercuts: the program's linear relaxation.
    pub relaxation_s: f64,
}

/// Decides a plan's stages by the program, as an engine can express them; none where it has no partition to decide (one stage, several chunks a stage, or
/// replicas in unlike pools), or where the solver's time is over.
///
/// # Errors
/// [`PlanError::Price`] if the cluster lacks a price that the plan needs.
pub fn repartition(
    plan: &Plan,
    cluster: &Cluster,
    (engine, fix): (Option<&Ability>, &Fix),
) -> Result<Option<Repartitioned>, PlanError> {
    let within = engine.map(|ability| Within::of(ability, &plan.job, fix));
    let solved = with_problem(plan, cluster, (within.as_ref(), fix), |undecided, problem| {
        let stages = problem.milp().filter(|stages| undecided.fits(stages))?;
        Some((problem.seconds_of(&stages), problem.relaxation()?, stages))
    })?;
    let Some((objective_s, relaxation_s, stages)) = solved else { return Ok(None) };
    let plan = Plan { stages, ..plan.clone() };
    let figures = predict_figures(&plan, cluster)?;
    Ok(Some(Repartitioned { plan, figures, objective_s, relaxation_s }))
}

/// Asks something of a plan's partitioning problem; none where there is no such problem.
fn with_problem<T>(
    plan: &Plan,
    cluster: &Cluster,
    (within, fix): (Option<&Within>, &Fix),
    ask: impl FnOnce(&Undecided, &Problem) -> Option<T>,
) -> Result<Option<T>, PlanError> {
    let pools = match PoolAssignment::of(cluster, &plan.mesh) {
        Some(PoolAssignment::Stages(pools)) if plan.mesh.pp > 1 && plan.chunks == 1 => pools,
        Some(_) | None => return Ok(None),
    };
    let empty = Stage { layers: 0, full: 0, selective: 0, offload: 0 };
    let plan = Plan { stages: vec![empty; plan.mesh.pp], ..plan.under(&cluster.stack) };
    let priced = pool_assignment::prices(cluster, plan.job.precision)?.into_iter().map(|prices| {
        let mut links = CachedPrices::new(prices);
        let work = ShapeWork::of(&plan, &mut links.prices)?;
        let sizes = PieceSizes::of(&plan, &work.frames);
        Ok((Costs::of(&plan, &work, &sizes, &mut links)?, sizes))
    });
    let priced: Vec<(Costs, PieceSizes)> = priced.collect::<Result<_, PriceError>>()?;
    let capacity = |&pool: &usize| plan.job.goal.usable(cluster.pools[pool].device.memory.value.0, &cluster.stack);
    let capacity: Vec<u64> = pools.iter().map(capacity).collect();
    let costs: Vec<&Costs> = pools.iter().map(|&pool| &priced[pool].0).collect();
    let (flights, sizes) = (InFlight::all(&plan.pipeline()), &priced[0].1);
    let undecided = Undecided {
        plan: &plan,
        costs: &costs,
        sizes,
        flights: &flights,
        capacity: &capacity,
        orders: Default::default(),
        within,
        fix,
    };
    Ok(undecided.alike_problem().and_then(|problem| ask(&undecided, &problem)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Architecture, Job, Model};
    use crate::search::search;
    use crate::testing::{tiny_job, tiny_model};

    /// A model of eight layers whose stages hardly fit, so that they make activations again, on a device of so little memory.
    fn tight() -> (Plan, Cluster) {
        let model = Model { layers: 8, hidden: 512, ffn: 2048, ..tiny_model(Architecture::Llama) };
        let job = Job { seq: 512, global_batch: 32, ..tiny_job(model) };
        let mut cluster = Cluster::parse("4x h100").unwrap();
        cluster.pools[0].device.memory.value = meshwright_hardware::units::Bytes(600 << 20);
        let fix = Fix { pp: Some(4), dp: Some(1), chunks: Some(1), ..Fix::default() };
        let found = search(&job, &cluster, &fix, 1).unwrap();
        (found.best[0].0.clone(), cluster)
    }

    #[test]
    fn the_program_finds_the_searchs_stages_or_as_good_ones() {
        let (plan, cluster) = tight();
        let found = repartition(&plan, &cluster, (None, &Fix::default())).unwrap().expect("four stages of one chunk");
        let paths = with_problem(&plan, &cluster, (None, &Fix::default()), |_, problem| {
            Some(problem.seconds_of(&problem.solve()?))
        });
        let paths = paths.unwrap().unwrap();
        assert!((found.objective_s / paths - 1.0).abs() < 1e-3, "{} for {paths}", found.objective_s);
        assert!(found.relaxation_s <= paths * (1.0 + 1e-6), "{} above {paths}", found.relaxation_s);
        let step = predict_figures(&plan, &cluster).unwrap().step_time_s;
        assert!((found.figures.step_time_s / step - 1.0).abs() < 0.01, "{} for {step}", found.figures.step_time_s);
        let single = Plan { mesh: meshwright_hardware::mesh::Mesh::ONE, stages: plan.stages[..1].to_vec(), ..plan };
        assert!(repartition(&single, &cluster, (None, &Fix::default())).unwrap().is_none());
    }
}
