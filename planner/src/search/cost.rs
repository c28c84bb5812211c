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
use meshwright_hardware::price::{PriceError, Prices, overlap};
use meshwright_hardware::program::{Collective, Elem};
use meshwright_hardware::units::{Bytes, Seconds};

use super::cached_prices::CachedPrices;
use super::pass_ops::{PassOp, PassOps, PieceOps, ShapeOps};
use super::shared_costs::{reduce, share};
use super::times::{Costs, IssueTimes, Moves, PassTimes, PieceCost, Tied};
use crate::job::LayerKind;
use crate::lower::{ByClass, Class, Formats, Frames, PieceSize, PieceSizes, Tapes};
use crate::plan::Plan;

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
pub(super) struct PassWork {
    kernels: f64,
    /// What the host takes to issue them.
    issue: f64,
    /// In order; of kernels only where something goes round a ring beside them.
    parts: Vec<PassPart>,
}

impl PassWork {
    pub(super) fn of(ops: &PassOps, prices: &mut Prices) -> Result<PassWork, PriceError> {
        let (mut work, mut awaited) = (PassWork::default(), 0);
        for op in &ops.list {
            match op {
                PassOp::Call { op, elems, waits } => {
                    let seconds = prices.op(op, elems.iter().copied())?.0;
                    work.kernels += seconds;
                    work.issue += prices.issue(op).0;
                    if ops.ringed {
                        awaited += waits;
                        work.run(seconds, awaited, *waits > 0);
                    }
                }
                PassOp::Collective(op, axis, bytes) => work.parts.push(PassPart::Collective(*op, *axis, *bytes)),
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
    pub(super) fn seconds(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<(f64, f64), PriceError> {
        let hiding = overlap::hiding(self.kernels, self.hideable(links, mesh)?);
        let (mut end, mut beside, mut ring) = (0.0f64, 0.0f64, 0.0);
        let mut came = Vec::new();
        for part in &self.parts {
            match *part {
                PassPart::Run(seconds, awaited) => {
                    let since = if awaited > 0 { came[awaited - 1] } else { 0.0 };
                    end = end.max(since) + seconds;
                }
                PassPart::Collective(Collective::Rotate, axis, bytes) => {
                    let seconds = links.collective(mesh, Collective::Rotate, axis, bytes)?;
                    beside = beside.max(end) + seconds;
                    ring += seconds;
                    came.push(beside);
                }
                PassPart::Collective(op, axis, bytes) => {
                    let shows = 1.0 - hiding * links.prices.hidden(axis);
                    end += links.collective(mesh, op, axis, bytes)? * shows;
                }
            }
        }
        if came.is_empty() {
            end += self.kernels;
        }
        Ok((end, ring))
    }

    /// Seconds of collectives between kernels that the software can hide beside them.
    fn hideable(&self, links: &mut CachedPrices, mesh: &Mesh) -> Result<f64, PriceError> {
        let mut all = 0.0;
        for part in &self.parts {
            if let PassPart::Collective(op, axis, bytes) = *part
                && op != Collective::Rotate
                && links.prices.hidden(axis) > 0.0
            {
                all += links.collective(mesh, op, axis, bytes)? * links.prices.hidden(axis);
            }
        }
        Ok(all)
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
    fn of(ops: &PieceOps, prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let backward = ops.backward.iter().map(|pass| PassWork::of(pass, prices)).collect::<Result<_, _>>()?;
        Ok(PieceWork {
            forward: PassWork::of(&ops.forward, prices)?,
            tail: PassWork::of(&ops.tail, prices)?,
            backward,
            weights: PassWork::of(&ops.weights, prices)?,
        })
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
        ShapeWork::priced(&ShapeOps::of(plan), prices)
    }

    /// The same without recomputation, activations' memory not counted: all that floors need, much sooner.
    pub fn quick(plan: &Plan, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        ShapeWork::priced(&ShapeOps::quick(plan), prices)
    }

    /// Prices what a shape's pieces do.
    pub fn priced(ops: &ShapeOps, prices: &mut Prices) -> Result<ShapeWork, PriceError> {
        let mut piece = |piece: &PieceOps| PieceWork::of(piece, prices);
        let (embed, head) = (piece(&ops.embed)?, piece(&ops.head)?);
        let layers = ops.layers.iter().map(|(kind, ops)| Ok((*kind, piece(ops)?)));
        let layers = layers.collect::<Result<_, PriceError>>()?;
        Ok(ShapeWork { frames: ops.frames.clone(), embed, layers, head })
    }

    /// The least that a plan's passes cost, whatever its mesh: with all axes as near as can be, and nothing beside them.
    pub fn passes(&self, plan: &Plan, links: &mut CachedPrices) -> Result<Costs, PriceError> {
        links.nearest = true;
        let costs = self.on(&plan.mesh, links);
        links.nearest = false;
        costs
    }

    /// What passes cost on a mesh, and nothing beside them.
    pub fn on(&self, mesh: &Mesh, links: &mut CachedPrices) -> Result<Costs, PriceError> {
        let mut piece = |work: &PieceWork| -> Result<PieceCost, PriceError> {
            Ok(PieceCost { pass: work.seconds(links, mesh)?, ..PieceCost::default() })
        };
        let (embed, head) = (piece(&self.embed)?, piece(&self.head)?);
        let layers = self.layers.iter().map(|(kind, work)| Ok((*kind, piece(work)?)));
        Ok(Costs { embed, layers: layers.collect::<Result<_, PriceError>>()?, head, ..Costs::default() })
    }

    /// Parameters alone, which passes take nothing for.
    pub fn idle(plan: &Plan) -> ShapeWork {
        let none = || PieceWork { backward: vec![PassWork::default()], ..PieceWork::default() };
        let tapes = Tapes::of(plan);
        let layers = tapes.layers.keys().map(|&kind| (kind, none())).collect();
        ShapeWork { frames: Frames::bare(&tapes), embed: none(), layers, head: none() }
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
        let host_capacity = links.prices.host_capacity().0;
        if host_capacity > 0 {
            for (kind, piece) in &mut layers {
                piece.moves = moves(work.frames.moves(*kind), width, &links.prices)?;
            }
        }
        let mut tied = Tied::default();
        if plan.job.model.tied && mesh.pp * plan.chunks > 1 {
            // The embedding's part waits for the head's.
            tied.reduce[0] = std::mem::take(&mut embed.share.reduce);
        }
        if let Some(bank) = sizes.twin.as_ref().filter(|bank| bank.trains()) {
            let n = bank.elems;
            let table = Bytes(n as u64 * width.gradients.bytes());
            let stride = if links.nearest { 1 } else { mesh.stride(Axis::Pp) * (mesh.pp - 1) };
            tied.sent = links.prices.message_over(table, stride)?.0;
            tied.added = links.prices.received(table)?.0;
            tied.added += links.vector("accumulate", n, [width.gradients; 2], || Op::Accumulate { n })?;
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
            host_capacity,
            shown: links.prices.shown_beside(),
            starts: links.prices.host_starts().0,
            issue_once: links.prices.issue_once().0,
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
