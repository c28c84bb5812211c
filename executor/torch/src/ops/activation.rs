//! GELU and SwiGLU.

use meshwright_hardware::op::ActivationKind;

use crate::view::{Outcome, TensorArgs};
use crate::{ffi, kernels};

pub fn forward(x: &TensorArgs, kind: ActivationKind, rows: usize, cols: usize) -> Outcome {
    let out = x.of(1, [rows, cols])?;
    drop(match kind {
        ActivationKind::Gelu => x.of(0, [rows, cols])?.f_gelu_out(&out, "tanh")?,
        ActivationKind::SwiGlu if !x.is_cuda() => {
            return ffi::cpu_swiglu(&x.of(0, [rows, 2 * cols])?, &out);
        }
        ActivationKind::SwiGlu => return kernels::swiglu(&x.of(0, [rows, 2 * cols])?, &out),
    });
    Ok(())
}

pub fn backward(x: &TensorArgs, kind: ActivationKind, rows: usize, cols: usize) -> Outcome {
    let dout = x.of(1, [rows, cols])?;
    match kind {
        ActivationKind::Gelu => {
            let [u, du] = [0, 2].map(|i| x.of(i, [rows, cols]));
            drop(u?.f_gelu_backward_grad_input(&du?, &dout, "tanh")?);
        }
        ActivationKind::SwiGlu => {
            let [u, du] = [0, 2].map(|i| x.of(i, [rows, 2 * cols]));
            let kernel = if x.is_cuda() { kernels::swiglu_grad } else { ffi::cpu_swiglu_grad };
            return kernel(&u?, &dout, &du?);
        }
    }
    Ok(())
}
