//! The options of a search: when it has seen enough, and who watches, what it keeps to.
//!
//! In: limits in seconds a step, an engine, a watcher. Out: [`SearchOptions`], which [`super::search_with`] asks at every turn.
//!
//! Invariant: the watcher changes nothing.

use super::{EFFORT, TOLERANCE};
use crate::ability::Ability;

/// When a search has seen enough, and who watches it.
#[derive(Clone, Copy)]
pub struct SearchOptions<'a> {
    /// It ends with a plan whose step is at most this long, in seconds; 0 for none.
    pub enough: f64,
    /// It does not look at what takes this long or longer, in seconds a step.
    pub below: f64,
    /// Relative gap to the best bound at which it ends.
    pub tolerance: f64,
    /// Shapes that it opens at the most, once it has a plan.
    pub effort: usize,
    /// Whether plans count by their bounds, so that only the best of them is simulated.
    pub rough: bool,
    /// Whether it also looks at meshes that leave devices idle.
    pub idle: bool,
    /// Whether plans that are not simulated yet rule others out, by how long they hardly ever take.
    pub guesses: bool,
    /// Whether it ends with the first plan that fits, unsimulated.
    pub unsimulated: bool,
    /// It keeps to what this engine can express.
    pub engine: Option<&'a Ability>,
    /// Is told how far it is.
    pub watch: Option<&'a (dyn Fn(&Progress) + Sync)>,
}

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Combinations there are.
    pub considered: usize,
    /// Plans simulated.
    pub simulated: usize,
    /// The shortest step so far, in seconds.
    pub best: Option<f64>,
    /// What no plan that is left undercuts, in seconds a step.
    pub bound: f64,
}

impl SearchOptions<'_> {
    /// The whole search.
    pub const FULL: SearchOptions<'static> = SearchOptions {
        enough: 0.0,
        below: f64::INFINITY,
        tolerance: TOLERANCE,
        effort: EFFORT,
        rough: false,
        idle: true,
        guesses: true,
        unsimulated: false,
        engine: None,
        watch: None,
    };

    /// Whether a search ends whose best step is `best`.
    pub(super) fn enough(&self, best: Option<f64>) -> bool {
        best.is_some_and(|best| best <= self.enough)
    }
}

impl Default for SearchOptions<'_> {
    fn default() -> Self {
        SearchOptions::FULL
    }
}
