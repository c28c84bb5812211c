//! Published plans beside those that the search finds for the same job on the same machine, both simulated.
//!
//! In: a [`Run`]. Out: its [`Gain`], or why there is none; where it is asked for, the decision that brings it.
//!
//! Invariant: the search may choose the published plan, or one as fast, wherever that one fits and its engine is not known to
//! lack it.

use meshwright_engines::engine;
use meshwright_hardware::profile::catalog;
use meshwright_planner::job::Fix;
use meshwright_planner::plan::Plan;
use meshwright_planner::search::{SearchOptions, search_with};

use super::decisive::Decisive;
use super::record::Skip;
use super::row::Run;
use super::{Prediction, cluster, predict};

/// A run's plan and the one that the search finds instead.
#[derive(Clone, Debug)]
pub struct Gain {
    /// The run's plan, simulated.
    pub published: Prediction,
    /// Step of the found one, simulated, in seconds.
    pub found_s: f64,
    /// What no plan undercuts, in seconds.
    pub bound_s: f64,
    /// How long the search took, in seconds.
    pub searched_s: f64,
    /// The found plan.
    pub found: Plan,
    /// Which of its decisions brings most of it, where that was looked for.
    pub decisive: Option<Decisive>,
}

impl Gain {
    /// How many times as fast the found plan is.
    pub fn ratio(&self) -> f64 {
        self.published.figures.step_time_s / self.found_s
    }

    /// Between which such numbers eight in ten lie where both plans were measured.
    pub fn interval(&self) -> [f64; 2] {
        let band = catalog().intervals.gain;
        [band.low, band.high].map(|share| self.ratio() * share)
    }
}

/// Simulates a run's plan, searches for a better one and simulates that.
///
/// With `decisions`, it is searched once more for each decision in which they differ.
///
/// # Errors
/// Where its plan has no price, or nothing fits.
pub fn gain(run: &Run, decisions: bool) -> Result<Gain, Skip> {
    let published = predict(run)?;
    let (job, cluster) = (&published.plan.job, cluster(run, &published.plan));
    let none = |error| Skip::error("nothing fits as simulated", &error);
    let engine = engine::of_stack(cluster.stack.shipped()).map(|engine| &engine.about().ability);
    let options = SearchOptions { engine, ..SearchOptions::FULL };
    let found = search_with(job, &cluster, &Fix::default(), 1, &options).map_err(none)?;
    let (best, figures) = &found.best[0];
    let fixed = |fix: &Fix| Some(search_with(job, &cluster, fix, 1, &options).ok()?.best[0].1.step_time_s);
    let decisive = decisions.then(|| Decisive::of(&published.plan, (best, figures.step_time_s), fixed)).flatten();
    Ok(Gain {
        found_s: figures.step_time_s,
        bound_s: found.bound,
        searched_s: found.seconds,
        found: best.clone(),
        decisive,
        published,
    })
}
