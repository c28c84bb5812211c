//! How a program is trained: length, learning rate, optimizer, batch and checkpoints.
//!
//! In: the job's decisions. Out: what a step is told.
//!
//! Invariant: a step's settings depend on its number and the scaler's state alone, so a resumed run goes on as if it had never stopped.

use std::path::PathBuf;

use meshwright_hardware::mesh::Mesh;
use serde::Serialize;

use super::LossScaling;
use crate::device::{Backend, StepArgs};
use crate::error::ExecutorError;
use crate::kernels::AdamWSettings;

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Steps of the whole run, resumed ones included.
    pub steps: usize,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Learning rate at the end of the warm-up.
    pub lr_peak: f64,
    /// Learning rate at the end of the run.
    pub lr_min: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of AdamW's first moment.
    pub beta1: f64,
    /// Decay of AdamW's second moment.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub eps: f64,
    /// Weight decay per unit of learning rate.
    pub weight_decay: f64,
    /// The gradient's greatest norm; zero for no clipping.
    pub clip: f64,
    /// How gradients are scaled where the program has elements of fp16.
    pub loss_scaling: LossScaling,
    /// Sequences a rank runs at once.
    pub microbatch_size: usize,
    /// Microbatches a data-parallel rank runs a step.
    pub num_microbatches: usize,
    /// The same for each replica, where they are not alike; empty where they are.
    pub shares: Vec<usize>,
    /// Tokens a sequence.
    pub seq: usize,
    /// Sequences a step, on all ranks.
    pub global_batch: usize,
    /// What every rank runs on.
    pub device: Backend,
    /// Threads of each rank on the CPU.
    pub threads_per_rank: usize,
    /// Whether steps are looked into, instruction by instruction; without, their traces are empty.
    pub traced: bool,
    /// Where to save and how often; `None` saves nothing.
    pub checkpoints: Option<CheckpointConfig>,
    /// Which text samples are of, where it is text: checkpoints say it.
    pub text: Option<TextId>,
}

/// Tells texts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TextId {
    /// CRC-32 (IEEE 802.3) of all of it.
    pub crc32: u32,
    /// Whether somebody named it, so that a run must not go on with another; else it was found on the machine, which changes.
    pub named: bool,
}

/// Where checkpoints go.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    /// Their folder.
    pub dir: PathBuf,
    /// Steps from one to the next, and the last step is saved too; 0 saves nothing, and only resumes.
    pub every: usize,
    /// How many to keep.
    pub keep: usize,
}

impl TrainConfig {
    /// Checks that the batch is what the ranks of `mesh` run, and that the optimizer's settings can train.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] naming the figures.
    pub fn check(&self, mesh: &Mesh) -> Result<(), ExecutorError> {
        let (all, size) = (self.microbatches_before(mesh.dp), self.microbatch_size);
        if all * size != self.global_batch || !(self.shares.is_empty() || self.shares.len() == mesh.dp) {
            return Err(ExecutorError::bad_input(
                "batch",
                format!("global_batch = {}", self.global_batch),
                format!("the {} replicas run {all} microbatches of microbatch_size = {size} sequences", mesh.dp),
                "make them equal, with one of `shares` a replica, or none",
            ));
        }
        match &self.checkpoints {
            Some(to) if to.keep == 0 => Err(ExecutorError::bad_input(
                "checkpoints",
                "keep = 0",
                "nothing would be kept",
                "give a number above zero, or no checkpoints",
            )),
            _ => self.check_optimizer(),
        }
    }

    /// Ranges outside of which an update is not a number, or goes uphill (Loshchilov & Hutter 2019, algorithm 2).
    fn check_optimizer(&self) -> Result<(), ExecutorError> {
        let finite = |x: f64| (x as f32).is_finite();
        let (positive, decay) = (|x: f64| finite(x) && x >= 0.0, |x: f64| (0.0..1.0).contains(&x));
        let settings = [
            ("lr", self.lr_peak, positive(self.lr_peak), "a number from 0 on"),
            ("min_lr", self.lr_min, positive(self.lr_min), "a number from 0 on"),
            ("beta1", self.beta1, decay(self.beta1), "from 0 to below 1"),
            ("beta2", self.beta2, decay(self.beta2), "from 0 to below 1"),
            // A weight that never had a gradient has moments of 0: without `eps` its update is 0 / 0.
            ("eps", self.eps, finite(self.eps) && self.eps as f32 > 0.0, "above 0, as 1e-8"),
            ("weight_decay", self.weight_decay, positive(self.weight_decay), "a number from 0 on"),
            ("clip", self.clip, positive(self.clip), "a number from 0 on; 0 for no clipping"),
        ];
        match settings.iter().find(|(_, _, sound, _)| !sound) {
            None => Ok(()),
            Some((key, value, _, range)) => Err(ExecutorError::bad_input(
                "optimizer",
                format!("{key} = {value}"),
                "training would end in what is no number",
                format!("it must be {range}"),
            )),
        }
    }

    /// Microbatches of a step that the replicas before replica `dp` run.
    pub(super) fn microbatches_before(&self, dp: usize) -> usize {
        if self.shares.is_empty() { dp * self.num_microbatches } else { self.shares.iter().take(dp).sum() }
    }

    /// The learning rate of step `step` (from 0): linear warm-up, then a cosine down to `lr_min` (Loshchilov & Hutter
    /// 2017, eq. 5, without restarts).
    pub fn lr(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.lr_peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decaying = self.steps.saturating_sub(self.warmup_steps).max(1);
        let done = (step - self.warmup_steps) as f64 / decaying as f64;
        self.lr_min + 0.5 * (self.lr_peak - self.lr_min) * (1.0 + (std::f64::consts::PI * done).cos())
    }

    /// What step `step` (from 0) is told, if `skipped` of those before it updated nothing: moments are corrected by the number
    /// of updates.
    pub fn step_args(&self, step: usize, skipped: usize, loss_scale: f32) -> StepArgs {
        let updates = (step + 1).saturating_sub(skipped) as f64;
        let correction = |beta: f64| (1.0 - beta.powf(updates)) as f32;
        let adamw = AdamWSettings {
            lr: self.lr(step) as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            bias1: correction(self.beta1),
            bias2: correction(self.beta2),
            grad_scale: 1.0,
        };
        StepArgs { adamw, clip: self.clip as f32, loss_scale }
    }
}
