//! PyTorch's library as a device: its CPU by oneDNN and MKL, its CUDA by cuBLAS and cuDNN.
//!
//! In: buffer declarations and which of its devices, then ops. Out: changed buffers.
//!
//! The ops stand in a library of their own, `executor/torch`, which links libtorch and is opened at run time through
//! [`abi`], so that the command starts where there is no torch.
//!
//! Invariant: the library is only given ops and regions that were checked.

pub mod abi;
mod library;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

use super::{Access, Backend, Body, Device, Driver, LocalDevice, Memory, Region, StepArgs, device_info};
use crate::error::ExecutorError;
use abi::{Declared, Description, Format, Handle, NO_CLOCK, NO_KERNEL, Sink};
use library::Library;

/// A rank's buffers on one of torch's devices.
pub struct Torch {
    rank: Rank,
    backend: Backend,
    library: &'static Library,
    handle: Handle,
    /// Elements of each buffer.
    declared: Vec<(usize, Elem)>,
    /// Ops that the library was told, with their numbers; none for those that it cannot run.
    ops: Vec<(Op, Option<u32>)>,
    /// Marks since they were asked for.
    marked: usize,
    /// A region as the host sees it, where it cannot reach it where it lies.
    host: Vec<f32>,
}

// SAFETY: the library keeps no state of a thread's in a handle.
unsafe impl Send for Torch {}

/// One of torch's devices: a CUDA device of this number, or the CPU.
type Cuda = Option<usize>;

/// The number of a device in [`abi`].
fn number(cuda: Cuda) -> i32 {
    cuda.map_or(-1, |device| i32::try_from(device).unwrap_or(i32::MAX))
}

/// The library, opened as far as a device needs it.
fn library(cuda: Cuda) -> Result<&'static Library, String> {
    let library = library::cpu()?;
    if let Some(device) = cuda {
        let devices = library::cuda(library)?;
        if device >= devices as usize {
            return Err(format!("there is none of this number; libtorch sees {devices}"));
        }
    }
    Ok(library)
}

/// Calls a function of the library that says a problem to a sink.
fn said<T>(call: impl FnOnce(Sink) -> Option<T>) -> Result<T, String> {
    let mut problem = String::new();
    let outcome = call(Sink::to(&mut problem));
    outcome.ok_or(problem)
}

impl Torch {
    /// Allocates a rank's buffers, all zeros, on a `cuda` device or the CPU, which errors name `backend`; `threads` are the CPU's.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if libtorch or the device is not there, saying where it was looked for, or a buffer
    /// cannot be allocated.
    fn new(
        rank: Rank,
        buffers: &[Buffer],
        (backend, cuda): (Backend, Cuda),
        threads: usize,
    ) -> Result<Torch, ExecutorError> {
        let failed = |problem| backend.failed(rank, problem);
        let library = library(cuda).map_err(failed)?;
        let declared: Vec<Declared> = buffers.iter().map(declare).collect();
        let open = |problem| {
            // SAFETY: `declared` has `len` entries, and the sink outlives the call.
            let open =
                unsafe { (library.table.open)(number(cuda), threads, declared.as_ptr(), declared.len(), problem) };
            (!open.is_null()).then_some(open)
        };
        let handle = said(open).map_err(failed)?;
        let declared = buffers.iter().map(|buffer| (buffer.elems, buffer.elem)).collect();
        Ok(Torch { rank, backend, library, handle, declared, ops: Vec::new(), marked: 0, host: Vec::new() })
    }

    fn inside(&self, region: &Region) -> Result<(), String> {
        let end = region.start.checked_add(region.elems);
        let buffer = self.declared.get(region.buffer);
        let inside = buffer.is_some_and(|&(elems, _)| end.is_some_and(|end| end <= elems));
        if inside { Ok(()) } else { Err(format!("{region:?} is outside its buffer")) }
    }

    /// The number that the library gives an op, if it can run it.
    fn number(&mut self, op: &Op) -> Result<Option<u32>, String> {
        // The latest first: a calibration runs one op after another, many times each.
        if let Some((_, number)) = self.ops.iter().rev().find(|(known, _)| known == op) {
            return Ok(*number);
        }
        let json = serde_json::to_string(op).map_err(|e| format!("{op:?}: {e}"))?;
        // SAFETY: the text has `len` bytes.
        let tell = |problem| unsafe { (self.library.table.op)(self.handle, json.as_ptr(), json.len(), problem) };
        let number = said(|problem| Some(tell(problem)).filter(|number| *number >= 0))?;
        let number = (number != NO_KERNEL).then_some(number as u32);
        self.ops.push((*op, number));
        Ok(number)
    }

    fn run_op(&mut self, op: &Op, regions: &[Region], at: Coord, step: &StepArgs) -> Result<bool, String> {
        regions.iter().try_for_each(|region| self.inside(region))?;
        let Some(number) = self.number(op)? else { return Ok(false) };
        let run = self.library.table.run;
        // SAFETY: regions lie in their buffers, as many as the op has arguments and as long.
        let run = |problem| unsafe { run(self.handle, number, regions.as_ptr(), regions.len(), &at, step, problem) };
        said(|problem| run(problem).then_some(true))
    }

    /// Bytes of a region's elements, which must be inside.
    fn bytes(&self, region: &Region) -> usize {
        self.declared[region.buffer].1.bytes() as usize * region.elems
    }

    /// Lends a region's elements as they `lie` or as words: where they are, or a copy that is fetched before and stored after.
    fn lend(&mut self, region: Region, lie: bool, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        self.inside(&region).map_err(|problem| self.failed(problem))?;
        let bytes = self.bytes(&region);
        if lie || bytes == WORD * region.elems {
            // SAFETY: the region is inside.
            let address = unsafe { (self.library.table.address)(self.handle, &region) };
            if !address.is_null() {
                // SAFETY: what is there holds as many bytes, and `&mut self` keeps everybody else away.
                return body(unsafe { std::slice::from_raw_parts_mut(address.cast(), bytes) });
            }
        }
        self.copied(&region, lie, access, body)
    }

    fn copied(&mut self, region: &Region, lie: bool, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        let bytes = if lie { self.bytes(region) } else { WORD * region.elems };
        self.host.resize(bytes.div_ceil(WORD), 0.0);
        if access.reads() {
            let to = self.host.as_mut_ptr().cast();
            // SAFETY: the region is inside, and there is room for it.
            let read = |problem| unsafe { (self.library.table.read)(self.handle, region, lie, to, problem) };
            said(|problem| read(problem).then_some(())).map_err(|problem| self.failed(problem))?;
        }
        body(&mut bytemuck::cast_slice_mut(&mut self.host)[..bytes])?;
        if !access.writes() {
            return Ok(());
        }
        let from = self.host.as_ptr().cast();
        // SAFETY: as above.
        let write = |problem| unsafe { (self.library.table.write)(self.handle, region, lie, from, problem) };
        said(|problem| write(problem).then_some(())).map_err(|problem| self.failed(problem))
    }
}

/// Bytes of a word.
const WORD: usize = 4;

fn declare(buffer: &Buffer) -> Declared {
    let format = match buffer.elem {
        Elem::F32 | Elem::U32 => Format::Word,
        Elem::Bf16 => Format::Bf16,
        Elem::F16 => Format::F16,
        Elem::F8 => unreachable!("no program of eight bits is run"),
    };
    Declared { elems: buffer.elems, format, hosted: buffer.lifetime == Lifetime::Hosted }
}

impl Device for Torch {
    fn kernel(&mut self, op: &Op, regions: &[Region], at: Coord, step: &StepArgs) -> Result<bool, ExecutorError> {
        self.run_op(op, regions, at, step).map_err(|problem| self.failed(problem))
    }

    fn failed(&self, problem: String) -> ExecutorError {
        self.backend.failed(self.rank, problem)
    }

    fn with_host(&mut self, region: Region, access: Access, body: &mut Body<f32>) -> Result<(), ExecutorError> {
        self.lend(region, false, access, &mut |bytes| body(bytemuck::cast_slice_mut(bytes)))
    }

    fn with_bytes(&mut self, region: Region, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        self.lend(region, true, access, body)
    }

    fn sync(&mut self) -> Result<(), ExecutorError> {
        // SAFETY: the handle is open.
        let sync = |problem| unsafe { (self.library.table.sync)(self.handle, problem) };
        said(|problem| sync(problem).then_some(())).map_err(|problem| self.failed(problem))
    }

    fn mark(&mut self) -> Result<Option<usize>, ExecutorError> {
        // SAFETY: the handle is open.
        let mark = |problem| unsafe { (self.library.table.mark)(self.handle, problem) };
        let mark = said(|problem| usize::try_from(mark(problem)).ok()).map_err(|problem| self.failed(problem))?;
        let mark = (mark != NO_CLOCK as usize).then_some(mark);
        self.marked += usize::from(mark.is_some());
        Ok(mark)
    }

    fn marks(&mut self) -> Result<Vec<Instant>, ExecutorError> {
        let mut ago = vec![0; std::mem::take(&mut self.marked)];
        // SAFETY: there is room for as many as there are marks.
        let mut marks =
            |problem| unsafe { (self.library.table.marks)(self.handle, ago.as_mut_ptr(), ago.len(), problem) };
        said(|problem| marks(problem).then_some(())).map_err(|problem| self.failed(problem))?;
        let now = Instant::now();
        Ok(ago.into_iter().map(|nanos| now.checked_sub(Duration::from_nanos(nanos)).unwrap_or(now)).collect())
    }

    fn buffer_bytes(&self) -> u64 {
        // SAFETY: the handle is open.
        unsafe { (self.library.table.buffer_bytes)(self.handle) }
    }

    fn scratch_bytes(&self) -> u64 {
        // SAFETY: the handle is open.
        unsafe { (self.library.table.scratch_bytes)(self.handle) }
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody has it after this.
        unsafe { (self.library.table.close)(self.handle) }
    }
}

/// The version of NVIDIA's driver, as Linux tells it.
fn nvidia_driver() -> Option<String> {
    driver_version(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The first number with points in a text.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.split_whitespace().find(is_version).map(str::to_owned)
}

/// What `hardware list` says of one of torch's devices.
fn describe(cuda: Cuda) -> LocalDevice {
    let described = library(cuda).and_then(|library| {
        let mut text = String::new();
        // SAFETY: the sink outlives the call.
        let known = unsafe { (library.table.describe)(number(cuda), Sink::to(&mut text)) };
        let description =
            if known { serde_json::from_str::<Description>(&text).map_err(|e| e.to_string()) } else { Err(text) };
        description.map(|description| (library, description))
    });
    match described {
        Err(problem) => LocalDevice::absent(problem),
        Ok((library, Description { title, driver, memory_bytes })) => {
            let host = device_info();
            let cpu = cuda.is_none();
            let title = if cpu { host.model } else { title };
            let driver = match (cpu, nvidia_driver()) {
                (true, _) => format!("{} core(s), {driver}", host.cores),
                (false, Some(version)) => format!("{driver}, NVIDIA {version}"),
                (false, None) => driver,
            };
            let (memory, memory_bytes) =
                if cpu { (Memory::Host, host.memory_bytes) } else { (Memory::Own, memory_bytes) };
            let library = format!("torch {}", library.version);
            LocalDevice { title, driver, library, software: cpu, memory, memory_bytes, ..LocalDevice::default() }
        }
    }
}

/// Torch's CPU, for the table of devices.
pub(super) const CPU: Driver = Driver {
    find: || vec![describe(None)],
    open: |backend, rank, buffers, threads| Ok(Box::new(Torch::new(rank, buffers, (backend, None), threads)?)),
};

/// Torch's CUDA devices, or the first with why there is none, for the table of devices.
pub(super) const CUDA: Driver = Driver {
    find: || {
        let devices = library::cpu().and_then(library::cuda).unwrap_or(0) as usize;
        (0..devices.max(1)).map(|device| describe(Some(device))).collect()
    },
    open: |backend, rank, buffers, threads| {
        Ok(Box::new(Torch::new(rank, buffers, (backend, Some(backend.number())), threads)?))
    },
};
