//! Meshwright: plans, simulates and runs transformer training, and compares what it predicted with what it measured.
//!
//! A thin library over the three crates: what the command line does, for programs and tests.

#[macro_use]
mod out;

pub mod answer;
pub mod busy;
pub mod cli;
pub mod failure;
pub mod machine;
pub mod prices;
pub mod report;
pub mod runs;
pub mod scenario;
mod signals;
pub mod validate;

pub use failure::Failure;
