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
use meshwright_hardware::program::{Collective, Elem};
use meshwright_hardware::units::{Bytes, Seconds};

use super::cached_prices::CachedPrices;
use super::times::{Costs, Moves, Pass, PieceCost, Share, Tied};
use crate::job::Kind;
use crate::lower::{
    BankSize, Blocks, ByClass, Class, Formats, Frames, PieceSize, PieceSizes, Pieces, Tapes, ValueFormats, after_saves,
    kept, waits_for,
};
use crate::model::{Backward, Split, Step, Tape, Value};
use crate::plan::{Plan, Recompute};

/// The values of a piece: how large they are, and what of.
struct Values<'a> {
    tape: &'a Tape,
    back: &'a Backward,
    split: Option<Split>,
    formats: ValueFormats,
}

impl<'a> Values<'a> {
    fn of(tape: &'a Tape, back: &'a Backward, splits: bool, model: Elem) -> Self {
        let formats = ValueFormats::of(&tape.forward(), &back.steps, model);
        Values { tape, back, split: splits.then(|| back.split()), formats }
    }

    fn bytes(&self, value: Value) -> u64 {
        let elems = match value {
            Value::Grad(g) => self.back.made[g].1,
            Value::Held(h) => self.split.as_ref().map_or(0, |split| split.held[h]),
            value => self.tape.elems(value),
        };
        elems as u64 * self.formats.elem(value).bytes()
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
    /// Of steps over a piece's values.
    fn of(steps: &[&Step], values: &Values, prices: &mut Prices) -> Result<Work, PriceError> {
        let mut work = Work::default();
        let ringed = steps.iter().any(|step| matches!(step, Step::Collective(Collective::Rotate, ..)));
        let (mut under_way, mut awaited): (Vec<Value>, usize) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Call(op, uses) => {
                    let seconds = prices.op(op, uses.iter().map(|used| values.formats.elem(used.value)))?.0;
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
                    work.parts.push(Part::Collective(*op, *axis, values.bytes(*value)));
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
    fn of(values: &Values, again: &[Vec<Step>], prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let Values { tape, back, split, .. } = values;
        let forward: Vec<Step> = tape.forward();
        let steps = split.as_ref().map_or(&back.steps, |split| &split.inputs);
        let backward = again.iter().map(|again| {
            let all: Vec<&Step> = again.iter().chain(steps).collect();
            Work::of(&all, values, prices)
        });
        let backward = backward.collect::<Result<_, _>>()?;
        let forward = Work::of(&forward.iter().collect::<Vec<_>>(), values, prices)?;
        let weights = split.as_ref().map_or(&[][..], |split| &split.weights);
        let weights = Work::of(&weights.iter().collect::<Vec<_>>(), values, prices)?;
        Ok(PieceWork { forward, tail: Work::default(), backward, weights })
    }

    /// The head, all in its backward pass.
    fn of_head(tape: &Tape, model: Elem, prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let head = PieceWork::of(&Values::of(tape, &tape.backward(), false, model), &[tape.forward()], prices)?;
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
        let (splits, model) = (plan.schedule.splits(), Elem::of(plan.job.precision));
        let layers = pieces.layers.iter().map(|(&kind, modes)| {
            let again: Vec<Vec<Step>> = modes.iter().map(|piece| piece.again.clone()).collect();
            let (tape, back) = (&modes[0].tape, modes[0].tape.backward());
            let (forward, values) = (tape.forward(), Values::of(tape, &back, splits, model));
            let tail: Vec<&Step> = after_saves(&forward, |t| modes[0].kept.contains_key(&t)).iter().collect();
            let tail = Work::of(&tail, &values, prices)?;
            Ok((kind, PieceWork { tail, ..PieceWork::of(&values, &again, prices)? }))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        let frames = Frames::of(&pieces);
        ShapeWork::with([&pieces.embed.tape, &pieces.head.tape], layers, frames, model, prices)
    }

    /// The same without recomputation, activations' memory not counted: all that floors need, much sooner.
    pub fn quick(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let tapes = Tapes::of(plan);
        let (splits, model) = (plan.schedule.splits(), Elem::of(plan.job.precision));
        let layers = tapes.layers.iter().map(|(&kind, tape)| {
            let back = tape.backward();
            let again = kept(tape, &back, Recompute::None).1;
            Ok((kind, PieceWork::of(&Values::of(tape, &back, splits, model), &[again], prices)?))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        ShapeWork::with([&tapes.embed, &tapes.head], layers, Frames::bare(&tapes), model, prices)
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
        [embed, head]: [&Tape; 2],
        layers: Vec<(Kind, PieceWork)>,
        frames: Frames,
        model: Elem,
        prices: &mut Prices,
    ) -> Result<ShapeWork, PriceError> {
        let embed = PieceWork::of(&Values::of(embed, &embed.backward(), false, model), &[Vec::new()], prices)?;
        Ok(ShapeWork { frames, embed, layers, head: PieceWork::of_head(head, model, prices)? })
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
    pub fn of(
        plan: &Plan,
        work: &ShapeWork,
        sizes: &PieceSizes,
        links: &mut CachedPrices,
    ) -> Result<Costs, PriceError> {
        let (mesh, width) = (&plan.mesh, Formats::of(plan.job.precision));
        let mut piece = |work: &PieceWork, size: &PieceSize| -> Result<PieceCost, PriceError> {
            Ok(PieceCost {
                pass: work.seconds(links, mesh)?,
                share: share(plan, &size.banks, links)?,
                ..PieceCost::default()
            })
        };
        let mut embed = piece(&work.embed, &sizes.embed)?;
        let head = piece(&work.head, &sizes.head)?;
        let layers = work.layers.iter().map(|(kind, work)| Ok((*kind, piece(work, &sizes.layers[kind][0])?)));
        let mut layers: Vec<(Kind, PieceCost)> = layers.collect::<Result<_, PriceError>>()?;
        let hosted = links.prices.moved(Bytes(0)).is_ok();
        if hosted {
            for (kind, piece) in &mut layers {
                piece.moves = moves(work.frames.moves(*kind), width, &links.prices)?;
            }
        }
        let mut tied = Tied::default();
        if plan.job.model.tied && mesh.pp * plan.chunks > 1 {
            // The embedding's part waits for the head's.
            tied.reduce[0] = std::mem::take(&mut embed.share.reduce);
        }
        if let Some(bank) = &sizes.twin {
            let n = bank.elems;
            let table = Bytes(n as u64 * width.state.bytes());
            let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) * (mesh.pp - 1) };
            tied.sent = links.prices.message_over(table, stride)?.0;
            tied.added = links.prices.received(table)?.0;
            tied.added += links.vector("accumulate", n, width.state, || Op::Accumulate { n })?;
            tied.reduce[1] = reduce(plan, bank, links)?;
        }
        let stream = Bytes(plan.stream_elems() as u64 * width.model.bytes());
        let hop = if mesh.pp > 1 {
            let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) };
            links.prices.message_over(stream, stride)?.0
        } else {
            0.0
        };
        let mut norm_sum = 0.0;
        let data = if mesh.cp > 1 { Axis::Data } else { Axis::Dp };
        for (axis, wanted) in [(Axis::Tp, true), (data, plan.zero > 0 || mesh.ep > 1), (Axis::Pp, true)] {
            if wanted {
                norm_sum += links.collective(mesh, Collective::AllReduce, axis, width.state.bytes())?;
            }
        }
        Ok(Costs {
            embed,
            layers,
            head,
            hop,
            recv: links.prices.received(stream)?.0,
            load: [links.prices.load(plan.rows())?.0, links.prices.load(plan.target_rows())?.0],
            norm_sum,
            tied,
            hosted,
        })
    }
}

/// Moves of what is kept, one for each number of elements.
fn moves(kept: &ByClass<Vec<usize>>, width: Formats, prices: &Prices) -> Result<Moves, PriceError> {
    let of = |class: Class| -> Result<f64, PriceError> {
        let bytes = kept[class as usize].iter().map(|&elems| Bytes(elems as u64 * class.elem(width.model).bytes()));
        Ok(bytes.map(|bytes| prices.moved(bytes)).sum::<Result<Seconds, PriceError>>()?.0)
    };
    let [first, full, ids] = [of(Class::Model)?, of(Class::Full)?, of(Class::Ids)?];
    Ok(Moves { first, all: first + full + ids })
}

/// Summing a bank's gradients over those that hold the same, up to ZeRO-1.
fn reduce(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    let op = if bank.zero > 0 { Collective::ReduceScatter } else { Collective::AllReduce };
    let bytes = gradients(plan, bank.elems);
    Ok(parts(plan, bank, links)? + links.collective(&plan.mesh, op, bank.axis, bytes)?)
}

/// Summing gradients of which ranks of tensor parallelism have parts.
fn parts(plan: &Plan, bank: &BankSize, links: &mut CachedPrices) -> Result<f64, PriceError> {
    match bank.elems - bank.partial {
        0 => Ok(0.0),
        elems => links.collective(&plan.mesh, Collective::AllReduce, Axis::Tp, gradients(plan, elems)),
    }
}

/// Bytes of gradients of so many parameters.
fn gradients(plan: &Plan, elems: usize) -> u64 {
    elems as u64 * Formats::of(plan.job.precision).state.bytes()
}

fn share(plan: &Plan, banks: &[BankSize], links: &mut CachedPrices) -> Result<Share, PriceError> {
    let mut share = Share::default();
    let (mesh, width) = (&plan.mesh, Formats::of(plan.job.precision));
    let mut bucket = 0;
    for bank in banks.iter().filter(|bank| bank.elems > 0) {
        let BankSize { elems, shards, zero, axis, .. } = *bank;
        let own = elems / shards;
        let held = if zero >= 2 { own } else { elems };
        share.clear += links.vector("zero", held, width.state, || Op::Zero { n: held })?;
        if zero >= 2 {
            bucket += elems;
            share.settle += links.vector("accumulate", own, width.state, || Op::Accumulate { n: own })?;
            let scattered = links.collective(mesh, Collective::ReduceScatter, axis, gradients(plan, elems))?;
            share.scatter += parts(plan, bank, links)? + scattered;
        } else {
            share.reduce += reduce(plan, bank, links)?;
            share.parts += parts(plan, bank, links)?;
        }
        let norm = Op::SquaredNorm { n: own, whole: elems, copies: mesh.tp, replicas: 1, shards, axis };
        share.last_norm = links.vector("norm", own, width.state, || norm)?;
        share.norm += share.last_norm;
        let update = Op::AdamW { n: own, decayed: elems, shards, axis, master: width.master() };
        share.update += links.vector("adamw", own, width.model, || update)?;
        let gathered = links.collective(mesh, Collective::AllGather, axis, elems as u64 * width.model.bytes())?;
        match zero {
            0 => {}
            1 | 2 => share.renew += gathered,
            _ => share.gather += gathered,
        }
    }
    share.empty += links.vector("zero", bucket, width.state, || Op::Zero { n: bucket })?;
    Ok(share)
}
