//! The gradient's norm, and fused AdamW.

use meshwright_executor::device::StepArgs;
use tch::{Device, Kind, Tensor};

use super::copy;
use crate::gaps::{self, Update};
use crate::torch::{Kept, Settings};
use crate::view::{Args, Outcome, n};

/// Elements of a gradient that are clipped at once on the CPU, so that the copy stays in caches.
const CLIPPED: usize = 1 << 17;
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
    let (steps, rate, _) = translated(step);
    match &mut kept.settings {
        Some((known, _)) if known == step => {}
        Some((known, settings)) => {
            *known = *step;
            drop(settings.steps.f_fill_(steps)?);
            drop(settings.rate.f_fill_(rate)?);
        }
        none => {
            let of = |value: f64| Tensor::f_full([1], value, (Kind::Float, device));
            *none = Some((*step, Settings { steps: of(steps)?, rate: of(rate)?.f_squeeze()? }));
        }
    }
    Ok(())
}

/// AdamW with clipping to the norm in the first argument.
pub fn adamw(x: &Args, elems: usize, decayed: usize, master: bool, step: &StepArgs, kept: &Kept) -> Outcome {
    let (_, settings) = kept.settings.as_ref().expect("they are settled before");
    let (g, m, v) = (x.flat(1)?, x.flat(3)?, x.flat(4)?);
    let updated = x.flat(if master { 5 } else { 2 })?;
    let shrink = if step.clip > 0.0 {
        // min(1, clip / (norm + 1e-6)), on the device: nobody waits for the norm.
        let mut norm = x.flat(0)?.f_sqrt()?.f_add_scalar_(1e-6)?;
        Some(norm.f_reciprocal_()?.f_mul_scalar_(f64::from(step.clip))?.f_clamp_max_(1.0)?)
    } else {
        None
    };
    let at_once = if matches!(g.device(), Device::Cuda(_)) { elems.max(1) } else { CLIPPED };
    for (from, to, decays) in [(0, decayed, true), (decayed, elems, false)] {
        for first in (from..to).step_by(at_once) {
            let count = at_once.min(to - first);
            let part = |tensor: &Tensor| tensor.f_narrow(0, n(first), n(count));
            let g = match &shrink {
                Some(shrink) => part(&g)?.f_mul(shrink)?,
                None => part(&g)?,
            };
            gaps::adamw([&part(&updated)?, &g, &part(&m)?, &part(&v)?], &update(step, settings, decays))?;
        }
    }
    if master { copy(&x.flat(2)?, &updated) } else { Ok(()) }
}

fn update<'a>(step: &StepArgs, settings: &'a Settings, decays: bool) -> Update<'a> {
    let (h, (_, lr, decay)) = (&step.adamw, translated(step));
    let [beta1, beta2, eps] = [h.beta1, h.beta2, h.eps].map(f64::from);
    let weight_decay = if decays { decay } else { 0.0 };
    Update { steps: &settings.steps, rate: &settings.rate, lr, beta1, beta2, weight_decay, eps }
}
