//! The time of one op on one device, as a stack runs it.
//!
//! In: a device, a stack, an op, the bytes that it moves, a format to multiply in. Out: seconds, by measured curve or roofline;
//! seconds in which the host issues it.
//!
//! Invariant: a measured curve is what it is under the software that was measured: no stack changes it.

use super::{PriceError, gemm};
use crate::elem::Elem;
use crate::op::{Layout, Op};
use crate::profile::{AttentionKernel, DeviceKind, DeviceProfile, Stack};
use crate::units::{Bytes, FlopRate, Precision, Seconds};

/// What kernels written for Ampere reach of a Hopper's or Blackwell's own rate (Shah et al. 2024, figure 5: FlashAttention-2
/// at 350 to 400 TFLOP/s forward where FlashAttention-3 reaches 650).
const AMPERE_KERNEL: f64 = 0.57;

/// Bytes that a norm moves op by op, forward and backward, of those of one kernel. By hand, of PyTorch's RMSNorm that computes bf16
/// rows in fp32: cast 6 bytes an element, square 8, mean 4, scale 8, cast 6, gain 4, of 4 as one kernel; backward 76 of 6.
const EAGER_NORM: [f64; 2] = [9.0, 12.0];

/// The time of an op on a device; `bytes` as of [`Op::traffic`], which a curve knows better.
pub fn op_time(
    device: &DeviceProfile,
    stack: &Stack,
    op: &Op,
    bytes: Bytes,
    precision: Precision,
) -> Result<Seconds, PriceError> {
    if let Some(curve) = device.curves.get(op.class()) {
        return Ok(curve.time(&op.dims(), op.work()));
    }
    let moved = stream(device, bytes.0 as f64);
    let seconds = if let Op::ExpertMatmul { layout, experts, sources, m, n, k, .. } = *op {
        // Of a grouped kernel each expert's tiles wait for that expert's weights.
        let cast = cast_of_experts(precision, layout, [experts * sources, m, n, k]);
        moved + stream(device, cast) + multiplied(device, stack, op, precision)?
    } else if op.is_matrix() {
        moved.max(multiplied(device, stack, op, precision)?)
    } else if optimizes(op) {
        moved
    } else {
        moved * stack.overheads.stream * passes(stack, op)
    };
    Ok(seconds + device.launch.value)
}

/// Bytes that casting what a grouped matmul multiplies moves in formats narrower than 16 bits: of experts' tokens, which are permuted
/// first, and of their gradients.
fn cast_of_experts(precision: Precision, layout: Layout, [groups, m, n, k]: [usize; 4]) -> f64 {
    let tokens = if layout == Layout::Tn { k * (m + n) } else { m * k };
    if precision.stored() == precision { 0.0 } else { CAST * (groups * tokens) as f64 }
}

/// How often an op bound by memory moves its bytes.
fn passes(stack: &Stack, op: &Op) -> f64 {
    match op.class() {
        "layer-norm" | "rms-norm" if stack.eager_norms => EAGER_NORM[0],
        "layer-norm-grad" | "rms-norm-grad" if stack.eager_norms => EAGER_NORM[1],
        _ => 1.0,
    }
}

/// Bytes that an element moves as it is cast by blocks (ai-dynamo/aiconfigurator 095f58a, fp8_block beside bf16, B200 to GB300: 3.9).
const CAST: f64 = 4.0;

/// Whether an op is one pass of the optimizer over its state, which libraries fuse as programs do.
fn optimizes(op: &Op) -> bool {
    matches!(op, Op::Update { .. }) || matches!(op.class(), "adamw" | "squared-norm" | "accumulate" | "zero")
}

/// The time that matrix units take for an op.
fn multiplied(device: &DeviceProfile, stack: &Stack, op: &Op, precision: Precision) -> Result<Seconds, PriceError> {
    // Attention stays in the stored format, whatever matmuls run in.
    let linear = matches!(op, Op::Matmul { .. } | Op::ExpertMatmul { .. });
    let narrow = linear && precision.stored() != precision;
    let precision = if linear { precision } else { precision.stored() };
    let peak = super::peak_of(device, precision)?;
    let rates = &stack.overheads;
    let gains = if narrow { rates.narrow / rates.matmul } else { 1.0 };
    let product = |batch: usize, m: usize, n: usize, k: usize| {
        gemm::on(device, peak, precision, batch as f64, m as f64, n as f64, k as f64)
    };
    if let Some(scores) = Scores::of(op).filter(|_| stack.attention == AttentionKernel::Unfused) {
        return Ok(unfused(device, stack, (peak, precision), scores));
    }
    Ok(match *op {
        Op::Matmul { m, n, k, .. } if gemm::is_plain(device, precision) => product(1, m, n, k),
        Op::Matmul { m, n, k, .. } => product(1, m, n, k) / (rates.matmul * gains),
        Op::ExpertMatmul { experts, sources, m, n, k, .. } => {
            product(experts * sources, m, n, k) / (rates.experts * gains)
        }
        Op::Orthogonalize { rows, cols, .. } => {
            let (narrow, wide) = (rows.min(cols), rows.max(cols));
            let [square, cube] = [wide, narrow].map(|k| product(1, narrow, narrow, k));
            // At the rate of one round of one matrix: X·Xᵀ, its square, and their product with X.
            let once = square + cube + product(1, narrow, wide, narrow);
            let flops = 4.0 * (narrow * narrow * wide) as f64 + 2.0 * (narrow as f64).powi(3);
            once * (op.flops() / flops) / rates.matmul
        }
        _ => {
            let older = stack.attention == AttentionKernel::Flash2 && device.own_instructions;
            let rate = rates.attention * if older { AMPERE_KERNEL } else { 1.0 };
            Seconds(op.flops() / (peak.0 * device.efficiency.attention.share(op.flops()) * rate))
        }
    })
}

/// An attention that can store its scores: `matrices` of `queries · keys`, from heads of so many columns.
struct Scores {
    matrices: f64,
    queries: f64,
    keys: f64,
    width: f64,
    backward: bool,
}

impl Scores {
    /// Of an op, if it is one: kernels for ranks that share a sequence are tiled in every stack.
    fn of(op: &Op) -> Option<Scores> {
        let (matrices, queries, keys, width) = match *op {
            Op::Attention(d)
            | Op::AttentionGrad(d)
            | Op::WindowAttention { dims: d, .. }
            | Op::WindowAttentionGrad { dims: d, .. } => (d.batch * d.heads, d.seq, d.seq, d.head_dim),
            Op::ContextAttention(d) | Op::ContextAttentionGrad(d) if d.cp == 1 => {
                (d.batch * d.heads, d.seq, d.blocks * d.keys, d.head_dim)
            }
            _ => return None,
        };
        let [matrices, queries, keys, width] = [matrices, queries, keys, width].map(|size| size as f64);
        let backward =
            matches!(op, Op::AttentionGrad(_) | Op::WindowAttentionGrad { .. } | Op::ContextAttentionGrad(_));
        Some(Scores { matrices, queries, keys, width, backward })
    }
}

/// Attention whose scores go through memory, forward or backward: two products or four, and passes over the scores, which are
/// scaled, masked and normalised, and with dropout masked again (Korthikanti et al. 2022, §4.1).
fn unfused(device: &DeviceProfile, stack: &Stack, (peak, precision): (FlopRate, Precision), scores: Scores) -> Seconds {
    let Scores { matrices, queries, keys, width, backward } = scores;
    let product = |n: f64, k: f64| gemm::on(device, peak, precision, matrices, queries, n, k) / stack.overheads.matmul;
    let products = product(keys, width) + product(width, keys);
    let passes = if stack.dropout { 4.5 } else { 2.0 };
    let bytes = Elem::of(precision).bytes() as f64;
    let passed = stream(device, matrices * queries * keys * bytes * passes) * stack.overheads.stream;
    if backward { products * 2.0 + passed * 1.6 } else { products + passed }
}

/// The time in which a device's host issues an op. Programs of other kinds than a GPU's are on the device as a whole.
pub fn issue_time(device: &DeviceProfile, stack: &Stack, op: &Op) -> Seconds {
    let routes = matches!(op.class(), "dispatch" | "combine-grad");
    issue_once(device, stack) + if routes { issued(device, stack.overheads.host_experts) } else { Seconds(0.0) }
}

/// The time in which it issues anything else.
pub fn issue_once(device: &DeviceProfile, stack: &Stack) -> Seconds {
    issued(device, stack.overheads.host)
}

/// The time of a step in which it issues nothing yet.
pub fn host_starts(device: &DeviceProfile, stack: &Stack) -> Seconds {
    issued(device, stack.overheads.step * 1e3)
}

fn issued(device: &DeviceProfile, micros: f64) -> Seconds {
    Seconds(if device.kind == DeviceKind::Gpu && device.calibrated.is_none() { micros * 1e-6 } else { 0.0 })
}

/// The time of moving bytes through a device's memory.
pub fn stream(device: &DeviceProfile, bytes: f64) -> Seconds {
    Seconds(bytes / (device.memory_bandwidth.value.0 * device.efficiency.memory.share(bytes)))
}
