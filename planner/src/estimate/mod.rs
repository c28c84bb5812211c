//! A plan's step time and memory in closed form, over every parallel axis.
//!
//! In: [`Shape`], [`Layout`], a [`Site`] (device, links, stack). Out: [`Estimate`]; memory in [`memory`].
//!
//! What a layer does is listed in [`layer`], priced there by the device's matmul units, its memory and the links' α–β models;
//! this file composes layers into a step. The schedule's closed forms: Narayanan et al. 2021, §2.2 (1F1B, interleaved), Qi
//! et al. 2024, table 2 (zero bubble), DeepSeek-AI 2024, table 2 (DualPipe).
//!
//! Invariant: every second is a price of something listed, times the stack's knob of that kind.

pub mod layer;
pub mod memory;

use meshwright_hardware::price::{self, collective};
use meshwright_hardware::profile::{DeviceProfile, Knobs, Stack};
use meshwright_hardware::program::Collective;
use meshwright_hardware::topology::Topology;
use meshwright_hardware::units::{Bytes, Precision};

use crate::job::Shape;
use crate::plan::layers_of;

/// What is kept of a layer's forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recompute {
    /// All.
    None,
    /// All but attention's core (Korthikanti et al. 2022).
    Selective,
    /// Only layers' inputs, of this share of the layers.
    Full(f64),
    /// Outputs of matmuls, not of what stands between them.
    Matmuls,
}

/// The order of microbatches in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// One forward, one backward; interleaved where a rank holds several chunks.
    OneFOneB,
    /// All forwards, then all backwards.
    GPipe,
    /// Weight gradients fill the bubble within 1F1B's memory.
    ZeroBubble1p,
    /// The same with twice that memory.
    ZeroBubble2p,
    /// The same with two chunks a rank in a V.
    ZeroBubbleV,
    /// Microbatches from both ends, each rank with a stage of either way; a forward beside a backward hides their traffic.
    DualPipe,
}

/// The decisions that time and memory depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Tokens a sequence.
    pub seq: usize,
    /// Tokens that attention spans: those of a sequence, or of a sample where several are packed into one.
    pub span: usize,
    /// Sequences a microbatch.
    pub micro: usize,
    /// Sequences a step.
    pub global: usize,
    /// Format of linear layers.
    pub precision: Precision,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Whether what TP does not split is split over sequences.
    pub sp: bool,
    /// Pipeline stages.
    pub pp: usize,
    /// Chunks a stage.
    pub vpp: usize,
    /// Data-parallel replicas.
    pub dp: usize,
    /// Context-parallel ranks.
    pub cp: usize,
    /// Expert-parallel ranks.
    pub ep: usize,
    /// Tensor-parallel ranks of experts.
    pub etp: usize,
    /// ZeRO stage.
    pub zero: u8,
    /// Ranks over which ZeRO shards.
    pub shard: usize,
    /// What is kept.
    pub recompute: Recompute,
    /// Order of microbatches.
    pub schedule: Schedule,
    /// Whether layers are launched as graphs.
    pub graphs: bool,
    /// Share of layers whose activations wait in host memory.
    pub offload: f64,
    /// Bytes a parameter of optimizer state and master weights.
    pub state_bytes: f64,
    /// Bytes a parameter of weights that do not train.
    pub frozen_bytes: f64,
    /// Share of parameters that train.
    pub trained: f64,
}

impl Layout {
    /// Bytes a parameter of the gradients that a stack keeps: in fp16 they stay in 16 bits under a loss scale.
    pub fn gradient_bytes(&self, stack: &Stack) -> f64 {
        if self.precision == Precision::Fp16 { 2.0 } else { stack.grad_bytes }
    }

    /// Microbatches of a replica a step.
    pub fn microbatches(&self) -> f64 {
        (self.global as f64 / (self.dp * self.micro) as f64).max(1.0)
    }

    /// Devices.
    pub fn devices(&self) -> usize {
        self.tp * self.cp * self.dp * self.pp
    }
}

/// Where it runs.
pub struct Site<'a> {
    /// The accelerator.
    pub device: &'a DeviceProfile,
    /// The software.
    pub stack: &'a Stack,
    /// Its knobs, which a fit varies.
    pub knobs: &'a Knobs,
    /// The links.
    pub topology: &'a Topology,
    /// Devices of a node, for counting nodes.
    pub per_node: usize,
    /// Of the matmul rate that the device's profile sustains, what is reached; 1 but in a fit of profiles.
    pub power: f64,
}

impl Site<'_> {
    /// Seconds of a collective over `ranks` ranks `stride` apart; nothing among one. A group that no link joins counts as
    /// endless.
    pub fn collective(&self, kind: Collective, bytes: f64, stride: usize, ranks: usize) -> f64 {
        if ranks <= 1 || bytes <= 0.0 {
            return 0.0;
        }
        let Ok(mut span) = self.topology.span_strided(0, stride, ranks) else { return f64::INFINITY };
        if let Some(out) = &mut span.out {
            out.bandwidth = out.bandwidth * self.knobs.scale_out;
        }
        collective::time(kind, Bytes(bytes as u64), &span).0
    }

    /// Seconds of a message to the rank `stride` further.
    pub fn message(&self, bytes: f64, stride: usize) -> f64 {
        self.topology.link(0, stride).map_or(f64::INFINITY, |path| path.latency.0 + bytes / path.bandwidth.0)
    }

    /// Seconds of moving bytes through the device's memory.
    pub fn stream(&self, bytes: f64) -> f64 {
        price::stream(self.device, bytes.max(1.0)).0
    }
}

/// A step, in seconds by cause.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Length of the step.
    pub step_time: f64,
    /// Forward and backward kernels of the busiest stage.
    pub compute: f64,
    /// Of these, what recomputation adds.
    pub recompute: f64,
    /// Exposed traffic of TP, CP and EP.
    pub layer_traffic: f64,
    /// Exposed traffic of data parallelism.
    pub dp: f64,
    /// Pipeline messages and bubble.
    pub pipeline: f64,
    /// The optimizer.
    pub optimizer: f64,
}

/// A stage's time for one microbatch.
#[derive(Clone, Copy, Debug, Default)]
struct Stage {
    forward: f64,
    backward: f64,
    weight: f64,
    recomputed: f64,
    traffic: f64,
}

impl Stage {
    fn add(&mut self, pass: &layer::Pass, times: f64) {
        if times > 0.0 {
            self.forward += times * pass.forward;
            self.backward += times * pass.backward;
            self.weight += times * pass.weight;
            self.recomputed += times * pass.recomputed;
            self.traffic += times * pass.traffic;
        }
    }
}

/// The step of a plan.
pub fn estimate(shape: &Shape, layout: &Layout, site: &Site) -> Estimate {
    let costs = layer::costs(shape, layout, site);
    let knobs = site.knobs;
    let m = layout.microbatches();
    let stages = stages(shape, layout, &costs);
    let total = |stage: &Stage| stage.forward + stage.backward;
    let slowest = stages.iter().copied().max_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or_default();
    let busiest = total(&slowest);
    let others: f64 = stages.iter().map(total).sum::<f64>() - busiest;
    let hops = (layout.pp - 1) as f64;
    let hop = if layout.pp > 1 {
        let split = if layout.sp { layout.tp as f64 } else { 1.0 };
        let bytes = 2.0 * costs.tokens * shape.hidden as f64 / split;
        knobs.pp * site.message(bytes, layout.tp * layout.cp * layout.dp)
    } else {
        0.0
    };
    let chunks = layout.vpp as f64;
    let bubble = match layout.schedule {
        Schedule::GPipe | Schedule::OneFOneB => others / chunks,
        Schedule::ZeroBubble1p => {
            hops * (slowest.forward + slowest.backward - 2.0 * slowest.weight).max(0.0).min(busiest)
        }
        Schedule::ZeroBubble2p | Schedule::ZeroBubbleV => 0.05 * others,
        Schedule::DualPipe => {
            let side_by_side = busiest;
            (hops - 1.0).max(0.0) / 2.0 * (side_by_side + slowest.backward - 3.0 * slowest.weight).max(0.0)
        }
    };
    let messages = 2.0 * hop * (m * chunks + hops);
    let held = memory::parameters(shape, layout);
    let dp = exposed_dp(held, layout, site, slowest.backward);
    let optimizer = optimizer(held, layout, site);
    let nodes = (layout.devices() as f64 / site.per_node as f64).max(1.0);
    let fixed = knobs.step * 1e-3;
    let straggle = 1.0 + knobs.straggle * nodes.log2();
    let step_time = (m * busiest + bubble + messages + dp + optimizer) * straggle + fixed;
    Estimate {
        step_time,
        compute: m * busiest,
        recompute: m * slowest.recomputed,
        layer_traffic: m * slowest.traffic,
        dp,
        pipeline: bubble + messages,
        optimizer,
    }
}

/// What a stage has of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageLayers {
    /// Its place.
    pub index: usize,
    /// Layers.
    pub layers: f64,
    /// Of these, layers with experts.
    pub with_experts: f64,
    /// Whether it has the table of tokens.
    pub first: bool,
    /// Whether it has the head.
    pub last: bool,
}

/// Every stage's layers. Of several chunks a stage each has its part of the layers with experts.
pub fn stages_of(shape: &Shape, layout: &Layout) -> Vec<StageLayers> {
    let even = layout.vpp > 1 || layout.pp == 1;
    let mut next = 0;
    let stage = |(index, layers): (usize, usize)| {
        let with = (next..next + layers).filter(|layer| shape.has_experts(*layer)).count();
        next += layers;
        let with_experts = if even { layers as f64 * shape.expert_share() } else { with as f64 };
        let (first, last) = (index == 0, index + 1 == layout.pp);
        StageLayers { index, layers: layers as f64, with_experts, first, last }
    };
    layers_of(shape.all_layers(), layout.pp).into_iter().enumerate().map(stage).collect()
}

fn stages(shape: &Shape, layout: &Layout, costs: &layer::Costs) -> Vec<Stage> {
    let stage = |held: StageLayers| {
        let mut stage = Stage::default();
        stage.add(&costs.dense, held.layers - held.with_experts);
        stage.add(&costs.expert, held.with_experts);
        if held.last {
            // A V brings the last chunk to the first rank; either way one rank has the head.
            stage.add(&costs.head, 1.0);
        }
        if layout.schedule == Schedule::DualPipe {
            let (compute, traffic) = (stage.forward + stage.backward - stage.traffic, stage.traffic);
            let shown = (traffic - compute).max(0.0);
            let left = (compute + shown) / (compute + traffic);
            (stage.forward, stage.backward, stage.traffic) = (stage.forward * left, stage.backward * left, shown);
        }
        stage
    };
    stages_of(shape, layout).into_iter().map(stage).collect()
}

/// Traffic of gradients and weights that no compute hides. ZeRO-3's is hidden layer by layer in [`layer`].
fn exposed_dp(held: memory::Held, layout: &Layout, site: &Site, backward: f64) -> f64 {
    let ranks = layout.dp * layout.cp;
    let stride = layout.tp;
    let edp = (ranks * layout.tp / (layout.ep * layout.etp)).max(1);
    let time = |parameters: f64, stride: usize, ranks: usize| {
        let reduced = parameters * layout.gradient_bytes(site.stack) * layout.trained;
        let gathered = parameters * 2.0 * layout.trained;
        match layout.zero {
            0 => site.collective(Collective::AllReduce, reduced, stride, ranks),
            3 if layout.shard >= ranks => 0.0,
            // Replicas of sharded groups still sum their shards.
            3 => {
                let share = layout.shard as f64;
                site.collective(Collective::AllReduce, reduced / share, stride * layout.shard, ranks / layout.shard)
            }
            _ => {
                site.collective(Collective::ReduceScatter, reduced, stride, ranks)
                    + site.collective(Collective::AllGather, gathered, stride, ranks)
            }
        }
    };
    let all = time(held.dense, stride, ranks) + time(held.expert, layout.ep * layout.etp, edp);
    let shown = site.knobs.dp.min(1.0) * all;
    let excess = site.knobs.dp.max(1.0) - 1.0;
    shown + excess * all + (all - shown - backward).max(0.0)
}

/// One pass over gradients, master weights and both moments of what this rank updates.
fn optimizer(held: memory::Held, layout: &Layout, site: &Site) -> f64 {
    let ranks = (layout.dp * layout.cp) as f64;
    let edp = (ranks * layout.tp as f64 / (layout.ep * layout.etp) as f64).max(1.0);
    let (dense, expert) = match layout.zero {
        0 => (held.dense, held.expert),
        3 => (held.dense / layout.shard as f64, held.expert / edp.min(layout.shard as f64)),
        _ => (held.dense / ranks, held.expert / edp),
    };
    let updated = (dense + expert) * layout.trained;
    // Read gradient, master weight and moments; write the last three and the weight; and the gradients' norm and clearing.
    let bytes = updated * (2.0 * layout.state_bytes + 6.0) + (held.dense + held.expert) * layout.trained * 4.0;
    site.knobs.optimizer * site.stream(bytes)
}

#[cfg(test)]
mod tests;
