//! The machine for real: runs a verified program on devices and measures it.
//!
//! In: a program, where its parameters lie, and data. Out: trained weights, measured traces, and curves of how long ops
//! take.
//!
//! Invariant: nothing here knows a transformer or a plan; what is computed, and when, stands in the program.

pub mod calibrate;
pub mod checkpoint;
pub mod clock;
pub mod data;
pub mod device;
pub mod error;
pub mod init;
pub mod interpret;
pub mod kernels;
pub mod metrics;
mod random;
pub mod train;
pub mod transport;

pub use error::ExecutorError;
