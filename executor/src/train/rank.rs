//! A rank's part of a step.
//!
//! In: a program, a rank's device and links, the step. Out: when each of its instructions ran.
//!
//! Invariant: a failure or panic of one rank ends the step of all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::{Input, Program};
use meshwright_hardware::trace::Lane;

use super::TrainConfig;
use super::samples::{Source, load};
use crate::clock::Clock;
use crate::device::{Device, StepArgs};
use crate::error::ExecutorError;
use crate::interpret::run_step;
use crate::transport::{Threads, Transport};

/// One rank's part of a step; a failure or panic ends everybody's.
pub(super) fn run_rank(
    program: &Program,
    config: &TrainConfig,
    source: &Source,
    transport: &Threads,
    rank: Rank,
    device: &mut dyn Device,
    (step, args, epoch): (usize, &StepArgs, Instant),
) -> Result<Lane, ExecutorError> {
    let at = program.mesh.coord_of(rank);
    let load = |input: Input, microbatch: usize, host: &mut [f32]| {
        let first = (config.microbatches_before(at.dp) + microbatch) * config.microbatch_size;
        load(source, step, first, input, (config.microbatch_size, program.mesh.cp, at.cp), host)
    };
    let body = || {
        let mut clock = if config.traced { Clock::new(epoch) } else { Clock::off(epoch) };
        transport.barrier(rank)?;
        run_step(program, rank, device, transport, &load, args, &mut clock)?;
        Ok(Lane { rank, role: program.role_of(at), spans: clock.into_spans() })
    };
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let problem = format!("a kernel panicked: {}", text.unwrap_or("no message"));
        Err(ExecutorError::Device { device: config.device.to_string(), rank, problem })
    });
    if outcome.is_err() {
        transport.abort();
    }
    outcome
}
