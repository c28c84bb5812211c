//! A training job: the model, the batch, the optimizer, and what the user fixes and wants.
//!
//! In: strict TOML. Out: a checked [`Job`].
//!
//! Invariant: a `Job` that was read satisfies its `check`; it names no hardware.

use meshwright_hardware::profile::LossKernel;
use meshwright_hardware::units::{Precision, Tokens};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, PlanError};

mod capacity;
mod check;
mod fix;
mod goal;
mod keys;
mod model;
mod optimizer;
mod recompute;
pub mod shape;
mod software;
mod tuning;
mod window;

pub use capacity::DROPLESS;
pub use fix::Fix;
pub use goal::{Goal, Objective, USABLE_MEMORY};
pub use keys::{JobKey, job_keys};
pub use model::{Architecture, ExpertGroups, Experts, Family, Latent, LayerKind, Model, ModelHalf};
pub use optimizer::{Optimizer, OptimizerName};
pub use recompute::Recompute;
pub use shape::Shape;
pub use software::Software;
pub use tuning::{AdapterTarget, Base, Method, Tuning};
pub use window::AttentionWindow;

use shape::USUAL_TARGET;

/// A training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Tokens a sequence.
    pub seq: usize,
    /// Tokens of a sequence that an encoder-decoder writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_seq: Option<usize>,
    /// Tokens of a sample, of which several are packed into a sequence (Krell et al. 2021) and attend each to itself alone; by
    /// default a sequence is one sample. Of unlike samples it is the mean of a token's: `Σ length² / Σ length`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<usize>,
    /// Sequences a step.
    pub global_batch: usize,
    /// Format of matmuls.
    #[serde(default = "usual_precision")]
    #[schemars(schema_with = "keys::formats")]
    pub precision: Precision,
    /// Steps to train.
    #[serde(default = "usual_steps")]
    pub steps: usize,
    /// Of the weights and of the order of data.
    #[serde(default)]
    pub seed: u64,
    /// Name of the software stack whose prices its plans have; without it, the usual one of the devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Whether layers are launched as CUDA graphs, which leave the host little to issue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cuda_graphs: bool,
    /// Whether weights, gradients and moments are all of the format of activations, without fp32 masters: training in 16 bits alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pure: bool,
    /// Whether layers drop nothing, though recipes of the stack do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_dropout: bool,
    /// How the loss is made of logits; by default as the stack does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossKernel>,
    /// What that software makes of it; the executor's own way until [`Job::under`] says another.
    #[serde(skip)]
    pub software: Software,
    /// What to train.
    pub model: Model,
    /// How to train it.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How to fine-tune it; by default all of it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// Decisions that a search is not to change.
    #[serde(default, skip_serializing_if = "Fix::is_empty")]
    pub fix: Fix,
    /// What a plan for it is to be good at.
    #[serde(default, skip_serializing_if = "Goal::is_empty")]
    pub goal: Goal,
}

/// Tokens of a sequence that an encoder has to guess: 15 % (Devlin et al. 2019, §3.1).
pub fn masked(seq: usize) -> usize {
    ((seq as f64 * 0.15).round() as usize).max(1)
}

fn usual_precision() -> Precision {
    Precision::Bf16
}

fn usual_steps() -> usize {
    1000
}

/// Whether a file's text is a job's: it says how to train a model, which stands in a table of its own.
pub fn is_job(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("model"))
}

/// Whether a job file gives its steps, which have a default.
fn says_steps(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("steps"))
}

/// Whether a job file says how long to train: by steps or by tokens.
pub fn says_length(text: &str) -> bool {
    let tokens = |table: &toml::Table| table.get("goal").is_some_and(|goal| goal.get("tokens").is_some());
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("steps") || tokens(&table))
}

impl Job {
    /// A job of a model with so many tokens a sequence and sequences a step; all else is usual.
    pub fn of(model: Model, seq: usize, global_batch: usize) -> Job {
        Job {
            seq,
            target_seq: None,
            packed: None,
            global_batch,
            precision: usual_precision(),
            steps: usual_steps(),
            seed: 0,
            stack: None,
            cuda_graphs: false,
            pure: false,
            no_dropout: false,
            loss: None,
            software: Software::default(),
            model,
            optimizer: Optimizer::default(),
            tuning: None,
            fix: Fix::default(),
            goal: Goal::default(),
        }
    }

    /// Reads a job file; errors name file, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Job, PlanError> {
        let mut job: Job = toml::from_str(text).map_err(|error| PlanError::of_toml(file, text, &error))?;
        if let Some(tokens) = job.goal.tokens.filter(|_| says_steps(text)) {
            let problem = format!("`goal.tokens` is {tokens} already: give one of the two");
            return Err(PlanError::of_fault(file, text, Fault::new("steps", job.steps, problem)));
        }
        job.check().map_err(|fault| PlanError::of_fault(file, text, fault))?;
        job.settle();
        job.check().map_err(|fault| PlanError::of_fault(file, text, fault))?;
        Ok(job)
    }

    /// Makes `steps` as many as the goal's tokens take, if it names any.
    pub fn settle(&mut self) {
        if let Some(tokens) = self.goal.tokens {
            self.steps = (tokens.0 / self.tokens_per_step() as f64).ceil().max(1.0) as usize;
        }
    }

    /// Tokens of all steps.
    pub fn tokens(&self) -> Tokens {
        Tokens(self.tokens_per_step() as f64 * self.steps as f64)
    }

    /// Tokens a step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.global_batch * self.seq) as u64
    }

    /// Tokens that attend to each other: a sample's.
    pub fn sample(&self) -> usize {
        self.packed.unwrap_or(self.seq)
    }

    /// Tokens that some layer's attention stays within, if samples are longer.
    pub fn window(&self) -> Option<usize> {
        self.model.window().map(|window| window.tokens).filter(|tokens| *tokens < self.sample())
    }

    /// Tokens of a sequence that a decoder beside an encoder writes; 0 without one.
    pub fn target(&self) -> usize {
        let decoder = self.model.family.as_ref().and_then(|family| family.decoder_layers);
        decoder.map_or(0, |_| self.target_seq.unwrap_or(USUAL_TARGET))
    }

    /// Tokens of the longest sequence: as many positions are learned, by both halves of an encoder-decoder.
    pub fn positions(&self) -> usize {
        self.seq.max(self.target())
    }

    /// Tokens a step that count in the loss: all of a decoder's; of an encoder's, those that are masked (Devlin et al. 2019).
    pub fn scored_tokens_per_step(&self) -> u64 {
        if self.target() > 0 {
            (self.global_batch * self.target()) as u64
        } else if self.model.causal() {
            self.tokens_per_step()
        } else {
            (self.global_batch * masked(self.seq)) as u64
        }
    }

    /// Parameters that training changes.
    pub fn trained_parameters(&self) -> u64 {
        self.tuning
            .as_ref()
            .map_or(self.model.parameters(self.positions()), |tuning| tuning.adapters(&self.model)[0] as u64)
    }

    /// Passes of a product with a weight, each of 2 FLOPs a parameter and token: of a frozen one's there are forward and the gradient
    /// of its input.
    pub fn passes(&self) -> f64 {
        if self.tuning.is_some() { 2.0 } else { 3.0 }
    }

    /// FLOPs of a token's adapters, all three passes.
    fn adapter_flops(&self) -> f64 {
        6.0 * self.tuning.as_ref().map_or(0.0, |tuning| tuning.adapters(&self.model)[1])
    }

    /// FLOPs of a step by the convention of PaLM's appendix B (Chowdhery et al. 2022): 6 a matmul parameter and token, 4 a
    /// frozen one's, and 12 · layers · hidden · seq a token for attention without regard to its mask, seq being a sample's where several are
    /// packed, and no more than a window where a layer has one; recomputation never counts.
    pub fn model_flops_per_step(&self) -> f64 {
        let (m, each) = (&self.model, 2.0 * self.passes());
        if m.family.is_some() {
            let shape = Shape::from(m);
            let matmuls = shape.active_layer_parameters() + shape.table_parameters() + shape.further_parameters();
            if let Some((layers, _)) = shape.decoder {
                return self.two_stream_flops(&shape, layers);
            }
            let attention = 6.0
                * (shape.seen(self.sample() as f64) + (shape.mtp_layers * self.sample()) as f64)
                * (shape.score_width() + shape.q());
            return (each * matmuls + self.adapter_flops() + attention) * self.tokens_per_step() as f64;
        }
        let (h, kv) = (m.hidden as f64, (m.kv_heads * m.head_dim()) as f64);
        let mlp = match m.architecture {
            Architecture::Gpt2 => 2.0,
            Architecture::Llama => 3.0,
        };
        let layer = h * (h + 2.0 * kv) + h * h + mlp * h * m.ffn as f64;
        let matmuls = m.layers as f64 * layer + m.vocab as f64 * h;
        let attention = 12.0 * (m.layers * m.hidden * self.sample()) as f64;
        (each * matmuls + self.adapter_flops() + attention) * self.tokens_per_step() as f64
    }

    /// The same for an encoder-decoder: each half for its own tokens, keys and values of cross-attention for the encoder's.
    fn two_stream_flops(&self, shape: &Shape, decoder: usize) -> f64 {
        let (read, written) = (self.seq as f64, self.target() as f64);
        let (encoder, decoder) = (shape.layers as f64, decoder as f64);
        let of = |all: f64| all / (encoder + decoder);
        let passes = 2.0 * self.passes();
        let each = passes * of(shape.active_layer_parameters()) + of(self.adapter_flops());
        let table = passes * shape.table_parameters();
        let scores = shape.score_width() + shape.q();
        let attention = 6.0 * scores * (encoder * read * read + decoder * written * (written + read));
        let matmuls = each * (encoder * read + decoder * written) + table * written;
        (matmuls + attention) * self.global_batch as f64
    }
}
