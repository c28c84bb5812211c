//! A GPU as a device, by wgpu: Vulkan, Metal or Direct3D 12, whoever made it.
//!
//! In: buffer declarations and an adapter's number, then ops. Out: changed buffers.
//!
//! Ops are recorded and submitted in batches; they run in order, as each reads and writes through bindings that the
//! driver orders. Ranks on one adapter share its device and compiled kernels, not their buffers.
//!
//! Invariant: kernels touch only regions that were checked, and sums have a fixed order, so the same operands give the
//! same bits.

mod adapters;
mod context;
mod dispatch;
mod elements;
mod experts;
mod gpu;
mod marks;
mod memory;
mod ops;
mod parts;
mod pipeline;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Buffer, Elem};

use super::{Access, Backend, Body, Device, Driver, Region, StepArgs};
use crate::error::ExecutorError;
use crate::kernels::{Half, narrow, widen};
use ::wgpu::SubmissionIndex;
use dispatch::Recorded;
use gpu::Gpu;
use marks::Marks;
use memory::{GpuBuffer, Slice};

/// Dispatches that are submitted together at most: few enough that the device starts soon.
const BATCH: usize = 64;

/// A rank's buffers on an adapter.
pub struct Wgpu {
    rank: Rank,
    backend: Backend,
    gpu: Arc<Gpu>,
    memory: Vec<GpuBuffer>,
    /// Working memory of kernels; it grows to what the largest so far needed.
    scratch: Option<GpuBuffer>,
    /// What the host reads buffers through.
    staging: Option<GpuBuffer>,
    /// Cosines and sines of positions, by positions, half a head's width and the bits of theta.
    turns: HashMap<(usize, usize, u32), GpuBuffer>,
    recorded: Vec<Recorded>,
    /// The adapter's clock, if it has one, once somebody asked for it.
    marks: Option<Marks>,
    /// The last of what was submitted, until it was waited for.
    submitted: Option<SubmissionIndex>,
    /// A region as the host sees it.
    host: Vec<f32>,
    /// The words of a region of halves.
    words: Vec<f32>,
}

impl Wgpu {
    /// Allocates a rank's buffers, all zeros, on one of the adapters that `hardware list` shows.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if there is no such adapter, it lacks something, or a buffer cannot be allocated.
    pub fn new(rank: Rank, buffers: &[Buffer], backend: Backend) -> Result<Wgpu, ExecutorError> {
        Wgpu::with(rank, buffers, backend, adapters::EXTRAS)
    }

    /// As [`Wgpu::new`], as if the adapter had nothing that WGSL does not promise: no words of 16 bits, no subgroups.
    ///
    /// # Errors
    /// As of [`Wgpu::new`].
    pub fn plain(rank: Rank, buffers: &[Buffer], backend: Backend) -> Result<Wgpu, ExecutorError> {
        Wgpu::with(rank, buffers, backend, ::wgpu::Features::empty())
    }

    fn with(rank: Rank, buffers: &[Buffer], backend: Backend, extras: ::wgpu::Features) -> Result<Wgpu, ExecutorError> {
        let gpu = match gpu::open(backend.number(), extras) {
            Some(opened) => opened.map_err(|problem| backend.failed(rank, problem))?,
            None => return Err(backend.failed(rank, "there is none on this machine".to_owned())),
        };
        Wgpu::on(gpu, backend, rank, buffers)
    }

    fn on(gpu: Arc<Gpu>, backend: Backend, rank: Rank, buffers: &[Buffer]) -> Result<Wgpu, ExecutorError> {
        let memory = buffers.iter().map(|buffer| GpuBuffer::declared(&gpu, buffer)).collect::<Result<_, _>>();
        let memory = memory.map_err(|problem| backend.failed(rank, problem))?;
        Ok(Wgpu {
            rank,
            backend,
            gpu,
            memory,
            scratch: None,
            staging: None,
            turns: HashMap::new(),
            recorded: Vec::new(),
            marks: None,
            submitted: None,
            host: Vec::new(),
            words: Vec::new(),
        })
    }

    /// A region, if it lies in its buffer.
    fn slice(&self, region: Region) -> Result<Slice, String> {
        let memory = self.memory.get(region.buffer);
        let slice = memory.and_then(|memory| memory.slice(region.start, region.elems));
        slice.ok_or_else(|| format!("{region:?} is outside its buffer"))
    }

    /// Working memory of `elems` elements, holding whatever was there.
    fn scratch(&mut self, elems: usize) -> Result<Slice, String> {
        let scratch = GpuBuffer::at_least(&mut self.scratch, &self.gpu, elems, "working memory")?;
        Ok(scratch.slice(0, elems).expect("it is as long at least"))
    }

    fn record(&mut self, call: dispatch::KernelCall) -> Result<(), String> {
        self.recorded.push(Recorded::Dispatch(self.gpu.prepare(call)?));
        if self.recorded.len() >= BATCH { self.submit(None) } else { Ok(()) }
    }

    /// Records a mark; gives its number.
    fn note(&mut self) -> Result<usize, String> {
        if self.marks.as_ref().is_some_and(Marks::full) {
            self.submit(None)?;
            self.wait()?;
        }
        let marks = match &mut self.marks {
            Some(marks) => marks,
            none => none.insert(Marks::new(&self.gpu)?),
        };
        let (number, mark) = marks.next(&self.gpu)?;
        self.recorded.push(mark);
        Ok(number)
    }

    /// Submits what is recorded, and a copy to the staging memory after it.
    fn submit(&mut self, copy: Option<&Slice>) -> Result<(), String> {
        if !self.recorded.is_empty() || copy.is_some() {
            if let Some(marks) = &mut self.marks {
                marks.submitting();
            }
            let to = copy.map(|from| (from, &self.staging.as_ref().expect("the caller made it").buffer));
            self.submitted = Some(self.gpu.submit(&mut self.recorded, to)?);
        }
        Ok(())
    }

    /// Waits for what was submitted.
    fn wait(&mut self) -> Result<(), String> {
        self.submitted.take().map_or(Ok(()), |submitted| self.gpu.wait(submitted))
    }

    /// Copies a region to `self.host`.
    fn fetch(&mut self, region: Region) -> Result<(), String> {
        let slice = self.slice(region)?;
        self.fetch_words(&slice)?;
        match half(slice.elem) {
            None => std::mem::swap(&mut self.host, &mut self.words),
            Some(format) => {
                self.host.resize(region.elems, 0.0);
                let first = region.start % 2;
                let halves: &[u16] = bytemuck::cast_slice(&self.words);
                widen(format, &halves[first..first + region.elems], &mut self.host);
            }
        }
        Ok(())
    }

    /// Copies the words of a slice to `self.words`.
    fn fetch_words(&mut self, slice: &Slice) -> Result<(), String> {
        let words = slice.words();
        let staging = GpuBuffer::staging(&mut self.staging, &self.gpu, words.elems as usize)?.clone();
        self.submit(Some(&words))?;
        let submitted = self.submitted.take().expect("the copy was submitted");
        self.gpu.read(&staging, words.elems as usize, submitted, &mut self.words)
    }

    /// Makes `self.words` as long as a slice's words, and what is in them what is in the adapter's, if the host `reads` them or
    /// neighbours share them.
    fn prepare_words(&mut self, slice: &Slice, reads: bool) -> Result<(), String> {
        let (words, width) = (slice.words(), slice.elem.bytes());
        if reads || 4 * words.elems != width * slice.elems {
            return self.fetch_words(slice);
        }
        self.words.resize(words.elems as usize, 0.0);
        Ok(())
    }

    /// Makes `self.host` as long as a region.
    fn make_room(&mut self, region: Region) -> Result<(), String> {
        self.slice(region)?;
        self.host.resize(region.elems, 0.0);
        Ok(())
    }

    /// Copies `self.host` to a region, after what was recorded.
    fn store(&mut self, region: Region) -> Result<(), String> {
        let slice = self.slice(region)?;
        match half(slice.elem) {
            None => std::mem::swap(&mut self.host, &mut self.words),
            Some(format) => {
                self.prepare_words(&slice, false)?;
                let first = region.start % 2;
                let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut self.words);
                narrow(format, &self.host, &mut halves[first..first + region.elems]);
            }
        }
        self.store_words(&slice)
    }

    /// Copies `self.words` to a slice's words, after what was recorded.
    fn store_words(&mut self, slice: &Slice) -> Result<(), String> {
        self.submit(None)?;
        self.submitted = Some(self.gpu.write(&slice.words(), &self.words)?);
        Ok(())
    }
}

/// The format of halves, if elements are some.
fn half(elem: Elem) -> Option<Half> {
    match elem {
        Elem::F32 | Elem::U32 => None,
        Elem::F8 => unreachable!("no program of eight bits is run"),
        Elem::Bf16 => Some(Half::Bf16),
        Elem::F16 => Some(Half::F16),
    }
}

/// Adapters, for the table of devices.
pub(super) const DRIVER: Driver = Driver {
    find: adapters::adapters,
    open: |backend, rank, buffers, _| Ok(Box::new(Wgpu::new(rank, buffers, backend)?)),
};

impl Device for Wgpu {
    fn kernel(&mut self, op: &Op, regions: &[Region], at: Coord, step: &StepArgs) -> Result<bool, ExecutorError> {
        self.record_op(op, regions, at, step).map_err(|problem| self.failed(problem))
    }

    fn failed(&self, problem: String) -> ExecutorError {
        self.backend.failed(self.rank, problem)
    }

    fn with_host(&mut self, region: Region, access: Access, body: &mut Body<f32>) -> Result<(), ExecutorError> {
        let fetched = if access.reads() { self.fetch(region) } else { self.make_room(region) };
        fetched.map_err(|problem| self.failed(problem))?;
        body(&mut self.host)?;
        if access.writes() { self.store(region).map_err(|problem| self.failed(problem)) } else { Ok(()) }
    }

    fn with_bytes(&mut self, region: Region, access: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        let slice = self.slice(region).map_err(|problem| self.failed(problem))?;
        self.prepare_words(&slice, access.reads()).map_err(|problem| self.failed(problem))?;
        let width = slice.elem.bytes() as usize;
        let (first, bytes): (_, &mut [u8]) = (width * region.start % 4, bytemuck::cast_slice_mut(&mut self.words));
        body(&mut bytes[first..first + width * region.elems])?;
        if access.writes() { self.store_words(&slice).map_err(|problem| self.failed(problem)) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), ExecutorError> {
        self.submit(None).and_then(|()| self.wait()).map_err(|problem| self.failed(problem))
    }

    fn mark(&mut self) -> Result<Option<usize>, ExecutorError> {
        if !self.gpu.keeps_time {
            return Ok(None);
        }
        self.note().map(Some).map_err(|problem| self.failed(problem))
    }

    fn marks(&mut self) -> Result<Vec<Instant>, ExecutorError> {
        let marks = self.submit(None).and_then(|()| self.wait()).and_then(|()| match &mut self.marks {
            Some(marks) => marks.take(&self.gpu),
            None => Ok(Vec::new()),
        });
        marks.map_err(|problem| self.failed(problem))
    }

    fn buffer_bytes(&self) -> u64 {
        self.memory.iter().map(GpuBuffer::bytes).sum()
    }

    fn scratch_bytes(&self) -> u64 {
        let memory = self.scratch.iter().chain(&self.staging).chain(self.turns.values()).map(GpuBuffer::bytes);
        memory.sum::<u64>() + self.marks.as_ref().map_or(0, Marks::bytes)
    }
}

impl Drop for Wgpu {
    fn drop(&mut self) {
        // Buffers go back to the driver when the last work on them is done, so that the next device finds them free.
        self.recorded.clear();
        let _ = self.wait();
    }
}
