//! Runs one rank's part of a program for one step.
//!
//! In: a program, the rank, its device, the transport, data and the step's settings. Out: changed buffers, and a span an
//! instruction.
//!
//! A device that keeps time itself is not waited for between blocks: its marks say when they ran.
//!
//! Invariant: instructions run in list order, whatever their stream; a verified program's waits point backwards, so they
//! hold by themselves. Nothing is computed here: ops run on the device, bytes move through the transport.

use std::time::Instant;

use meshwright_hardware::mesh::{Coord, Rank};
use meshwright_hardware::program::{Block, Input, Instr, Kind, Program, View};

use crate::clock::{Clock, Moment};
use crate::device::{Access, Device, Region, StepArgs};
use crate::error::ExecutorError;
use crate::transport::{self, Transport};

/// Fills a view with an input of the microbatch of this number, for the rank that asks; ids are `u32` bits.
pub type Loader<'a> = dyn Fn(Input, usize, &mut [f32]) -> Result<(), ExecutorError> + Sync + 'a;

/// Runs all instructions of `rank`'s role once.
///
/// # Errors
/// The first failure of the device, the transport or the data.
pub fn run_step(
    program: &Program,
    rank: Rank,
    device: &mut dyn Device,
    transport: &dyn Transport,
    load: &Loader<'_>,
    args: &StepArgs,
    clock: &mut Clock,
) -> Result<(), ExecutorError> {
    let at = program.mesh.coord_of(rank);
    let mut step = StepRun { program, rank, at, device, transport, load, args };
    program.roles[program.role_of(at)].instrs.iter().try_for_each(|instr| step.timed(instr, clock))?;
    step.device.sync()?;
    if clock.is_on() {
        clock.waited();
        clock.settle(step.device.marks()?);
    }
    Ok(())
}

/// What instructions of a step share.
struct StepRun<'a> {
    program: &'a Program,
    rank: Rank,
    at: Coord,
    device: &'a mut dyn Device,
    transport: &'a dyn Transport,
    load: &'a Loader<'a>,
    args: &'a StepArgs,
}

impl StepRun<'_> {
    /// Runs an instruction and has its span kept.
    fn timed(&mut self, instr: &Instr, clock: &mut Clock) -> Result<(), ExecutorError> {
        match &instr.kind {
            Kind::Run { .. } if !clock.is_on() => self.run(instr),
            Kind::Run { .. } => {
                let begin = clock.begin();
                self.run(instr)?;
                let end = match self.device.mark()? {
                    Some(mark) => Moment::Mark(mark),
                    None => {
                        // So that a span holds its own work, whenever the device does it.
                        self.device.sync()?;
                        Moment::Host(Instant::now())
                    }
                };
                clock.between(begin, end);
                Ok(())
            }
            // Buffers are kept for the whole run.
            Kind::Free { .. } => {
                clock.nothing();
                Ok(())
            }
            Kind::Load { .. } | Kind::Send { .. } | Kind::Recv { .. } | Kind::Collective { .. } | Kind::Move { .. } => {
                // What comes before is not part of its span.
                self.device.sync()?;
                clock.waited();
                clock.time(|| self.run(instr))
            }
        }
    }

    fn run(&mut self, instr: &Instr) -> Result<(), ExecutorError> {
        let (rank, transport, load) = (self.rank, self.transport, self.load);
        match &instr.kind {
            Kind::Load { input, into } => {
                let microbatch = instr.microbatch.unwrap_or(0) as usize;
                self.device.with_host(self.region(into), Access::Write, &mut |host| load(*input, microbatch, host))
            }
            Kind::Run { block, args, .. } => {
                let program = self.program;
                self.run_block(&program.blocks[*block as usize], args)
            }
            Kind::Send { to, tag, view } => {
                let to = self.peer(*to);
                let mut send = |bytes: &mut [u8]| transport.send(rank, to, *tag, bytes);
                self.device.with_bytes(self.region(view), Access::Read, &mut send)
            }
            Kind::Recv { from, tag, view } => {
                let from = self.peer(*from);
                let mut recv = |bytes: &mut [u8]| transport.recv(rank, from, *tag, bytes);
                self.device.with_bytes(self.region(view), Access::Write, &mut recv)
            }
            Kind::Collective { op, axis, view } => {
                let region = self.region(view);
                transport::collective(transport, self.device, region, rank, (*axis, *op))
            }
            Kind::Move { from, to } => {
                let mut moved = Vec::new();
                self.device.with_bytes(self.region(from), Access::Read, &mut |bytes| {
                    moved.extend_from_slice(bytes);
                    Ok(())
                })?;
                self.device.with_bytes(self.region(to), Access::Write, &mut |bytes| {
                    bytes.copy_from_slice(&moved);
                    Ok(())
                })
            }
            Kind::Free { .. } => Ok(()),
        }
    }

    /// Runs a block's ops with its formal arguments bound to views.
    fn run_block(&mut self, block: &Block, actuals: &[View]) -> Result<(), ExecutorError> {
        let mut regions = Vec::new();
        for call in &block.calls {
            regions.clear();
            let signature = call.op.signature();
            if signature.len() != call.args.len() {
                return Err(self.broken(format!("block `{}` calls {:?} with other arguments", block.name, call.op)));
            }
            for (param, arg) in signature.iter().zip(&call.args) {
                let Some(actual) = actuals.get(arg.param as usize) else {
                    return Err(self.broken(format!("block `{}` lacks argument {}", block.name, arg.param)));
                };
                let Region { buffer, start, .. } = self.region(actual);
                regions.push(Region { buffer, start: start + arg.offset, elems: param.elems });
            }
            self.device.run(&call.op, &regions, self.at, self.args)?;
        }
        Ok(())
    }

    fn region(&self, view: &View) -> Region {
        Region { buffer: view.buffer as usize, start: view.start(self.at), elems: view.elems }
    }

    /// The rank of another stage with the same other coordinates.
    fn peer(&self, stage: usize) -> Rank {
        self.program.mesh.peer(self.at, stage)
    }

    fn broken(&self, problem: String) -> ExecutorError {
        ExecutorError::Device { device: "interpreter".to_owned(), rank: self.rank, problem }
    }
}
