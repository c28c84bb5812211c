//! Whether training still gets anywhere.
//!
//! In: a step's figures. Out: a warning when it first goes wrong, and an error once it has for too long.
//!
//! Invariant: what dynamic loss scaling does by itself is no trouble.

use crate::error::ExecutorError;
use crate::metrics::StepMetrics;

/// So many steps in a row that update nothing end a run whose gradients are not scaled.
const IN_A_ROW: usize = 8;
/// The same while they are: more than the greatest loss scale can be halved.
const SCALED_IN_A_ROW: usize = 30;

/// What has been seen of a run.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Latest steps in a row that updated nothing.
    skipped: usize,
    /// And those of them whose gradients were not scaled.
    unscaled: usize,
    warned: bool,
}

impl Health {
    /// After a step: gives what to warn of, once a run.
    ///
    /// # Errors
    /// [`ExecutorError::Diverged`] at a loss that is not finite, which no scale can cause, and after [`IN_A_ROW`] or
    /// [`SCALED_IN_A_ROW`] steps that updated nothing.
    pub fn after(&mut self, metrics: &StepMetrics) -> Result<Option<String>, ExecutorError> {
        let (step, updated) = (metrics.step + 1, metrics.grad_norm.is_finite());
        let diverged = |problem: String| Err(ExecutorError::Diverged { step, problem });
        if !metrics.loss.is_finite() {
            return diverged(format!("its loss is {}", metrics.loss));
        }
        self.skipped = if updated { 0 } else { self.skipped + 1 };
        self.unscaled = if updated || metrics.loss_scale > 1.0 { 0 } else { self.unscaled + 1 };
        if self.unscaled == IN_A_ROW || self.skipped == SCALED_IN_A_ROW {
            let since = step + 1 - self.skipped;
            return diverged(format!("the gradient is not finite, and nothing was updated in steps {since} to {step}"));
        }
        if sound(metrics) || std::mem::replace(&mut self.warned, true) {
            return Ok(None);
        }
        let then = "while it is not, nothing is updated or saved; a lower `lr` or a longer warm-up may help";
        Ok(Some(format!("step {step}: the gradient is not finite; {then}")))
    }
}

/// Whether a step's figures are numbers. An overflow of scaled gradients may be the scale's fault, which is halved then.
pub(super) fn sound(metrics: &StepMetrics) -> bool {
    metrics.loss.is_finite() && (metrics.grad_norm.is_finite() || metrics.loss_scale > 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: usize, loss: f64, grad_norm: f64, loss_scale: f64) -> StepMetrics {
        StepMetrics {
            step,
            loss,
            tokens_per_s: 1.0,
            step_time_s: 1.0,
            lr: 1.0,
            grad_norm,
            loss_scale,
            skipped: 0,
            peak_memory_bytes: 1,
        }
    }

    fn ended(health: &mut Health, metrics: &StepMetrics) -> String {
        let error = health.after(metrics).unwrap_err();
        assert_eq!(error.exit_code().code(), 6);
        error.to_string()
    }

    #[test]
    fn trouble_is_told_once_and_ends_a_run_that_stands_still() {
        let mut health = Health::default();
        assert_eq!(health.after(&metrics(0, 5.0, 1.0, 1.0)).unwrap(), None);
        let told = health.after(&metrics(1, 5.0, f64::NAN, 1.0)).unwrap().unwrap();
        assert!(told.contains("step 2") && told.contains("gradient is not finite"), "{told}");
        for step in 2..IN_A_ROW {
            assert_eq!(health.after(&metrics(step, 5.0, f64::NAN, 1.0)).unwrap(), None);
        }
        let said = ended(&mut health, &metrics(IN_A_ROW, 5.0, f64::NAN, 1.0));
        assert!(said.contains("in steps 2 to 9"), "{said}");
    }

    #[test]
    fn a_loss_that_is_no_number_ends_a_run_whatever_the_scale() {
        for (loss, scale) in [(f64::NAN, 1.0), (f64::INFINITY, 1024.0)] {
            let said = ended(&mut Health::default(), &metrics(3, loss, 1.0, scale));
            assert!(said.contains("at step 4") && said.contains("its loss is"), "{said}");
        }
    }

    #[test]
    fn an_overflow_that_the_loss_scale_may_have_caused_is_no_trouble() {
        let mut health = Health::default();
        for step in 0..SCALED_IN_A_ROW - 1 {
            assert_eq!(health.after(&metrics(step, 5.0, f64::INFINITY, 2.0)).unwrap(), None);
        }
        assert_eq!(health.after(&metrics(SCALED_IN_A_ROW, 5.0, 1.0, 2.0)).unwrap(), None);
        assert!(health.after(&metrics(SCALED_IN_A_ROW + 1, 5.0, f64::INFINITY, 1.0)).unwrap().is_some());
    }
}
