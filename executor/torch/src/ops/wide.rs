//! Ops over elements of two bytes whose operators would round in between: they run in fp32 on widened copies, some rows at a
//! time, so that copies stay in caches.
//!
//! In: an op and its arguments. Out: the arguments written, rounded once.
//!
//! Invariant: how an op is cut depends on its dims alone.

use meshwright_executor::device::Region;
use meshwright_hardware::op::{Mode, NormKind, Op, Rows};
use tch::{Device, Kind, Tensor};

use super::attention;
use crate::kernels;
use crate::view::{Outcome, TensorArgs, n};

/// Floats of the copies of a part, about: 1 MiB on the CPU; on CUDA few launches count for more.
fn floats(device: Device) -> usize {
    if matches!(device, Device::Cuda(_)) { 1 << 26 } else { 1 << 18 }
}

/// Whether operators take these elements as they are, and round what they give once.
pub fn is_native(op: &Op, x: &TensorArgs) -> Outcome<bool> {
    if (0..x.len()).all(|argument| !x.is_half(argument)) || kernels::runs(op, x)? {
        return Ok(true);
    }
    // Kernels of `cpp/fused.cpp` and `cpp/attention.cpp`.
    let fused = !x.is_cuda() && (0..x.len()).all(|argument| x.kind(argument) != Kind::Half);
    Ok(match op {
        Op::Matmul { .. } | Op::ExpertMatmul { .. } | Op::Embed { .. } | Op::Positions { .. } => true,
        Op::PositionsGrad { .. } | Op::Columns { .. } | Op::Dispatch { .. } | Op::DispatchGrad { .. } => true,
        Op::LossStats { .. } | Op::Loss { .. } | Op::Zero { .. } | Op::Copy { .. } | Op::Accumulate { .. } => true,
        Op::SquaredNorm { .. } | Op::AdamW { .. } => true,
        Op::Activation { kind, .. } | Op::ActivationGrad { kind, .. } => kind.width() == 1 || fused,
        Op::NormGrad { kind: NormKind::Rms, .. } | Op::Rope { .. } => fused,
        Op::Add { bias, .. } => !bias,
        Op::Norm { kind: NormKind::Layer, .. } => true,
        // CUDA's kernels are of two bytes, and keep statistics in fp32.
        Op::Norm { kind: NormKind::Rms, .. } => x.is_cuda() || fused,
        // CUTLASS's kernels, on CUDA, would round gradients of keys before they are summed over the heads that share them.
        Op::Attention(dims) | Op::AttentionGrad(dims) => {
            if x.is_cuda() {
                attention::is_cudnn(dims, x)
            } else {
                fused
            }
        }
        _ => false,
    })
}

/// Runs `kernel` on the op's parts, with copies in fp32 of what is narrower.
pub fn run(op: &Op, x: &TensorArgs, device: Device, mut kernel: impl FnMut(&Op, &TensorArgs) -> Outcome) -> Outcome {
    let signature = op.signature();
    // What cannot be cut is one row.
    let (cut, rows) = (op.rows().is_some(), op.rows().unwrap_or(Rows { count: 1, unit: 1 }));
    let whole: Vec<bool> = signature.iter().map(|param| cut && param.whole).collect();
    let of_row = |i: usize| signature[i].elems / rows.count;
    let by_row: usize = (0..x.len()).filter(|&i| x.is_half(i) && !whole[i]).map(of_row).sum();
    let count = rows.at_once(by_row, floats(device));
    let widened = |i: usize, first: usize, elems: usize| -> Outcome<Tensor> {
        if signature[i].mode == Mode::Out {
            return Tensor::f_empty([n(elems)], (Kind::Float, device));
        }
        x.strided(i, [elems], [1], first)?.f_to_kind(Kind::Float)
    };
    // What every part needs whole; nothing narrow of it is written.
    let fixed = |i: usize| -> Outcome<Option<Tensor>> {
        (whole[i] && x.is_half(i)).then(|| widened(i, 0, signature[i].elems)).transpose()
    };
    let fixed = (0..x.len()).map(fixed).collect::<Outcome<Vec<_>>>()?;
    for row in (0..rows.count).step_by(count) {
        let rows = (rows.count - row).min(count);
        let (mut buffers, mut regions): (Vec<Tensor>, Vec<Region>) = Default::default();
        for i in 0..x.len() {
            let (first, elems) = if whole[i] { (0, signature[i].elems) } else { (row * of_row(i), rows * of_row(i)) };
            let Region { buffer, start, .. } = x.regions[i];
            let (memory, start) = match &fixed[i] {
                Some(copy) => (copy.shallow_clone(), 0),
                None if x.is_half(i) => (widened(i, first, elems)?, 0),
                None => (x.buffers[buffer].shallow_clone(), start + first),
            };
            regions.push(Region { buffer: i, start, elems });
            buffers.push(memory);
        }
        kernel(&op.over(rows), &TensorArgs { buffers: &buffers, regions: &regions })?;
        for i in (0..x.len()).filter(|&i| x.is_half(i) && !whole[i] && signature[i].mode != Mode::In) {
            x.strided(i, [regions[i].elems], [1], row * of_row(i))?.f_copy_(&buffers[i])?;
        }
    }
    Ok(())
}
