//! Costs: what pieces take a microbatch, and what ranks that share parameters do for each other.
//!
//! In: pieces, prices, a mesh. Out: [`Costs`] in seconds.
//!
//! What kernels take depends on the *shape* alone: microbatch, sequence, TP, CP, EP. What travels is listed there and priced by
//! the mesh, since the order of axes decides over which links it goes.
//!
//! Invariant: only sums of the prices that the simulator uses.

use std::collections::HashMap;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::price::{PriceError, Prices};
use meshwright_hardware::program::Collective;
use meshwright_hardware::units::Bytes;

use crate::lower::{BankSize, Blocks, Code, Frames, Piece, PieceSize, Pieces, Segment, Sizes};
use crate::model::Kind;
use crate::plan::Plan;

/// First rank, distance and number of a group's ranks.
type Group = (usize, usize, usize);

/// Prices with a memory for what travels.
pub struct Links<'a> {
    /// The prices; their mesh is not used.
    pub prices: Prices<'a>,
    /// Whether all axes count as near as can be.
    pub nearest: bool,
    known: HashMap<(Collective, u64, Group), f64>,
    ops: HashMap<(&'static str, usize, usize), f64>,
}

impl<'a> Links<'a> {
    /// An empty memory.
    pub fn new(prices: Prices<'a>) -> Self {
        Links { prices, nearest: false, known: HashMap::new(), ops: HashMap::new() }
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

/// A pass over a piece: seconds of kernels, and what travels.
#[derive(Clone, Debug, Default)]
struct Work {
    kernels: f64,
    /// While kernels wait.
    here: Vec<(Collective, Axis, u64)>,
    /// Beside kernels.
    beside: Vec<(Collective, Axis, u64)>,
}

impl Work {
    fn of(code: &Code, piece: &Piece, blocks: &Blocks, prices: &mut Prices) -> Result<Work, PriceError> {
        let mut work = Work::default();
        for segment in &code.segments {
            match segment {
                Segment::Run { block, .. } => work.kernels += prices.block(blocks.get(*block))?.0,
                Segment::Collective(op, axis, value) => {
                    let list = if *op == Collective::Rotate { &mut work.beside } else { &mut work.here };
                    list.push((*op, *axis, piece.elems(*value) as u64 * 4));
                }
            }
        }
        Ok(work)
    }

    /// Seconds in all, and of what travels beside.
    fn seconds(&self, links: &mut Links, mesh: &Mesh) -> Result<(f64, f64), PriceError> {
        let mut sum = |list: &[(Collective, Axis, u64)]| -> Result<f64, PriceError> {
            list.iter().map(|&(op, axis, bytes)| links.collective(mesh, op, axis, bytes)).sum()
        };
        let (here, beside) = (sum(&self.here)?, sum(&self.beside)?);
        Ok(((self.kernels + here).max(beside), beside))
    }
}

/// A piece's passes.
#[derive(Clone, Debug)]
struct PieceWork {
    forward: Work,
    backward: Vec<Work>,
    weights: Work,
}

impl PieceWork {
    /// One piece in each of its modes.
    fn of(modes: &[&Piece], blocks: &Blocks, prices: &mut Prices) -> Result<PieceWork, PriceError> {
        let first = modes[0];
        let backward = modes.iter().map(|piece| Work::of(&piece.backward, piece, blocks, prices));
        let backward = backward.collect::<Result<_, _>>()?;
        let forward = Work::of(&first.forward, first, blocks, prices)?;
        Ok(PieceWork { forward, backward, weights: Work::of(&first.weights, first, blocks, prices)? })
    }

    fn seconds(&self, links: &mut Links, mesh: &Mesh) -> Result<Pass, PriceError> {
        let mut backward = [0.0; 3];
        for (mode, seconds) in backward.iter_mut().enumerate() {
            *seconds = self.backward[mode.min(self.backward.len() - 1)].seconds(links, mesh)?.0;
        }
        let (forward, ahead) = self.forward.seconds(links, mesh)?;
        let beside = ahead + self.backward[0].seconds(links, mesh)?.1;
        Ok(Pass { forward, backward, weights: self.weights.seconds(links, mesh)?.0, beside })
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
        let embed = PieceWork::of(&[&pieces.embed], &blocks, prices)?;
        let head = PieceWork::of(&[&pieces.head], &blocks, prices)?;
        let layers = pieces.layers.iter().map(|(&kind, modes)| {
            let modes: Vec<&Piece> = modes.iter().collect();
            Ok((kind, PieceWork::of(&modes, &blocks, prices)?))
        });
        let layers = layers.collect::<Result<_, PriceError>>()?;
        Ok(ShapeWork { frames: Frames::of(&pieces), embed, layers, head })
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

/// Seconds of a piece a microbatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Forward.
    pub forward: f64,
    /// Backward, by recompute mode; of inputs alone where it is split.
    pub backward: [f64; 3],
    /// Gradients of weights, where they are apart.
    pub weights: f64,
    /// What travels beside kernels, forward and backward.
    pub beside: f64,
}

/// Seconds of what ranks with the same parameters do for each other, of one piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Once a step, at its start: clearing gradients.
    pub clear: f64,
    /// A microbatch, with backward's kernels: clearing the bucket of gradients, adding up what was scattered.
    pub settle: f64,
    /// A pass, beside kernels: gathering weights.
    pub gather: f64,
    /// A microbatch, beside kernels: scattering gradients.
    pub scatter: f64,
    /// Once a step, beside kernels: summing gradients.
    pub reduce: f64,
    /// Once a step: squares of gradients.
    pub norm: f64,
    /// Once a step: the optimizer.
    pub update: f64,
    /// Once a step, beside the optimizer: gathering new weights.
    pub renew: f64,
}

/// A piece's costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct PieceCost {
    /// Its passes.
    pub pass: Pass,
    /// Its parameters.
    pub share: Share,
}

/// Costs of all plans of a shape, mesh and ZeRO stage.
#[derive(Clone, Debug)]
pub struct Costs {
    /// The embedding.
    pub embed: PieceCost,
    /// Layers by kind.
    pub layers: Vec<(Kind, PieceCost)>,
    /// The head.
    pub head: PieceCost,
    /// A message from stage to stage, on its way.
    pub hop: f64,
    /// Receiving a message that has arrived.
    pub recv: f64,
    /// Loading a microbatch's tokens, and its targets.
    pub load: [f64; 2],
    /// Summing the norm over all ranks.
    pub norm_sum: f64,
    /// Sending a tied table's gradient to its other stage and adding it up; what its ranks then sum.
    pub tied: f64,
    /// Moving a layer's activations to the host or back, by kind.
    pub moves: Option<f64>,
}

impl Costs {
    /// Prices a plan's passes and parameters; its stages do not count.
    pub fn of(plan: &Plan, work: &ShapeWork, sizes: &Sizes, links: &mut Links) -> Result<Costs, PriceError> {
        let mesh = &plan.mesh;
        let mut piece = |work: &PieceWork, size: &PieceSize| -> Result<PieceCost, PriceError> {
            Ok(PieceCost { pass: work.seconds(links, mesh)?, share: share(plan, &size.banks, links)? })
        };
        let embed = piece(&work.embed, &sizes.embed)?;
        let head = piece(&work.head, &sizes.head)?;
        let layers = work.layers.iter().map(|(kind, work)| Ok((*kind, piece(work, &sizes.layers[kind][0])?)));
        let layers = layers.collect::<Result<_, PriceError>>()?;
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
        let slot = work.frames.slot();
        Ok(Costs {
            embed,
            layers,
            head,
            hop,
            recv: links.prices.received(plan.stream_elems())?.0,
            load: [links.prices.load(plan.rows())?.0, links.prices.load(plan.target_rows())?.0],
            norm_sum,
            tied,
            moves: links.prices.moved(Bytes(slot as u64 * 4)).ok().map(|seconds| seconds.0),
        })
    }

    /// A kind's costs.
    pub fn layer(&self, kind: Kind) -> &PieceCost {
        let found = self.layers.iter().find(|(other, _)| *other == kind);
        &found.expect("every kind of the model is priced").1
    }
}

/// Summing a bank's gradients over those that hold the same, up to ZeRO-1.
fn reduce(plan: &Plan, bank: &BankSize, links: &mut Links) -> Result<f64, PriceError> {
    let op = if bank.zero > 0 { Collective::ReduceScatter } else { Collective::AllReduce };
    Ok(parts(plan, bank, links)? + links.collective(&plan.mesh, op, bank.axis, bank.elems as u64 * 4)?)
}

/// Summing gradients of which ranks of tensor parallelism have parts.
fn parts(plan: &Plan, bank: &BankSize, links: &mut Links) -> Result<f64, PriceError> {
    match bank.elems - bank.partial {
        0 => Ok(0.0),
        elems => links.collective(&plan.mesh, Collective::AllReduce, Axis::Tp, elems as u64 * 4),
    }
}

fn share(plan: &Plan, banks: &[BankSize], links: &mut Links) -> Result<Share, PriceError> {
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
    share.settle += links.vector("zero", bucket, 0, || Op::Zero { n: bucket })?;
    Ok(share)
}
