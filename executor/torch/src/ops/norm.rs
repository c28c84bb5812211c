//! LayerNorm and RMSNorm. Statistics are a row's mean and 1/σ, side by side.

use meshwright_hardware::op::{NormKind, Op};
use tch::{Device, Kind, Tensor};

use super::{EPS, copy, store};
use crate::view::{Outcome, TensorArgs, n};
use crate::{ffi, kernels};

pub fn forward(x: &TensorArgs, kind: NormKind, rows: usize, cols: usize) -> Outcome {
    let last = x.len() - 1;
    let [rows_in, y] = [0, last - 1].map(|i| x.of(i, [rows, cols]));
    let (rows_in, y, gain) = (rows_in?, y?, x.of(1, [cols])?);
    if kernels::runs(&Op::Norm { kind, rows, cols }, x)? {
        let mut given = vec![rows_in, gain];
        if kind == NormKind::Layer {
            given.push(x.of(2, [cols])?);
        }
        return kernels::norm(kind, &given, [&y, &x.flat(last)?], EPS);
    }
    let [mean, rstd] = [0, 1].map(|i| x.strided(last, [rows, 1], [2, 1], i));
    let (mut mean, rstd) = (mean?, rstd?);
    match kind {
        NormKind::Layer => {
            let options = (Kind::Float, y.device());
            let [made_mean, made_rstd] = [(); 2].map(|()| Tensor::f_empty([n(rows), 1], options));
            let (made_mean, made_rstd) = (made_mean?, made_rstd?);
            // On the CPU what rows are scaled by decides what statistics are.
            let bias = x.of(2, [cols])?;
            let kind = if is_cuda(&y) { y.kind() } else { Kind::Float };
            let (gain, bias) = (gain.f_to_kind(kind)?, bias.f_to_kind(kind)?);
            ffi::layer_norm(&rows_in, [&gain, &bias], EPS, [&y, &made_mean, &made_rstd])?;
            copy(&mean, &made_mean)?;
            copy(&rstd, &made_rstd)
        }
        NormKind::Rms if is_cuda(&y) => {
            let (made, made_rstd) = rows_in.f_internal_fused_rms_norm([n(cols)], Some(&gain), EPS)?;
            drop(mean.f_zero_()?);
            copy(&rstd, &made_rstd)?;
            copy(&y, &made)
        }
        NormKind::Rms => {
            let gain = gain.f_to_kind(Kind::Float)?;
            ffi::cpu_rms_norm([&rows_in, &gain], EPS, [&y, &x.of(last, [rows, 2])?])
        }
    }
}

pub fn backward(x: &TensorArgs, kind: NormKind, rows: usize, cols: usize, accumulate: bool) -> Outcome {
    let [rows_in, dy, dx] = [0, 3, 4].map(|i| x.of(i, [rows, cols]));
    let (rows_in, dy, dx, gain) = (rows_in?, dy?, dx?, x.of(1, [cols])?);
    if kernels::runs(&Op::NormGrad { kind, rows, cols, accumulate }, x)? {
        let sums = (5..x.len()).map(|i| x.of(i, [cols])).collect::<Outcome<Vec<_>>>()?;
        return kernels::norm_grad(kind, [&rows_in, &gain, &x.flat(2)?, &dy], &dx, accumulate, &sums);
    }
    let (mean, rstd) = (x.strided(2, [rows, 1], [2, 1], 0)?, x.strided(2, [rows, 1], [2, 1], 1)?);
    let mut dgain = x.of(5, [cols])?;
    match kind {
        NormKind::Layer => {
            let made = if accumulate { dx.f_empty_like()? } else { dx.shallow_clone() };
            let (made_gain, made_bias) = (dgain.f_empty_like()?, dgain.f_empty_like()?);
            let (mean, rstd) = (mean.f_contiguous()?, rstd.f_contiguous()?);
            ffi::layer_norm_grad([&dy, &rows_in, &mean, &rstd, &gain], [&made, &made_gain, &made_bias])?;
            drop(dgain.f_add_(&made_gain)?);
            drop(x.of(6, [cols])?.f_add_(&made_bias)?);
            if accumulate { store(&dx, &made, true) } else { Ok(()) }
        }
        NormKind::Rms if is_cuda(&dx) => {
            let [made, made_gain] = ffi::rms_norm_grad([&dy, &rows_in, &rstd.f_contiguous()?, &gain])?;
            drop(dgain.f_add_(&made_gain)?);
            store(&dx, &made, accumulate)
        }
        NormKind::Rms => {
            let (gain, stats) = (gain.f_to_kind(Kind::Float)?, x.of(2, [rows, 2])?);
            ffi::cpu_rms_norm_grad([&rows_in, &gain, &stats, &dy], accumulate, [&dx, &dgain])
        }
    }
}

fn is_cuda(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cuda(_))
}
