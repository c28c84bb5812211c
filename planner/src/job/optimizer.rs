//! The optimizer of a job.
//!
//! In: a job's `[optimizer]`. Out: [`Optimizer`].
//!
//! Invariant: names alone; what each keeps and does stands in [`crate::lower`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Known optimizers, with the bytes of state that each keeps a parameter beside fp32 weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    /// Two moments: 8 (Loshchilov & Hutter 2019).
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Two moments of a byte, with scales: 2.03 (Dettmers et al. 2022).
    #[serde(rename = "adamw-8bit")]
    AdamW8bit,
    /// Rows' and columns' mean squares: next to none (Shazeer & Stern 2018).
    Adafactor,
    /// A momentum: 4 (Chen et al. 2023).
    Lion,
    /// A momentum: 4; of tables two moments (Jordan et al. 2024).
    Muon,
    /// None.
    Sgd,
    /// A momentum: 4.
    SgdMomentum,
}

impl OptimizerName {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            OptimizerName::AdamW => "adamw",
            OptimizerName::AdamW8bit => "adamw-8bit",
            OptimizerName::Adafactor => "adafactor",
            OptimizerName::Lion => "lion",
            OptimizerName::Muon => "muon",
            OptimizerName::Sgd => "sgd",
            OptimizerName::SgdMomentum => "sgd-momentum",
        }
    }

    /// Whole bytes of state a parameter where states are of fp32, without scales, factors and tables.
    pub fn bytes(self) -> u64 {
        match self {
            OptimizerName::AdamW => 8,
            OptimizerName::AdamW8bit => 2,
            OptimizerName::Adafactor | OptimizerName::Sgd => 0,
            OptimizerName::Lion | OptimizerName::Muon | OptimizerName::SgdMomentum => 4,
        }
    }

    fn is_usual(&self) -> bool {
        *self == OptimizerName::AdamW
    }
}

/// An optimizer and its schedule: linear warm-up, then a cosine from `lr` to `min_lr` at the last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Which.
    #[serde(skip_serializing_if = "OptimizerName::is_usual")]
    pub name: OptimizerName,
    /// Whether its states and fp32 weights are in the host's memory and the host updates them (ZeRO-Offload, Ren et al. 2021).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub offload: bool,
    /// Learning rate at its peak.
    pub lr: f32,
    /// Learning rate at the end.
    pub min_lr: f32,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, of matrices alone.
    pub weight_decay: f32,
    /// Global norm to which gradients are clipped; 0 for none.
    pub clip: f32,
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer {
            name: OptimizerName::AdamW,
            offload: false,
            lr: 3e-4,
            min_lr: 3e-5,
            warmup_steps: 100,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}
