//! A chunk's passes as they are played: what each piece's part of an action takes.
//!
//! In: a plan, costs, a stage's chunk. Out: [`Chunk`].
//!
//! Invariant: pieces in the order in which their passes run; what runs one after another with nothing beside is one.

use std::rc::Rc;

use super::super::times::{Costs, Moves, PieceCost, ShareIssue};
use crate::plan::{Plan, Recompute, Stage};

/// A piece's part of an action, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item {
    /// Which piece of the stage, where weights are gathered for passes.
    pub(super) gathers: Option<usize>,
    /// Gathering them, of which those of experts come last, and copying shards to where they are gathered.
    pub(super) gather: f64,
    pub(super) gather_experts: f64,
    pub(super) copy: f64,
    pub(super) kernels: f64,
    /// What the host takes to issue them.
    pub(super) issue: f64,
    /// Of kernels, forward's after the last that makes what is kept, and backward's before the first that needs it.
    pub(super) apart: f64,
    /// What goes round a ring meanwhile.
    pub(super) ring: f64,
    /// Scattering its gradients; adding up what came of them, and of this what the last bank takes.
    pub(super) scatter: f64,
    pub(super) settle: f64,
    pub(super) last_settle: f64,
    /// Moving its activations to the host, or back.
    pub(super) moves: Option<Moves>,
    /// Which piece of the stage, and how long summing its gradients takes, after the last microbatch: in all, and of this what
    /// need not wait for these kernels.
    pub(super) piece: usize,
    pub(super) reduce: f64,
    pub(super) parts: f64,
    /// Summing what was scattered over replicas, once that is added up.
    pub(super) replicate: f64,
    /// Whether its part of a tied table's gradient is whole then.
    pub(super) table: bool,
    /// What the host takes to issue what is gathered, scattered or summed, and added up.
    pub(super) shared: ShareIssue,
}

/// A chunk's passes.
pub(super) struct Chunk {
    /// Forward, backward, weights; of the last microbatch apart, after which gradients are summed.
    pub(super) passes: [[Vec<Item>; 2]; 3],
    /// Seconds of their kernels.
    pub(super) kernels: [[f64; 2]; 3],
}

/// What a chunk's passes follow from where all layers are of one kind: its costs and stage, pieces of the stage before it, and
/// whether it begins or ends the model.
pub(super) type ChunkKey = (*const Costs, Stage, usize, [bool; 2]);

impl Chunk {
    /// Of a stage's chunk, or another that is the same.
    pub(super) fn known(
        known: &mut Vec<(ChunkKey, Rc<Chunk>)>,
        plan: &Plan,
        costs: &Costs,
        (stage, chunk): (usize, usize),
    ) -> Rc<Chunk> {
        let place = plan.virtual_stage(stage, chunk);
        let before = (0..chunk).map(|chunk| pieces_of(plan, plan.virtual_stage(stage, chunk))).sum();
        let ends = [place == 0, place + 1 == plan.mesh.pp * plan.chunks];
        let key = (std::ptr::from_ref(costs), plan.stages[place], before, ends);
        let same = |(other, _): &&(ChunkKey, Rc<Chunk>)| costs.layers.len() == 1 && *other == key;
        if let Some((_, chunk)) = known.iter().find(same) {
            return chunk.clone();
        }
        let chunk = Rc::new(Chunk::of(plan, costs, stage, chunk));
        known.push((key, chunk.clone()));
        chunk
    }

    pub(super) fn of(plan: &Plan, costs: &Costs, stage: usize, chunk: usize) -> Chunk {
        let place = plan.virtual_stage(stage, chunk);
        let (first, decided) = (plan.first_layer(place), plan.stages[place]);
        let model = &plan.job.model;
        let mut passes: [[Vec<Item>; 2]; 3] = Default::default();
        // A piece whose own weights stay whole takes a bucket too.
        let gathered = costs.layers.iter().any(|(_, piece)| piece.share.gather > 0.0);
        let before: usize = (0..chunk).map(|chunk| pieces_of(plan, plan.virtual_stage(stage, chunk))).sum();
        let mut add = |table: bool, piece: &PieceCost, mode: Recompute, moves: Option<Moves>| {
            let PieceCost { pass, share, .. } = piece;
            let number = before + passes[1][0].len();
            let gathers = gathered.then_some(number);
            let (gather, gather_experts, copy, shared) = (share.gather, share.gather_experts, share.copy, share.issue);
            let base = Item { gathers, piece: number, gather, gather_experts, copy, shared, moves, ..Item::default() };
            let apart = pass.weights > 0.0;
            let issue = pass.issue.forward;
            let forward = Item { kernels: pass.forward, issue, apart: pass.tail, ring: pass.ring[0], ..base };
            let kernels = pass.backward[mode as usize] + share.empty;
            let reduce = if apart { 0.0 } else { share.reduce };
            let (scatter, settle, last_settle) = (share.scatter, share.settle, share.last_settle);
            let issue = pass.issue.backward[mode as usize] + share.issue.empty;
            let parts = share.copies;
            let backward = Item {
                kernels,
                issue,
                apart: share.empty,
                ring: pass.ring[1],
                scatter,
                settle,
                last_settle,
                parts,
                ..base
            };
            let issue = pass.issue.weights;
            let weights = Item { piece: number, kernels: pass.weights, issue, shared, ..Item::default() };
            // The head's forward is a part of its backward.
            if pass.forward > 0.0 {
                passes[0].iter_mut().for_each(|list| list.push(forward));
            }
            passes[1][0].push(backward);
            passes[1][1].push(Item { reduce, replicate: share.replicate, table, ..backward });
            if apart {
                passes[2][0].push(weights);
                passes[2][1].push(Item { reduce: share.reduce, parts: share.parts, ..weights });
            }
        };
        if place == 0 {
            add(model.tied, &costs.embed, Recompute::None, None);
        }
        for i in 0..decided.layers {
            let piece = costs.layer(model.kind(first + i));
            let moves = (i < decided.offload).then_some(piece.moves);
            add(false, piece, decided.mode(i), moves);
        }
        if place + 1 == plan.mesh.pp * plan.chunks {
            add(model.tied, &costs.head, Recompute::None, None);
        }
        for list in passes[1..].iter_mut().flatten() {
            list.reverse();
        }
        passes.iter_mut().flatten().for_each(merge);
        let sum = |list: &Vec<Item>| list.iter().map(|item| item.kernels).sum();
        let kernels = passes.each_ref().map(|lists| lists.each_ref().map(sum));
        Chunk { passes, kernels }
    }
}

/// Pieces of a virtual stage.
fn pieces_of(plan: &Plan, place: usize) -> usize {
    usize::from(place == 0) + plan.stages[place].layers + usize::from(place + 1 == plan.mesh.pp * plan.chunks)
}

/// What runs one after another, with nothing beside, is one.
fn merge(list: &mut Vec<Item>) {
    let beside = |item: &Item| item.ring + item.scatter + item.reduce > 0.0 || item.table;
    let alone = |item: &Item| item.gathers.is_none() && item.moves.is_none() && !beside(item);
    list.dedup_by(|later, item| {
        let both = alone(later) && alone(item);
        if both {
            item.kernels += later.kernels;
            item.issue += later.issue;
        }
        both
    });
}
