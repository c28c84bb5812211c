//! The compiler for the machine on paper: job and cluster to plan, plan to program.
//!
//! Flow: [`job`] + cluster → [`search`] → [`plan`] → [`lower`] → program → [`predict`] → figures.
//!
//! Layers, each of which knows only those before it:
//!
//! 1. job and model: [`schedule`]s by name; the [`job`] with its model, what is fixed and what is wanted; [`models`] by name;
//!    architectures as tapes ([`model`]). No decision is known here.
//! 2. [`plan`]: the decisions for a job, and what engines can express of them ([`ability`]). It knows of no cluster.
//! 3. [`lower`]: a plan to the program that is priced and run. It knows no time.
//! 4. price and predict: what the program does on a cluster ([`predict`]), and training with failures ([`goodput`]).
//! 5. [`search`]: plans for a job on a cluster, and what none undercuts.
//! 6. [`explain`]: why a plan takes what it takes; [`goal`]: which plans serve what is wanted.
//!
//! Invariant: nothing here knows how an instruction is timed or run; the hardware crate prices, the executor runs.

pub mod ability;
pub mod error;
pub mod explain;
pub mod goal;
pub mod goodput;
pub mod job;
pub mod limits;
pub mod lower;
pub mod model;
pub mod models;
mod parallel;
pub mod plan;
pub mod predict;
pub mod scaling;
pub mod schedule;
pub mod search;
#[cfg(test)]
mod testing;

pub use error::PlanError;
