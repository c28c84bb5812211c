//! Tensors that ops need again and again: tables, and the step's settings on the device.
//!
//! In: what ops make once. Out: the same tensors, as often as they are asked for.
//!
//! Invariant: what changes from step to step is written into the same tensors, so that graphs stay valid.

use std::collections::HashMap;

use meshwright_executor::device::StepArgs;
use tch::Tensor;

/// Tensors that ops need again and again.
#[derive(Default)]
pub struct TensorCache {
    /// By what they hold: places of tokens, angles, masks.
    pub tables: HashMap<String, Tensor>,
    /// The step's settings, with what they were made from.
    pub settings: Option<(StepArgs, Settings)>,
}

impl TensorCache {
    /// The step's settings, which are settled before an op runs.
    pub fn settings(&self) -> &Settings {
        let (_, settings) = self.settings.as_ref().expect("they are settled before");
        settings
    }
}

/// What ops read of a step on the device.
pub struct Settings {
    /// The scale, the learning rate, both bias corrections, the scale's logarithm.
    pub all: Tensor,
    /// What gradients are scaled by, and its logarithm.
    pub scale: Tensor,
    pub log_scale: Tensor,
}
