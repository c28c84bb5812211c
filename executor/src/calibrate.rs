//! Measures this machine: how long single ops, messages and collectives take.
//!
//! In: ops, a number of ranks and of threads each, a format, and time to spend. Out: a curve a class, as profiles hold them.
//!
//! Weights and activations are of the format that is asked for, and so are messages and collectives that exchange them;
//! gradients of weights, statistics and optimizer state, and the collectives that sum gradients, are fp32, as in programs.
//!
//! All ranks run the same op at the same time, as they do in training, so that what they take from each other (memory
//! bandwidth, shared caches, clock) is in the figures. Operands rotate through an arena larger than private caches, as
//! a model's do.
//!
//! Invariant: whole models are never run here, so a prediction from these curves is one.

mod communication;
mod operands;
#[cfg(test)]
mod tests;
mod timing;

use communication::{COLLECTIVES, MESSAGES};
use operands::{ADAMW, footprint, is_ids, operands};
use timing::middle;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meshwright_hardware::mesh::{Coord, Mesh, Rank};
use meshwright_hardware::op::{Mode, NONE, Op, Sizes, Values};
use meshwright_hardware::profile::{Curve, Sample};
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

use crate::device::{Access, Backend, Device, Region};
use crate::error::ExecutorError;
use crate::transport::{Threads, Transport};

/// Floats that operands rotate through on a CPU: 64 MiB a rank.
const ARENA: usize = 1 << 24;
/// As [`ARENA`] on a GPU, whose caches are larger.
const GPU_ARENA: usize = 1 << 26;
/// Floats of the pattern that operands are filled with, over and over.
const PATTERN: usize = 1 << 20;
/// At most so many places in the arena: small operands stay in caches in a model too.
const PLACES: usize = 64;
/// Samples of a class that are taken however late it is: the smallest ones.
const LEAST: usize = 2;
/// Rounds over everything where times are taken by the host, and others share it: what disturbs one round does not all of a size.
const ROUNDS: usize = 3;
/// How much longer than its budget a calibration may take before it leaves out what is large.
const OVERTIME: f64 = 1.5;
/// Share of the budget that ops get; the rest is for communication.
const OPS_SHARE: f64 = 0.85;
/// Experts that tokens take slots of.
const EXPERTS: usize = 8;
/// Sizes of inputs, elements.
const INPUTS: [usize; 3] = [1 << 8, 1 << 11, 1 << 14];

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrateConfig {
    /// What ranks run on.
    pub device: Backend,
    /// Ranks that run at the same time.
    pub ranks: usize,
    /// Threads of each on the CPU.
    pub threads_per_rank: usize,
    /// What weights and activations are.
    pub elem: Elem,
    /// Ops to time.
    pub ops: Vec<Op>,
    /// Time to spend. Where even one call of everything takes longer, the largest ops and messages are left out.
    pub budget: Duration,
}

/// Ops of every class: for a CPU, over the sizes that models of a few to a few hundred million parameters use; for a GPU, up to
/// those of some billions; in two bytes, updates have fp32 weights beside.
pub fn default_ops(elem: Elem, gpu: bool) -> Vec<Op> {
    let sizes = if gpu { Sizes::gpu(elem) } else { Sizes::cpu(elem) };
    Op::samples(&sizes).into_iter().flat_map(|(_, ops)| ops).collect()
}

/// Times everything; curves by class: [`Op::class`], `send`, `recv`, `load`, `all-reduce`, `reduce-scatter`, `all-gather`,
/// `all-to-all`, `rotate`.
///
/// Curves of ops are over the dims that [`Op::dims`] gives, of collectives over `[ranks, bytes]`, of messages over `[bytes]`
/// and of inputs over `[elements]`. With one rank there are none of communication.
///
/// # Errors
/// [`ExecutorError::Device`] if there is no such device, memory is short or an op does not fit the arena.
pub fn calibrate(config: &CalibrateConfig) -> Result<BTreeMap<String, Curve>, ExecutorError> {
    let ranks = config.ranks.max(1);
    let sizes = (2..=ranks).filter(|&size| ranks.is_multiple_of(size));
    let shared = Shared {
        config,
        start: Instant::now(),
        world: Threads::new(Mesh { dp: ranks, pp: 1, tp: 1, ..Mesh::ONE }),
        groups: sizes
            .map(|size| (size, Threads::new(Mesh { dp: ranks / size, pp: 1, tp: size, ..Mesh::ONE })))
            .collect(),
        calls: AtomicUsize::new(1),
        repeats: AtomicUsize::new(1),
        late: AtomicBool::new(false),
    };
    let measured: Vec<Result<Vec<Measurement>, ExecutorError>> = thread::scope(|scope| {
        let shared = &shared;
        let abort = move || {
            shared.world.abort();
            shared.groups.iter().for_each(|(_, group)| group.abort());
        };
        let run = move |rank| Bench::new(shared, rank).and_then(Bench::run).inspect_err(|_| abort());
        let start = |rank| {
            let thread = thread::Builder::new().spawn_scoped(scope, move || run(rank));
            thread.map_err(|error| {
                abort();
                ExecutorError::no_thread(config.device, rank, &error)
            })
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        let end = |thread: Result<thread::ScopedJoinHandle<_>, _>| {
            thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(end).collect()
    });
    curves(ExecutorError::first(measured)?)
}

/// One thing measured by one rank; no times where it only helped.
struct Measurement {
    class: &'static str,
    dims: Vec<f64>,
    work: f64,
    /// Seconds, of every repeat.
    times: Vec<f64>,
}

/// Means over ranks, as curves.
fn curves(ranks: Vec<Vec<Measurement>>) -> Result<BTreeMap<String, Curve>, ExecutorError> {
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (i, first) in ranks[0].iter().enumerate() {
        let medians = ranks.iter().map(|rank| &rank[i].times).filter(|times| !times.is_empty());
        let times: Vec<f64> = medians.map(|times| middle(times.clone())).collect();
        let seconds = times.iter().sum::<f64>() / times.len() as f64;
        let sample = Sample { dims: first.dims.clone(), work: first.work, seconds };
        samples.entry(first.class.to_owned()).or_default().push(sample);
    }
    let curve = |(class, samples): (String, Vec<Sample>)| match Curve::new(samples) {
        Ok(curve) => Ok((class, curve)),
        Err(why) => Err(ExecutorError::bad_input("op", class, why, "give ops with work to do")),
    };
    samples.into_iter().map(curve).collect()
}

/// What ranks of a calibration share.
struct Shared<'a> {
    config: &'a CalibrateConfig,
    start: Instant,
    world: Threads,
    /// By size: meshes whose tensor axis has so many ranks.
    groups: Vec<(usize, Threads)>,
    /// What rank 0 decided: calls a repeat, and repeats.
    calls: AtomicUsize,
    repeats: AtomicUsize,
    /// And whether it is late.
    late: AtomicBool,
}

/// One rank of a calibration.
struct Bench<'a> {
    shared: &'a Shared<'a>,
    rank: Rank,
    device: Box<dyn Device>,
    /// Elements of buffers 0 and 2, from which operands are taken in fp32 and in the format; buffer 1 has ids, and those after
    /// these hold the pattern in the same order.
    arena: usize,
    /// Elements of buffer 1.
    ids: usize,
    timings: Vec<Measurement>,
}

impl<'a> Bench<'a> {
    fn new(shared: &'a Shared<'a>, rank: Rank) -> Result<Self, ExecutorError> {
        let ops = &shared.config.ops;
        let ids = ops.iter().flat_map(Op::signature).filter(is_ids).map(|p| p.elems).max().unwrap_or(0);
        let least = if shared.config.device.entry().large { GPU_ARENA } else { ARENA };
        let arena = ops.iter().map(footprint).max().unwrap_or(0).max(least);
        let ids = ids.max(PLACES * INPUTS[INPUTS.len() - 1]);
        let elem = shared.config.elem;
        let buffer =
            |name: &str, elems, elem| Buffer { name: name.to_owned(), elems, lifetime: Lifetime::Scratch, elem };
        let mut buffers = vec![buffer("arena", arena, Elem::F32), buffer("ids", ids, Elem::U32)];
        buffers.extend((elem != Elem::F32).then(|| buffer("narrow", arena, elem)));
        buffers.push(buffer("pattern", PATTERN, Elem::F32));
        buffers.extend((elem != Elem::F32).then(|| buffer("narrow pattern", PATTERN, elem)));
        let device = shared.config.device.open(rank, &buffers, shared.config.threads_per_rank)?;
        let mut bench = Bench { shared, rank, device, arena, ids, timings: Vec::new() };
        for (_, pattern) in bench.patterned() {
            bench.device.with_host(
                Region { buffer: pattern, start: 0, elems: PATTERN },
                Access::Write,
                &mut |host| {
                    let value = |i: u32| (i * 2053 % 4099 + 40) as f32 / 4200.0;
                    host.iter_mut().zip((0..4099).cycle()).for_each(|(to, i)| *to = value(i));
                    Ok(())
                },
            )?;
        }
        Ok(bench)
    }

    /// Buffers of operands, and those of their pattern.
    fn patterned(&self) -> Vec<(usize, usize)> {
        if self.floats() == 0 { vec![(0, 2)] } else { vec![(0, 3), (2, 4)] }
    }

    fn run(mut self) -> Result<Vec<Measurement>, ExecutorError> {
        let rounds = if self.shared.config.device.entry().shares_cores { ROUNDS } else { 1 };
        for round in 0..rounds {
            let until = |share: f64| (round as f64 + share) / rounds as f64;
            // What the first round leaves out, none has.
            let latest = |share: f64| if round == 0 { OVERTIME * share } else { until(share) };
            if round > 0 && self.late(until(0.0))? {
                break;
            }
            self.ops(until(OPS_SHARE), latest(OPS_SHARE))?;
            let kinds = COLLECTIVES * self.shared.groups.len() + 2;
            let each = self.left(until(1.0)) / (kinds * MESSAGES.len()) as u32;
            self.communication(each, latest(1.0))?;
            self.inputs(each)?;
        }
        Ok(self.timings)
    }

    /// Times every op in what is left until a share of the budget is over; at the `latest` share, leaves out what is large.
    fn ops(&mut self, until: f64, latest: f64) -> Result<(), ExecutorError> {
        let mut ops: Vec<&Op> = self.shared.config.ops.iter().collect();
        ops.sort_by(|a, b| a.work().total_cmp(&b.work()));
        let mut late = false;
        for (i, op) in ops.iter().enumerate() {
            let measured = self.timings.iter().filter(|timing| timing.class == op.class()).count();
            late = late || measured >= LEAST && self.late(latest)?;
            if late && measured >= LEAST {
                continue;
            }
            self.op(op, self.left(until) / (ops.len() - i) as u32)?;
        }
        Ok(())
    }

    /// What is left until a share of the budget is over.
    fn left(&self, share: f64) -> Duration {
        self.shared.config.budget.mul_f64(share).saturating_sub(self.shared.start.elapsed())
    }

    /// Keeps what was measured, beside what earlier rounds measured of the same.
    fn keep(&mut self, class: &'static str, dims: Vec<f64>, work: f64, times: Vec<f64>) {
        let same = |timing: &&mut Measurement| timing.class == class && timing.dims == dims && timing.work == work;
        match self.timings.iter_mut().find(same) {
            Some(timing) => timing.times.extend(times),
            None => self.timings.push(Measurement { class, dims, work, times }),
        }
    }

    /// Whether more than a share of the budget is over: then what is large is left out. Rank 0 says so, for all ranks measure the
    /// same.
    fn late(&self, share: f64) -> Result<bool, ExecutorError> {
        let shared = self.shared;
        if self.rank == 0 {
            let late = shared.start.elapsed() > shared.config.budget.mul_f64(share);
            shared.late.store(late, Ordering::Release);
        }
        shared.world.barrier(self.rank)?;
        let late = shared.late.load(Ordering::Acquire);
        shared.world.barrier(self.rank)?;
        Ok(late)
    }

    /// Times one op.
    fn op(&mut self, op: &Op, budget: Duration) -> Result<(), ExecutorError> {
        let places = (self.arena / footprint(op)).clamp(1, PLACES);
        self.prepare(op, places * footprint(op))?;
        let floats = self.floats();
        let regions: Vec<Vec<Region>> = (0..places).map(|place| operands(op, place * footprint(op), floats)).collect();
        let made = |regions: &Vec<Region>| {
            let params = regions.iter().zip(op.signature());
            params.filter(|(_, param)| param.fresh).map(|(region, _)| *region).collect()
        };
        let (fresh, at): (Vec<Vec<Region>>, _) = (regions.iter().map(made).collect(), Coord::FIRST);
        let run = |bench: &mut Self, call: usize| bench.device.run(op, &regions[call % places], at, &ADAMW);
        let times = self.times(budget, &fresh, run)?;
        self.keep(op.class(), op.dims().to_vec(), op.work(), times);
        Ok(())
    }

    /// Fresh operands, all between 0 and 1: repeated updates would else end in infinities or denormal numbers.
    fn prepare(&mut self, op: &Op, elems: usize) -> Result<(), ExecutorError> {
        for (buffer, pattern) in self.patterned() {
            // On the device: from the host it would take longer than the ops.
            let mut filled = 0;
            while filled < elems {
                let n = (elems - filled).min(filled.max(PATTERN));
                let from = if filled == 0 { pattern } else { buffer };
                let regions = [(from, 0), (buffer, filled)].map(|(buffer, start)| Region { buffer, start, elems: n });
                self.device.run(&Op::Copy { n }, &regions, Coord::FIRST, &ADAMW)?;
                filled += n;
            }
        }
        let signature = op.signature();
        let Some(param) = signature.iter().find(|param| is_ids(param) && param.mode != Mode::Out) else {
            return Ok(());
        };
        let id = |i: usize| match param.values {
            // A large prime, so that ids are all over.
            Values::Below(most) => (i * 7919 % most) as u32,
            // As routing gives them: to one expert after another, and of each the next that is free.
            Values::Distinct(most) if i < most / EXPERTS * EXPERTS => {
                (i % EXPERTS * (most / EXPERTS) + i / EXPERTS) as u32
            }
            Values::Distinct(_) | Values::Any => NONE,
        };
        self.device.with_host(Region { buffer: 1, start: 0, elems: param.elems }, Access::Write, &mut |host| {
            host.iter_mut().enumerate().for_each(|(i, to)| *to = f32::from_bits(id(i)));
            Ok(())
        })
    }

    /// Times how long it takes to make ids from bytes of text and put them into a buffer.
    fn inputs(&mut self, budget: Duration) -> Result<(), ExecutorError> {
        let text: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for elems in INPUTS {
            let (mut from, mut places) = (0, self.places(1, elems));
            let times = self.times(budget, &[], |bench, _| {
                from = (from + 77_777) % (text.len() - elems - 1);
                bench.device.with_host(places.next().expect("endless"), Access::Write, &mut |host| {
                    let ids = |at: usize| text[at..at + elems].iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
                    let (tokens, _targets) = (ids(from), std::hint::black_box(ids(from + 1)));
                    host.iter_mut().zip(tokens).for_each(|(to, id)| *to = f32::from_bits(id));
                    Ok(())
                })
            })?;
            self.keep("load", vec![elems as f64], 4.0 * elems as f64, times);
        }
        Ok(())
    }

    /// The buffer of weights and activations.
    fn floats(&self) -> usize {
        if self.shared.config.elem == Elem::F32 { 0 } else { 2 }
    }

    /// Stretches of a buffer, over and over.
    fn places(&self, buffer: usize, elems: usize) -> impl Iterator<Item = Region> + use<> {
        let held = if buffer == 1 { self.ids } else { self.arena };
        let count = (held / elems).clamp(1, PLACES);
        (0..count).cycle().map(move |place| Region { buffer, start: place * elems, elems })
    }
}
