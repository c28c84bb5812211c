//! Dynamic loss scaling (Micikevicius et al. 2018, §3.2): gradients too small for fp16 are lifted by a factor that grows while
//! nothing overflows, and is halved when something does.
//!
//! In: whether a step's gradient was finite. Out: the scale of the next step, and how many updates there have been.
//!
//! Invariant: a step whose gradient overflowed updates nothing, in any format; only fp16 has a scale other than one.

use meshwright_hardware::program::{Elem, Program};

/// How the scale moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// Of the first step.
    pub initial: f32,
    /// Steps without overflow after which it is doubled.
    pub every: usize,
}

impl Default for LossScaling {
    /// As PyTorch's `GradScaler`.
    fn default() -> Self {
        LossScaling { initial: 65536.0, every: 2000 }
    }
}

/// The scale never falls below, nor rises above: gradients that overflow unscaled diverge.
const RANGE: std::ops::RangeInclusive<f32> = 1.0..=16_777_216.0;

/// Where the scale stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaler {
    rule: Option<LossScaling>,
    /// Of the next step.
    pub scale: f32,
    /// Steps since the last change.
    good: usize,
    /// Steps so far that updated nothing.
    pub skipped: usize,
}

impl Scaler {
    /// For a program, which needs scaling if it has elements of fp16.
    pub fn of(program: &Program, rule: LossScaling) -> Scaler {
        let mut buffers = program.roles.iter().flat_map(|role| &role.buffers);
        let rule = buffers.any(|buffer| buffer.elem == Elem::F16).then_some(rule);
        Scaler { rule, scale: rule.map_or(1.0, |rule| rule.initial), good: 0, skipped: 0 }
    }

    /// After a step.
    pub fn next(&mut self, finite: bool) {
        self.skipped += usize::from(!finite);
        let Some(rule) = self.rule else { return };
        self.good = if finite { self.good + 1 } else { 0 };
        if !finite {
            self.scale = (self.scale / 2.0).max(*RANGE.start());
        } else if self.good >= rule.every {
            (self.scale, self.good) = ((2.0 * self.scale).min(*RANGE.end()), 0);
        }
    }

    /// As a tensor of a checkpoint.
    pub fn saved(&self) -> Vec<f32> {
        vec![self.scale, f32::from_bits(self.good as u32), f32::from_bits(self.skipped as u32)]
    }

    /// From such a tensor.
    pub fn restore(&mut self, saved: &[f32]) -> bool {
        let &[scale, good, skipped] = saved else { return false };
        (self.scale, self.good, self.skipped) = (scale, good.to_bits() as usize, skipped.to_bits() as usize);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(initial: f32, every: usize) -> Scaler {
        let rule = LossScaling { initial, every };
        Scaler { rule: Some(rule), scale: initial, good: 0, skipped: 0 }
    }

    #[test]
    fn halves_at_once_and_doubles_after_good_steps_in_a_row() {
        let mut scaler = scaler(8.0, 3);
        let scales: Vec<f32> = [true, true, false, true, true, true, true, false, false]
            .into_iter()
            .map(|finite| {
                scaler.next(finite);
                scaler.scale
            })
            .collect();
        assert_eq!(scales, [8.0, 8.0, 4.0, 4.0, 4.0, 8.0, 8.0, 4.0, 2.0]);
        assert_eq!(scaler.skipped, 3);
    }

    #[test]
    fn stays_in_its_range_and_comes_back_from_a_checkpoint() {
        let mut low = scaler(1.0, 2);
        low.next(false);
        assert_eq!((low.scale, low.skipped), (1.0, 1));
        let mut high = scaler(16_777_216.0, 1);
        high.next(true);
        assert_eq!(high.scale, 16_777_216.0);
        low.next(true);
        let mut back = scaler(4.0, 2);
        assert!(back.restore(&low.saved()));
        assert_eq!(Scaler { rule: low.rule, ..back }, low);
        assert!(!back.restore(&[1.0]));
    }
}
