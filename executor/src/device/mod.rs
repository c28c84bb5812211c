//! What the interpreter needs of a device: declared buffers, ops on parts of them, and a window for communication.
//!
//! In: a rank's buffer declarations, then ops with the regions they work on. Out: changed buffers.
//!
//! Invariant: all memory that an instruction touches was declared by the program and allocated when the device was made;
//! only working memory inside kernels comes on top, and is counted.

mod backend;
mod check;
mod cpu;
mod driver;
mod info;
mod reference;
#[cfg(all(feature = "torch", unix))]
pub mod torch;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use backend::{Entry, found};
pub use cpu::Cpu;
pub use driver::{Backend, Driver, LocalDevice, Memory};
pub use info::{DeviceInfo, device_info};
#[cfg(all(feature = "torch", unix))]
pub use torch::Torch;
#[cfg(feature = "wgpu")]
pub use wgpu::Wgpu;

use std::time::Instant;

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::Op;

use crate::error::ExecutorError;
use crate::kernels::AdamWSettings;

/// Every kind of device. One is added by its module above, with its [`Driver`], and its entry here.
pub const DEVICES: &[Entry] = &[
    Entry { name: "cpu", driver: Ok(cpu::DRIVER), ..Entry::PROCESSOR },
    Entry { name: "wgpu", driver: WGPU, ..Entry::GPU },
    Entry { name: "torch", driver: TORCH_CPU, ..Entry::PROCESSOR },
    Entry { name: "cuda", large: true, captures: true, driver: TORCH_CUDA, ..Entry::GPU },
];

#[cfg(feature = "wgpu")]
const WGPU: Result<Driver, &str> = Ok(wgpu::DRIVER);
#[cfg(not(feature = "wgpu"))]
const WGPU: Result<Driver, &str> = Err("not built in: build with the feature `wgpu`");

#[cfg(all(feature = "torch", unix))]
const TORCH_CPU: Result<Driver, &str> = Ok(torch::CPU);
#[cfg(all(feature = "torch", unix))]
const TORCH_CUDA: Result<Driver, &str> = Ok(torch::CUDA);
#[cfg(not(all(feature = "torch", unix)))]
const TORCH_CPU: Result<Driver, &str> = Err("not built in: scripts/torch builds with the feature `torch`, on Linux");
#[cfg(not(all(feature = "torch", unix)))]
const TORCH_CUDA: Result<Driver, &str> = TORCH_CPU;

/// A contiguous part of one of a rank's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Region {
    /// Index in [`meshwright_hardware::program::RankProgram::buffers`].
    pub buffer: usize,
    /// First element.
    pub start: usize,
    /// Number of elements.
    pub elems: usize,
}

impl Region {
    /// Whether two regions share an element.
    pub fn overlaps(&self, other: &Region) -> bool {
        self.buffer == other.buffer && self.start < other.start + other.elems && other.start < self.start + self.elems
    }
}

/// What a step is told that is not in the program.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct StepArgs {
    /// The optimizer's settings of this step; its `grad_scale` is 1, clipping comes on top.
    pub adamw: AdamWSettings,
    /// The gradient's greatest norm; zero or less for no clipping.
    pub clip: f32,
    /// What gradients are multiplied by where they begin, at the loss and at the balancing of routes, so that small ones do not
    /// vanish in a narrow format (Micikevicius et al. 2018, §3.2); updates divide by it. The loss itself is not scaled.
    pub loss_scale: f32,
}

impl StepArgs {
    /// The optimizer's settings for gradients of this squared norm, both as scaled: the scale is taken out, and gradients
    /// shrink by `min(1, clip / (norm + 1e-6))`, as in PyTorch's `clip_grad_norm_`. None where the norm is not finite: then
    /// nothing is updated. All ranks have the same norm, so they all update or none does.
    pub fn clipped(&self, squared_norm: f32) -> Option<AdamWSettings> {
        if !squared_norm.is_finite() {
            return None;
        }
        let scale = f64::from(self.loss_scale);
        let norm = f64::from(squared_norm).sqrt() / scale;
        let shrink = if self.clip > 0.0 { (f64::from(self.clip) / (norm + 1e-6)).min(1.0) } else { 1.0 };
        Some(AdamWSettings { grad_scale: self.adamw.grad_scale * (shrink / scale) as f32, ..self.adamw })
    }
}

/// What a region is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only to be read: what is written may be lost.
    Read,
    /// Every byte is written: what is found may be anything.
    Write,
    /// Both.
    Change,
}

impl Access {
    /// Whether what is there must be found.
    pub fn reads(self) -> bool {
        self != Access::Write
    }

    /// Whether what is written must stay.
    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// What the host does with a region that is lent to it.
pub type Body<'a, T> = dyn FnMut(&mut [T]) -> Result<(), ExecutorError> + 'a;

/// A device with one rank's buffers.
pub trait Device: Send {
    /// Runs `op` on regions in the order of [`Op::signature`], for the rank at `at`: by a kernel, or, where the device has none
    /// for it, by the vocabulary's reference on copies in the host's memory.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a region is out of bounds, of the wrong size, or overlaps another that is written.
    fn run(&mut self, op: &Op, regions: &[Region], at: Coord, args: &StepArgs) -> Result<(), ExecutorError> {
        check::check(op, &op.signature(), regions).map_err(|problem| self.failed(problem))?;
        if self.kernel(op, regions, at, args)? { Ok(()) } else { reference::run(self, op, regions, at, args) }
    }

    /// Runs `op` by a kernel on regions that are as long as its arguments and disjoint where one is written; false, and nothing
    /// done, if the device has none for it.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a region is out of bounds, or the kernel fails.
    fn kernel(&mut self, op: &Op, regions: &[Region], at: Coord, args: &StepArgs) -> Result<bool, ExecutorError>;

    /// The error of this rank's device.
    fn failed(&self, problem: String) -> ExecutorError;

    /// Lends a region to the host, for data and sums; what is written there is in the buffer afterwards. Floats are lent as
    /// fp32, whatever the buffer's elements, and rounded to nearest even when they come back; ids are `u32` bits.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if the region is out of bounds; else what `body` gives.
    fn with_host(&mut self, region: Region, access: Access, body: &mut Body<f32>) -> Result<(), ExecutorError>;

    /// Lends a region's elements as they lie, as bytes, to what only moves them.
    ///
    /// # Errors
    /// As [`Device::with_host`].
    fn with_bytes(&mut self, region: Region, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError>;

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if something that was asked for earlier failed.
    fn sync(&mut self) -> Result<(), ExecutorError> {
        Ok(())
    }

    /// Notes the moment at which all that was asked for before is done, in line with ops; nobody waits for it. Gives the mark's
    /// number since [`Device::marks`], from 0 on, or none if the device keeps no time: then the host has to wait to know.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if something that was asked for earlier failed.
    fn mark(&mut self) -> Result<Option<usize>, ExecutorError> {
        Ok(None)
    }

    /// The moments of all marks, which are forgotten; waits until they are there.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if something that was asked for earlier failed.
    fn marks(&mut self) -> Result<Vec<Instant>, ExecutorError> {
        self.sync().map(|()| Vec::new())
    }

    /// Bytes held for the declared buffers.
    fn buffer_bytes(&self) -> u64;

    /// Bytes of working memory that kernels hold besides.
    fn scratch_bytes(&self) -> u64;
}
