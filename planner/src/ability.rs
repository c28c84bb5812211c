//! What an engine can express, and the nearest plan that it can.
//!
//! In: a plan, and an engine's [`Ability`]. Out: the plan changed where it had to be, and a [`Lost`] for each change.
//!
//! Invariant: a plan without losses is unchanged, and what was changed has no losses any more. Memory never grows: what cannot
//! recompute less than another layer recomputes more.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::units::Precision;

use crate::job::{Job, OptimizerName};
use crate::plan::{Plan, Stage};
use crate::schedule::Schedule;

mod model;

/// A decision that an engine cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What the plan says.
    pub what: String,
    /// What stands in its place; none where nothing can.
    pub instead: Option<String>,
}

/// Which layers an engine can make recompute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// None.
    Nowhere,
    /// All or none.
    Everywhere,
    /// The first so many of each virtual stage, as many in all.
    Leading,
}

/// What an engine can express.
#[derive(Clone, Copy, Debug)]
pub struct Ability {
    /// The engine's name, for people.
    pub engine: &'static str,
    /// Tensor parallelism without sequence parallelism, and with it.
    pub tp: [bool; 2],
    /// Context parallelism that gathers keys and values, and that passes them round a ring.
    pub cp: [bool; 2],
    /// Expert parallelism with experts cut by tensor parallelism, and with whole ones; with the two alike where there is none.
    pub ep: [bool; 2],
    /// Schedules of pipelines, and whether each may have several chunks a stage; empty without pipelines.
    pub schedules: &'static [(Schedule, bool)],
    /// Whether stages may have unlike numbers of layers.
    pub uneven: bool,
    /// ZeRO stages.
    pub zero: &'static [u8],
    /// ZeRO stages beside a pipeline.
    pub zero_in_pipelines: &'static [u8],
    /// Whether ZeRO may shard over a part of the replicas.
    pub hybrid: bool,
    /// Full recomputation.
    pub full: Reach,
    /// Selective recomputation.
    pub selective: Reach,
    /// Formats.
    pub precisions: &'static [Precision],
    /// Optimizers.
    pub optimizers: &'static [OptimizerName],
    /// Whether the optimizer may be the host's.
    pub optimizer_on_host: bool,
    /// How axes may be laid over ranks.
    pub orders: &'static [Order],
    /// Models.
    pub models: Families,
    /// Decisions that cannot stand beside each other, for what the rest lets pass: makes the nearest plan that it can.
    pub rules: fn(&mut Plan, &mut Losses),
}

/// Which models an engine can train.
#[derive(Clone, Copy, Debug)]
pub struct Families {
    /// LayerNorm, biases, learned positions.
    pub gpt2: bool,
    /// RMSNorm, gates, rotary positions.
    pub llama: bool,
    /// Mixtures of experts.
    pub experts: bool,
    /// Latent attention.
    pub latent: bool,
    /// Encoders.
    pub encoder: bool,
    /// Encoder-decoders.
    pub encoder_decoder: bool,
    /// Attention and feed-forward side by side.
    pub parallel_block: bool,
}

/// The changes that an engine asks of a plan.
#[derive(Debug, Default)]
pub struct Losses(pub Vec<Lost>);

impl Losses {
    /// A decision that another takes the place of.
    pub fn instead(&mut self, what: impl Into<String>, instead: impl Into<String>) {
        self.0.push(Lost { what: what.into(), instead: Some(instead.into()) });
    }

    /// A decision in whose place nothing can stand.
    pub fn never(&mut self, what: impl Into<String>) {
        self.0.push(Lost { what: what.into(), instead: None });
    }

    /// Whether some plan near by can be expressed.
    pub fn have_a_way(&self) -> bool {
        self.0.iter().all(|loss| loss.instead.is_some())
    }
}

impl Ability {
    /// What a job asks that the engine lacks whatever the plan.
    pub fn lacks(&self, job: &Job) -> Vec<Lost> {
        let (mut plan, mut losses) = (Plan::single(job.clone(), job.global_batch), Losses::default());
        self.fit(&mut plan, &mut losses);
        losses.0
    }

    /// Whether a plan's decisions can be expressed, whatever its job `lacks`.
    pub fn can(&self, plan: &Plan, lacks: &[Lost]) -> bool {
        let mut losses = Losses::default();
        self.fit(&mut plan.clone(), &mut losses);
        losses.0.iter().all(|loss| lacks.contains(loss))
    }

    /// Makes of a plan the nearest that can be expressed.
    pub fn fit(&self, plan: &mut Plan, losses: &mut Losses) {
        self.models.fit(&plan.job, losses);
        self.fit_job(plan, losses);
        self.fit_mesh(plan, losses);
        self.fit_pipeline(plan, losses);
        self.fit_zero(plan, losses);
        self.fit_recompute(plan, losses);
        if losses.have_a_way() {
            (self.rules)(plan, losses);
        }
    }

    fn fit_job(&self, plan: &mut Plan, losses: &mut Losses) {
        if !self.precisions.contains(&plan.job.precision) {
            losses.instead(format!("precision {}", plan.job.precision), "bf16");
            plan.job.precision = Precision::Bf16;
        }
        if std::mem::take(&mut plan.job.pure) {
            losses.instead("weights without fp32 masters", "fp32 masters");
        }
        let optimizer = &mut plan.job.optimizer;
        if !self.optimizers.contains(&optimizer.name) {
            losses.instead(format!("optimizer {}", optimizer.name.name()), "adamw");
            optimizer.name = OptimizerName::AdamW;
        }
        if optimizer.offload && !self.optimizer_on_host {
            losses.instead("an optimizer on the host", "one on the device");
            optimizer.offload = false;
        }
        if plan.job.tuning.take().is_some() {
            losses.instead("adapters beside a frozen base", "all weights trained");
        }
        if plan.job.packed.take().is_some() {
            losses.instead("several samples packed into a sequence", "one sample a sequence");
        }
    }

    fn fit_mesh(&self, plan: &mut Plan, losses: &mut Losses) {
        if let Some(sites) = plan.sites.take() {
            losses.instead(format!("{} sites that meet now and then", sites.count), "one site of all replicas");
            plan.mesh.dp *= sites.count;
        }
        if !plan.shares.is_empty() {
            losses.instead("unlike shares of the batch", "equal shares");
            plan.shares.clear();
        }
        let Mesh { tp, cp, ep, .. } = plan.mesh;
        if tp > 1 && self.tp == [false, false] {
            losses.instead(format!("tensor parallelism of {tp}"), format!("{tp} times the replicas"));
            (plan.mesh.tp, plan.mesh.dp) = (1, plan.mesh.dp * tp);
            (plan.sequence_parallel, plan.mesh.etp) = (false, None);
        } else if tp > 1 && !self.tp[usize::from(plan.sequence_parallel)] {
            let words = ["without sequence parallelism", "with sequence parallelism"];
            let [is, other] = if plan.sequence_parallel { [words[1], words[0]] } else { words };
            losses.instead(format!("tensor parallelism {is}"), format!("tensor parallelism {other}"));
            plan.sequence_parallel = !plan.sequence_parallel;
        }
        if cp > 1 && self.cp == [false, false] {
            losses.instead(format!("context parallelism of {cp}"), format!("{cp} times the replicas"));
            (plan.mesh.cp, plan.mesh.dp) = (1, plan.mesh.dp * cp);
        } else if cp > 1 && !self.cp[usize::from(plan.ring)] {
            let words = ["keys and values that are gathered", "keys and values that go round a ring"];
            let [is, other] = if plan.ring { [words[1], words[0]] } else { words };
            losses.instead(is, other);
            plan.ring = !plan.ring;
        }
        let whole = plan.mesh.etp == Some(1) && plan.mesh.tp > 1;
        if ep > 1 && self.ep == [false, false] {
            losses.instead(format!("expert parallelism of {ep}"), "all experts on every rank");
            (plan.mesh.ep, plan.mesh.etp) = (1, None);
        } else if ep > 1 && plan.mesh.tp > 1 && !self.ep[usize::from(whole)] {
            let words = ["experts cut by tensor parallelism", "experts that tensor parallelism leaves whole"];
            let [is, other] = if whole { [words[1], words[0]] } else { words };
            losses.instead(is, other);
            plan.mesh.etp = if whole { None } else { Some(1) };
            plan.sequence_parallel |= !whole;
        }
        if plan.mesh.order != Order::default() && !self.orders.contains(&plan.mesh.order) {
            losses.instead(format!("ranks by {}", plan.mesh.order.name()), "ranks by tp-data-pp");
            plan.mesh.order = Order::default();
        }
        // More replicas than before need batches that divide.
        if plan.microbatch > 1 && !plan.job.global_batch.is_multiple_of(plan.mesh.dp * plan.microbatch) {
            losses.instead(format!("microbatches of {}", plan.microbatch), "microbatches of 1");
            plan.microbatch = 1;
        }
    }

    fn fit_pipeline(&self, plan: &mut Plan, losses: &mut Losses) {
        let pp = plan.mesh.pp;
        if pp > 1 && self.schedules.is_empty() {
            losses.instead(format!("{pp} pipeline stages"), format!("{pp} times the replicas"));
            one_chunk(plan);
            let all = plan.stages.drain(..).reduce(join).expect("a plan has stages");
            (plan.mesh.pp, plan.mesh.dp, plan.stages) = (1, plan.mesh.dp * pp, vec![all]);
            plan.schedule = Schedule::default();
        } else if pp > 1 {
            let known = self.schedules.iter().find(|(schedule, _)| *schedule == plan.schedule);
            let (schedule, chunks) = known.copied().unwrap_or(self.schedules[0]);
            if schedule != plan.schedule {
                losses.instead(format!("schedule {}", plan.schedule.name()), schedule.name());
            }
            if plan.chunks > 1 && (!chunks || schedule != plan.schedule) {
                losses.instead(format!("{} chunks a stage", plan.chunks), "one chunk a stage");
                one_chunk(plan);
            }
            plan.schedule = schedule;
        } else {
            // One stage is run alike by every schedule.
            plan.schedule = Schedule::default();
        }
        let (stages, layers) = (plan.stages.len(), plan.job.model.depth());
        let even = plan.stages.iter().all(|stage| stage.layers == plan.stages[0].layers);
        if !even && !self.uneven {
            if layers.is_multiple_of(stages) {
                losses.instead("stages of unlike numbers of layers", format!("{} layers a stage", layers / stages));
                plan.stages.iter_mut().for_each(|stage| resize(stage, layers / stages));
            } else {
                losses.never(format!("{layers} layers over {stages} stages: they have to be alike"));
            }
        }
    }

    fn fit_zero(&self, plan: &mut Plan, losses: &mut Losses) {
        let can = if plan.mesh.pp > 1 { self.zero_in_pipelines } else { self.zero };
        // Gradients that two passes make stay whole.
        let split = plan.mesh.pp > 1 && plan.schedule.splits();
        let can: Vec<u8> = can.iter().copied().filter(|zero| *zero < 2 || !split).collect();
        // Where there is nothing to shard over every stage is none.
        if plan.mesh.data() == 1 {
            plan.zero = 0;
        } else if !can.contains(&plan.zero) {
            let beside = if self.zero.contains(&plan.zero) { " beside such a pipeline" } else { "" };
            // What shards more takes less memory; else what shards most.
            let more = can.iter().copied().find(|zero| *zero > plan.zero);
            let zero = more.or(can.iter().copied().max()).unwrap_or(0);
            losses.instead(format!("ZeRO-{}{beside}", plan.zero), format!("ZeRO-{zero}"));
            plan.zero = zero;
        }
        if plan.zero > 0 && plan.mesh.is_hybrid() && !self.hybrid {
            losses.instead("ZeRO over a part of the replicas", "ZeRO over all of them");
            plan.mesh.shard = None;
        }
    }

    fn fit_recompute(&self, plan: &mut Plan, losses: &mut Losses) {
        let offload: usize = plan.stages.iter().map(|stage| stage.offload).sum();
        if offload > 0 {
            losses.instead(format!("activations of {offload} layers on the host"), "those layers recomputed in full");
            let full = |stage: &mut Stage| stage.full = stage.full.max(std::mem::take(&mut stage.offload));
            plan.stages.iter_mut().for_each(full);
            plan.stages.iter_mut().for_each(|stage| stage.selective = stage.selective.min(stage.layers - stage.full));
        }
        let sums = |plan: &Plan| plan.stages.iter().fold((0, 0), |(f, s), st| (f + st.full, s + st.selective));
        let (full, selective) = sums(plan);
        if selective > 0 && (full > 0 || self.selective == Reach::Nowhere) {
            let beside = if full > 0 { " beside full recomputation" } else { "" };
            losses.instead(format!("selective recomputation of {selective} layers{beside}"), "full of these too");
            for stage in &mut plan.stages {
                (stage.full, stage.selective) = (stage.full + stage.selective, 0);
            }
        }
        reach(plan, losses, self.full, "full", |stage| &mut stage.full);
        reach(plan, losses, self.selective, "selective", |stage| &mut stage.selective);
    }
}

/// Holds how many layers recompute to what an engine reaches.
fn reach(plan: &mut Plan, losses: &mut Losses, reach: Reach, mode: &str, of: fn(&mut Stage) -> &mut usize) {
    let counts: Vec<usize> = plan.stages.iter_mut().map(|stage| *of(stage)).collect();
    let (sum, most) = (counts.iter().sum::<usize>(), counts.iter().copied().max().unwrap_or(0));
    let (target, instead) = match reach {
        _ if sum == 0 => return,
        Reach::Nowhere => (0, "none".to_owned()),
        Reach::Everywhere => (usize::MAX, "of all layers".to_owned()),
        Reach::Leading => (most, format!("of the first {most} of each stage")),
    };
    let alike = plan.stages.iter().zip(&counts).all(|(stage, count)| *count == target.min(stage.layers));
    if !alike {
        losses
            .instead(format!("{mode} recomputation of {sum} layers, unlike from stage to stage or in a part"), instead);
        for stage in &mut plan.stages {
            *of(stage) = target.min(stage.layers);
        }
    }
}

/// A stage of so many layers, recomputing as large a part.
fn resize(stage: &mut Stage, layers: usize) {
    let part = |count: usize| (count * layers).div_ceil(stage.layers.max(1)).min(layers);
    let (full, offload) = (part(stage.full), part(stage.offload));
    *stage = Stage { layers, full, selective: part(stage.selective).min(layers - full), offload };
}

fn join(a: Stage, b: Stage) -> Stage {
    Stage {
        layers: a.layers + b.layers,
        full: a.full + b.full,
        selective: a.selective + b.selective,
        offload: a.offload + b.offload,
    }
}

/// The same layers with one chunk a stage.
fn one_chunk(plan: &mut Plan) {
    let of = |stage: usize| (0..plan.chunks).map(move |chunk| (stage, chunk));
    let merged = |stage| of(stage).map(|(stage, chunk)| plan.stages[plan.virtual_stage(stage, chunk)]).reduce(join);
    let stages: Vec<Stage> = (0..plan.mesh.pp).filter_map(merged).collect();
    (plan.stages, plan.chunks) = (stages, 1);
}
