//! What a layer costs on one rank, for one microbatch.
//!
//! In: [`Shape`], [`Layout`], [`Site`]. Out: [`Costs`]: seconds of dense layers, expert layers and the head.
//!
//! Invariant: a pass is bound by its kernels or by the host that launches them, whichever is longer; traffic is added where
//! it cannot hide.

use meshwright_hardware::price::gemm;
use meshwright_hardware::profile::{AttentionKernel, DeviceKind};
use meshwright_hardware::program::Collective;
use meshwright_hardware::units::{FlopRate, Precision};

use super::{Layout, Recompute, Site};
use crate::job::Shape;
use crate::job::shape::Linear;

/// Bytes of an activation.
const WIDTH: f64 = 2.0;
/// Backward's memory-bound bytes for one of forward's: it reads what forward wrote beside the gradients.
const STREAM_BACKWARD: f64 = 1.6;
/// What kernels written for Ampere reach of a Hopper's or Blackwell's own rate (Shah et al. 2024, figure 5: FlashAttention-2
/// at 350 to 400 TFLOP/s forward where FlashAttention-3 reaches 650).
const AMPERE_KERNEL: f64 = 0.57;
/// Rate of matmuls whose rows do not start at multiples of 16 bytes, which the fast kernels need (NVIDIA, Matrix
/// Multiplication Background User's Guide, §3): BLOOM's trials with heads of 108 beside 144 and 216.
const MISALIGNED: f64 = 0.15;
/// The same where rows start at those but not at multiples of 128 bytes, 64 elements, at which loads are whole lines (§3, table
/// 2): BLOOM's trials of width 14400 beside 14336 and 13824.
const HALF_ALIGNED: f64 = 0.85;
/// What launching whole graphs leaves of host time.
const GRAPHS: f64 = 0.2;
/// Bytes a second to host memory, by PCIe 5 or a coherent link; the `offload` knob says what of it shows.
const HOST_LINK: f64 = 50e9;

/// Seconds of one layer, or of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pass {
    /// Forward, exposed traffic included.
    pub forward: f64,
    /// Backward with recomputation, exposed traffic included.
    pub backward: f64,
    /// Of backward, what only weights' gradients need.
    pub weight: f64,
    /// Of both, what recomputation takes.
    pub recomputed: f64,
    /// Of both, exposed traffic.
    pub traffic: f64,
}

/// Costs of a microbatch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Tokens a rank has of a microbatch, before TP.
    pub tokens: f64,
    /// A dense layer.
    pub dense: Pass,
    /// A layer with experts.
    pub expert: Pass,
    /// Logits and loss.
    pub head: Pass,
}

/// Prices of one rank's kernels.
struct Kernels<'a> {
    site: &'a Site<'a>,
    layout: &'a Layout,
    /// Of linear layers, and of what stays in 16 bits.
    peak: [f64; 2],
}

/// Work of a forward pass in seconds, by what recomputation may leave out.
#[derive(Clone, Copy, Default)]
struct Work {
    linears: f64,
    /// Weight gradients alone, and input gradients alone.
    linears_weight: f64,
    linears_input: f64,
    core: f64,
    core_backward: f64,
    streamed: f64,
    kernels: f64,
    /// Host time beside that of counted kernels.
    host: f64,
    traffic: f64,
    traffic_backward: f64,
    /// Parameters on this rank, before ZeRO.
    parameters: f64,
}

/// Seconds of a microbatch's layers and head.
pub fn costs(shape: &Shape, layout: &Layout, site: &Site) -> Costs {
    let peak = |precision| site.device.peak_in(precision).map_or(1.0, |peak| peak.0);
    let kernels = Kernels { site, layout, peak: [peak(layout.precision), peak(half(layout.precision))] };
    let tokens = (layout.micro * layout.seq) as f64 / layout.cp as f64;
    let attention = kernels.attention(shape, tokens);
    let mut dense = kernels.feed_forward(shape, tokens, shape.ffn as f64);
    dense.add(&attention, 1.0);
    if let Some((layers, seq)) = shape.decoder {
        // A decoder's layer has its own attention, one to the encoder, and fewer tokens; priced as the mean layer.
        let tokens = (layout.micro * seq) as f64;
        let mut decoder = kernels.feed_forward(shape, tokens, shape.ffn as f64);
        decoder.add(&kernels.attention(shape, tokens), 2.0);
        let share = layers as f64 / shape.all_layers() as f64;
        let encoder = std::mem::take(&mut dense);
        dense.add(&encoder, 1.0 - share);
        dense.add(&decoder, share);
    }
    let mut expert = Pass::default();
    if shape.experts.is_some() {
        let mut work = kernels.experts(shape, tokens);
        work.add(&attention, 1.0);
        expert = kernels.pass(shape, &work);
    }
    let head = kernels.head(shape, shape.decoder.map_or(tokens, |(_, seq)| (layout.micro * seq) as f64));
    Costs { tokens, dense: kernels.pass(shape, &dense), expert, head }
}

/// The 16-bit format that attention and the head keep where linear layers are narrower.
fn half(precision: Precision) -> Precision {
    match precision {
        Precision::Fp8 | Precision::Fp4 | Precision::Int8 => Precision::Bf16,
        wide => wide,
    }
}

impl Work {
    /// Adds `times` another's.
    fn add(&mut self, other: &Work, times: f64) {
        self.linears += times * other.linears;
        self.linears_weight += times * other.linears_weight;
        self.linears_input += times * other.linears_input;
        self.core += times * other.core;
        self.core_backward += times * other.core_backward;
        self.streamed += times * other.streamed;
        self.kernels += times * other.kernels;
        self.host += times * other.host;
        self.traffic += times * other.traffic;
        self.traffic_backward += times * other.traffic_backward;
        self.parameters += times * other.parameters;
    }
}

impl Kernels<'_> {
    /// A matmul, `batch` of them in one kernel: bound by units or by memory.
    fn matmul(&self, narrow: bool, rate: f64, batch: f64, m: f64, n: f64, k: f64) -> f64 {
        let precision = if narrow { self.layout.precision } else { half(self.layout.precision) };
        let peak = self.peak[usize::from(!narrow)];
        let units = gemm::on(self.site.device, FlopRate(peak), precision, batch, m, n, k).0;
        let bytes = batch * (m * k + k * n + m * n) * WIDTH;
        let whole_lines = [n, k].iter().all(|side| side % 64.0 == 0.0);
        let aligned = if whole_lines || self.site.device.kind != DeviceKind::Gpu { 1.0 } else { HALF_ALIGNED };
        (units / (rate * aligned * self.site.power)).max(self.site.stream(bytes))
    }

    /// The stack's share of the matmul rate.
    fn rate(&self) -> f64 {
        let narrow = half(self.layout.precision) != self.layout.precision;
        if narrow { self.site.knobs.narrow } else { self.site.knobs.matmul }
    }

    /// A linear layer's three matmuls on this rank.
    fn linear(&self, work: &mut Work, linear: &Linear, tp: f64, tokens: f64) {
        self.grouped(work, linear.on_rank(tp), self.rate(), 1.0, tokens);
    }

    /// The three matmuls of `batch` equal linear layers of these inputs and outputs, each of `tokens`.
    fn grouped(&self, work: &mut Work, (inputs, outputs): (f64, f64), rate: f64, batch: f64, tokens: f64) {
        work.linears += self.matmul(true, rate, batch, tokens, outputs, inputs);
        work.linears_input += self.matmul(true, rate, batch, tokens, inputs, outputs);
        work.linears_weight += self.matmul(true, rate, batch, outputs, inputs, tokens);
        work.parameters += batch * inputs * outputs;
    }

    /// Attention with its linear layers, norm and residual.
    fn attention(&self, shape: &Shape, tokens: f64) -> Work {
        let (layout, site) = (self.layout, self.site);
        let tp = layout.tp as f64;
        let mut work = Work::default();
        for linear in shape.attention_linears() {
            self.linear(&mut work, &linear, tp, tokens);
        }
        let seq = layout.span as f64;
        let spread = (shape.score_width() + shape.q()) / tp;
        let flops = 2.0 * tokens * seq * spread;
        let mut bytes = self.unsplit(shape, tokens, 4.0 + 6.0);
        bytes += 4.0 * tokens * (shape.q() + shape.kv()) / tp;
        match site.stack.attention {
            AttentionKernel::Flash | AttentionKernel::Flash2 => {
                let flops = flops * if shape.causal { 0.5 } else { 1.0 };
                let share = site.device.efficiency.attention.share(flops) * site.knobs.attention;
                let older = site.stack.attention == AttentionKernel::Flash2 && site.device.own_instructions;
                let share = share * if older { AMPERE_KERNEL } else { 1.0 };
                work.core = flops / (self.peak[1] * share);
                work.core_backward = work.core * site.knobs.attention_backward;
                work.kernels = 8.0;
            }
            AttentionKernel::Unfused => {
                let batch = (layout.micro * layout.seq) as f64 / seq * shape.heads as f64 / tp;
                let width = shape.head_dim as f64;
                let rate = site.knobs.matmul;
                let forward =
                    self.matmul(false, rate, batch, seq, seq, width) + self.matmul(false, rate, batch, seq, width, seq);
                let forward = forward / if shape.head_dim.is_multiple_of(8) { 1.0 } else { MISALIGNED };
                // Scores are scaled, masked and normalised in one pass, and dropped in another that keeps a mask.
                let passes = if site.stack.dropout { 2.0 + 2.5 } else { 2.0 };
                let scores = batch * seq * seq * WIDTH * passes * site.knobs.stream;
                work.core = forward + site.stream(scores);
                work.core_backward = 2.0 * forward + STREAM_BACKWARD * site.stream(scores);
                work.kernels = 14.0;
            }
        }
        work.streamed = site.stream(bytes) * site.knobs.stream;
        self.reduce(&mut work, shape, tokens);
        if layout.cp > 1 {
            let keys = 2.0 * shape.kv() / tp * WIDTH * tokens * layout.cp as f64;
            let gather = site.collective(Collective::AllGather, keys, layout.tp, layout.cp);
            work.traffic += site.knobs.cp * gather;
            work.traffic_backward += site.knobs.cp * 2.0 * gather;
        }
        work
    }

    /// Bytes of what TP does not split: `width` bytes a feature of the residual stream, by SP split after all.
    fn unsplit(&self, shape: &Shape, tokens: f64, width: f64) -> f64 {
        let split = if self.layout.sp { self.layout.tp as f64 } else { 1.0 };
        width * tokens * shape.hidden as f64 / split
    }

    /// TP's sum after a row-split layer, and its mirror in backward.
    fn reduce(&self, work: &mut Work, shape: &Shape, tokens: f64) {
        let bytes = tokens * shape.hidden as f64 * WIDTH;
        let share = if shape.parallel_block { 0.5 } else { 1.0 };
        let time = share * self.site.collective(Collective::AllReduce, bytes, 1, self.layout.tp);
        work.traffic += self.site.knobs.tp * time;
        work.traffic_backward += self.site.knobs.tp * time;
    }

    /// A dense feed-forward part with norm and residual.
    fn feed_forward(&self, shape: &Shape, tokens: f64, ffn: f64) -> Work {
        let tp = self.layout.tp as f64;
        let mut work = Work { kernels: 7.0, ..Work::default() };
        for linear in shape.ffn_linears(ffn) {
            self.linear(&mut work, &linear, tp, tokens);
        }
        let through = if shape.gated { 6.0 } else { 4.0 };
        let bytes = self.unsplit(shape, tokens, 4.0 + 6.0) + through * tokens * ffn / tp;
        work.streamed = self.site.stream(bytes) * self.site.knobs.stream;
        self.reduce(&mut work, shape, tokens);
        work
    }

    /// Routed and shared experts with norm, residual, permutation and exchange.
    fn experts(&self, shape: &Shape, tokens: f64) -> Work {
        let Some(e) = &shape.experts else { return Work::default() };
        let (layout, site) = (self.layout, self.site);
        let (ep, etp, tp) = (layout.ep as f64, layout.etp as f64, layout.tp as f64);
        let mut work = Work { kernels: 7.0, host: site.knobs.host_experts * 1e-6, ..Work::default() };
        let own = tokens * etp / tp;
        let routed = own * e.top_k as f64;
        let (each, local) = (routed * ep / e.count as f64, e.count as f64 / ep);
        let rate = site.knobs.experts * self.rate() / site.knobs.matmul;
        for linear in shape.ffn_linears(e.ffn as f64) {
            self.grouped(&mut work, linear.on_rank(etp), rate, local, each);
        }
        if e.shared_ffn > 0 {
            for linear in shape.ffn_linears(e.shared_ffn as f64) {
                self.linear(&mut work, &linear, tp, tokens);
            }
        }
        let through = if shape.gated { 6.0 } else { 4.0 };
        let moved = 4.0 * WIDTH * routed * shape.hidden as f64;
        let bytes = self.unsplit(shape, tokens, 4.0 + 6.0) + moved + through * routed * e.ffn as f64 / etp;
        work.streamed = site.stream(bytes) * site.knobs.stream;
        let sent = routed * shape.hidden as f64 * WIDTH;
        let stride = layout.etp;
        let exchange = 2.0 * site.collective(Collective::AllToAll, sent, stride, layout.ep);
        let gather = 2.0 * site.collective(Collective::AllGather, sent, 1, layout.etp);
        work.traffic += site.knobs.ep * exchange + site.knobs.tp * gather;
        work.traffic_backward += site.knobs.ep * exchange + site.knobs.tp * gather;
        work
    }

    /// Logits, loss and their gradients.
    fn head(&self, shape: &Shape, tokens: f64) -> Pass {
        let (site, tp) = (self.site, self.layout.tp as f64);
        // Tables are padded to whole tiles.
        let (vocab, hidden) = ((shape.vocab as f64 / tp / 128.0).ceil() * 128.0, shape.hidden as f64);
        let rate = site.knobs.matmul;
        let forward = self.matmul(false, rate, 1.0, tokens, vocab, hidden);
        let input = self.matmul(false, rate, 1.0, tokens, hidden, vocab);
        let weight = self.matmul(false, rate, 1.0, vocab, hidden, tokens);
        let loss = site.stream(tokens * vocab * 10.0) * site.knobs.stream;
        Pass { forward: forward + loss, backward: input + weight + loss, weight, ..Pass::default() }
    }

    /// A layer's work as seconds of forward and backward.
    fn pass(&self, shape: &Shape, work: &Work) -> Pass {
        let (layout, site) = (self.layout, self.site);
        let again = match layout.recompute {
            Recompute::None => 0.0,
            Recompute::Selective => work.core,
            Recompute::Full(share) => share * (work.linears + work.core + work.streamed),
            Recompute::Matmuls => work.core + work.streamed,
        };
        let traffic_again = match layout.recompute {
            Recompute::Full(share) => share * work.traffic,
            _ => 0.0,
        };
        let launched = match (site.device.kind, layout.graphs) {
            (DeviceKind::Gpu, false) => 1.0,
            (DeviceKind::Gpu, true) => GRAPHS,
            // XLA's and Neuron's programs run without a host.
            _ => 0.0,
        };
        let host = launched * (work.kernels * site.knobs.host * 1e-6 + work.host);
        // Adapters need no weights' gradients of what does not train.
        let weight = work.linears_weight * if layout.trained < 0.5 { 0.0 } else { 1.0 };
        let forward = hosted(work.linears + work.core + work.streamed, host);
        let kernels = work.linears_input + weight + work.core_backward + STREAM_BACKWARD * work.streamed + again;
        let again_host = if matches!(layout.recompute, Recompute::Full(_)) { 1.0 } else { 0.0 };
        let backward = hosted(kernels, host * (1.7 + again_host));
        let offload = if layout.offload > 0.0 {
            let [dense, expert] = super::memory::saved_by_layers(shape, layout, site);
            let bytes = layout.offload * if shape.experts.is_some() { expert } else { dense };
            site.knobs.offload * bytes / HOST_LINK
        } else {
            0.0
        };
        let (mut forward, mut backward) =
            (forward + work.traffic + offload, backward + work.traffic_backward + traffic_again + offload);
        if layout.zero == 3 {
            let bytes = work.parameters * site.stack.gather_bytes;
            let gather = site.collective(Collective::AllGather, bytes, layout.tp, layout.shard);
            let reduced = work.parameters * layout.gradient_bytes(site.stack) * layout.trained;
            let reduce = site.collective(Collective::ReduceScatter, reduced, layout.tp, layout.shard);
            forward = hidden(forward, gather, site.knobs.dp);
            backward = hidden(backward, gather + reduce, site.knobs.dp);
        }
        Pass {
            forward,
            backward,
            weight,
            recomputed: again,
            traffic: work.traffic + work.traffic_backward + traffic_again,
        }
    }
}

/// Kernels that a host launches ahead: the longer of both, and more than either where they are near, since a pass has
/// stretches of both kinds.
fn hosted(kernels: f64, host: f64) -> f64 {
    kernels.hypot(host)
}

/// Compute beside traffic: the longer, and `shown` of the shorter.
fn hidden(compute: f64, traffic: f64, shown: f64) -> f64 {
    compute.max(traffic) + shown * compute.min(traffic)
}
