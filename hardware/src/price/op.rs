//! The time of one op on one device.
//!
//! In: a device, an op, the bytes that it moves, a format to multiply in. Out: seconds, by measured curve or roofline.

use super::{PriceError, gemm};
use crate::op::Op;
use crate::profile::DeviceProfile;
use crate::units::{Bytes, Precision, Seconds};

/// The time of an op on a device; `bytes` as of [`Op::traffic`], which a curve knows better.
pub fn op_time(device: &DeviceProfile, op: &Op, bytes: Bytes, precision: Precision) -> Result<Seconds, PriceError> {
    if let Some(curve) = device.curves.get(op.class()) {
        return Ok(curve.time(&op.dims(), op.work()));
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
pub fn stream(device: &DeviceProfile, bytes: f64) -> Seconds {
    Seconds(bytes / (device.memory_bandwidth.value.0 * device.efficiency.memory.share(bytes)))
}
