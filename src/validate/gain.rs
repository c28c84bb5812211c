//! Published plans beside those that the search finds for the same job on the same machine, both simulated.
//!
//! In: a [`Run`]. Out: its plan and cluster as the simulator takes them, or why it cannot; then its [`SimulatedRun`] step, or
//! [`Gain`].
//!
//! Invariant: the search may choose the published plan, or one as fast, wherever that one fits.

use std::sync::Arc;

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::profile::{Cluster, Overheads, Stack};
use meshwright_planner::error::PlanError;
use meshwright_planner::estimate::{self, Layout, Recompute};
use meshwright_planner::job::{Architecture, Family, Fix, Goal, Job, Model, Optimizer, Shape};
use meshwright_planner::plan::{Plan, Stage, layers_of};
use meshwright_planner::predict::predict;
use meshwright_planner::schedule::Schedule;
use meshwright_planner::search::search;

use super::record::Skip;
use super::row::Run;

/// A run's plan, simulated.
#[derive(Clone, Debug)]
pub struct SimulatedRun {
    /// The step, in seconds.
    pub step_s: f64,
    /// The step that the run took, where its source gives a time to compare, in seconds.
    pub measured_s: Option<f64>,
    /// Whether what the plan declares fits the device.
    pub fits: bool,
    /// The plan in a line.
    pub summary: String,
}

/// A run's plan and the one that the search finds instead.
#[derive(Clone, Debug)]
pub struct Gain {
    /// The run's plan.
    pub published: SimulatedRun,
    /// Step of the found one, simulated, in seconds.
    pub found_s: f64,
    /// What no plan undercuts, in seconds.
    pub bound_s: f64,
    /// How long the search took, in seconds.
    pub searched_s: f64,
    /// The found plan in a line.
    pub summary: String,
}

impl Gain {
    /// How many times as fast the found plan is.
    pub fn ratio(&self) -> f64 {
        self.published.step_s / self.found_s
    }
}

/// Simulates a run's plan.
pub fn published(run: &Run) -> Result<SimulatedRun, Skip> {
    let (plan, cluster) = simulated(run)?;
    let cannot = |_: PlanError| Skip("the simulator has no price for some of it");
    let figures = predict(&plan, &cluster).map_err(cannot)?.figures;
    Ok(SimulatedRun {
        step_s: figures.step_time_s,
        measured_s: super::summary::measured_step_s(run),
        fits: figures.fits,
        summary: plan.summary(),
    })
}

/// Simulates a run's plan, searches for a better one and simulates that.
pub fn gain(run: &Run) -> Result<Gain, Skip> {
    let published = published(run)?;
    let (plan, cluster) = simulated(run)?;
    let found = search(&plan.job, &cluster, &Fix::default(), 1).map_err(|_| Skip("nothing fits as simulated"))?;
    let (best, figures) = &found.best[0];
    Ok(Gain {
        published,
        found_s: figures.step_time_s,
        bound_s: found.bound,
        searched_s: found.seconds,
        summary: best.summary(),
    })
}

/// A run's plan as the simulator takes it; what the row leaves open is filled in as its prediction does.
pub fn simulated(run: &Run) -> Result<(Plan, Cluster), Skip> {
    let layout = super::timing(run, &run.stack.knobs, 1.0).layout;
    if layout.trained < 1.0 || layout.span != layout.seq {
        return Err(Skip("only whole models on whole sequences are simulated"));
    }
    let cluster = cluster(run)?;
    let job = Job {
        seq: layout.seq,
        target_seq: run.shape.decoder.map(|(_, target)| target),
        global_batch: layout.global,
        precision: layout.precision,
        steps: 1,
        seed: 0,
        stack: None,
        model: model(&run.shape)?,
        optimizer: Optimizer::default(),
        fix: Fix::default(),
        goal: Goal::default(),
    };
    let stack = of_run(run.stack, &run.stack.overheads, layout.graphs);
    let plan = plan(&layout, job)?;
    plan.check().map_err(|_| Skip("its plan is none that programs are made of"))?;
    Ok((plan, cluster.under(Arc::new(stack))))
}

/// What launching whole graphs leaves of host time.
const GRAPHS: f64 = 0.2;

/// A stack with these overheads, as a run used it.
pub fn of_run(stack: &Stack, overheads: &Overheads, graphs: bool) -> Stack {
    let mut overheads = overheads.clone();
    if graphs {
        overheads.host *= GRAPHS;
        overheads.host_experts *= GRAPHS;
    }
    Stack { overheads, ..stack.clone() }
}

/// As many nodes as the run had, or a part of one.
fn cluster(run: &Run) -> Result<Cluster, Skip> {
    let mut machine = run.machine.clone();
    if run.devices < machine.system.count {
        machine.system.count = run.devices;
    }
    if !run.devices.is_multiple_of(machine.system.count) || machine.system.scale_up.dims.len() > 1 {
        return Err(Skip("its devices are no whole number of nodes"));
    }
    machine.nodes = run.devices / machine.system.count;
    Ok(Cluster::from(machine))
}

/// The model of these sizes, of which programs are made.
fn model(shape: &Shape) -> Result<Model, Skip> {
    let gpt = shape.biased;
    let family = Family {
        head_dim: (shape.head_dim * shape.heads != shape.hidden).then_some(shape.head_dim),
        decoder_layers: shape.decoder.map(|(layers, _)| layers),
        bidirectional: !shape.causal && shape.decoder.is_none(),
        gated: (shape.gated == gpt).then_some(shape.gated),
        learned_positions: (shape.learned_positions != gpt).then_some(shape.learned_positions),
        parallel_block: shape.parallel_block,
        experts: shape.experts.clone(),
        latent: shape.latent.clone(),
    };
    let model = Model {
        name: shape.name.clone(),
        architecture: if gpt { Architecture::Gpt2 } else { Architecture::Llama },
        layers: shape.layers,
        hidden: shape.hidden,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        ffn: shape.ffn,
        vocab: shape.vocab,
        tied: shape.tied,
        rope_theta: 10_000.0,
        family: (family != Family::default()).then_some(family),
    };
    // An encoder-decoder's target is the job's.
    let same = Shape { decoder: shape.decoder, ..Shape::from(&model) } == *shape;
    if same { Ok(model) } else { Err(Skip("its model is none that programs are made of")) }
}

/// The plan of a layout.
fn plan(layout: &Layout, job: Job) -> Result<Plan, Skip> {
    let whole = layout.ep > 1 && layout.tp > 1 && layout.etp == 1;
    if layout.ep > 1 && layout.etp != 1 && layout.etp != layout.tp {
        return Err(Skip("experts are split over a part of tensor parallelism"));
    }
    let (tp, pp, dp, cp, ep) = (layout.tp, layout.pp, layout.dp, layout.cp, layout.ep);
    let mesh = Mesh { dp, pp, tp, cp, ep, etp: whole.then_some(1), order: Order::default() };
    let (schedule, chunks) = match layout.schedule {
        estimate::Schedule::OneFOneB => (Schedule::OneFOneB, layout.vpp),
        estimate::Schedule::GPipe => (Schedule::GPipe, 1),
        estimate::Schedule::ZeroBubble1p => (Schedule::ZeroBubble, 1),
        estimate::Schedule::ZeroBubbleV | estimate::Schedule::DualPipe => (Schedule::DualPipeV, 2),
        estimate::Schedule::ZeroBubble2p => return Err(Skip("a schedule that programs do not have")),
    };
    let stage = |layers: usize| {
        let (full, selective) = match layout.recompute {
            Recompute::Full(share) => ((share * layers as f64).round() as usize, 0),
            Recompute::Matmuls => (0, layers),
            // Attention here never stores its scores.
            Recompute::None | Recompute::Selective => (0, 0),
        };
        Stage { layers, full: full.min(layers), selective, offload: (layout.offload * layers as f64).round() as usize }
    };
    let held = layers_of(job.model.depth(), pp * chunks);
    if held.contains(&0) || !layout.global.is_multiple_of(dp * layout.micro) {
        return Err(Skip("its plan is none that programs are made of"));
    }
    let (zero, sequence_parallel) = (if dp * cp > 1 { layout.zero } else { 0 }, layout.sp && tp > 1);
    let stages = held.into_iter().map(stage).collect();
    let single = Plan::single(job, layout.micro);
    Ok(Plan { schedule, chunks, zero, sequence_parallel, mesh, stages, ..single })
}
