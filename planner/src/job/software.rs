//! What the software that runs a job makes of it before it is lowered: which kernels it has, and in which formats it keeps what.
//!
//! In: a [`Stack`], a job. Out: [`Software`], by which tapes are written and buffers declared.
//!
//! Invariant: without a stack it is what the executor does; no file holds it, for a job names its stack.

use meshwright_hardware::profile::{GradientSums, Stack};

use super::Job;

/// What a stack makes of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// How gradients are kept between microbatches.
    pub gradients: GradientSums,
    /// Whether sharded weights exist only as fp32 masters, cast as they are gathered (PyTorch FSDP).
    pub casts: bool,
    /// Whether weights, gradients and moments are all of the format of activations.
    pub pure: bool,
}

impl Software {
    /// Of a stack.
    pub fn of(stack: &Stack) -> Software {
        Software { gradients: stack.gradients, casts: stack.casts, pure: stack.pure }
    }
}

impl Job {
    /// The job as a stack runs it.
    pub fn under(&self, stack: &Stack) -> Job {
        Job { software: Software::of(stack), ..self.clone() }
    }
}
