//! `explain --measured-step`: a step that was measured beside the predicted one, and what would explain the difference.
//!
//! In: a step, or the tokens a second or the MFU of one. Out: [`Against`], as text or JSON.

use clap::Args;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Figures, interval};
use serde::Serialize;

use crate::failure::Failure;
use crate::validate::causes::{Explains, causes};

/// A difference of steps, as a share, by which runs alike in every stated column differ too.
const ALIKE: f64 = 0.02;

/// What was measured of a plan's step.
#[derive(Args)]
pub struct MeasuredStep {
    /// A step that was measured, as `15.7s`: says what would explain that it is not the predicted one
    #[arg(long, group = "measured")]
    measured_step: Option<Seconds>,
    /// The same by its tokens a second, over all devices
    #[arg(long, group = "measured", value_name = "RATE")]
    measured_tokens_per_s: Option<f64>,
    /// The same by its MFU, as 0.41, attention counted whole
    #[arg(long, group = "measured", value_name = "SHARE")]
    measured_mfu: Option<f64>,
}

/// A measured step beside a prediction.
#[derive(Serialize)]
pub struct Against {
    /// Seconds.
    step_time_s: f64,
    /// Predicted over measured, less one, in per cent.
    error_pct: f64,
    /// Whether it lies where eight in ten measured runs do; none where no interval is known.
    within_interval: Option<bool>,
    /// What would explain it, each alone, the least unusual first.
    explained_by: Vec<Explains>,
}

impl MeasuredStep {
    /// The option given, and the step that it says, in seconds.
    fn step(&self, plan: &Plan, figures: &Figures) -> Result<Option<(&'static str, f64)>, Failure> {
        let refused = |problem: &str| Err(Failure::input(problem.to_owned()));
        Ok(match (self.measured_step, self.measured_tokens_per_s, self.measured_mfu) {
            (Some(step), ..) if step.0 > 0.0 => Some(("--measured-step", step.0)),
            (Some(_), ..) => return refused("--measured-step must be above zero: the time of a step, as 15.7s"),
            (_, Some(rate), _) if rate > 0.0 => {
                Some(("--measured-tokens-per-s", plan.job.tokens_per_step() as f64 / rate))
            }
            (_, Some(_), _) => {
                return refused("--measured-tokens-per-s must be above zero: tokens a second over all devices");
            }
            (.., Some(mfu)) if mfu > 0.0 && mfu <= 1.0 => {
                Some(("--measured-mfu", figures.step_time_s * figures.mfu / mfu))
            }
            (.., Some(_)) => return refused("--measured-mfu is a share, above 0 and at most 1, as 0.41"),
            _ => None,
        })
    }

    /// What was measured beside a plan's figures; none if nothing was.
    pub fn against(&self, plan: &Plan, figures: &Figures, cluster: &Cluster) -> Result<Option<Against>, Failure> {
        let Some((option, step)) = self.step(plan, figures)? else { return Ok(None) };
        let far = 1000.0;
        if !(figures.step_time_s / far..=figures.step_time_s * far).contains(&step) {
            let [measured, predicted] = [Seconds(step), Seconds(figures.step_time_s)];
            return Err(Failure::input(format!(
                "{option}: that is a step of {measured}, and {predicted} is predicted; no cause explains a factor of {far}"
            )));
        }
        let interval = interval(plan, figures, cluster);
        Ok(Some(Against {
            step_time_s: step,
            error_pct: 100.0 * (figures.step_time_s / step - 1.0),
            within_interval: interval.map(|i| (i.step_time_low_s..=i.step_time_high_s).contains(&step)),
            explained_by: match (figures.step_time_s / step - 1.0).abs() < ALIKE {
                true => Vec::new(),
                false => causes(plan, cluster, step)?,
            },
        }))
    }
}

/// For people.
pub fn print_measured(against: &Against) {
    let Against { step_time_s, error_pct, within_interval, explained_by } = against;
    let lies = match within_interval {
        Some(true) => ", where eight in ten measured runs lie",
        Some(false) => ", beyond where eight in ten measured runs lie",
        None => "",
    };
    println!("   measured {:>11}   the prediction is {error_pct:+.1} %{lies}", Seconds(*step_time_s).to_string());
    if explained_by.is_empty() {
        return println!("   nothing is left to explain: runs alike in all that is stated differ by as much");
    }
    println!(
        "\nwhat would explain the measured step, each overhead of the stack alone (`stacks NAME` has them), the least unusual first"
    );
    println!("   {:<14} {:>10} {:>10}   in units of what stacks differ by", "overhead", "now", "needed");
    for Explains { overhead, now, needed, reaches_s, distance } in explained_by {
        let digits = |value: f64| format!("{value:.3}");
        let needed = needed.map_or("-".to_owned(), digits);
        let words = match (distance, reaches_s) {
            (Some(distance), _) => format!("{distance:.1}"),
            (None, Some(reaches)) => format!("no value does: at its bound the step takes {}", Seconds(*reaches)),
            (None, None) => String::new(),
        };
        println!("   {overhead:<14} {:>10} {needed:>10}   {words}", digits(*now));
    }
}
