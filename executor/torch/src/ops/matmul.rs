//! Products of matrices, straight into their buffers.

use meshwright_hardware::op::Layout;
use tch::{Device, Tensor};

use crate::gaps;
use crate::view::{Args, Outcome, n};

/// Both operands as `[m, k]` and `[k, n]`.
fn operands(x: &Args, layout: Layout, [m, n, k]: [usize; 3]) -> Outcome<(Tensor, Tensor)> {
    Ok(match layout {
        Layout::Nt => (x.of(0, [m, k])?, x.of(1, [n, k])?.f_transpose(0, 1)?),
        Layout::Nn => (x.of(0, [m, k])?, x.of(1, [k, n])?),
        Layout::Tn => (x.of(0, [k, m])?.f_transpose(0, 1)?, x.of(1, [k, n])?),
    })
}

/// `c = a · b` or `c += a · b`. oneDNN's kernels are faster than MKL's, which ATen would take on the CPU for fp32.
fn product(a: &Tensor, b: &Tensor, accumulate: bool, c: &Tensor) -> Outcome {
    if c.device() == Device::Cpu {
        return gaps::cpu_matmul(a, b, accumulate, c);
    }
    drop(match (c.dim(), accumulate) {
        (2, false) => a.f_mm_out(c, b)?,
        (2, true) => c.shallow_clone().f_addmm_(a, b)?,
        (_, false) => a.f_bmm_out(c, b)?,
        (_, true) => c.shallow_clone().f_baddbmm_(a, b)?,
    });
    Ok(())
}

pub fn one(x: &Args, layout: Layout, [m, n, k]: [usize; 3], bias: bool, accumulate: bool) -> Outcome {
    let (a, b) = operands(x, layout, [m, n, k])?;
    let mut c = x.of(x.len() - 1, [m, n])?;
    product(&a, &b, accumulate, &c)?;
    if bias { c.f_add_(&x.of(2, [n])?).map(drop) } else { Ok(()) }
}

/// Products by expert and source.
pub fn experts(
    x: &Args,
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
