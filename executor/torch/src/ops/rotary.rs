//! Rotary positions: pairs `(i, i + width/2)` of a head turn by an angle.

use meshwright_hardware::op::position;
use tch::{Device, Tensor};

use super::table;
use crate::cache::TensorCache;
use crate::view::{Outcome, n};
use crate::{ffi, kernels};

/// By what angles tokens turn.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    pub rows: usize,
    /// Tokens of a sequence on a rank.
    pub seq: usize,
    /// Width of what turns.
    pub width: usize,
    pub theta: f32,
    pub cp: usize,
    pub rank: usize,
}

impl Turns {
    /// Cosines and sines of each token, `[rows, 1, width / 2]`.
    pub fn table(self, device: Device, cache: &mut TensorCache) -> Outcome<[Tensor; 2]> {
        let Turns { rows, seq, width, theta, cp, rank } = self;
        let half = width / 2;
        let make = || {
            let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / width as f64) as f32;
            let frequencies: Vec<f32> = (0..half).map(frequency).collect();
            let angles = (0..rows).flat_map(|row| {
                let place = position(row % seq, seq, cp, rank) as f32;
                frequencies.iter().map(move |frequency| place * frequency)
            });
            let angles: Vec<f32> = angles.collect();
            let turns: Vec<f32> = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect();
            Tensor::f_from_slice(&turns)?.f_view([2, n(rows), 1, n(half)])
        };
        let both = table(cache, format!("{self:?}"), device, make)?;
        Ok([both.f_select(0, 0)?, both.f_select(0, 1)?])
    }
}

/// The halves of the last axis.
fn halves(heads: &Tensor) -> Outcome<[Tensor; 2]> {
    let half = heads.size()[2] / 2;
    Ok([heads.f_narrow(2, 0, half)?, heads.f_narrow(2, half, half)?])
}

/// `to = from`, turned, or turned back; `[rows, heads, width]` each.
pub fn turned(to: &Tensor, from: &Tensor, [cos, sin]: &[Tensor; 2], inverse: bool) -> Outcome {
    let ([mut low_to, mut high_to], [low, high]) = (halves(to)?, halves(from)?);
    let (plus, minus) = (sin.shallow_clone(), sin.f_neg()?);
    let (of_high, of_low) = if inverse { (plus, minus) } else { (minus, plus) };
    drop(low.f_mul_out(&low_to, cos)?);
    drop(low_to.f_addcmul_(&high, &of_high)?);
    drop(high.f_mul_out(&high_to, cos)?);
    high_to.f_addcmul_(&low, &of_low).map(drop)
}

/// Turns `[rows, heads, width]` in place, by a table that comes again every `seq` rows.
pub fn turn(heads: &Tensor, seq: usize, table: &[Tensor; 2], inverse: bool) -> Outcome {
    if heads.device() == Device::Cpu {
        return ffi::cpu_rope(heads, table, inverse);
    }
    kernels::rope(heads, seq, table, inverse)
}
