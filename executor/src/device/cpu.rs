//! The CPU as a device: buffers are lines of cache, ops the fused kernels of [`crate::kernels`] on a team of threads.
//!
//! In: buffer declarations and a number of threads, then ops. Out: changed buffers.
//!
//! Invariant: buffers never leave this module, and their storage is reached only through regions that were checked:
//! inside their buffer, and disjoint wherever one of them is written.

mod run;
mod wide;

use bytemuck::Zeroable;
use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

use super::check::sums_in_place;
use super::{Access, Backend, Body, Device, Driver, LocalDevice, Region, StepArgs, device_info};
use crate::error::ExecutorError;
use crate::kernels::{Half, Team, narrow_all, widen_all};
use run::{RawArg, RawArgs, add_in_place, is_native, run_kernel};

/// A cache line: buffers start on one.
#[repr(C, align(64))]
struct BufferLine([u8; 64]);

// SAFETY: bytes may be zero.
unsafe impl Zeroable for BufferLine {}

/// A rank's buffers in host memory, and the threads that work on them.
pub struct Cpu {
    rank: Rank,
    memory: Vec<HostBuffer>,
    team: Team,
    /// Widened copies of what kernels and the host take as fp32.
    space: Vec<f32>,
}

/// One buffer.
struct HostBuffer {
    /// Owns the storage.
    lines: Vec<BufferLine>,
    /// Its first byte.
    start: *mut u8,
    elems: usize,
    /// Their format, if they are of two bytes.
    half: Option<Half>,
    /// Whether it stands for memory of the host beside that of a device.
    hosted: bool,
}

// SAFETY: the pointer leads into the lines' heap storage, which moves with them and is theirs alone.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// `elems` zeros: pages that the system maps when they are first written; nothing, if it has none.
    fn zeroed(elems: usize, elem: Elem) -> Option<HostBuffer> {
        let half = match elem {
            Elem::F32 | Elem::U32 => None,
            Elem::Bf16 => Some(Half::Bf16),
            Elem::F16 => Some(Half::F16),
            Elem::F8 => unreachable!("no program of eight bits is run"),
        };
        let bytes = elems.checked_mul(elem.bytes() as usize)?;
        let mut lines: Vec<BufferLine> =
            bytemuck::allocation::try_zeroed_vec(bytes.div_ceil(size_of::<BufferLine>())).ok()?;
        let start = lines.as_mut_ptr().cast();
        Some(HostBuffer { lines, start, elems, half, hosted: false })
    }
}

impl Cpu {
    /// Allocates a rank's buffers, all zeros, and starts its `threads`.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a buffer cannot be allocated.
    pub fn new(rank: Rank, buffers: &[Buffer], threads: usize) -> Result<Cpu, ExecutorError> {
        let allocate = |buffer: &Buffer| -> Result<HostBuffer, ExecutorError> {
            let memory = HostBuffer::zeroed(buffer.elems, buffer.elem).ok_or_else(|| {
                failed(rank, format!("buffer `{}`: no memory for {} elements", buffer.name, buffer.elems))
            })?;
            Ok(HostBuffer { hosted: buffer.lifetime == Lifetime::Hosted, ..memory })
        };
        let memory = buffers.iter().map(allocate).collect::<Result<_, _>>()?;
        Ok(Cpu { rank, memory, team: Team::new(threads), space: Vec::new() })
    }

    /// A region, if it lies in its buffer.
    fn arg(&self, region: Region) -> Result<RawArg, ExecutorError> {
        let Region { buffer, start, elems } = region;
        match self.memory.get(buffer) {
            Some(memory) if start.checked_add(elems).is_some_and(|end| end <= memory.elems) => {
                let all = RawArg { start: memory.start, elems: memory.elems, half: memory.half };
                Ok(all.part(start, elems))
            }
            _ => Err(failed(self.rank, format!("{region:?} is outside its buffer"))),
        }
    }
}

/// The processor, for the table of devices.
pub(super) const DRIVER: Driver = Driver {
    find: || {
        let info = device_info();
        vec![LocalDevice {
            title: info.model,
            driver: format!("{} core(s), {}", info.cores, info.instruction_set),
            library: format!("meshwright-executor {}", env!("CARGO_PKG_VERSION")),
            software: true,
            memory_bytes: info.memory_bytes,
            ..LocalDevice::default()
        }]
    },
    open: |_, rank, buffers, threads| Ok(Box::new(Cpu::new(rank, buffers, threads)?)),
};

fn failed(rank: Rank, problem: String) -> ExecutorError {
    Backend::CPU.failed(rank, problem)
}

impl Device for Cpu {
    fn kernel(&mut self, op: &Op, regions: &[Region], at: Coord, step: &StepArgs) -> Result<bool, ExecutorError> {
        let views = regions.iter().map(|&region| self.arg(region));
        let args = RawArgs(views.collect::<Result<_, ExecutorError>>()?);
        let in_place = sums_in_place(op, regions);
        Ok(match (op, in_place) {
            _ if !is_native(op, &args) => wide::run(&self.team, &mut self.space, op, &args, in_place, (at, step)),
            (Op::Add { rows, cols, bias }, Some(operand)) => {
                add_in_place(&self.team, *rows, *cols, *bias, operand, &args);
                true
            }
            _ => run_kernel(&self.team, op, &args, at, step),
        })
    }

    fn failed(&self, problem: String) -> ExecutorError {
        failed(self.rank, problem)
    }

    fn with_host(&mut self, region: Region, access: Access, body: &mut Body<f32>) -> Result<(), ExecutorError> {
        let arg = self.arg(region)?;
        let Some(half) = arg.half else {
            // SAFETY: in bounds, and `&mut self` keeps everybody else away.
            return body(unsafe { std::slice::from_raw_parts_mut(arg.start.cast(), arg.elems) });
        };
        // SAFETY: as above.
        let bits = unsafe { arg.halves() };
        self.space.resize(self.space.len().max(arg.elems), 0.0);
        let window = &mut self.space[..arg.elems];
        if access.reads() {
            widen_all(&self.team, half, bits, window);
        }
        body(window)?;
        if access.writes() {
            narrow_all(&self.team, half, window, bits);
        }
        Ok(())
    }

    fn with_bytes(&mut self, region: Region, _: Access, body: &mut Body<u8>) -> Result<(), ExecutorError> {
        let arg = self.arg(region)?;
        // SAFETY: in bounds, and `&mut self` keeps everybody else away.
        body(unsafe { std::slice::from_raw_parts_mut(arg.start, arg.width() * arg.elems) })
    }

    fn buffer_bytes(&self) -> u64 {
        let bytes = |memory: &HostBuffer| size_of_val(&memory.lines[..]) as u64;
        self.memory.iter().filter(|memory| !memory.hosted).map(bytes).sum()
    }

    fn scratch_bytes(&self) -> u64 {
        (self.team.scratch_bytes() + 4 * self.space.capacity()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::AdamWSettings;
    use meshwright_hardware::mesh::{Axis, Mesh};

    const ORIGIN: Coord = Coord::FIRST;

    fn step() -> StepArgs {
        let adamw = AdamWSettings {
            lr: 0.5,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            weight_decay: 0.1,
            bias1: 1.0,
            bias2: 1.0,
            grad_scale: 1.0,
        };
        StepArgs { adamw, clip: 1.0, loss_scale: 1.0 }
    }

    fn device(sizes: &[usize]) -> Cpu {
        let declare =
            |&elems: &usize| Buffer { name: "b".to_owned(), elems, lifetime: Lifetime::Scratch, elem: Elem::F32 };
        Cpu::new(0, &sizes.iter().map(declare).collect::<Vec<_>>(), 2).unwrap()
    }

    fn set(device: &mut Cpu, region: Region, values: &[f32]) {
        let mut copy = |host: &mut [f32]| {
            host.copy_from_slice(values);
            Ok(())
        };
        device.with_host(region, Access::Change, &mut copy).unwrap();
    }

    fn get(device: &mut Cpu, region: Region) -> Vec<f32> {
        let mut values = Vec::new();
        let mut copy = |host: &mut [f32]| {
            values = host.to_vec();
            Ok(())
        };
        device.with_host(region, Access::Change, &mut copy).unwrap();
        values
    }

    fn whole(buffer: usize, elems: usize) -> Region {
        Region { buffer, start: 0, elems }
    }

    #[test]
    fn buffers_start_as_zeros_on_a_cache_line_and_are_counted() {
        let mut device = device(&[5, 40]);
        assert_eq!(get(&mut device, whole(1, 40)), [0.0; 40]);
        for memory in &device.memory {
            assert_eq!(memory.start.addr() % 64, 0);
        }
        assert_eq!(device.buffer_bytes(), 64 + 192, "whole lines");
    }

    #[test]
    fn an_addition_may_write_over_either_operand() {
        let op = Op::Add { rows: 2, cols: 2, bias: true };
        for operand in 0..2 {
            let mut device = device(&[4, 4, 2]);
            set(&mut device, whole(0, 4), &[1.0, 2.0, 3.0, 4.0]);
            set(&mut device, whole(1, 4), &[10.0, 20.0, 30.0, 40.0]);
            set(&mut device, whole(2, 2), &[0.5, 0.25]);
            let regions = [whole(0, 4), whole(1, 4), whole(2, 2), whole(operand, 4)];
            device.run(&op, &regions, ORIGIN, &step()).unwrap();
            assert_eq!(get(&mut device, whole(operand, 4)), [11.5, 22.25, 33.5, 44.25]);
        }
    }

    #[test]
    fn what_would_be_unsound_is_refused() {
        let mut device = device(&[8]);
        let part = |start, elems| Region { buffer: 0, start, elems };
        let op = Op::Accumulate { n: 4 };
        for regions in [
            vec![part(0, 4), part(3, 4)],
            vec![part(0, 4), part(6, 4)],
            vec![part(0, 4), part(4, 3)],
            vec![part(0, 4)],
            vec![part(0, 4), Region { buffer: 1, start: 0, elems: 4 }],
        ] {
            let error = device.run(&op, &regions, ORIGIN, &step()).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{regions:?}");
        }
        device.run(&op, &[part(0, 4), part(4, 4)], ORIGIN, &step()).unwrap();
    }

    #[test]
    fn shards_know_their_place() {
        let mut device = device(&[2, 4, 4]);
        set(&mut device, whole(0, 2), &[2, 5].map(f32::from_bits));
        set(&mut device, whole(1, 4), &[1.0, 2.0, 3.0, 4.0]);
        let op = Op::Embed { rows: 2, cols: 2, vocab: 2, shards: 3 };
        let second = Mesh { tp: 2, ..Mesh::ONE }.coord_of(1);
        device.run(&op, &[whole(0, 2), whole(1, 4), whole(2, 4)], second, &step()).unwrap();
        assert_eq!(get(&mut device, whole(2, 4)), [1.0, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn an_update_clips_by_the_norm_and_decays_only_its_share() {
        let mut device = device(&[1, 2, 2, 2, 2]);
        set(&mut device, whole(0, 1), &[4.0]);
        set(&mut device, whole(1, 2), &[2.0, 2.0]);
        set(&mut device, whole(2, 2), &[1.0, 1.0]);
        let regions = [whole(0, 1), whole(1, 2), whole(2, 2), whole(3, 2), whole(4, 2)];
        let op = Op::AdamW { n: 2, decayed: 3, shards: 2, axis: Axis::Data, master: false };
        device.run(&op, &regions, Mesh { dp: 2, ..Mesh::ONE }.coord_of(1), &step()).unwrap();
        // Clipped from norm 2 to 1, gradients of 2 become 1; only element 2 of the whole decays, by lr · decay.
        let m = get(&mut device, whole(3, 2));
        assert!(m.iter().all(|m| (m - 1.0).abs() < 1e-5), "{m:?}");
        let w = get(&mut device, whole(2, 2));
        assert!((w[0] - 0.45).abs() < 1e-6 && (w[1] - 0.5).abs() < 1e-6, "{w:?}");
    }
}
