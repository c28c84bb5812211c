//! The gradient's norm, and fused AdamW.

use meshwright_executor::device::StepArgs;
use meshwright_executor::kernels::AdamWSettings;
use tch::{Device, Kind, Tensor};

use super::copy;
use crate::cache::{Settings, TensorCache};
use crate::view::{Outcome, TensorArgs, n};
use crate::{ffi, kernels};

/// Sums of squares that are made side by side: enough for all of a large GPU's processors.
fn lanes(device: Device) -> usize {
    if matches!(device, Device::Cuda(_)) { 1024 } else { 64 }
}

/// Σ g².
fn squares(g: &Tensor) -> Outcome<Tensor> {
    let (elems, count) = (g.numel(), lanes(g.device()));
    let lane = elems / count;
    if lane < count {
        return g.f_norm_scalaropt_dtype(2, Kind::Float)?.f_square();
    }
    let lanes = g.f_narrow(0, 0, n(count * lane))?.f_view([n(count), n(lane)])?;
    let mut sum = lanes.f_norm_scalaropt_dim(2, 1, false)?.f_square_()?.f_sum(Kind::Float)?;
    if elems > count * lane {
        drop(sum.f_add_(&squares(&g.f_narrow(0, n(count * lane), n(elems - count * lane))?)?)?);
    }
    Ok(sum)
}

/// Adds `Σ g²`; from `whole` on, elements count `1/copies`.
pub fn squared_norm(x: &TensorArgs, elems: usize, whole: usize, [copies, replicas]: [usize; 2]) -> Outcome {
    let (g, mut sum) = (x.flat(0)?, x.flat(1)?);
    for (first, count, share) in [(0, whole, replicas), (whole, elems - whole, copies * replicas)] {
        if count > 0 {
            let part = squares(&g.f_narrow(0, n(first), n(count))?)?;
            drop(sum.f_add_(&part.f_div_scalar(n(share))?)?);
        }
    }
    Ok(())
}

/// Puts a step's settings where kernels find them on the device.
pub fn settle(step: &StepArgs, device: Device, cache: &mut TensorCache) -> Outcome {
    if cache.settings.as_ref().is_some_and(|(known, _)| known == step) {
        return Ok(());
    }
    let (h, scale) = (&step.adamw, step.loss_scale);
    // The first four are what `adamw.cu` reads.
    let values = Tensor::f_from_slice(&[scale, h.lr, h.bias1, h.bias2, scale.ln()])?;
    match &mut cache.settings {
        Some((known, settings)) => {
            *known = *step;
            settings.all.f_copy_(&values)?;
        }
        none => {
            let all = values.f_to(device)?;
            let (scale, log_scale) = (all.f_narrow(0, 0, 1)?, all.f_narrow(0, 4, 1)?);
            *none = Some((*step, Settings { all, scale, log_scale }));
        }
    }
    Ok(())
}

/// AdamW with clipping to the norm in the first argument, whose square stands there, as scaled; where it is not finite nothing
/// is updated.
pub fn adamw(x: &TensorArgs, decayed: usize, master: bool, step: &StepArgs, cache: &TensorCache) -> Outcome {
    let (g, m, v) = (x.flat(1)?, x.flat(3)?, x.flat(4)?);
    let (w, updated) = (x.flat(2)?, x.flat(if master { 5 } else { 2 })?);
    if x.is_cuda() {
        let AdamWSettings { beta1, beta2, eps, weight_decay, .. } = step.adamw;
        let fixed = kernels::Fixed { beta1, beta2, eps, weight_decay, clip: step.clip };
        let vectors = [&g, &updated, &m, &v];
        return kernels::adamw([&x.flat(0)?, &cache.settings().all], vectors, decayed, &fixed, master.then_some(&w));
    }
    // As min(1, clip / (norm + 1e-6)) / scale.
    let (square, scale) = (x.flat(0)?.f_double_value(&[0])?, f64::from(step.loss_scale));
    if !square.is_finite() {
        return if master { copy(&w, &updated) } else { Ok(()) };
    }
    let clip = if step.clip > 0.0 { f64::from(step.clip) / (square.sqrt() / scale + 1e-6) } else { 1.0 };
    // The kernel writes a copy in bf16; another is made apart.
    let copied = if w.kind() == Kind::BFloat16 { &w } else { &updated };
    ffi::cpu_adamw([&g, copied, &updated, &m, &v], decayed, clip.min(1.0) / scale, &step.adamw)?;
    if master && w.kind() != Kind::BFloat16 { copy(&w, &updated) } else { Ok(()) }
}
