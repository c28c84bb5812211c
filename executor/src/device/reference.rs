//! Ops without a kernel: the reference of the vocabulary, on copies in the host's memory.
//!
//! In: a device, an op, the regions it works on. Out: the regions written, rounded once.
//!
//! Invariant: it needs nothing of a device but [`Device::with_host`], so every device runs every op.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{DtypeClass, Mode, Op, StepSettings};

use super::{Access, Device, Region, StepArgs};
use crate::error::ExecutorError;

impl From<&StepArgs> for StepSettings {
    fn from(step: &StepArgs) -> StepSettings {
        let h = &step.adamw;
        let [lr, beta1, beta2, eps] = [h.lr, h.beta1, h.beta2, h.eps].map(f64::from);
        let [weight_decay, bias1, bias2] = [h.weight_decay, h.bias1, h.bias2].map(f64::from);
        let [clip, loss_scale] = [step.clip, step.loss_scale].map(f64::from);
        StepSettings { lr, beta1, beta2, eps, weight_decay, bias1, bias2, clip, loss_scale }
    }
}

/// Runs an op on regions that passed [`super::check::check`].
///
/// # Errors
/// Those of [`Device::with_host`].
pub(super) fn run<D: Device + ?Sized>(
    device: &mut D,
    op: &Op,
    regions: &[Region],
    at: Coord,
    step: &StepArgs,
) -> Result<(), ExecutorError> {
    let signature = op.signature();
    let mut all: Vec<Vec<f64>> = regions.iter().map(|region| vec![0.0; region.elems]).collect();
    for ((param, &region), values) in signature.iter().zip(regions).zip(&mut all) {
        let ids = param.takes == DtypeClass::Ids;
        if param.mode != Mode::Out {
            let number = |&x: &f32| if ids { f64::from(x.to_bits()) } else { f64::from(x) };
            device.with_host(region, Access::Read, &mut |host| {
                values.iter_mut().zip(&*host).for_each(|(to, from)| *to = number(from));
                Ok(())
            })?;
        }
    }
    op.reference(&mut all, at, &step.into());
    for ((param, &region), values) in signature.iter().zip(regions).zip(&all) {
        let ids = param.takes == DtypeClass::Ids;
        if param.mode != Mode::In {
            let word = |&x: &f64| if ids { f32::from_bits(x as u32) } else { x as f32 };
            device.with_host(region, Access::Write, &mut |host| {
                host.iter_mut().zip(values).for_each(|(to, from)| *to = word(from));
                Ok(())
            })?;
        }
    }
    Ok(())
}
