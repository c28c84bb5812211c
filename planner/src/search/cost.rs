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
use super::shared_costs::{reduce, share};
use super::times::{Costs, IssueTimes, Moves, PassTimes, PieceCost, Tied};
use crate::job::LayerKind;
use crate::lower::{
    Blocks, ByClass, Class, Formats, Frames, PieceSize, PieceSizes, Pieces, Tapes, ValueFormats, after_saves, kept,
    waits_for,
};
use crate::model::{Backward, SplitBackward, Step, Tape, Value};
use crate::plan::{Plan, Recompute};

/// The values of a piece: how large they are, and what of.
struct PieceValues<'a> {
    tape: &'a Tape,
    back: &'a Backward,
    split: Option<SplitBackward>,
    formats: ValueFormats,
}

impl<'a> PieceValues<'a> {
    fn of(tape: &'a Tape, back: &'a Backward, splits: bool, model: Formats) -> Self {
        let formats = ValueFormats::of(&tape.forward(), &back.steps, model);
        PieceValues { tape, back, split: splits.then(|| back.split()), formats }
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
enum PassPart {
    /// Kernels, which wait until so many of what goes round a ring have come.
    Run(f64, usize),
    /// What travels.
    Collective(Collective, Axis, u64),
}

/// A pass over a piece: seconds of kernels, and what travels.
#[derive(Clone, Debug, Default)]
struct PassWork {
    kernels: f64,
    /// What the host takes to issue them.
    issue: f64,
    /// In order; of kernels only where something goes round a ring beside them.
    parts: Vec<PassPart>,
}

impl PassWork {
    /// Of steps over a piece's values.
    fn of(steps: &[&Step], values: &PieceValues, prices: &mut Prices) -> Result<PassWork, PriceError> {
        let mut work = PassWork::default();
        let ringed = steps.iter().any(|step| matches!(step, Step::Collective(Collective::Rotate, ..)));
        let (mut under_way, mut awaited): (Vec<Value>, usize) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Call(op, uses) => {
                    let seconds = prices.op(op, uses.iter().map(|used| values.formats.elem(used.value)))?.0;
                    work.kernels += seconds;
                    work.issue += prices.issue(op).0;
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
                    work.parts.push(PassPart::Collective(*op, *axis, values.bytes(*value)));
                }
            }
        }
        Ok(work)
    }

    /// Adds kernels, to those before them unless they wait for more.
    fn run(&mut self, seconds: f64, awaited: usize, apart: bool) {
        match self.parts.last_mut() {
            Some(PassPart::Run(before, _)) if !apart => *before += seconds,
            _ => self.parts.push(PassPart::Run(seconds, awaited)),
        }
    }

    /// What the host takes to issue all of it.
    fn issued(&self, links: &CachedPrices, mesh: &Mesh) -> f64 {
        let travels = |part: &&PassPart| matches!(part, PassPart::Collective(_, axis, _) if mesh.size(*axis) > 1);
        self.issue + links.prices.issue_once().0 * self.parts.iter().filter(travels).count() as f64
    }

    /// Seconds in all, were nothing else on the way, and of what goes round a ring.
    fn seconds(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<(f64, f64), PriceError> {
        let (mut end, mut beside, mut ring) = (0.0f64, 0.0f64, 0.0);
        let (mut came, mut last) = (Vec::new(), None);
        for part in &self.parts {
            match *part {
                PassPart::Run(seconds, awaited) => {
                    let since = if awaited > 0 { came[awaited - 1] } else { 0.0 };
                    end = end.max(since) + seconds;
                }
                PassPart::Collective(Collective::Rotate, axis, bytes) => {
                    let seconds = match last {
                        Some((same, seconds)) if same == bytes => seconds,
                        _ => links.collective(mesh, Collective::Rotate, axis, bytes)?,
                    };
                    last = Some((bytes, seconds));
                    beside = beside.max(end) + seconds;
                    ring += seconds;
                    came.push(beside);
                }
                PassPart::Collective(op, axis, bytes) => end += links.collective(mesh, op, axis, bytes)?,
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
    forward: PassWork,
    /// Of forward, what comes after the last that is kept.
    tail: PassWork,
    backward: Vec<PassWork>,
    weights: PassWork,
}

impl PieceWork {
    /// One piece in each of its modes: nothing made again, and what else is given.
    fn of(values: &PieceValues, again: &[Vec<Step>], prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let PieceValues { tape, back, split, .. } = values;
        let forward: Vec<Step> = tape.forward();
        let steps = split.as_ref().map_or(&back.steps, |split| &split.inputs);
        let backward = again.iter().map(|again| {
            let all: Vec<&Step> = again.iter().chain(steps).collect();
            PassWork::of(&all, values, prices)
        });
        let backward = backward.collect::<Result<_, _>>()?;
        let forward = PassWork::of(&forward.iter().collect::<Vec<_>>(), values, prices)?;
        let weights = split.as_ref().map_or(&[][..], |split| &split.weights);
        let weights = PassWork::of(&weights.iter().collect::<Vec<_>>(), values, prices)?;
        Ok(PieceWork { forward, tail: PassWork::default(), backward, weights })
    }

    /// The head, all in its backward pass.
    fn of_head(tape: &Tape, model: Formats, prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let head = PieceWork::of(&PieceValues::of(tape, &tape.backward(), false, model), &[tape.forward()], prices)?;
        Ok(PieceWork { forward: PassWork::default(), ..head })
    }

    fn seconds(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<PassTimes, PriceError> {
        let mut backward = [0.0; 3];
        for (mode, seconds) in backward.iter_mut().enumerate() {
            *seconds = self.backward[mode.min(self.backward.len() - 1)].seconds(links, mesh)?.0;
        }
        let (forward, ahead) = self.forward.seconds(links, mesh)?;
        let ring = [ahead, self.backward[0].seconds(links, mesh)?.1];
        let tail = self.tail.seconds(links, mesh)?.0;
        let weights = self.weights.seconds(links, mesh)?.0;
        let issue = IssueTimes {
            forward: self.forward.issued(links, mesh),
            backward: [0, 1, 2].map(|mode| self.backward[mode.min(self.backward.len() - 1)].issued(links, mesh)),
            weights: self.weights.issued(links, mesh),
        };
        Ok(PassTimes { forward, tail, backward, weights, ring, issue })
    }
}

/// What all plans of one shape have in common.
pub struct ShapeWork {
    /// What sizes follow from.
    pub frames: Frames,
    embed: PieceWork,
    layers: Vec<(LayerKind, PieceWork)>,
    head: PieceWork,
}

impl ShapeWork {
    /// Prices the pieces of a plan's shape.
    pub fn of(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let mut blocks = Blocks::apart();
        let pieces = Pieces::of(plan, &mut blocks);
        let (splits, model) = (plan.schedule.splits(), Formats::of(&plan.job));
        let layers = pieces.layers.iter().map(|(&kind, modes)| {
            let again: Vec<Vec<Step>> = modes.iter().map(|piece| piece.again.clone()).collect();
            let (tape, back) = (&modes[0].tape, modes[0].tape.backward());
            let (forward, values) = (tape.forward(), PieceValues::of(tape, &back, splits, model));
            let tail: Vec<&Step> = after_saves(&forward, |t| modes[0].kept.contains_key(&t)).iter().collect();
            let tail = PassWork::of(&tail, &values, prices)?;
            Ok((kind, PieceWork { tail, ..PieceWork::of(&values, &again, prices)? }))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        let frames = Frames::of(&pieces);
        ShapeWork::with([&pieces.embed.tape, &pieces.head.tape], layers, frames, model, prices)
    }

    /// The same without recomputation, activations' memory not counted: all that floors need, much sooner.
    pub fn quick(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let tapes = Tapes::of(plan);
        let (splits, model) = (plan.schedule.splits(), Formats::of(&plan.job));
        let layers = tapes.layers.iter().map(|(&kind, tape)| {
            let back = tape.backward();
            let again = kept(tape, &back, Recompute::None).1;
            Ok((kind, PieceWork::of(&PieceValues::of(tape, &back, splits, model), &[again], prices)?))
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
        let none = || PieceWork { backward: vec![PassWork::default()], ..PieceWork::default() };
        let tapes = Tapes::of(plan);
        let layers = tapes.layers.keys().map(|&kind| (kind, none())).collect();
        ShapeWork { frames: Frames::bare(&tapes), embed: none(), layers, head: none() }
    }

    fn with(
        [embed, head]: [&Tape; 2],
        layers: Vec<(LayerKind, PieceWork)>,
        frames: Frames,
        model: Formats,
        prices: &mut Prices,
    ) -> Result<ShapeWork, PriceError> {
        let embed = PieceWork::of(&PieceValues::of(embed, &embed.backward(), false, model), &[Vec::new()], prices)?;
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
        let (mesh, width) = (&plan.mesh, Formats::of(&plan.job));
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
        let mut layers: Vec<(LayerKind, PieceCost)> = layers.collect::<Result<_, PriceError>>()?;
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
            let table = Bytes(n as u64 * width.gradients.bytes());
            let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) * (mesh.pp - 1) };
            tied.sent = links.prices.message_over(table, stride)?.0;
            tied.added = links.prices.received(table)?.0;
            tied.added += links.vector("accumulate", n, &[width.gradients; 2], || Op::Accumulate { n })?;
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
                norm_sum += links.collective(mesh, Collective::AllReduce, axis, Elem::F32.bytes())?;
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
            shown: links.prices.shown_beside(),
            starts: links.prices.host_starts().0,
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
