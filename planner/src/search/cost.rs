//! Costs: what pieces take a microbatch, and what ranks that share parameters do for each other.
//!
//! In: pieces, prices, a mesh. Out: [`Costs`] in seconds.
//!
//! What kernels take depends on the *shape* alone: microbatch, sequence, TP, CP, EP. What travels is listed there and priced by
//! the mesh, since the order of axes decides over which links it goes.
//!
//! Invariant: only sums of the prices that the simulator uses.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::price::{PriceError, Prices};
use meshwright_hardware::program::Collective;
use meshwright_hardware::units::{Bytes, Seconds};
use rustc_hash::FxHashMap;

use super::times::{Costs, Moves, Pass, PieceCost, Share, Times};
use crate::job::Kind;
use crate::lower::{BankSize, Blocks, Frames, PieceSize, Pieces, Sizes, Tapes, after_saves, kept, waits_for};
use crate::model::{Backward, Step, Tape, Value};
use crate::plan::{Plan, Recompute};

/// First rank, distance and number of a group's ranks.
type Group = (usize, usize, usize);

/// Prices with a memory for what travels.
pub struct CachedPrices<'a> {
    /// The prices; their mesh is not used.
    pub prices: Prices<'a>,
    /// Whether all axes count as near as can be.
    pub nearest: bool,
    known: FxHashMap<(Collective, u64, Group), f64>,
    ops: FxHashMap<(&'static str, usize, usize), f64>,
    /// Of linear layers by rows, outputs and inputs.
    pub linears: FxHashMap<(usize, usize, usize), Times>,
}

impl<'a> CachedPrices<'a> {
    /// An empty memory.
    pub fn new(prices: Prices<'a>) -> Self {
        CachedPrices {
            prices,
            nearest: false,
            known: FxHashMap::default(),
            ops: FxHashMap::default(),
            linears: FxHashMap::default(),
        }
    }

    /// Seconds of a collective over an axis; `bytes` of fp32 elements.
    pub fn collective(&mut self, mesh: &Mesh, op: Collective, axis: Axis, bytes: u64) -> Result<f64, PriceError> {
        if mesh.size(axis) == 1 {
            return Ok(0.0);
        }
        let (group, stride, ranks) = self.prices.group(mesh, axis);
        let stride = if self.nearest { 1 } else { stride };
        let key = (op, bytes, (group, stride, ranks));
        if let Some(&seconds) = self.known.get(&key) {
            return Ok(seconds);
        }
        let seconds = self.prices.among(op, Bytes(bytes), group, (stride, ranks))?.0;
        self.known.insert(key, seconds);
        Ok(seconds)
    }

    /// Seconds of an op over `n` elements that `name` and `extra` tell from others.
    fn vector(&mut self, name: &'static str, n: usize, extra: usize, op: impl Fn() -> Op) -> Result<f64, PriceError> {
        if n == 0 {
            return Ok(0.0);
        }
        if let Some(&seconds) = self.ops.get(&(name, n, extra)) {
            return Ok(seconds);
        }
        let seconds = self.prices.op(&op())?.0;
        self.ops.insert((name, n, extra), seconds);
        Ok(seconds)
    }
}

/// A part of a pass.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Kernels, which wait until so many of what goes round a ring have come.
    Run(f64, usize),
    /// What travels.
    Collective(Collective, Axis, u64),
}

/// A pass over a piece: seconds of kernels, and what travels.
#[derive(Clone, Debug, Default)]
struct Work {
    kernels: f64,
    /// In order; of kernels only where something goes round a ring beside them.
    parts: Vec<Part>,
}

impl Work {
    /// Of steps whose values are as large as `elems` says.
    fn of(steps: &[&Step], elems: impl Fn(Value) -> usize, prices: &mut Prices) -> Result<Work, PriceError> {
        let mut work = Work::default();
        let ringed = steps.iter().any(|step| matches!(step, Step::Collective(Collective::Rotate, ..)));
        let (mut under_way, mut awaited): (Vec<Value>, usize) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Call(op, _) => {
                    let seconds = prices.op(op)?.0;
                    work.kernels += seconds;
                    if ringed {
                        let waits = waits_for(step, &under_way[awaited..]);
                        awaited += waits;
                        work.run(seconds, awaited, waits > 0);
                    }
                }
                Step::Collective(op, axis, value) => {
                    if *op == Collective::Rotate {
                        under_way.push(*value);
                    }
                    work.parts.push(Part::Collective(*op, *axis, elems(*value) as u64 * 4));
                }
            }
        }
        Ok(work)
    }

    /// Adds kernels, to those before them unless they wait for more.
    fn run(&mut self, seconds: f64, awaited: usize, apart: bool) {
        match self.parts.last_mut() {
            Some(Part::Run(before, _)) if !apart => *before += seconds,
            _ => self.parts.push(Part::Run(seconds, awaited)),
        }
    }

    /// Seconds in all, were nothing else on the way, and of what goes round a ring.
    fn seconds(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<(f64, f64), PriceError> {
        let (mut end, mut beside, mut ring) = (0.0f64, 0.0f64, 0.0);
        let (mut came, mut last) = (Vec::new(), None);
        for part in &self.parts {
            match *part {
                Part::Run(seconds, awaited) => {
                    let since = if awaited > 0 { came[awaited - 1] } else { 0.0 };
                    end = end.max(since) + seconds;
                }
                Part::Collective(Collective::Rotate, axis, bytes) => {
                    let seconds = match last {
                        Some((same, seconds)) if same == bytes => seconds,
                        _ => links.collective(mesh, Collective::Rotate, axis, bytes)?,
                    };
                    last = Some((bytes, seconds));
                    beside = beside.max(end) + seconds;
                    ring += seconds;
                    came.push(beside);
                }
                Part::Collective(op, axis, bytes) => end += links.collective(mesh, op, axis, bytes)?,
            }
        }
        if came.is_empty() {
            end += self.kernels;
        }
        Ok((end, ring))
    }
}

/// A piece's passes.
#[derive(Clone, Debug, Default)]
struct PieceWork {
    forward: Work,
    /// Of forward, what comes after the last that is kept.
    tail: Work,
    backward: Vec<Work>,
    weights: Work,
}

impl PieceWork {
    /// One piece in each of its modes: nothing made again, and what else is given.
    fn of(
        tape: &Tape,
        back: &Backward,
        again: &[Vec<Step>],
        splits: bool,
        prices: &mut Prices,
    ) -> Result<PieceWork, PriceError> {
        let split = splits.then(|| back.split());
        let elems = |value: Value| match value {
            Value::Grad(g) => back.made[g].1,
            Value::Held(h) => split.as_ref().map_or(0, |split| split.held[h]),
            value => tape.elems(value),
        };
        let forward: Vec<Step> = tape.forward();
        let steps = split.as_ref().map_or(&back.steps, |split| &split.inputs);
        let backward = again.iter().map(|again| {
            let all: Vec<&Step> = again.iter().chain(steps).collect();
            Work::of(&all, elems, prices)
        });
        let backward = backward.collect::<Result<_, _>>()?;
        let forward = Work::of(&forward.iter().collect::<Vec<_>>(), elems, prices)?;
        let weights = split.as_ref().map_or(&[][..], |split| &split.weights);
        let weights = Work::of(&weights.iter().collect::<Vec<_>>(), elems, prices)?;
        Ok(PieceWork { forward, tail: Work::default(), backward, weights })
    }

    /// The head, all in its backward pass.
    fn of_head(tape: &Tape, prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let head = PieceWork::of(tape, &tape.backward(), &[tape.forward()], false, prices)?;
        Ok(PieceWork { forward: Work::default(), ..head })
    }

    fn seconds(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<Pass, PriceError> {
        let mut backward = [0.0; 3];
        for (mode, seconds) in backward.iter_mut().enumerate() {
            *seconds = self.backward[mode.min(self.backward.len() - 1)].seconds(links, mesh)?.0;
        }
        let (forward, ahead) = self.forward.seconds(links, mesh)?;
        let ring = [ahead, self.backward[0].seconds(links, mesh)?.1];
        let tail = self.tail.seconds(links, mesh)?.0;
        Ok(Pass { forward, tail, backward, weights: self.weights.seconds(links, mesh)?.0, ring })
    }
}

/// What all plans of one shape have in common.
pub struct ShapeWork {
    /// What sizes follow from.
    pub frames: Frames,
    embed: PieceWork,
    layers: Vec<(Kind, PieceWork)>,
    head: PieceWork,
}

impl ShapeWork {
    /// Prices the pieces of a plan's shape.
    pub fn of(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let mut blocks = Blocks::apart();
        let pieces = Pieces::of(plan, &mut blocks);
        let splits = plan.schedule.splits();
        let layers = pieces.layers.iter().map(|(&kind, modes)| {
            let again: Vec<Vec<Step>> = modes.iter().map(|piece| piece.again.clone()).collect();
            let tape = &modes[0].tape;
            let forward = tape.forward();
            let tail: Vec<&Step> = after_saves(&forward, |t| modes[0].kept.contains_key(&t)).iter().collect();
            let tail = Work::of(&tail, |value| tape.elems(value), prices)?;
            Ok((kind, PieceWork { tail, ..PieceWork::of(tape, &tape.backward(), &again, splits, prices)? }))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        let frames = Frames::of(&pieces);
        ShapeWork::with(&pieces.embed.tape, layers, &pieces.head.tape, frames, prices)
    }

    /// The same without recomputation, activations' memory not counted: all that floors need, much sooner.
    pub fn quick(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let tapes = Tapes::of(plan);
        let splits = plan.schedule.splits();
        let layers = tapes.layers.iter().map(|(&kind, tape)| {
            let back = tape.backward();
            let again = kept(tape, &back, Recompute::None).1;
            Ok((kind, PieceWork::of(tape, &back, &[again], splits, prices)?))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        ShapeWork::with(&tapes.embed, layers, &tapes.head, Frames::bare(&tapes), prices)
    }

    /// The least that a plan's passes cost, whatever its mesh: with all axes as near as can be, and nothing beside them.
    pub fn passes(&self, plan: &Plan, links: &mut CachedPrices) -> Result<Costs, PriceError> {
        links.nearest = true;
        let mut piece = |work: &PieceWork| -> Result<PieceCost, PriceError> {
            Ok(PieceCost { pass: work.seconds(links, &plan.mesh)?, ..PieceCost::default() })
        };
        let (embed, head) = (piece(&self.embed), piece(&self.head));
        let layers: Result<Vec<_>, PriceError> =
            self.layers.iter().map(|(kind, work)| Ok((*kind, piece(work)?))).collect();
        links.nearest = false;
        Ok(Costs { embed: embed?, layers: layers?, head: head?, ..Costs::default() })
    }

    /// Parameters alone, which passes take nothing for.
    pub fn idle(plan: &Plan) -> ShapeWork {
        let none = || PieceWork { backward: vec![Work::default()], ..PieceWork::default() };
        let tapes = Tapes::of(plan);
        let layers = tapes.layers.keys().map(|&kind| (kind, none())).collect();
        ShapeWork { frames: Frames::bare(&tapes), embed: none(), layers, head: none() }
    }

    fn with(
        embed: &Tape,
        layers: Vec<(Kind, PieceWork)>,
        head: &Tape,
        frames: Frames,
        prices: &mut Prices,
    ) -> Result<ShapeWork, PriceError> {
        let embed = PieceWork::of(embed, &embed.backward(), &[Vec::new()], false, prices)?;
        Ok(ShapeWork { frames, embed, layers, head: PieceWork::of_head(head, prices)? })
    }

    /// Seconds of all kernels of a microbatch, nothing made again, without what travels.
    pub fn kernels(&self, plan: &Plan) -> f64 {
        let of = |work: &PieceWork| work.forward.kernels + work.backward[0].kernels + work.weights.kernels;
        let model = &plan.job.model;
        let layers = self.layers.iter().map(|(kind, work)| {
            (0..model.depth()).filter(|&layer| model.kind(layer) == *kind).count() as f64 * of(work)
        });
        of(&self.embed) + layers.sum::<f64>() + of(&self.head)
    }
}

impl Costs {
    /// Prices a plan's passes and parameters; its stages do not count.
    pub fn of(plan: &Plan, work: &ShapeWork, sizes: &Sizes, links: &mut CachedPrices) -> Result<Costs, PriceError> {
        let mesh = &plan.mesh;
        let mut piece = |work: &PieceWork, size: &PieceSize| -> Result<PieceCost, PriceError> {
            Ok(PieceCost {
                pass: work.seconds(links, mesh)?,
                share: share(plan, &size.banks, links)?,
                ..PieceCost::default()
            })
        };
        let embed = piece(&work.embed, &sizes.embed)?;
        let head = piece(&work.head, &sizes.head)?;
        let layers = work.layers.iter().map(|(kind, work)| Ok((*kind, piece(work, &sizes.layers[kind][0])?)));
        let mut layers: Vec<(Kind, PieceCost)> = layers.collect::<Result<_, PriceError>>()?;
        let hosted = links.prices.moved(Bytes(0)).is_ok();
        if hosted {
            for (kind, piece) in &mut layers {
                piece.moves = moves(work.frames.slot(*kind), &links.prices)?;
            }
        }
        let twin = sizes.twin.as_ref();
        let tied = match twin {
            Some(bank) => {
                let n = bank.elems;
                let table = (n * 4) as u64;
                let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) * (mesh.pp - 1) };
                let sent = links.prices.message_over(Bytes(table), stride)?.0;
                let added = links.vector("accumulate", n, 0, || Op::Accumulate { n })?;
                sent + added + reduce(plan, bank, links)?
            }
            None => 0.0,
        };
        let hop = if mesh.pp > 1 {
            let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) };
            links.prices.message_over(Bytes(plan.stream_elems() as u64 * 4), stride)?.0
        } else {
            0.0
        };
        let mut norm_sum = 0.0;
        let data = if mesh.cp > 1 { Axis::Data } else { Axis::Dp };
        for (axis, wanted) in [(Axis::Tp, true), (data, plan.zero > 0 || mesh.ep > 1), (Axis::Pp, true)] {
            if wanted {
                norm_sum += links.collective(mesh, Collective::AllReduce, axis, 4)?;
            }
        }
        Ok(Costs {
            embed,
            layers,
            head,
            hop,
            recv: links.prices.received(plan.stream_elems())?.0,
            load: [links.prices.load(plan.rows())?.0, links.prices.load(plan.target_rows())?.0],
            norm_sum,
            tied,
            hosted,
        })
    }
}

/// Moves of what is kept, by class; each that there is takes one.
fn moves(kept: [usize; 3], prices: &Prices) -> Result<Moves, PriceError> {
    let one = |elems: usize| if elems > 0 { prices.moved(Bytes(elems as u64 * 4)) } else { Ok(Seconds(0.0)) };
    let [first, full, ids] = [one(kept[0])?.0, one(kept[1])?.0, one(kept[2])?.0];
    Ok(Moves { first, all: first + full + ids })
}

/// Summing a bank's gradients over those that hold the same, up to ZeRO-1.
fn reduce(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    let op = if bank.zero > 0 { Collective::ReduceScatter } else { Collective::AllReduce };
    Ok(parts(plan, bank, links)? + links.collective(&plan.mesh, op, bank.axis, bank.elems as u64 * 4)?)
}

/// Summing gradients of which ranks of tensor parallelism have parts.
fn parts(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    match bank.elems - bank.partial {
        0 => Ok(0.0),
        elems => links.collective(&plan.mesh, Collective::AllReduce, Axis::Tp, elems as u64 * 4),
    }
}

fn share(plan: &Plan, banks: &[BankSize], links: &mut CachedPrices) -> Result<Share, PriceError> {
    let mut share = Share::default();
    let mesh = &plan.mesh;
    let mut bucket = 0;
    for bank in banks.iter().filter(|bank| bank.elems > 0) {
        let BankSize { elems, shards, zero, axis, .. } = *bank;
        let (own, bytes) = (elems / shards, elems as u64 * 4);
        let held = if zero >= 2 { own } else { elems };
        share.clear += links.vector("zero", held, 0, || Op::Zero { n: held })?;
        if zero >= 2 {
            bucket += elems;
            share.settle += links.vector("accumulate", own, 0, || Op::Accumulate { n: own })?;
            share.scatter +=
                parts(plan, bank, links)? + links.collective(mesh, Collective::ReduceScatter, axis, bytes)?;
        } else {
            share.reduce += reduce(plan, bank, links)?;
        }
        let norm = Op::SquaredNorm { n: own, whole: elems, copies: mesh.tp, replicas: 1, shards, axis };
        share.norm += links.vector("norm", own, 0, || norm)?;
        let master = plan.job.precision.stored().bytes() < 4;
        let update = Op::AdamW { n: own, decayed: elems, shards, axis, master };
        share.update += links.vector("adamw", own, usize::from(master), || update)?;
        let gathered = links.collective(mesh, Collective::AllGather, axis, bytes)?;
        match zero {
            0 => {}
            1 | 2 => share.renew += gathered,
            _ => share.gather += gathered,
        }
    }
    share.empty += links.vector("zero", bucket, 0, || Op::Zero { n: bucket })?;
    Ok(share)
}
