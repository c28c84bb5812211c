//! A changed plan made to fit again: layers spread evenly where stages have changed, and as little recomputation as fits.
//!
//! In: a plan whose decisions contradict its stages or memory. Out: the plan, or the stage that cannot fit.

use meshwright_hardware::price::{PriceError, rank_groups};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Bytes;

use crate::lower::{Blocks, Frames, InFlight, PieceSizes, Pieces};
use crate::plan::{Plan, Stage};

/// A stage that does not fit, even if all its layers recompute everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tight {
    /// Which.
    pub stage: usize,
    /// The least that it needs.
    pub bytes: u64,
    /// What it may use.
    pub usable: u64,
}

impl std::fmt::Display for Tight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tight { stage, bytes, usable } = *self;
        write!(f, "needs {} on stage {stage}, where {} can be used", Bytes(bytes), Bytes(usable))
    }
}

/// Bytes that a rank of each stage may declare: on the smallest of the devices that its replicas sit on.
pub fn usable(plan: &Plan, cluster: &Cluster) -> Result<Vec<u64>, PriceError> {
    let groups = rank_groups(cluster, plan.mesh, &plan.classes())?;
    let least = |stage| {
        let own = groups.iter().filter(|place| place.stage == stage);
        own.map(|place| place.capacity(cluster).0).min().unwrap_or(0)
    };
    Ok((0..plan.mesh.pp).map(|stage| plan.job.goal.usable(least(stage), &cluster.stack)).collect())
}

/// The plan with its layers spread evenly over as many stages as it has; what is left over goes to the middle, for the
/// first stage has the embedding and the last the head.
pub fn spread(mut plan: Plan) -> Plan {
    let (depth, places) = (plan.job.model.depth(), plan.mesh.pp * plan.chunks);
    if places == 0 || plan.stages.len() == places {
        return plan;
    }
    let left = depth % places;
    let first = (places - left) / 2;
    let stage = |place| {
        let layers = depth / places + usize::from((first..first + left).contains(&place));
        Stage { layers, full: 0, selective: 0, offload: 0 }
    };
    plan.stages = (0..places).map(stage).collect();
    plan
}

/// The plan in which every stage recomputes as little as fits: nothing, then selectively layer by layer, then everything.
pub fn fit(mut plan: Plan, usable: &[u64]) -> Result<Plan, Tight> {
    let sizes = PieceSizes::of(&plan, &Frames::of(&Pieces::of(&plan, &mut Blocks::default())));
    for (stage, actions) in plan.orders().iter().enumerate() {
        let flight = InFlight::of(&plan.pipeline(), stage, actions);
        let bytes = |level: usize| {
            let mut tried = plan.clone();
            set(&mut tried, stage, level);
            sizes.stage(&tried, &flight, stage)
        };
        let most = 2 * depth(&plan, stage);
        let least = bytes(most);
        if least > usable[stage] {
            return Err(Tight { stage, bytes: least, usable: usable[stage] });
        }
        // More recomputation never keeps more; the smallest level that fits, by halves.
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = (low + high) / 2;
            if bytes(middle) <= usable[stage] { high = middle } else { low = middle + 1 }
        }
        set(&mut plan, stage, high);
    }
    Ok(plan)
}

/// Layers of the stage's longest chunk.
fn depth(plan: &Plan, stage: usize) -> usize {
    (0..plan.chunks).map(|chunk| plan.stages[plan.virtual_stage(stage, chunk)].layers).max().unwrap_or(0)
}

fn set(plan: &mut Plan, stage: usize, level: usize) {
    let depth = depth(plan, stage);
    for chunk in 0..plan.chunks {
        let place = plan.virtual_stage(stage, chunk);
        let layers = plan.stages[place].layers;
        let full = level.saturating_sub(depth).min(layers);
        let selective = level.min(layers) - full.min(level.min(layers));
        plan.stages[place] = Stage { full, selective, ..plan.stages[place] };
    }
}
