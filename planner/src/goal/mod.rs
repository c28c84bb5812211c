//! Goals: what a plan is to be good at, and what it must not exceed.
//!
//! In: a [`Case`]: a job with its [`Goal`](crate::job::Goal), a cluster. Out: by [`choose`] the plans that serve it best.
//!
//! Invariant: without a goal it is the fastest plan, which leaves devices idle that do not help.

mod advice;
mod case;
mod changes;
mod choose;
mod could_fit;
mod front;
mod longest;
mod offer;
mod parts;

pub use advice::{advise, advise_limits, missed};
pub use case::Case;
pub use choose::{Chosen, Watch, choose, choose_best};
pub use front::MOST as MOST_IN_FRONT;
pub use offer::{Advice, Offer};

#[cfg(test)]
mod tests;
