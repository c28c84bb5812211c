//! Trains a program: ranks as threads, step after step, measured.
//!
//! In: a program, where its parameters lie, settings and data. Out: losses, step times, a measured trace, peak memory,
//! trained weights and checkpoints.
//!
//! Invariant: which sequence is which sample of a step does not depend on the plan, and no sum on timing, but for cuDNN's
//! gradients of attention; so the same seed gives the same losses on every mesh up to rounding, and the same bits on the
//! same one.

mod config;
mod health;
mod memory;
mod meta;
mod rank;
mod samples;
mod scaling;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod weights;

pub use config::{CheckpointConfig, TextId, TrainConfig};
pub use memory::{RankMemory, check_memory, host_free};
pub use samples::{Source, Task, corpus_source};
pub use scaling::LossScaling;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use meshwright_hardware::mesh::{Axis, Rank};
use meshwright_hardware::params::{Params, Part};
use meshwright_hardware::program::Program;
use meshwright_hardware::trace::{Lane, Origin, Trace};
use meshwright_hardware::verify::Verified;

use crate::checkpoint::Checkpoints;
use crate::clock::trace;
use crate::device::{Device, Region};
use crate::error::ExecutorError;
use crate::init::initial;
use crate::metrics::StepMetrics;
use crate::transport::{Threads, Transport};
use health::{Health, sound};
use meta::{differs, text_changed};
use rank::run_rank;
use scaling::Scaler;
use weights::{read, unlike};

/// Steps whose times do not count: caches, page tables and kernels' working memory are still filling.
const WARM_UP: usize = 2;
/// So many traces are kept to take the median step from: the latest.
const TRACED: usize = 101;
/// Steps that are run to measure a run that is done, after those that do not count.
const MEASURED: usize = 9;

/// What one step gave.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean loss over the global batch, nats a token.
    pub loss: f64,
    /// Norm of the gradient before clipping, unscaled; if it is not finite, nothing was updated.
    pub grad_norm: f64,
    /// What gradients were scaled by.
    pub loss_scale: f64,
    /// Seconds from the first instruction to the last; all of the call, if steps are not traced.
    pub seconds: f64,
    /// When every instruction of every rank ran.
    pub trace: Trace,
}

/// What a training run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainReport {
    /// The first step of this run: not 0 if it was resumed.
    pub first_step: usize,
    /// A loss a step, nats a token.
    pub losses: Vec<f64>,
    /// A time a step, in seconds, warm-up included.
    pub step_times: Vec<f64>,
    /// The step of median time, of the latest steps after the warm-up.
    pub trace: Trace,
    /// The rank that held most.
    pub peak_memory_bytes: u64,
    /// What each rank held.
    pub rank_memory: Vec<RankMemory>,
    /// The step that comes after the newest checkpoint that was saved.
    pub saved: Option<usize>,
}

/// A program on its devices.
pub struct Trainer {
    program: Arc<Verified>,
    params: Params,
    config: TrainConfig,
    source: Arc<Source>,
    devices: Vec<Box<dyn Device>>,
    transport: Threads,
    /// The stage that adds up the loss, and where each class of replicas keeps it there.
    loss_stage: usize,
    losses: Vec<Region>,
    /// Where the first stage keeps the gradient's squared norm.
    norm: Region,
    scaler: Scaler,
    next_step: usize,
    warn: Box<dyn FnMut(&str) + Send>,
}

impl Trainer {
    /// Allocates the buffers of every rank and draws the initial weights from `config.seed`.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] if the batch does not fit the mesh or a parameter does not fit its buffers,
    /// [`ExecutorError::Device`] if there is no such device, memory is short or the program has no `loss` (last stage) or `norm` (first stage).
    pub fn new(
        program: Arc<Verified>,
        params: Params,
        config: TrainConfig,
        source: Arc<Source>,
    ) -> Result<Trainer, ExecutorError> {
        let mesh = program.mesh;
        config.check(&mesh)?;
        check_params(&program, &params)?;
        check_memory(&program, config.device)?;
        let device = |rank: Rank| -> Result<Box<dyn Device>, ExecutorError> {
            let buffers = &program.roles[program.role_of(mesh.coord_of(rank))].buffers;
            config.device.open(rank, buffers, config.threads_per_rank)
        };
        let devices = (0..mesh.ranks()).map(device).collect::<Result<_, _>>()?;
        let stages = 0..mesh.pp;
        let loss_stage = stages.rev().find(|&stage| named(&program, stage, "loss").is_ok()).unwrap_or(mesh.pp - 1);
        let classes = 0..program.classes.count();
        let losses = classes.map(|class| named(&program, program.role(class, loss_stage), "loss"));
        let losses = losses.collect::<Result<_, _>>()?;
        let norm = named(&program, 0, "norm")?;
        let (transport, seed) = (Threads::new(mesh), config.seed);
        let scaler = Scaler::of(&program, config.loss_scaling);
        let mut trainer = Trainer {
            program,
            params,
            config,
            source,
            devices,
            transport,
            loss_stage,
            losses,
            norm,
            scaler,
            next_step: 0,
            warn: Box::new(|_| {}),
        };
        trainer.fill(|spec, part| initial(spec, seed, part))?;
        Ok(trainer)
    }

    /// Whom to tell, in a sentence, what went wrong though training goes on; else nobody is told.
    pub fn on_warning(&mut self, warn: impl FnMut(&str) + Send + 'static) {
        self.warn = Box::new(warn);
    }

    /// Goes on from the newest checkpoint, if there is one; gives the step that comes next.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] if the checkpoint is damaged or from another program, text or seed.
    pub fn resume(&mut self) -> Result<usize, ExecutorError> {
        let Some(to) = &self.config.checkpoints else { return Ok(self.next_step) };
        let place = to.dir.display().to_string();
        if let Some(loaded) = Checkpoints::new(&to.dir, to.keep).latest()? {
            let ours = self.meta();
            if let Some(why) = differs(&loaded.meta, &ours) {
                return Err(unlike(&why, &place));
            }
            if text_changed(&loaded.meta["text"], &ours["text"]) {
                (self.warn)(
                    "the text found on this machine has changed since: losses are no longer those of the seed alone",
                );
            }
            self.restore(&loaded.ranks)?;
            self.next_step = loaded.step;
        }
        Ok(self.next_step)
    }

    /// Runs the steps that are left, calling `on_step` after each, until it breaks. A checkpoint that cannot be saved is warned
    /// of, if there are steps left to save later; after a step whose loss or gradient is not finite nothing is saved, for it would
    /// push out a state that is of use.
    ///
    /// # Errors
    /// The first failure of any rank, that of the last save, or that too many steps in a row updated nothing; what was saved
    /// before stays.
    pub fn train(
        &mut self,
        on_step: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<TrainReport, ExecutorError> {
        let to = self.config.checkpoints.clone().filter(|to| to.every > 0);
        let saves = to.map(|to| Checkpoints::new(&to.dir, to.keep).make().map(|made| (made, to.every))).transpose()?;
        self.go(self.config.steps, saves, on_step)
    }

    /// Runs some of the steps that would come next, for the trace of a run that is done; nothing of them is saved.
    ///
    /// # Errors
    /// The first failure of any rank.
    pub fn measure(&mut self) -> Result<TrainReport, ExecutorError> {
        self.go(self.next_step + WARM_UP + MEASURED, None, |_| ControlFlow::Continue(()))
    }

    fn go(
        &mut self,
        end: usize,
        saves: Option<(Checkpoints, usize)>,
        mut on_step: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<TrainReport, ExecutorError> {
        let first_step = self.next_step;
        let (mut losses, mut step_times, mut traces) = (Vec::new(), Vec::new(), VecDeque::new());
        let (mut health, mut saved) = (Health::default(), None);
        while self.next_step < end {
            let step = self.next_step;
            let outcome = self.step()?;
            losses.push(outcome.loss);
            step_times.push(outcome.seconds);
            if step < first_step + WARM_UP || traces.len() == TRACED {
                traces.pop_front();
            }
            let metrics = self.metrics(step, &outcome);
            traces.push_back(outcome.trace);
            let last = on_step(&metrics).is_break() || self.next_step == end;
            if let Some(trouble) = health.after(&metrics)? {
                (self.warn)(&trouble);
            }
            if let Some((checkpoints, every)) = &saves
                && (last || self.next_step.is_multiple_of(*every))
                && sound(&metrics)
                && self.save(checkpoints, last)?
            {
                saved = Some(self.next_step);
            }
            if last {
                break;
            }
        }
        let rank_memory = self.rank_memory();
        Ok(TrainReport {
            first_step,
            losses,
            step_times,
            trace: median(traces.into()),
            peak_memory_bytes: rank_memory.iter().map(RankMemory::total).max().unwrap_or(0),
            rank_memory,
            saved,
        })
    }

    /// Saves, and tells whether it could; that it could not ends the run only where no later step can make up for it.
    fn save(&mut self, checkpoints: &Checkpoints, last: bool) -> Result<bool, ExecutorError> {
        match checkpoints.save(self.next_step, &self.meta(), &self.snapshot()?) {
            Ok(()) => Ok(true),
            Err(error) if last => Err(error),
            Err(error) => {
                let step = self.next_step;
                (self.warn)(&format!("step {step} is not saved: {error}; training goes on, earlier checkpoints stay"));
                Ok(false)
            }
        }
    }

    /// Whether steps from here on are traced.
    pub fn set_traced(&mut self, traced: bool) {
        self.config.traced = traced;
    }

    /// Runs the next step, whatever the configured number of steps.
    ///
    /// # Errors
    /// The first failure of any rank; the trainer cannot go on after one.
    pub fn step(&mut self) -> Result<StepOutcome, ExecutorError> {
        let step = self.next_step;
        let args = self.config.step_args(step, self.scaler.skipped, self.scaler.scale);
        let epoch = Instant::now();
        let (program, config, source, transport) = (&**self.program, &self.config, &*self.source, &self.transport);
        let run = |rank: Rank, device: &mut Box<dyn Device>| {
            run_rank(program, config, source, transport, rank, device.as_mut(), (step, &args, epoch))
        };
        let outcomes: Vec<Result<Lane, ExecutorError>> = thread::scope(|scope| {
            let run = &run;
            let start = |(rank, device)| {
                let named = thread::Builder::new().name(format!("rank-{rank}"));
                named.spawn_scoped(scope, move || run(rank, device)).map_err(|error| {
                    transport.abort();
                    ExecutorError::no_thread(config.device, rank, &error)
                })
            };
            let ranks: Vec<_> = self.devices.iter_mut().enumerate().map(start).collect();
            let end = |rank: Result<thread::ScopedJoinHandle<_>, _>| rank?.join().expect("panics are caught inside");
            ranks.into_iter().map(end).collect()
        });
        let trace = trace(ExecutorError::first(outcomes)?);
        let seconds = if config.traced { trace.step_time().seconds().0 } else { epoch.elapsed().as_secs_f64() };
        self.next_step += 1;
        let loss_scale = f64::from(args.loss_scale);
        let grad_norm = self.grad_norm()? / loss_scale;
        self.scaler.next(grad_norm.is_finite());
        Ok(StepOutcome { loss: self.loss()?, grad_norm, loss_scale, seconds, trace })
    }

    /// The sum of what the last stage's ranks add up, one of each tensor-parallel group.
    fn loss(&mut self) -> Result<f64, ExecutorError> {
        let mesh = self.program.mesh;
        let stage = self.loss_stage;
        let ranks = (0..mesh.dp).flat_map(|dp| (0..mesh.cp).map(move |cp| mesh.rank(stage, dp, cp, 0)));
        let mut loss = |rank: Rank| {
            let class = self.program.classes.of_replica(mesh.coord_of(rank).dp);
            Ok(f64::from(read(self.devices[rank].as_mut(), self.losses[class])?[0]))
        };
        ranks.map(&mut loss).sum()
    }

    fn grad_norm(&mut self) -> Result<f64, ExecutorError> {
        Ok(f64::from(read(self.devices[0].as_mut(), self.norm)?[0]).sqrt())
    }

    /// What each rank has held at most so far.
    pub fn rank_memory(&self) -> Vec<RankMemory> {
        let of_rank = |rank: Rank| RankMemory {
            buffers: self.devices[rank].buffer_bytes(),
            scratch: self.devices[rank].scratch_bytes(),
            staging: self.transport.staging_bytes(rank),
        };
        (0..self.devices.len()).map(of_rank).collect()
    }

    fn metrics(&self, step: usize, outcome: &StepOutcome) -> StepMetrics {
        let seconds = outcome.seconds;
        StepMetrics {
            step,
            loss: outcome.loss,
            tokens_per_s: (self.config.global_batch * self.config.seq) as f64 / seconds,
            step_time_s: seconds,
            lr: self.config.lr(step),
            grad_norm: outcome.grad_norm,
            loss_scale: outcome.loss_scale,
            skipped: self.scaler.skipped,
            peak_memory_bytes: self.rank_memory().iter().map(RankMemory::total).max().unwrap_or(0),
        }
    }
}

/// The one-element buffer of this name.
fn named(program: &Program, role: usize, name: &str) -> Result<Region, ExecutorError> {
    let buffer = program.roles[role].buffers.iter().position(|buffer| buffer.name == name && buffer.elems == 1);
    buffer.map(|buffer| Region { buffer, start: 0, elems: 1 }).ok_or_else(|| ExecutorError::Device {
        device: "interpreter".to_owned(),
        rank: 0,
        problem: format!("role {role} has no buffer `{name}` of one element"),
    })
}

fn check_params(program: &Program, params: &Params) -> Result<(), ExecutorError> {
    let mesh = program.mesh;
    let part = Part { tp: mesh.tp, t: 0, ep: mesh.ep, e: 0 };
    let bad = |place: &str, why| ExecutorError::bad_input("parameter", place, why, "lower the plan again");
    if params.roles.len() != program.roles.len() {
        let why = format!("parameters of {} roles for a program of {}", params.roles.len(), program.roles.len());
        return Err(bad("all", why));
    }
    for (role, specs) in program.roles.iter().zip(&params.roles) {
        for spec in specs {
            let inside = |buffer: u32, over: Option<Axis>| {
                let all = |elems: usize| elems * over.map_or(1, |axis| mesh.size(axis));
                role.buffers.get(buffer as usize).is_some_and(|buffer| spec.range(part).end <= all(buffer.elems))
            };
            let fits = inside(spec.weights, spec.weights_over)
                && spec.grads.is_none_or(|grads| inside(grads, spec.grads_over));
            if !spec.splits_over(part) || !fits {
                return Err(bad(&spec.name, format!("it does not split over {mesh:?} or fit its buffers")));
            }
        }
    }
    Ok(())
}

/// The trace of median step time.
fn median(mut traces: Vec<Trace>) -> Trace {
    traces.sort_by_key(Trace::step_time);
    let middle = traces.len() / 2;
    traces.into_iter().nth(middle).unwrap_or(Trace { origin: Origin::Measured, lanes: Vec::new() })
}
