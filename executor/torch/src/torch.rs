//! A rank's buffers as tensors, and ops on them.
//!
//! In: declared buffers and a device, then ops. Out: changed tensors.
//!
//! On the CPU ops run at once. On CUDA they wait in a batch until the host looks or waits (`batch.rs`).
//!
//! Invariant: buffers are allocated here and nowhere else; what kernels take besides is counted.

use std::ffi::c_void;
use std::sync::Arc;

use meshwright_executor::device::torch::abi::{Declared, Format};
use meshwright_executor::device::{Region, StepArgs};
use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::Op;
use tch::{Device, Kind, Tensor};

use crate::batch::{Batches, Waiting};
use crate::cache::TensorCache;
use crate::cuda::{self, CudaRank, Event};
use crate::ffi::{self, Entered, MemoryPool};
use crate::tensors::{BoundOp, Tensors};
use crate::view::{Outcome, n};
use crate::worker::Worker;

/// A rank's buffers on one of libtorch's devices.
pub struct TorchRank {
    tensors: Tensors,
    /// Bytes of those that are not the host's.
    bytes: u64,
    /// Bytes of the device that were handed out when the buffers were there.
    before: u64,
    place: Placement,
    batches: Batches,
    /// Marks since they were asked for.
    marked: usize,
}

/// Where kernels run, and from where they take working memory.
enum Placement {
    Cpu(MemoryPool),
    Cuda(CudaRank, Arc<Worker>),
}

/// The device of a number in the ABI.
fn device(number: i32) -> Device {
    usize::try_from(number).map_or(Device::Cpu, Device::Cuda)
}

/// As libtorch calls it; words are floats, of which some are numbers of tokens or places.
fn kind(format: Format) -> Kind {
    match format {
        Format::Word => Kind::Float,
        Format::Bf16 => Kind::BFloat16,
        Format::F16 => Kind::Half,
    }
}

impl TorchRank {
    pub fn open(number: i32, threads: usize, declared: &[Declared]) -> Outcome<TorchRank> {
        if number < 0 {
            // Of the whole process: ranks have the same number.
            tch::set_num_threads(threads as i32);
            return TorchRank::at(number, Placement::Cpu(MemoryPool::new()), declared);
        }
        let worker = Arc::new(Worker::new());
        worker.call(|| {
            let rank = CudaRank::new(number)?;
            rank.enter()?;
            TorchRank::at(number, Placement::Cuda(rank, worker.clone()), declared)
        })
    }

    fn at(number: i32, place: Placement, declared: &[Declared]) -> Outcome<TorchRank> {
        let device = device(number);
        // Without the pool, which is for working memory.
        let _entered = Entered::new(None);
        let zeros = |buffer: &Declared| {
            let place = if buffer.hosted { Device::Cpu } else { device };
            Tensor::f_zeros(n(buffer.elems), (kind(buffer.format), place))
        };
        let buffers = declared.iter().map(zeros).collect::<Outcome<_>>()?;
        let bytes = |buffer: &Declared| (buffer.elems * kind(buffer.format).elt_size_in_bytes()) as u64;
        let bytes = declared.iter().filter(|buffer| !buffer.hosted).map(bytes).sum();
        let before = if number < 0 { 0 } else { ffi::cuda_bytes(number)?.0 };
        let tensors = Tensors { device, buffers, ops: Vec::new(), cache: TensorCache::default(), events: Vec::new() };
        Ok(TorchRank { tensors, bytes, before, place, batches: Batches::default(), marked: 0 })
    }

    /// The number of an op.
    pub fn number(&mut self, op: Op) -> usize {
        self.tensors.ops.push(op);
        self.tensors.ops.len() - 1
    }

    pub fn run(&mut self, op: usize, regions: &[Region], at: Coord, step: &StepArgs) -> Outcome {
        let call = BoundOp { op, regions: regions.to_vec(), at };
        match &self.place {
            Placement::Cuda(..) => {
                self.batches.waiting.push(Waiting::Op(call));
                self.batches.settings = Some(*step);
                Ok(())
            }
            Placement::Cpu(pool) => {
                let _entered = Entered::new(Some(pool));
                self.tensors.run(&call, step)
            }
        }
    }

    /// What `body` gives after all that waits, on the thread of the rank's stream; on the CPU nothing ever waits.
    fn then<R>(&mut self, body: impl FnOnce(&mut TorchRank) -> Outcome<R>) -> Outcome<R> {
        let Placement::Cuda(rank, worker) = &self.place else {
            let _entered = Entered::new(None);
            return body(self);
        };
        let (rank, worker) = (*rank, worker.clone());
        worker.call(|| {
            rank.enter()?;
            let _entered = Entered::new(None);
            self.batches.run(&mut self.tensors, rank)?;
            body(self)
        })
    }

    /// Where a region lies, if the host can reach it there.
    pub fn address(&self, region: &Region) -> Option<*mut c_void> {
        let buffer = &self.tensors.buffers[region.buffer];
        let (start, width) = (buffer.data_ptr(), buffer.kind().elt_size_in_bytes());
        // SAFETY: the region lies in the buffer.
        matches!(self.tensors.device, Device::Cpu).then(|| unsafe { start.byte_add(width * region.start) })
    }

    fn region(&self, region: &Region) -> Outcome<Tensor> {
        self.tensors.buffers[region.buffer].f_narrow(0, n(region.start), n(region.elems))
    }

    /// Copies a region to the host, as words or as elements `lie`.
    ///
    /// # Safety
    /// `to` must hold as many.
    pub unsafe fn read(&mut self, region: &Region, lie: bool, to: *mut c_void) -> Outcome {
        self.then(|torch| {
            let region = torch.region(region)?;
            // SAFETY: the caller's word; the tensor does not outlive this function.
            let mut host = unsafe { host(to, &region, lie)? };
            // Widens, if elements are narrower.
            host.f_copy_(&region)
        })
    }

    /// Copies from the host to a region, words or what is to `lie` there.
    ///
    /// # Safety
    /// `from` must hold as many.
    pub unsafe fn write(&mut self, region: &Region, lie: bool, from: *const c_void) -> Outcome {
        self.then(|torch| {
            let mut region = torch.region(region)?;
            // SAFETY: the caller's word; it is only read.
            let host = unsafe { host(from.cast_mut(), &region, lie)? };
            region.f_copy_(&host)
        })
    }

    pub fn sync(&mut self) -> Outcome {
        self.then(|torch| match torch.place {
            Placement::Cpu(_) => Ok(()),
            Placement::Cuda(..) => cuda::sync(),
        })
    }

    /// Notes a moment between ops, where they wait; its number.
    pub fn mark(&mut self) -> Outcome<Option<usize>> {
        let Placement::Cuda(rank, worker) = &self.place else { return Ok(None) };
        let number = self.marked;
        if number == self.tensors.events.len() {
            let event = worker.call(|| rank.enter().and_then(|()| Event::new()))?;
            self.tensors.events.push(event);
        }
        self.batches.waiting.push(Waiting::Mark(number));
        self.marked += 1;
        Ok(Some(number))
    }

    /// How many nanoseconds ago each mark was passed; waits for them.
    pub fn marks(&mut self, ago: &mut [u64]) -> Outcome {
        self.then(|torch| {
            if std::mem::take(&mut torch.marked) > 0 {
                let now = Event::new()?;
                now.record()?;
                cuda::sync()?;
                for (ago, event) in ago.iter_mut().zip(&torch.tensors.events) {
                    *ago = event.until(&now)?;
                }
            }
            Ok(())
        })
    }

    pub fn buffer_bytes(&self) -> u64 {
        self.bytes
    }

    pub fn scratch_bytes(&self) -> u64 {
        match &self.place {
            Placement::Cpu(pool) => pool.bytes(),
            Placement::Cuda(rank, _) => {
                ffi::cuda_bytes(rank.device()).map_or(0, |(most, _)| most.saturating_sub(self.before))
            }
        }
    }
}

/// Memory of the host as a tensor as long as `region`, of words or of elements as they `lie` there.
///
/// # Safety
/// `address` must hold as many for as long as the tensor lives.
unsafe fn host(address: *mut c_void, region: &Tensor, lie: bool) -> Outcome<Tensor> {
    let kind = if lie { region.kind() } else { Kind::Float };
    // SAFETY: the caller's word.
    unsafe { Tensor::f_from_blob(address.cast(), &region.size(), &[1], kind, Device::Cpu) }
}
