//! The compiler for the machine on paper: job and cluster to plan, plan to program.
//!
//! Flow: [`job`] + cluster → [`search`] → [`plan`] → [`lower`] → program.
//!
//! Invariant: nothing here knows how an instruction is timed or run; the hardware crate prices, the executor runs.

pub mod error;
pub mod estimate;
pub mod explain;
pub mod goal;
pub mod goodput;
pub mod job;
pub mod lower;
pub mod model;
pub mod models;
pub mod plan;
pub mod predict;
pub mod schedule;
pub mod search;
#[cfg(test)]
mod testing;

pub use error::PlanError;
