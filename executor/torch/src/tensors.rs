//! Buffers as tensors, and kernels on them.
//!
//! In: an op by its number, with its regions. Out: changed tensors.
//!
//! Invariant: kernels start on the stream of the thread that asks for them.

use meshwright_executor::device::{Region, StepArgs};
use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::Op;
use tch::{Device, Tensor};

use crate::cache::TensorCache;
use crate::cuda::Event;
use crate::view::{Outcome, TensorArgs};

/// An op with what it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BoundOp {
    pub op: usize,
    pub regions: Vec<Region>,
    pub at: Coord,
}

/// A rank's buffers, with what ops on them need.
pub struct Tensors {
    pub device: Device,
    pub buffers: Vec<Tensor>,
    /// By their numbers.
    pub ops: Vec<Op>,
    pub cache: TensorCache,
    /// Of marks, by their numbers, on CUDA; kept from step to step.
    pub events: Vec<Event>,
}

impl Tensors {
    /// Runs an op's kernels, on the CPU or on this thread's stream.
    pub fn run(&mut self, call: &BoundOp, step: &StepArgs) -> Outcome {
        let Tensors { device, buffers, cache, ops, .. } = self;
        let args = TensorArgs { buffers, regions: &call.regions };
        crate::ops::run(&ops[call.op], &args, &call.at, step, *device, cache)
    }
}
