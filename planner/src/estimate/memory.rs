//! Bytes of a plan on the rank that needs most.
//!
//! In: [`Shape`], [`Layout`], [`Site`]. Out: [`Memory`] by kind.
//!
//! Activations count what a layer's ops keep for backward, as in Korthikanti et al. 2022, §4: for GPT they give its 34·s·b·h
//! + 5·a·s²·b. States: Rajbhandari et al. 2020, §5.
//!
//! Invariant: bytes as an allocator counts them; fragments, the driver's context and what libraries allocate beside the
//! allocator (NCCL's buffers: the stack's reserve) are the caller's, by how a run was measured.

use meshwright_hardware::profile::AttentionKernel;

use super::{Layout, Recompute, Schedule, Site, StageLayers, stages_of};
use crate::job::Shape;

/// Bytes of workspaces within the allocator: cuBLAS takes 32 MiB on Hopper, 8 MiB before (NVIDIA, cuBLAS documentation, §2.1.7),
/// a stream each.
const WORKSPACE: f64 = 64.0 * 1_048_576.0;

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
    let per_layer = PerLayer::of(shape, layout);
    let total = |h: &Held| h.dense + h.expert;
    let all = stages_of(shape, layout).into_iter().map(|stage| per_layer.held(&stage));
    all.max_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or_default()
}

/// A rank's parameters of one layer by part, and of a table.
struct PerLayer {
    attention: f64,
    ffn: f64,
    beside: f64,
    routed: f64,
    table: f64,
    head: f64,
}

impl PerLayer {
    fn of(shape: &Shape, layout: &Layout) -> PerLayer {
        let (tp, all) = (layout.tp as f64, shape.all_layers() as f64);
        let with = shape.expert_layers() as f64;
        let routed = shape.experts.as_ref().map_or(0.0, |e| e.count as f64 * shape.expert_parameters(e));
        let (beside, ffn) = (shape.beside_experts(), shape.ffn_parameters(shape.ffn as f64));
        // An encoder-decoder's layers are taken as alike.
        let attention = (shape.layer_parameters() - with * (routed + beside) - (all - with) * ffn) / all;
        let table = shape.table_parameters() / tp;
        PerLayer {
            attention: attention / tp,
            ffn: ffn / tp,
            beside: beside / tp,
            routed: routed / (layout.ep * layout.etp) as f64,
            table,
            head: if layout.pp > 1 || !shape.tied { table } else { 0.0 },
        }
    }

    fn held(&self, stage: &StageLayers) -> Held {
        let mut dense = stage.layers * self.attention
            + (stage.layers - stage.with_experts) * self.ffn
            + stage.with_experts * self.beside;
        if stage.first {
            dense += self.table;
        }
        if stage.last {
            dense += self.head;
        }
        Held { dense, expert: stage.with_experts * self.routed }
    }
}

/// The peak: of all stages, or of the last alone.
pub fn peak(shape: &Shape, layout: &Layout, site: &Site, of_all: bool) -> Memory {
    let per_layer = PerLayer::of(shape, layout);
    let saved = saved_by_layers(shape, layout, site);
    // One layer at a time is whole again.
    let again = match layout.recompute {
        Recompute::Full(share) => {
            let whole = Layout { recompute: Recompute::None, ..layout.clone() };
            saved_by_layers(shape, &whole, site).map(|bytes| share.ceil() * bytes)
        }
        _ => [0.0; 2],
    };
    let one = |stage: StageLayers| of_stage(shape, layout, site, &stage, per_layer.held(&stage), saved, again);
    let stages = stages_of(shape, layout).into_iter().skip(if of_all { 0 } else { layout.pp - 1 }).map(one);
    stages.max_by(|a, b| a.total().total_cmp(&b.total())).unwrap_or_default()
}

fn of_stage(
    shape: &Shape,
    layout: &Layout,
    site: &Site,
    stage: &StageLayers,
    held: Held,
    saved: [f64; 2],
    again: [f64; 2],
) -> Memory {
    let ranks = (layout.dp * layout.cp) as f64;
    let edp = (ranks * layout.tp as f64 / (layout.ep * layout.etp) as f64).max(1.0);
    let shard = if layout.zero == 0 { 1.0 } else { (layout.shard as f64).min(ranks) };
    let split = |from: u8| {
        if layout.zero >= from { held.dense / shard + held.expert / edp.min(shard) } else { held.dense + held.expert }
    };
    let knobs = site.knobs;
    let kept = 1.0 - layout.offload;
    let tokens = (layout.micro * layout.seq) as f64 / layout.cp as f64;
    let tp = layout.tp as f64;
    let mut working = WORKSPACE;
    if stage.last {
        let tokens = shape.decoder.map_or(tokens, |(_, seq)| (layout.micro * seq) as f64);
        working += knobs.logits * 4.0 * tokens * shape.vocab as f64 / tp;
    }
    // Under a pipeline sharded weights stay gathered, and gradients whole, until the last microbatch.
    let gathered = layout.zero == 3 && layout.pp > 1;
    if gathered {
        working += (held.dense + held.expert) * site.stack.gather_bytes;
    } else if layout.zero == 3 {
        let layer = (held.dense + held.expert) / stage.layers.max(1.0);
        working += 2.0 * layer * site.stack.gather_bytes;
    }
    working += if stage.with_experts > 0.0 { again[1] } else { again[0] };
    let activations = (stage.layers - stage.with_experts) * saved[0] + stage.with_experts * saved[1];
    let gradients = if gathered { held.dense + held.expert } else { split(2) };
    let weights = if layout.zero == 3 && site.stack.casts { 0.0 } else { 2.0 * layout.trained };
    Memory {
        weights: split(3) * (weights + layout.frozen_bytes * (1.0 - layout.trained)),
        gradients: gradients * layout.gradient_bytes(site.stack) * layout.trained,
        optimizer: split(1) * layout.state_bytes * layout.trained,
        activations: activations * kept * in_flight(layout, stage.index),
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
        Schedule::DualPipe => (p + 1.0).min(2.0 * m),
    }
}

/// Bytes that a layer keeps of one microbatch: a dense one, and one with experts. An encoder-decoder's are the mean of both
/// stacks.
pub fn saved_by_layers(shape: &Shape, layout: &Layout, site: &Site) -> [f64; 2] {
    let ffn = |width: f64| Ffn { width: width / layout.tp as f64, routed: 0.0 };
    let encoder = (layout.micro * layout.seq) as f64 / layout.cp as f64;
    let dense = saved(shape, layout, site, encoder, layout.seq as f64, ffn(shape.ffn as f64));
    if let Some((layers, seq)) = shape.decoder {
        let tokens = (layout.micro * seq) as f64;
        let own = saved(shape, layout, site, tokens, seq as f64, ffn(shape.ffn as f64));
        // The look at the encoder keeps as much again as attention does, with scores against all of the encoder's tokens.
        let cross = saved(shape, layout, site, tokens, layout.seq as f64, ffn(0.0));
        let share = layers as f64 / shape.all_layers() as f64;
        return [dense * (1.0 - share) + (own + cross) * share, 0.0];
    }
    let expert = shape.experts.as_ref().map_or(0.0, |e| {
        let part = Ffn {
            width: (e.top_k * e.ffn + e.shared_ffn) as f64 / layout.tp as f64,
            routed: e.top_k as f64 / layout.tp as f64,
        };
        saved(shape, layout, site, encoder, layout.seq as f64, part)
    });
    [dense, expert]
}

/// A feed-forward part as memory sees it: its width on a rank, and copies of a token that are routed.
struct Ffn {
    width: f64,
    routed: f64,
}

/// Bytes that attention and a feed-forward part keep of `tokens` tokens that look at `seq` others.
fn saved(shape: &Shape, layout: &Layout, site: &Site, tokens: f64, seq: f64, ffn: Ffn) -> f64 {
    let tp = layout.tp as f64;
    let split = if layout.sp { tp } else { 1.0 };
    let h = shape.hidden as f64;
    let input = 2.0 * h / split;
    // Inputs of both norms and both matmuls behind them, and dropout's masks.
    let masks = if site.stack.dropout { 2.0 } else { 0.0 };
    let unsplit = (8.0 + masks) * h / split;
    let (wide, through) = (if shape.gated { 2.0 } else { 1.0 }, 1.0);
    let parts = 2.0 * (wide + through) * ffn.width + 4.0 * h * ffn.routed;
    let latent = shape.latent.as_ref().map_or(0.0, |l| 2.0 * 2.0 * (l.q_rank + l.kv_rank + l.rope) as f64 / split);
    let qkv = 2.0 * (shape.score_width() + 2.0 * shape.kv()) / tp + latent;
    let out = 2.0 * shape.q() / tp;
    let heads = shape.heads as f64 / tp;
    let core = match site.stack.attention {
        // Ring attention has no unfused form to fall back on.
        _ if layout.cp > 1 => 4.0 * heads,
        AttentionKernel::Flash | AttentionKernel::Flash2 => (4.0 + 5.0 * site.knobs.scores * seq) * heads,
        AttentionKernel::Unfused => (2.0 + if site.stack.dropout { 3.0 } else { 0.0 }) * heads * seq,
    };
    let whole = unsplit + qkv + out + parts;
    let bytes = match layout.recompute {
        Recompute::None => whole + core,
        Recompute::Selective => whole,
        Recompute::Full(share) => share * input + (1.0 - share) * (whole + core),
        Recompute::Matmuls => input + qkv + out + parts * wide / (wide + through),
    };
    let fixed = matches!(layout.recompute, Recompute::Full(share) if share >= 1.0);
    tokens * bytes * if fixed { 1.0 } else { site.knobs.saved }
}
