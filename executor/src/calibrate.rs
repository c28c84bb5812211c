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

use communication::{COLLECTIVES, MESSAGES};
use operands::{ADAMW, footprint, is_ids, operands};

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
/// A repeat lasts at least so long, so that reading the clock does not count.
const REPEAT: Duration = Duration::from_micros(200);
/// As [`REPEAT`] where ops are queued: long enough that the wait at its end does not count.
const QUEUED_REPEAT: Duration = Duration::from_millis(5);
/// Repeats of which the median is taken, where time allows.
const REPEATS: usize = 31;
/// Repeats on CUDA at least: a single call there tells how long it takes to ask for it.
const CUDA_REPEATS: usize = 3;
/// Samples of a class that are taken however late it is: the smallest ones.
const LEAST: usize = 2;
/// How much longer than its budget a calibration may take before it leaves out what is large.
const OVERTIME: f64 = 1.5;
/// Share of the budget that ops get; the rest is for communication.
const OPS_SHARE: f64 = 0.85;
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
    let measured: Vec<Result<Vec<Timing>, ExecutorError>> = thread::scope(|scope| {
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

/// One thing measured by one rank; `None` where it only helped.
struct Timing {
    class: &'static str,
    dims: Vec<f64>,
    work: f64,
    seconds: Option<f64>,
}

/// Means over ranks, as curves.
fn curves(ranks: Vec<Vec<Timing>>) -> Result<BTreeMap<String, Curve>, ExecutorError> {
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (i, first) in ranks[0].iter().enumerate() {
        let times: Vec<f64> = ranks.iter().filter_map(|rank| rank[i].seconds).collect();
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
    timings: Vec<Timing>,
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

    fn run(mut self) -> Result<Vec<Timing>, ExecutorError> {
        let (start, config) = (self.shared.start, self.shared.config);
        let for_ops = config.budget.mul_f64(OPS_SHARE);
        let mut ops: Vec<&Op> = config.ops.iter().collect();
        ops.sort_by(|a, b| a.work().total_cmp(&b.work()));
        let mut late = false;
        for (i, op) in ops.iter().enumerate() {
            let measured = self.timings.iter().filter(|timing| timing.class == op.class()).count();
            late = late || measured >= LEAST && self.late(OPS_SHARE)?;
            if late && measured >= LEAST {
                continue;
            }
            let left = for_ops.saturating_sub(start.elapsed()) / (ops.len() - i) as u32;
            self.op(op, left)?;
        }
        let left = config.budget.saturating_sub(start.elapsed());
        let kinds = COLLECTIVES * self.shared.groups.len() + 2;
        self.communication(left / (kinds * MESSAGES.len()) as u32)?;
        self.inputs(left / (kinds * MESSAGES.len()) as u32)?;
        Ok(self.timings)
    }

    /// Whether more than a share of the time is over, and [`OVERTIME`] with it: then what is large is left out. Rank 0 says so, for
    /// all ranks measure the same.
    fn late(&self, share: f64) -> Result<bool, ExecutorError> {
        let shared = self.shared;
        if self.rank == 0 {
            let late = shared.start.elapsed() > shared.config.budget.mul_f64(share * OVERTIME);
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
        let at = Coord::FIRST;
        let seconds = self.median(budget, |bench, call| bench.device.run(op, &regions[call % places], at, &ADAMW))?;
        let dims = op.dims().to_vec();
        self.timings.push(Timing { class: op.class(), dims, work: op.work(), seconds: Some(seconds) });
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
        // A large prime, so that ids are all over, and none twice where that matters.
        let id = |i: usize| match param.values {
            Values::Below(most) => (i * 7919 % most) as u32,
            Values::Distinct(most) if i < most => (i * 7919 % most) as u32,
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
            let seconds = self.median(budget, |bench, _| {
                from = (from + 77_777) % (text.len() - elems - 1);
                bench.device.with_host(places.next().expect("endless"), Access::Write, &mut |host| {
                    let ids = |at: usize| text[at..at + elems].iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
                    let (tokens, _targets) = (ids(from), std::hint::black_box(ids(from + 1)));
                    host.iter_mut().zip(tokens).for_each(|(to, id)| *to = f32::from_bits(id));
                    Ok(())
                })
            })?;
            let (class, work) = ("load", 4.0 * elems as f64);
            self.timings.push(Timing { class, dims: vec![elems as f64], work, seconds: Some(seconds) });
        }
        Ok(())
    }

    /// The median time of `call`, which all ranks make at once, and which is told its number; as many rounds as the budget
    /// allows. Where it allows none, the call that was to tell how many is the figure.
    fn median(
        &mut self,
        budget: Duration,
        mut call: impl FnMut(&mut Self, usize) -> Result<(), ExecutorError>,
    ) -> Result<f64, ExecutorError> {
        let (shared, began) = (self.shared, Instant::now());
        call(self, 0)?;
        self.device.sync()?;
        shared.world.barrier(self.rank)?;
        let mut once = Duration::MAX;
        for number in 1..=2 {
            let start = Instant::now();
            call(self, number)?;
            self.device.sync()?;
            once = once.min(start.elapsed()).max(Duration::from_nanos(50));
        }
        let mut times = Vec::new();
        let least = if shared.config.device.entry().captures { CUDA_REPEATS } else { 0 };
        if self.rank == 0 {
            let repeat = if shared.config.device.entry().shares_cores { REPEAT } else { QUEUED_REPEAT };
            let calls = repeat.as_nanos().div_ceil(once.as_nanos()) as usize;
            let repeats = (budget.as_nanos() / (calls as u128 * once.as_nanos())) as usize;
            shared.calls.store(calls, Ordering::Release);
            shared.repeats.store(repeats.clamp(least, REPEATS), Ordering::Release);
        }
        shared.world.barrier(self.rank)?;
        let (calls, repeats) = (shared.calls.load(Ordering::Acquire), shared.repeats.load(Ordering::Acquire));
        if repeats == 0 {
            times.push(once.as_secs_f64());
        }
        // The first rounds on CUDA launch kernel by kernel, and capture what later ones replay.
        let warm_up = if shared.config.device.entry().captures { 2 } else { 0 };
        let mut number = 0;
        for round in 0..repeats + if repeats == 0 { 0 } else { warm_up } {
            // On CUDA rounds are alike, so that one is kept as a graph; elsewhere operands go on from place to place, so that
            // caches do not keep them.
            if warm_up > 0 {
                number = 0;
            }
            shared.world.barrier(self.rank)?;
            if round >= warm_up + shared.repeats.load(Ordering::Acquire) {
                break;
            }
            let start = Instant::now();
            let clock = self.device.mark()?.is_some();
            for _ in 0..calls {
                call(self, number)?;
                number += 1;
            }
            // Where the device keeps time, what the host does to ask it does not count: in a step it is done meanwhile.
            self.device.mark()?;
            let elapsed = match self.device.marks()?[..] {
                [begin, end] if clock => end.duration_since(begin),
                _ => start.elapsed(),
            };
            if round >= warm_up {
                times.push(elapsed.as_secs_f64() / calls as f64);
            }
            // Where ranks take turns, most of the time goes into waiting for each other.
            if self.rank == 0 && times.len() >= least.max(1) && began.elapsed() > budget.mul_f64(OVERTIME) {
                shared.repeats.store(times.len(), Ordering::Release);
            }
        }
        Ok(middle(times))
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

fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
