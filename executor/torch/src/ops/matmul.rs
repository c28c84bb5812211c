//! Products of matrices, straight into their buffers.

use meshwright_hardware::op::Layout;
use tch::{Device, Kind, Tensor};

use super::{copy, store};
use crate::ffi;
use crate::view::{Outcome, TensorArgs, n};

/// Both operands as `[m, k]` and `[k, n]`.
fn operands(x: &TensorArgs, layout: Layout, [m, n, k]: [usize; 3]) -> Outcome<(Tensor, Tensor)> {
    Ok(match layout {
        Layout::Nt => (x.of(0, [m, k])?, x.of(1, [n, k])?.f_transpose(0, 1)?),
        Layout::Nn => (x.of(0, [m, k])?, x.of(1, [k, n])?),
        Layout::Tn => (x.of(0, [k, m])?.f_transpose(0, 1)?, x.of(1, [k, n])?),
    })
}

/// `c = a · b` or `c += a · b`; `c` may be in fp32 where `a` and `b` are not. On the CPU either
/// oneDNN's kernels or MKL's are faster (`cpp/blas.cpp`).
fn product(a: &Tensor, b: &Tensor, accumulate: bool, c: &Tensor) -> Outcome {
    if c.device() == Device::Cpu {
        return ffi::cpu_matmul(a, b, accumulate, c);
    }
    if accumulate && c.kind() != Kind::Float {
        // cuBLAS may round the product before it adds it.
        let sum = c.f_to_kind(Kind::Float)?;
        product(a, b, true, &sum)?;
        return copy(c, &sum);
    }
    let (widens, full) = (a.kind() != c.kind(), Kind::Float);
    drop(match (c.dim(), accumulate) {
        (2, false) if widens => a.f_mm_dtype_out(c, b, full)?,
        (2, true) if widens => c.f_addmm_dtype_out(c, a, b, full)?,
        (_, false) if widens => a.f_bmm_dtype_out(c, b, full)?,
        (_, true) if widens => c.f_baddbmm_dtype_out(c, a, b, full)?,
        (2, false) => a.f_mm_out(c, b)?,
        (2, true) => c.shallow_clone().f_addmm_(a, b)?,
        (_, false) => a.f_bmm_out(c, b)?,
        (_, true) => c.shallow_clone().f_baddbmm_(a, b)?,
    });
    Ok(())
}

/// Whether cuBLAS makes a product in one piece, as it does where tiles are enough for a large device; else it may split sums,
/// and round them before a bias is added.
fn is_whole([m, n]: [usize; 2], c: &Tensor) -> bool {
    c.kind() == Kind::Float || m.div_ceil(128) * n.div_ceil(128) >= 264
}

pub fn one(x: &TensorArgs, layout: Layout, [m, n, k]: [usize; 3], bias: bool, accumulate: bool) -> Outcome {
    let (a, b) = operands(x, layout, [m, n, k])?;
    let c = x.of(x.len() - 1, [m, n])?;
    if bias && !accumulate && c.device() != Device::Cpu && is_whole([m, n], &c) && a.kind() == c.kind() {
        let bias = x.of(2, [n])?;
        if bias.kind() == c.kind() && b.kind() == c.kind() {
            // cuBLASLt adds it as it stores the product.
            return bias.f_addmm_out(&c, &a, &b).map(drop);
        }
    }
    if bias && c.kind() != Kind::Float && (accumulate || c.device() != Device::Cpu) {
        let added = x.of(2, [n])?.f_to_kind(Kind::Float)?;
        let mut sum = if accumulate { c.f_to_kind(Kind::Float)? } else { added.f_expand_as(&c)?.f_contiguous()? };
        if accumulate {
            drop(sum.f_add_(&added)?);
        }
        product(&a, &b, true, &sum)?;
        return copy(&c, &sum);
    }
    if bias {
        // First, so that the sum is rounded once.
        store(&c, &x.of(2, [n])?, accumulate)?;
    }
    product(&a, &b, accumulate || bias, &c)
}

/// Products by expert and source.
pub fn experts(
    x: &TensorArgs,
    layout: Layout,
    [experts, sources]: [usize; 2],
    [m, n_, k]: [usize; 3],
    accumulate: bool,
) -> Outcome {
    for source in 0..sources {
        // One source's part of what has a part of each.
        let of = |argument: usize, rows: usize, cols: usize| {
            x.of(argument, [sources, experts, rows, cols])?.f_select(0, n(source))
        };
        let (a, b, c) = match layout {
            Layout::Nt => (of(0, m, k)?, x.of(1, [experts, n_, k])?.f_transpose(1, 2)?, of(2, m, n_)?),
            Layout::Nn => (of(0, m, k)?, x.of(1, [experts, k, n_])?, of(2, m, n_)?),
            Layout::Tn => (of(0, k, m)?.f_transpose(1, 2)?, of(1, k, n_)?, x.of(2, [experts, m, n_])?),
        };
        let adds = accumulate || (layout == Layout::Tn && source > 0);
        product(&a, &b, adds, &c)?;
    }
    Ok(())
}
