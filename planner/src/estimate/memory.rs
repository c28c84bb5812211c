//! Bytes of a plan on the rank that needs most.
//!
//! In: [`Shape`], [`Layout`], [`Site`]. Out: [`Memory`] by kind.
//!
//! Activations count what a layer's ops keep for backward, as in Korthikanti et al. 2022, §4: for GPT they give its 34·s·b·h
//! + 5·a·s²·b. States: Rajbhandari et al. 2020, §5.
//!
//! Invariant: bytes as an allocator counts them; context and fragments are the caller's, by how a run was measured.

use meshwright_hardware::profile::AttentionKernel;

use super::{Layout, Recompute, Schedule, Site, layers_of};
use crate::shape::Shape;

/// Bytes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Weights as the forward pass reads them.
    pub weights: f64,
    /// Gradients kept between microbatches.
    pub gradients: f64,
    /// Master weights and moments.
    pub optimizer: f64,
    /// Kept for backward, at the most.
    pub activations: f64,
    /// Logits, gathered layers, workspaces.
    pub working: f64,
}

impl Memory {
    /// What does not change in a step.
    pub fn states(&self) -> f64 {
        self.weights + self.gradients + self.optimizer
    }

    /// All.
    pub fn total(&self) -> f64 {
        self.states() + self.activations + self.working
    }
}

/// Parameters on a rank before ZeRO: routed experts', and the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// All but routed experts.
    pub dense: f64,
    /// Routed experts.
    pub expert: f64,
}

/// Parameters of the fullest stage's ranks.
pub fn parameters(shape: &Shape, layout: &Layout) -> Held {
    let all = |stage| held(shape, layout, stage);
    let total = |h: &Held| h.dense + h.expert;
    let stages = (0..layout.pp).map(all);
    stages.max_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or_default()
}

/// Parameters of one stage's ranks.
fn held(shape: &Shape, layout: &Layout, stage: usize) -> Held {
    let tp = layout.tp as f64;
    let all = shape.all_layers();
    let layers = layers_of(all, layout.pp)[stage] as f64;
    let routed = shape
        .experts
        .as_ref()
        .map_or(0.0, |e| e.count as f64 * shape.ffn_parameters(e.ffn as f64) * shape.expert_share());
    let mean = shape.layer_parameters() / all as f64 - routed;
    let table = shape.table_parameters() / tp;
    let (first, last) = (stage == 0, stage + 1 == layout.pp);
    let mut dense = layers * mean / tp;
    if first {
        dense += table;
    }
    if last && (layout.pp > 1 || !shape.tied) {
        dense += table;
    }
    Held { dense, expert: layers * routed / (layout.ep * layout.etp) as f64 }
}

/// The peak: of all stages, or of the last alone.
pub fn peak(shape: &Shape, layout: &Layout, site: &Site, of_all: bool) -> Memory {
    let first = if of_all { 0 } else { layout.pp - 1 };
    let stages = (first..layout.pp).map(|stage| of_stage(shape, layout, site, stage));
    stages.max_by(|a, b| a.total().total_cmp(&b.total())).unwrap_or_default()
}

fn of_stage(shape: &Shape, layout: &Layout, site: &Site, stage: usize) -> Memory {
    let held = held(shape, layout, stage);
    let ranks = (layout.dp * layout.cp) as f64;
    let edp = (ranks * layout.tp as f64 / (layout.ep * layout.etp) as f64).max(1.0);
    let shard = if layout.zero == 0 { 1.0 } else { (layout.shard as f64).min(ranks) };
    let split = |from: u8| {
        if layout.zero >= from { held.dense / shard + held.expert / edp.min(shard) } else { held.dense + held.expert }
    };
    let all = shape.all_layers();
    let layers = layers_of(all, layout.pp)[stage] as f64;
    let knobs = site.knobs;
    let saved = saved_by_layer(shape, layout, site);
    let kept = 1.0 - layout.offload;
    let tokens = (layout.micro * layout.seq) as f64 / layout.cp as f64;
    let tp = layout.tp as f64;
    let mut working = knobs.reserve * 1e9;
    if stage + 1 == layout.pp {
        working += knobs.logits * 4.0 * tokens * shape.vocab as f64 / tp;
    }
    if layout.zero == 3 {
        let layer = shape.layer_parameters() / all as f64 / tp;
        working += 2.0 * layer.min(held.dense) * site.stack.gather_bytes;
    }
    if let Recompute::Full(share) = layout.recompute {
        // One layer at a time is whole again.
        let whole = Layout { recompute: Recompute::None, ..layout.clone() };
        working += share.ceil() * saved_by_layer(shape, &whole, site);
    }
    Memory {
        weights: split(3) * (2.0 * layout.trained + layout.frozen_bytes * (1.0 - layout.trained)),
        gradients: split(2) * layout.gradient_bytes(site.stack) * layout.trained,
        optimizer: split(1) * layout.state_bytes * layout.trained,
        activations: layers * saved * kept * in_flight(layout, stage),
        working,
    }
}

/// Microbatches whose activations a stage keeps at the most, in units of all its layers.
fn in_flight(layout: &Layout, stage: usize) -> f64 {
    let (p, v, m) = (layout.pp as f64, layout.vpp as f64, layout.microbatches());
    let s = stage as f64;
    match layout.schedule {
        Schedule::GPipe => m,
        Schedule::OneFOneB if layout.vpp > 1 && layout.pp > 1 => {
            ((2.0 * (p - s - 1.0) + (v - 1.0) * p + 1.0) / v).min(m)
        }
        Schedule::OneFOneB => (p - s).min(m),
        Schedule::ZeroBubble1p | Schedule::ZeroBubbleV => p.min(m),
        Schedule::ZeroBubble2p => (2.0 * p - 1.0).min(m),
    }
}

/// Bytes that a layer keeps of one microbatch.
pub fn saved_by_layer(shape: &Shape, layout: &Layout, site: &Site) -> f64 {
    let tp = layout.tp as f64;
    let tokens = (layout.micro * layout.seq) as f64 / layout.cp as f64;
    let split = if layout.sp { tp } else { 1.0 };
    let h = shape.hidden as f64;
    let input = 2.0 * h / split;
    // Inputs of both norms and both matmuls behind them, and dropout's masks.
    let masks = if site.stack.dropout { 2.0 } else { 0.0 };
    let unsplit = (8.0 + masks) * h / split;
    let (wide, through) = (if shape.gated { 2.0 } else { 1.0 }, 1.0);
    let ffn = |width: f64| 2.0 * (wide + through) * width;
    let share = shape.expert_share();
    let dense = (1.0 - share) * ffn(shape.ffn as f64) / tp;
    let expert = shape.experts.as_ref().map_or(0.0, |e| {
        let routed = e.top_k as f64 * (4.0 * h + ffn(e.ffn as f64)) / tp;
        share * (routed + ffn(e.shared_ffn as f64) / tp)
    });
    let qkv = 2.0 * (shape.score_width() + 2.0 * shape.kv()) / tp;
    let out = 2.0 * shape.q() / tp;
    let heads = shape.heads as f64 / tp;
    let core = match site.stack.attention {
        // Ring attention has no unfused form to fall back on.
        _ if layout.cp > 1 => 4.0 * heads,
        AttentionKernel::Flash | AttentionKernel::Flash2 => (4.0 + 5.0 * site.knobs.scores * layout.seq as f64) * heads,
        AttentionKernel::Unfused => (2.0 + if site.stack.dropout { 3.0 } else { 0.0 }) * heads * layout.seq as f64,
    };
    let whole = unsplit + qkv + out + dense + expert;
    let bytes = match layout.recompute {
        Recompute::None => whole + core,
        Recompute::Selective => whole,
        Recompute::Full(share) => share * input + (1.0 - share) * (whole + core),
        Recompute::Matmuls => input + qkv + out + (dense + expert) * wide / (wide + through),
    };
    let fixed = matches!(layout.recompute, Recompute::Full(share) if share >= 1.0);
    tokens * bytes * if fixed { 1.0 } else { site.knobs.saved }
}
