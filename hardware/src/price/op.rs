//! The time of one op on one device.
//!
//! In: a device, an op, the bytes that it moves, a format to multiply in. Out: seconds, by measured curve or roofline.

use super::{PriceError, gemm};
use crate::op::Op;
use crate::profile::Device;
use crate::units::{Bytes, Precision, Seconds};

/// What an op's measured curve is over, beside its work: m, n, k of a matmul; sequence, heads and width of attention;
/// rows and columns of a row-wise op; elements of a vector.
pub fn dims(op: &Op) -> Vec<f64> {
    let of = |sizes: &[usize]| sizes.iter().map(|&size| size as f64).collect();
    match *op {
        Op::Matmul { m, n, k, .. } => of(&[m, n, k]),
        Op::Attention(d) | Op::AttentionGrad(d) => of(&[d.seq, d.batch * d.heads, d.head_dim]),
        Op::Embed { rows, cols, .. }
        | Op::EmbedGrad { rows, cols, .. }
        | Op::Positions { rows, cols, .. }
        | Op::PositionsGrad { rows, cols, .. }
        | Op::Norm { rows, cols, .. }
        | Op::NormGrad { rows, cols, .. }
        | Op::BiasGrad { rows, cols }
        | Op::Activation { rows, cols, .. }
        | Op::ActivationGrad { rows, cols, .. }
        | Op::Add { rows, cols, .. } => of(&[rows, cols]),
        Op::ExpertMatmul { experts, sources, m, n, k, .. } => of(&[experts * sources * m, n, k]),
        Op::ContextAttention(d) | Op::ContextAttentionGrad(d) => {
            of(&[d.keys * d.blocks, d.batch * d.heads, d.head_dim])
        }
        Op::LatentPack { rows, heads, nope, rope, .. } | Op::LatentPackGrad { rows, heads, nope, rope, .. } => {
            of(&[rows, 3 * heads * (nope + rope)])
        }
        Op::Route { rows, experts, .. } | Op::RouteGrad { rows, experts, .. } => of(&[rows, experts]),
        Op::Dispatch { rows, cols, .. }
        | Op::DispatchGrad { rows, cols, .. }
        | Op::Combine { rows, cols, .. }
        | Op::CombineGrad { rows, cols, .. }
        | Op::Columns { rows, cols, .. } => of(&[rows, cols]),
        Op::Rope { rows, heads, head_dim, .. } => of(&[rows, heads * head_dim]),
        Op::LossStats { rows, vocab, .. } | Op::Loss { rows, vocab, .. } => of(&[rows, vocab]),
        Op::Zero { n } | Op::Copy { n } | Op::Accumulate { n } | Op::SquaredNorm { n, .. } | Op::AdamW { n, .. } => {
            of(&[n])
        }
    }
}

/// The time of an op on a device; `bytes` as of [`Op::traffic`], which a curve knows better.
pub fn op_time(device: &Device, op: &Op, bytes: Bytes, precision: Precision) -> Result<Seconds, PriceError> {
    if let Some(curve) = device.curves.get(op.class()) {
        return Ok(curve.time(&dims(op), op.work()));
    }
    let moved = stream(device, bytes.0 as f64).0;
    let computed = if op.is_matrix() {
        // Attention stays in the stored format, whatever matmuls run in.
        let linear = matches!(op, Op::Matmul { .. } | Op::ExpertMatmul { .. });
        let precision = if linear { precision } else { precision.stored() };
        let no_peak = || PriceError::NoPeak { device: device.name.clone(), precision };
        let peak = device.peak_in(precision).ok_or_else(no_peak)?;
        match *op {
            Op::Matmul { m, n, k, .. } => gemm::on(device, peak, precision, 1.0, m as f64, n as f64, k as f64).0,
            Op::ExpertMatmul { experts, sources, m, n, k, .. } => {
                let each = gemm::on(device, peak, precision, (experts * sources) as f64, m as f64, n as f64, k as f64);
                each.0
            }
            _ => op.flops() / (peak.0 * device.efficiency.attention.share(op.flops())),
        }
    } else {
        0.0
    };
    Ok(Seconds(moved.max(computed)) + device.launch.value)
}

/// The time of moving bytes through a device's memory.
pub fn stream(device: &Device, bytes: f64) -> Seconds {
    Seconds(bytes / (device.memory_bandwidth.value.0 * device.efficiency.memory.share(bytes)))
}
