//! What a training software stack does with a machine: which kernels it has, what overlaps, what it keeps in memory.
//!
//! In: `profiles/stacks/*.toml`. Out: [`Stack`].
//!
//! Invariant: one profile a framework generation, none a run; every knob has a name, a meaning and bounds, and the file says
//! on which measured runs its knobs were fitted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Allocator, Band, LossKernel, Routing, TokenDispatch};
use crate::elem::Elem;
use crate::hash::fnv1a;
use crate::input::Fault;
use crate::units::Precision;

/// A framework generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Name on the command line and of the file.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Stacks that share code: figures that the file leaves out are those of its family (`profiles/families.toml`), else those of all
    /// stacks.
    pub family: String,
    /// Words in a run's description of its framework that mean this stack; the longest found wins.
    pub frameworks: Vec<String>,
    /// Words that must all stand in the model's name too, where a framework's tests say there which kernels they ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// First and last year, where the words alone are not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub years: Option<[u16; 2]>,
    /// How attention runs.
    pub attention: AttentionKernel,
    /// Whether layers have dropout, whose masks are kept for backward.
    pub dropout: bool,
    /// How the loss is made of logits.
    #[serde(default, skip_serializing_if = "is_fused")]
    pub loss: LossKernel,
    /// How weights' gradients are kept between microbatches.
    pub gradients: GradientSums,
    /// Elements of each of two buffers in which an optimizer that shards states flattens gradients of 16 bits and gathered weights
    /// (DeepSpeed's `reduce_bucket_size` and `allgather_bucket_size`); 0 where it has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flat: usize,
    /// ZeRO stage of runs that state none.
    pub zero: u8,
    /// Whether runs with tensor parallelism that do not say so have sequence parallelism.
    pub sequence_parallel: bool,
    /// Whether sharded weights exist only as the optimizer's masters, cast as they are gathered (PyTorch FSDP).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub casts: bool,
    /// Whether weights, gradients and moments are all kept in 16 bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pure: bool,
    /// Whether layers that multiply in eight bits or fewer keep the inputs of their linear layers in eight (Transformer Engine).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_narrow: bool,
    /// Whether a gate's activation is a kernel of its own, whose result is kept beside what it is multiplied with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_gate: bool,
    /// Whether what sequence parallelism gathers for a linear layer is kept for its backward, not gathered again (Megatron-LM gathers
    /// again, Korthikanti et al. 2022, §4.2.2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_gathered: bool,
    /// Whether norms run op by op, each op a pass over memory of its own, rather than as one kernel; what their gains multiply is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eager_norms: bool,
    /// How tokens are brought to experts.
    #[serde(default, skip_serializing_if = "is_per_expert")]
    pub dispatch: TokenDispatch,
    /// Whether layers that multiply in eight bits send tokens to experts in eight; what comes back stays in 16 (DeepSeek-AI 2024,
    /// §3.3.3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dispatches_narrow: bool,
    /// Whether its runs are functional tests: of toy models, whose steps are those of hosts, so that they teach no other stack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub functional_tests: bool,
    /// What knobs were fitted on.
    pub source: String,
    /// Accelerators on which plans are priced with this stack unless another is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_for: Vec<String>,
    /// What it takes of a device's memory beside a program's buffers.
    #[serde(default)]
    pub memory: Allocator,
    /// What is fitted of prices.
    #[serde(default)]
    pub overheads: Overheads,
    /// How far predictions of these runs are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<FitErrors>,
    /// The stack that ships of which this is a user's own, by the user's runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub based_on: Option<String>,
    /// Where eight in ten of these runs' steps lie, as shares of predicted ones: of a user's own stack, instead of what all runs show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_band: Option<Band>,
    /// To which experts the tokens of the job go that it runs, if it has some.
    #[serde(skip)]
    pub routing: Option<Routing>,
    /// Measured runs on which `overheads` stand, by accelerator and format.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, BTreeMap<Precision, usize>>,
}

fn is_per_expert(dispatch: &TokenDispatch) -> bool {
    *dispatch == TokenDispatch::PerExpert
}

fn is_fused(loss: &LossKernel) -> bool {
    *loss == LossKernel::default()
}

fn is_zero(elems: &usize) -> bool {
    *elems == 0
}

impl Stack {
    /// Name of the stack that adds nothing to a machine, and hides nothing.
    pub const IDEAL: &str = "ideal";
    /// Name of the executor as a stack.
    pub const EXECUTOR: &str = "meshwright";
    /// Name of the stack with what all stacks have in common, for accelerators on which none was measured.
    pub const TYPICAL: &str = "typical";
    /// Name of the same before attention was tiled (Dao et al. 2022).
    pub const TYPICAL_2021: &str = "typical-2021";

    /// What serde cannot see: that knobs lie within their bounds, and memory is such as libraries take.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let mut overheads = self.overheads.clone();
        for (index, knob) in Overheads::ALL.iter().enumerate() {
            let value = *overheads.at(index);
            if !(knob.low..=knob.high).contains(&value) {
                let problem = format!("it must be {} to {}", knob.low, knob.high);
                return Err(Fault::new(&format!("overheads.{}", knob.name), value, problem));
            }
        }
        if self.zero > 3 {
            return Err(Fault::new("zero", self.zero, "ZeRO has the stages 0 to 3"));
        }
        if let Some(Band { low, high, .. }) = self.step_band
            && !(low > 0.0 && low <= 1.0 && (1.0..=10.0).contains(&high))
        {
            let problem = "a measured step is 0 to 1 times the predicted one at the low end, 1 to 10 at the high one";
            return Err(Fault::new("step_band", format!("{low} to {high}"), problem));
        }
        self.memory.check().map_err(|fault| fault.within("memory"))
    }

    /// Whether it adds nothing to a machine.
    pub fn is_ideal(&self) -> bool {
        self.name == Stack::IDEAL
    }

    /// A short sum over all of it (FNV-1a, 64 bits, hexadecimal): what a figure was predicted with.
    pub fn hash(&self) -> String {
        let text = toml::to_string(self).expect("a stack is tables of strings and numbers");
        format!("{:016x}", fnv1a(&text))
    }

    /// The same as it runs a job: its layers launched as CUDA graphs, or kernel by kernel; with the dropout that its recipes have, or
    /// without; its tokens sent to these experts.
    pub fn running(mut self, graphs: bool, no_dropout: bool, routing: Option<Routing>) -> Stack {
        self.dropout &= !no_dropout;
        self.routing = routing;
        if graphs {
            self.overheads.step *= AHEAD;
            self.overheads.host *= GRAPHS;
            self.overheads.host_experts *= GRAPHS;
        }
        self
    }

    /// The stack that ships which this one is, or is based on.
    pub fn shipped(&self) -> &str {
        self.based_on.as_deref().unwrap_or(&self.name)
    }

    /// Measured runs on which its figures stand.
    pub fn runs(&self) -> usize {
        self.measured.values().flat_map(BTreeMap::values).sum()
    }

    /// The same on an accelerator.
    pub fn runs_on(&self, device: &str) -> usize {
        self.measured.get(device).map_or(0, |formats| formats.values().sum())
    }

    /// The same on an accelerator in a format.
    pub fn runs_in(&self, device: &str, precision: Precision) -> usize {
        self.measured.get(device).and_then(|formats| formats.get(&precision)).copied().unwrap_or(0)
    }
}

/// What launching whole graphs leaves of the time in which a host issues kernels: about a microsecond each.
const GRAPHS: f64 = 0.03;

/// What shows of a host's own work between steps where graphs let it run ahead of its device; assumption: it waits for the
/// gradient's norm alone.
const AHEAD: f64 = 0.3;

/// Errors of predicted steps, |predicted / measured − 1|, in per cent: median and 90th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FitErrors {
    /// Of the runs that were fitted.
    pub fitted: [f64; 2],
    /// Of the same by fits without their part of the rows.
    pub held_out: [f64; 2],
}

/// How attention runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionKernel {
    /// Scores in memory, masked, normalised and dropped by kernels of their own.
    Unfused,
    /// Tiled, never in memory, in instructions of Ampere (Dao et al. 2022; Dao 2023).
    Flash2,
    /// Tiled, in the device's own instructions (Shah et al. 2024; cuDNN; XLA's and Neuron's kernels).
    Flash,
}

/// How weights' gradients are kept between microbatches, where weights are of 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GradientSums {
    /// In fp32.
    #[default]
    Full,
    /// In fp32; under the loss scale of fp16 in that (Micikevicius et al. 2018, §3.2; Megatron-LM).
    FullButFp16,
    /// The same, and in bf16 backward makes them in buffers of 16 bits that are then added to the sums (DeepSpeed's bf16 optimizer).
    FullBesideNarrow,
    /// In the format of weights.
    Narrow,
}

impl GradientSums {
    /// The format of the sums, where weights are of a format.
    pub fn elem(self, weights: Elem) -> Elem {
        match (self, weights) {
            (GradientSums::Full, _) => Elem::F32,
            (GradientSums::FullButFp16 | GradientSums::FullBesideNarrow, Elem::Bf16) => Elem::F32,
            (GradientSums::FullButFp16 | GradientSums::FullBesideNarrow | GradientSums::Narrow, other) => other,
        }
    }

    /// The format of what stands beside the sums, if anything does.
    pub fn beside(self, weights: Elem) -> Option<Elem> {
        (self == GradientSums::FullBesideNarrow && weights == Elem::Bf16).then_some(weights)
    }
}

/// A knob's name, bounds and spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knob {
    /// Name in files.
    pub name: &'static str,
    /// What it is, with its unit.
    pub about: &'static str,
    /// Least value.
    pub low: f64,
    /// Greatest value.
    pub high: f64,
    /// By how much it usually differs between stacks of a family: the standard deviation of its logarithm.
    pub spread: f64,
}

impl Knob {
    /// Distance of a value to a prior by the logarithm z of their ratio in units of the spread, ln(1 + z²): a prior with long tails
    /// (Cauchy's), for a framework that does one thing otherwise. A little is added so that zero is not endlessly far.
    pub fn distance(&self, value: f64, prior: f64) -> f64 {
        let little = 0.02 * (self.high - self.low);
        (((value + little) / (prior + little)).ln() / self.spread).powi(2).ln_1p()
    }
}

/// Declares the knobs once: names, usual values, bounds, spreads and docs; for files, for the fit, and for reading.
macro_rules! knobs {
    ($(#[$about:meta])* $group:ident: $($(#[doc = $doc:literal])* $name:ident = $usual:literal in $low:literal .. $high:literal by $spread:literal;)*) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $group { $($(#[doc = $doc])* pub $name: f64,)* }

        impl Default for $group {
            fn default() -> Self { $group { $($name: $usual,)* } }
        }

        impl $group {
            /// Every knob.
            pub const ALL: &[Knob] = &[$(Knob {
                name: stringify!($name),
                about: concat!($($doc),*),
                low: $low,
                high: $high,
                spread: $spread,
            },)*];

            /// A knob by its place in `ALL`.
            pub fn at(&mut self, index: usize) -> &mut f64 {
                let mut all = [$(&mut self.$name,)*].into_iter();
                all.nth(index).expect("an index of `ALL`")
            }
        }
    };
}

knobs! {
    /// What a stack's kernels, host and libraries make of a machine's prices: the fitted numbers of [`crate::price`]. No unit and
    /// no link is faster than its profile says; what collectives seem to gain, kernels hide.
    Overheads:
    /// Share of the device's matmul rate that layers reach.
    matmul = 0.83 in 0.3..1.0 by 0.1;
    /// The same in formats narrower than 16 bits: casts, scales, layers left in bf16.
    narrow = 0.75 in 0.2..1.0 by 0.15;
    /// The same of experts' grouped matmuls in 16 bits; in narrower formats they gain what dense layers gain.
    experts = 0.7 in 0.1..1.0 by 0.25;
    /// Rate of tiled attention, relative to the device's measured one.
    attention = 0.7 in 0.1..2.5 by 0.3;
    /// Bytes that kernels bound by memory move, relative to those of their op.
    stream = 1.2 in 0.2..6.0 by 0.3;
    /// Microseconds in which the host issues a kernel or a collective.
    host = 34.0 in 0.0..120.0 by 0.4;
    /// Microseconds in which it routes a layer's tokens to experts, forward or backward.
    host_experts = 500.0 in 0.0..4000.0 by 0.6;
    /// Time that shows of collectives of tensor and context parallelism, relative to what links allow: below 1 where kernels of
    /// the same pass hide the rest, as far as they last that long.
    tp = 1.0 in 0.0..4.0 by 0.4;
    /// Share of its own time that a collective takes from the kernels beside it.
    dp = 0.15 in 0.0..3.0 by 0.8;
    /// The same of the exchange of experts' tokens.
    ep = 0.8 in 0.0..4.0 by 0.5;
    /// Share of the bandwidth between nodes that collectives reach, of what the system's efficiency leaves.
    scale_out = 0.8 in 0.03..1.08 by 0.5;
    /// Milliseconds a step of the host's own before the first kernel: data, clipping, logging.
    step = 20.0 in 0.0..1500.0 by 1.0;
}
