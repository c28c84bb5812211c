//! GELU and SwiGLU.

use meshwright_hardware::op::ActivationKind;
use tch::Tensor;

use crate::gaps;
use crate::view::{Args, Outcome};

/// `[gate | up]` of packed rows.
fn halves(x: &Args, argument: usize, rows: usize, cols: usize) -> Outcome<[Tensor; 2]> {
    let of = |first| x.strided(argument, [rows, cols], [2 * cols, 1], first);
    Ok([of(0)?, of(cols)?])
}

pub fn forward(x: &Args, kind: ActivationKind, rows: usize, cols: usize) -> Outcome {
    let mut out = x.of(1, [rows, cols])?;
    drop(match kind {
        ActivationKind::Gelu => x.of(0, [rows, cols])?.f_gelu_out(&out, "tanh")?,
        ActivationKind::SwiGlu if !x.is_cuda() => {
            return gaps::cpu_swiglu(&x.of(0, [rows, 2 * cols])?, &out);
        }
        ActivationKind::SwiGlu => {
            let [gate, up] = halves(x, 0, rows, cols)?;
            drop(gate.f_silu_out(&out)?);
            out.f_mul_(&up)?
        }
    });
    Ok(())
}

pub fn backward(x: &Args, kind: ActivationKind, rows: usize, cols: usize) -> Outcome {
    let dout = x.of(1, [rows, cols])?;
    match kind {
        ActivationKind::Gelu => {
            let [u, du] = [0, 2].map(|i| x.of(i, [rows, cols]));
            drop(u?.f_gelu_backward_grad_input(&du?, &dout, "tanh")?);
        }
        ActivationKind::SwiGlu if !x.is_cuda() => {
            let [u, du] = [0, 2].map(|i| x.of(i, [rows, 2 * cols]));
            return gaps::cpu_swiglu_grad(&u?, &dout, &du?);
        }
        ActivationKind::SwiGlu => {
            let ([gate, up], [dgate, mut dup]) = (halves(x, 0, rows, cols)?, halves(x, 2, rows, cols)?);
            // What reaches silu, in the place of the gate's gradient.
            drop(dout.f_mul_out(&dgate, &up)?);
            drop(gate.f_silu_backward_grad_input(&dgate, &dgate)?);
            drop(gate.f_silu_out(&dup)?);
            drop(dup.f_mul_(&dout)?);
        }
    }
    Ok(())
}
