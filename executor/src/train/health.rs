//! Whether training still gets anywhere.
//!
//! In: a step's figures. Out: a warning when it first goes wrong, and an error once it has for too long.
//!
//! Invariant: what dynamic loss scaling does by itself is no trouble.

use crate::error::ExecutorError;
use crate::metrics::StepMetrics;

/// So many steps in a row that update nothing end a run: more than the greatest loss scale can be halved.
const IN_A_ROW: usize = 30;

/// What has been seen of a run.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Latest steps in a row that updated nothing.
    skipped: usize,
    warned: bool,
}

impl Health {
    /// After a step: gives what to warn of, once a run.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] after [`IN_A_ROW`] steps that updated nothing.
    pub fn after(&mut self, metrics: &StepMetrics) -> Result<Option<String>, ExecutorError> {
        let (step, updated) = (metrics.step + 1, metrics.grad_norm.is_finite());
        self.skipped = if updated { 0 } else { self.skipped + 1 };
        if self.skipped == IN_A_ROW {
            return Err(ExecutorError::bad_input(
                "training",
                format!("steps {} to {step}", step + 1 - IN_A_ROW),
                "none of them updated anything: the gradient is not finite",
                "take a lower `lr` or `weight_decay`, or a longer warm-up; checkpoints of finite steps were kept",
            ));
        }
        if sound(metrics) || std::mem::replace(&mut self.warned, true) {
            return Ok(None);
        }
        let what = if metrics.loss.is_finite() { "gradient" } else { "loss" };
        let then = "while it is not, nothing is updated or saved; a lower `lr` or a longer warm-up may help";
        Ok(Some(format!("step {step}: the {what} is not finite; {then}")))
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

    #[test]
    fn trouble_is_told_once_and_ends_a_run_that_stands_still() {
        let mut health = Health::default();
        assert_eq!(health.after(&metrics(0, 5.0, 1.0, 1.0)).unwrap(), None);
        let told = health.after(&metrics(1, f64::NAN, f64::NAN, 1.0)).unwrap().unwrap();
        assert!(told.contains("step 2") && told.contains("loss is not finite"), "{told}");
        for step in 2..IN_A_ROW {
            assert_eq!(health.after(&metrics(step, f64::NAN, f64::NAN, 1.0)).unwrap(), None);
        }
        let error = health.after(&metrics(IN_A_ROW, f64::NAN, f64::NAN, 1.0)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("steps 2 to 31"), "{error}");
    }

    #[test]
    fn an_overflow_that_the_loss_scale_may_have_caused_is_no_trouble() {
        let mut health = Health::default();
        for step in 0..IN_A_ROW - 1 {
            assert_eq!(health.after(&metrics(step, 5.0, f64::INFINITY, 2.0)).unwrap(), None);
        }
        assert_eq!(health.after(&metrics(IN_A_ROW, 5.0, 1.0, 2.0)).unwrap(), None);
        assert!(health.after(&metrics(IN_A_ROW + 1, 5.0, f64::INFINITY, 1.0)).unwrap().is_some());
    }
}
