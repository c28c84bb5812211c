//! The CPU as a device: buffers are candle tensors, ops the fused kernels of [`crate::kernels`] on a team of threads.
//!
//! In: buffer declarations and a number of threads, then ops. Out: changed buffers.
//!
//! Invariant: tensors never leave this module, and their storage is reached only through regions that were checked:
//! inside their buffer, and disjoint wherever one of them is written.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};
use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::op::{NormKind, Op, position};
use meshwright_hardware::program::{Buffer, ELEM_BYTES, Lifetime};

use super::check::{check, shard, sums_in_place};
use super::{Device, Region, StepArgs};
use crate::error::ExecutorError;
use crate::kernels::{self, Team};

/// Floats a cache line: buffers start on one.
const LINE: usize = 16;

/// A rank's buffers in host memory, and the threads that work on them.
pub struct Cpu {
    rank: Rank,
    memory: Vec<Memory>,
    team: Team,
}

/// One buffer.
struct Memory {
    /// Owns the storage.
    tensor: Tensor,
    /// The first float on a cache line.
    start: *mut f32,
    elems: usize,
    /// Whether it stands for memory of the host beside that of a device.
    hosted: bool,
}

// SAFETY: the pointer leads into the tensor's heap storage, which moves with the tensor and is its alone.
unsafe impl Send for Memory {}

/// Finds where a tensor's storage lies.
struct Address(std::sync::Mutex<Option<*mut f32>>);

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(floats) = storage else { candle_core::bail!("a buffer holds f32") };
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(floats[layout.start_offset()..].as_mut_ptr());
        Ok(())
    }
}

impl Memory {
    /// `elems` zeros that start on a cache line.
    fn zeroed(elems: usize) -> candle_core::Result<Memory> {
        let tensor = Tensor::zeros(elems + LINE - 1, DType::F32, &candle_core::Device::Cpu)?;
        let address = Address(Default::default());
        tensor.inplace_op1(&address)?;
        let found = address.0.into_inner().unwrap_or_else(|e| e.into_inner());
        let first = found.ok_or_else(|| candle_core::Error::Msg("no storage".to_owned()))?;
        let skipped = (first.addr() / 4).wrapping_neg() % LINE;
        // SAFETY: fewer than LINE floats on, where at least `elems` are left.
        Ok(Memory { tensor, start: unsafe { first.add(skipped) }, elems, hosted: false })
    }
}

impl Cpu {
    /// Allocates a rank's buffers, all zeros, and starts its `threads`.
    ///
    /// # Errors
    /// [`ExecutorError::Device`] if a buffer cannot be allocated or is not of 4-byte elements.
    pub fn new(rank: Rank, buffers: &[Buffer], threads: usize) -> Result<Cpu, ExecutorError> {
        let allocate = |buffer: &Buffer| {
            if u64::from(buffer.width) != ELEM_BYTES {
                return Err(failed(rank, format!("buffer `{}` is not fp32, all that this device runs", buffer.name)));
            }
            let memory =
                Memory::zeroed(buffer.elems).map_err(|e| failed(rank, format!("buffer `{}`: {e}", buffer.name)))?;
            Ok(Memory { hosted: buffer.lifetime == Lifetime::Hosted, ..memory })
        };
        let memory = buffers.iter().map(allocate).collect::<Result<_, _>>()?;
        Ok(Cpu { rank, memory, team: Team::new(threads) })
    }

    /// A region as a pointer, if it lies in its buffer.
    fn address(&self, region: Region) -> Result<*mut f32, ExecutorError> {
        let Region { buffer, start, elems } = region;
        match self.memory.get(buffer) {
            Some(memory) if start.checked_add(elems).is_some_and(|end| end <= memory.elems) => {
                // SAFETY: inside the storage.
                Ok(unsafe { memory.start.add(start) })
            }
            _ => Err(failed(self.rank, format!("{region:?} is outside its buffer"))),
        }
    }
}

fn failed(rank: Rank, problem: String) -> ExecutorError {
    ExecutorError::Device { device: "cpu".to_owned(), rank, problem }
}

impl Device for Cpu {
    fn run(&mut self, op: &Op, regions: &[Region], at: Coord, step: &StepArgs) -> Result<(), ExecutorError> {
        let signature = op.signature();
        check(op, &signature, regions).map_err(|problem| failed(self.rank, problem))?;
        let views = regions.iter().map(|&region| Ok((self.address(region)?, region.elems)));
        let args = Args(views.collect::<Result<_, ExecutorError>>()?);
        if let (Op::Add { rows, cols, bias }, Some(operand)) = (op, sums_in_place(op, regions)) {
            add_in_place(&self.team, *rows, *cols, *bias, operand, &args);
        } else {
            run_kernel(&self.team, op, &args, at, step);
        }
        Ok(())
    }

    fn with_host(
        &mut self,
        region: Region,
        body: &mut dyn FnMut(&mut [f32]) -> Result<(), ExecutorError>,
    ) -> Result<(), ExecutorError> {
        let start = self.address(region)?;
        // SAFETY: in bounds, and `&mut self` keeps everybody else away.
        body(unsafe { std::slice::from_raw_parts_mut(start, region.elems) })
    }

    fn buffer_bytes(&self) -> u64 {
        self.memory.iter().filter(|memory| !memory.hosted).map(|memory| 4 * memory.tensor.elem_count() as u64).sum()
    }

    fn scratch_bytes(&self) -> u64 {
        self.team.scratch_bytes() as u64
    }
}

/// Arguments that passed [`check`]: each is asked for once, as read or written as the op's signature says, except
/// that an addition in place asks only for one of the two that are the same.
struct Args(Vec<(*mut f32, usize)>);

impl Args {
    fn read(&self, i: usize) -> &[f32] {
        let (start, elems) = self.0[i];
        // SAFETY: in bounds, and nothing that is written overlaps it.
        unsafe { std::slice::from_raw_parts(start, elems) }
    }

    #[allow(clippy::mut_from_ref)] // distinct arguments that are written are disjoint
    fn write(&self, i: usize) -> &mut [f32] {
        let (start, elems) = self.0[i];
        // SAFETY: in bounds, and no other argument overlaps it.
        unsafe { std::slice::from_raw_parts_mut(start, elems) }
    }
}

/// The residual written over one of its operands.
fn add_in_place(team: &Team, rows: usize, cols: usize, bias: bool, operand: usize, args: &Args) {
    let sum = args.write(operand);
    kernels::accumulate(team, args.read(1 - operand), sum);
    if bias {
        // A table of one position: the same row added to all.
        kernels::add_positions(team, rows, cols, |_| 0, args.read(2), sum);
    }
}

/// One kernel an op, arguments in the order of the signature.
fn run_kernel(team: &Team, op: &Op, args: &Args, at: Coord, step: &StepArgs) {
    match *op {
        Op::Embed { rows, cols, vocab, shards } => {
            let first = shard(shards, at.tp) * vocab;
            kernels::embed(team, rows, cols, first, vocab, args.read(0), args.read(1), args.write(2));
        }
        Op::EmbedGrad { rows, cols, vocab, shards } => {
            let first = shard(shards, at.tp) * vocab;
            kernels::embed_grad(team, rows, cols, first, vocab, args.read(0), args.read(1), args.write(2));
        }
        Op::Positions { rows, seq, cols, sp, cp } => {
            let place = |row| position((shard(sp, at.tp) * rows + row) % seq, seq, cp, at.cp);
            kernels::add_positions(team, rows, cols, place, args.read(0), args.write(1));
        }
        Op::PositionsGrad { rows, seq, cols, sp, cp } => {
            let place = |row| position((shard(sp, at.tp) * rows + row) % seq, seq, cp, at.cp);
            kernels::positions_grad(team, rows, cols, place, args.read(0), args.write(1));
        }
        Op::Norm { kind, rows, cols } => {
            let bias = usize::from(kind == NormKind::Layer);
            let (x, gain, shift) = (args.read(0), args.read(1), (bias == 1).then(|| args.read(2)));
            kernels::norm(team, kind, rows, cols, x, gain, shift, args.write(2 + bias), args.write(3 + bias));
        }
        Op::NormGrad { kind, rows, cols, accumulate } => {
            let [x, gain, stats, dy] = [0, 1, 2, 3].map(|i| args.read(i));
            let dbias = (kind == NormKind::Layer).then(|| args.write(6));
            let (dx, dgain) = (args.write(4), args.write(5));
            kernels::norm_grad(team, kind, rows, cols, accumulate, x, gain, stats, dy, dx, dgain, dbias);
        }
        Op::Matmul { layout, m, n, k, bias, accumulate } => {
            let (a, b, shift) = (args.read(0), args.read(1), bias.then(|| args.read(2)));
            kernels::matmul(team, layout, m, n, k, a, b, shift, accumulate, args.write(2 + usize::from(bias)));
        }
        Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
            let (a, b, c) = (args.read(0), args.read(1), args.write(2));
            kernels::expert_matmul(team, layout, [experts, sources], [m, n, k], accumulate, a, b, c);
        }
        Op::Route { rows, experts, top_k, room } => {
            let (probs, shares, places) = (args.write(1), args.write(2), args.write(3));
            kernels::route([rows, experts, top_k, room], args.read(0), probs, shares, places);
        }
        Op::RouteGrad { rows, experts, top_k, balance, .. } => {
            kernels::route_grad([rows, experts, top_k], balance, args.read(0), args.read(1), args.write(2));
        }
        Op::Dispatch { cols, top_k, .. } => {
            kernels::dispatch(team, cols, top_k, args.read(0), args.read(1), args.write(2));
        }
        Op::DispatchGrad { cols, top_k, accumulate, .. } => {
            kernels::dispatch_grad(team, cols, top_k, accumulate, args.read(0), args.read(1), args.write(2));
        }
        Op::Combine { cols, top_k, .. } => {
            kernels::combine(team, cols, top_k, args.read(0), args.read(1), args.read(2), args.write(3));
        }
        Op::CombineGrad { cols, top_k, .. } => {
            let [y, places, shares, dout] = [0, 1, 2, 3].map(|i| args.read(i));
            kernels::combine_grad(team, cols, top_k, y, places, shares, dout, args.write(4), args.write(5));
        }
        Op::LatentPack { rows, seq, heads, nope, rope, value, theta, cp } => {
            let dims = kernels::LatentDims { rows, seq, heads, nope, rope, value, theta };
            let place = |row| position(row, seq, cp, at.cp);
            let given = [0, 1, 2].map(|i| args.read(i));
            kernels::latent_pack(team, dims, place, given, args.write(3));
        }
        Op::LatentPackGrad { rows, seq, heads, nope, rope, value, theta, cp } => {
            let dims = kernels::LatentDims { rows, seq, heads, nope, rope, value, theta };
            let place = |row| position(row, seq, cp, at.cp);
            kernels::latent_pack_grad(team, dims, place, args.read(0), [args.write(1), args.write(2), args.write(3)]);
        }
        Op::Columns { stride, first, cols, into, .. } => {
            let copy = if into { kernels::into_columns } else { kernels::columns };
            copy(team, stride, first, cols, args.read(0), args.write(1));
        }
        Op::ContextAttention(dims) => {
            kernels::context_attention(team, dims, at.cp, args.read(0), args.read(1), args.write(2), args.write(3));
        }
        Op::ContextAttentionGrad(dims) => {
            let [qkv, kv, out, lse, dout] = [0, 1, 2, 3, 4].map(|i| args.read(i));
            let given = kernels::Given { qkv, kv, out, lse, dout };
            kernels::context_attention_grad(team, dims, at.cp, given, args.write(5), args.write(6));
        }
        Op::BiasGrad { rows, cols } => kernels::bias_grad(team, rows, cols, args.read(0), args.write(1)),
        Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
            let place = |row| position(row, seq, cp, at.cp);
            kernels::rope(team, rows, seq, stride, heads, head_dim, theta, inverse, place, args.write(0));
        }
        Op::Attention(dims) => kernels::attention(team, dims, args.read(0), args.write(1), args.write(2)),
        Op::AttentionGrad(dims) => {
            let [qkv, out, lse, dout] = [0, 1, 2, 3].map(|i| args.read(i));
            kernels::attention_grad(team, dims, qkv, out, lse, dout, args.write(4));
        }
        Op::Activation { kind, rows, cols } => {
            kernels::activation(team, kind, rows, cols, args.read(0), args.write(1));
        }
        Op::ActivationGrad { kind, rows, cols } => {
            kernels::activation_grad(team, kind, rows, cols, args.read(0), args.read(1), args.write(2));
        }
        Op::Add { rows, cols, bias } => {
            let (a, b, shift) = (args.read(0), args.read(1), bias.then(|| args.read(2)));
            kernels::add(team, rows, cols, a, b, shift, args.write(2 + usize::from(bias)));
        }
        Op::LossStats { rows, vocab, shards } => {
            let first = shard(shards, at.tp) * vocab;
            kernels::loss_stats(team, rows, vocab, first, args.read(0), args.read(1), args.write(2));
        }
        Op::Loss { rows, vocab, shards, scale } => {
            let first = shard(shards, at.tp) * vocab;
            let (targets, stats) = (args.read(0), args.read(1));
            kernels::loss(team, rows, vocab, shards, first, scale, targets, stats, args.write(2), args.write(3));
        }
        Op::Zero { .. } => kernels::zero(team, args.write(0)),
        Op::Copy { .. } => kernels::copy(team, args.read(0), args.write(1)),
        Op::Accumulate { .. } => kernels::accumulate(team, args.read(0), args.write(1)),
        Op::SquaredNorm { n, whole, copies, replicas, shards, axis } => {
            let first = shard(shards, at.on(axis)) * n;
            kernels::squared_norm(team, args.read(0), first, whole, copies, replicas, args.write(1));
        }
        Op::AdamW { n, decayed, shards, axis, master } => {
            let decayed = decayed.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
            let hyper = step.clipped(args.read(0)[0]);
            let (weights, m, v) = (args.write(2), args.write(3), args.write(4));
            if master {
                let updated = args.write(5);
                kernels::adamw(team, &hyper, decayed, args.read(1), updated, m, v);
                kernels::copy(team, updated, weights);
            } else {
                kernels::adamw(team, &hyper, decayed, args.read(1), weights, m, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::AdamW;
    use meshwright_hardware::mesh::{Axis, Mesh};

    const ORIGIN: Coord = Coord::FIRST;

    fn step() -> StepArgs {
        let adamw = AdamW {
            lr: 0.5,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            weight_decay: 0.1,
            bias1: 1.0,
            bias2: 1.0,
            grad_scale: 1.0,
        };
        StepArgs { adamw, clip: 1.0 }
    }

    fn device(sizes: &[usize]) -> Cpu {
        let declare = |&elems: &usize| Buffer { name: "b".to_owned(), elems, lifetime: Lifetime::Scratch, width: 4 };
        Cpu::new(0, &sizes.iter().map(declare).collect::<Vec<_>>(), 2).unwrap()
    }

    fn set(device: &mut Cpu, region: Region, values: &[f32]) {
        let mut copy = |host: &mut [f32]| {
            host.copy_from_slice(values);
            Ok(())
        };
        device.with_host(region, &mut copy).unwrap();
    }

    fn get(device: &mut Cpu, region: Region) -> Vec<f32> {
        let mut values = Vec::new();
        let mut copy = |host: &mut [f32]| {
            values = host.to_vec();
            Ok(())
        };
        device.with_host(region, &mut copy).unwrap();
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
        assert_eq!(device.buffer_bytes(), 4 * (5 + 40 + 2 * 15));
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
