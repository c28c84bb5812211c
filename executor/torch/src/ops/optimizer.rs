//! The gradient's norm, and fused AdamW.

use meshwright_executor::device::StepArgs;
use tch::{Device, Kind, Tensor};

use super::copy;
use crate::gaps::{self, Update};
use crate::torch::{Kept, Settings};
use crate::view::{Args, Outcome, n};

/// Sums of squares that are made side by side.
const LANES: usize = 64;

/// Σ g².
fn squares(g: &Tensor) -> Outcome<Tensor> {
    let elems = g.numel();
    let lane = elems / LANES;
    if lane < LANES {
        return g.f_norm_scalaropt_dtype(2, Kind::Float)?.f_square();
    }
    let lanes = g.f_narrow(0, 0, n(LANES * lane))?.f_view([n(LANES), n(lane)])?;
    let mut sum = lanes.f_norm_scalaropt_dim(2, 1, false)?.f_square_()?.f_sum(Kind::Float)?;
    if elems > LANES * lane {
        drop(sum.f_add_(&squares(&g.f_narrow(0, n(LANES * lane), n(elems - LANES * lane))?)?)?);
    }
    Ok(sum)
}

/// Adds `Σ g²`; from `whole` on, elements count `1/copies`.
pub fn squared_norm(x: &Args, elems: usize, whole: usize, [copies, replicas]: [usize; 2]) -> Outcome {
    let (g, mut sum) = (x.flat(0)?, x.flat(1)?);
    for (first, count, share) in [(0, whole, replicas), (whole, elems - whole, copies * replicas)] {
        if count > 0 {
            let part = squares(&g.f_narrow(0, n(first), n(count))?)?;
            drop(sum.f_add_(&part.f_div_scalar(n(share))?)?);
        }
    }
    Ok(())
}

/// The update's settings as libtorch's kernel takes them: it makes both bias corrections from one number of steps. That
/// number is the one that gives `bias2`; the rate makes up for what it would do to `bias1`, the decay for the rate. For
/// corrections that belong to one step these are the step, the rate and the decay.
fn translated(step: &StepArgs) -> (f64, f64, f64) {
    let h = &step.adamw;
    let [lr, beta1, beta2, bias1, bias2, decay] =
        [h.lr, h.beta1, h.beta2, h.bias1, h.bias2, h.weight_decay].map(f64::from);
    let steps = ((1.0 - bias2).ln() / beta2.ln()) as f32;
    let rate = lr * (1.0 - beta1.powf(f64::from(steps))) / bias1;
    (f64::from(steps), rate, if rate == 0.0 { 0.0 } else { decay * lr / rate })
}

/// Puts a step's settings where kernels find them on the device.
pub fn settle(step: &StepArgs, device: Device, kept: &mut Kept) -> Outcome {
    if kept.settings.as_ref().is_some_and(|(known, _)| known == step) {
        return Ok(());
    }
    let (steps, rate, _) = translated(step);
    let scale = f64::from(step.loss_scale);
    let values = [steps, rate, scale, scale.ln()];
    match &mut kept.settings {
        Some((known, Settings { steps, rate, scale, log_scale })) => {
            *known = *step;
            for (tensor, value) in [steps, rate, scale, log_scale].into_iter().zip(values) {
                drop(tensor.f_fill_(value)?);
            }
        }
        none => {
            let of = |value: f64| Tensor::f_full([1], value, (Kind::Float, device));
            let [steps, rate, scale, log_scale] = values.map(of);
            let settings = Settings { steps: steps?, rate: rate?.f_squeeze()?, scale: scale?, log_scale: log_scale? };
            *none = Some((*step, settings));
        }
    }
    Ok(())
}

/// AdamW with clipping to the norm in the first argument, whose square stands there, as scaled; where it is not finite nothing
/// is updated.
pub fn adamw(x: &Args, decayed: usize, master: bool, step: &StepArgs, kept: &Kept) -> Outcome {
    let (g, m, v) = (x.flat(1)?, x.flat(3)?, x.flat(4)?);
    let (w, updated) = (x.flat(2)?, x.flat(if master { 5 } else { 2 })?);
    if x.is_cuda() {
        on_cuda(&x.flat(0)?, [&g, &updated, &m, &v], decayed, step, kept)?;
        return if master { copy(&w, &updated) } else { Ok(()) };
    }
    // As min(1, clip / (norm + 1e-6)) / scale.
    let (square, scale) = (x.flat(0)?.f_double_value(&[0])?, f64::from(step.loss_scale));
    if !square.is_finite() {
        return if master { copy(&w, &updated) } else { Ok(()) };
    }
    let clip = if step.clip > 0.0 { f64::from(step.clip) / (square.sqrt() / scale + 1e-6) } else { 1.0 };
    // The kernel writes a copy in bf16; another is made apart.
    let copied = if w.kind() == Kind::BFloat16 { &w } else { &updated };
    gaps::cpu_adamw([&g, copied, &updated, &m, &v], decayed, clip.min(1.0) / scale, &step.adamw)?;
    if master && w.kind() != Kind::BFloat16 { copy(&w, &updated) } else { Ok(()) }
}

/// The same by libtorch's kernel, with nobody waiting for the norm.
fn on_cuda(square: &Tensor, [g, w, m, v]: [&Tensor; 4], decayed: usize, step: &StepArgs, kept: &Kept) -> Outcome {
    let settings = kept.settings();
    let overflow = square.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
    let mut shrink = settings.scale.f_reciprocal()?;
    if step.clip > 0.0 {
        let mut norm = square.f_sqrt()?.f_div_(&settings.scale)?.f_add_scalar_(1e-6)?;
        drop(shrink.f_mul_(&norm.f_reciprocal_()?.f_mul_scalar_(f64::from(step.clip))?.f_clamp_max_(1.0)?)?);
    }
    for (first, count, decays) in [(0, decayed, true), (decayed, g.numel() - decayed, false)] {
        if count > 0 {
            let part = |tensor: &Tensor| tensor.f_narrow(0, n(first), n(count));
            let update = update(step, settings, decays, &overflow);
            gaps::cuda_adamw([&part(w)?, &part(g)?.f_mul(&shrink)?, &part(m)?, &part(v)?], &update)?;
        }
    }
    Ok(())
}

fn update<'a>(step: &StepArgs, settings: &'a Settings, decays: bool, overflow: &'a Tensor) -> Update<'a> {
    let (h, (_, _, decay)) = (&step.adamw, translated(step));
    let [beta1, beta2, eps] = [h.beta1, h.beta2, h.eps].map(f64::from);
    let weight_decay = if decays { decay } else { 0.0 };
    Update { steps: &settings.steps, rate: &settings.rate, overflow, beta1, beta2, weight_decay, eps }
}
