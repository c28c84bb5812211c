//! Banks: a piece's parameters, flat, so that one collective and one AdamW serve all that are kept alike.
//!
//! In: a piece's parameters, a plan. Out: [`Bank`], its [`BankExtent`], who shares it.
//!
//! First those that tensor parallelism shards and that decay, then sharded ones that do not, then replicated ones.
//!
//! Invariant: a bank's elements divide by the ranks that share its optimizer state.

use std::ops::Range;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::params::Shard;
use meshwright_hardware::program::Elem;

use super::format::{ALIGN, Formats};
use super::update::BankRule;
use crate::model::{ParamDecl, Store};
use crate::plan::Plan;

/// A flat bank of parameters, with gradients and optimizer state where it is trained.
#[derive(Clone, Debug)]
pub struct Bank {
    /// Elements of weights and gradients, padded.
    pub elems: usize,
    /// Elements before this decay.
    pub decayed: usize,
    /// Elements from here on are replicated over tensor parallelism.
    pub whole: usize,
    /// Elements of whose gradients each rank of tensor parallelism makes only a part: copies of keys' and values' weights,
    /// and at the end of the bank what is replicated but used for a rank's own tokens or heads.
    pub parts: Vec<Range<usize>>,
    /// Whether its gradients are also those of another stage's bank, where they are counted.
    pub twin: bool,
    /// The axis of the ranks that hold the same parameters; in hybrid sharding, of those over which they are sharded.
    pub axis: Axis,
    /// ZeRO stage; 0 where no other rank holds the same.
    pub zero: u8,
    /// Ranks that share optimizer state.
    pub shards: usize,
    /// Weights; this rank's shard of them in ZeRO-3.
    pub weights: u32,
    /// How they are kept.
    pub store: Store,
    /// What training needs beside them; none of frozen ones.
    pub state: Option<BankState>,
    /// Where each parameter starts.
    pub(super) offsets: Vec<(String, ParamDecl, usize)>,
}

/// Buffers of a trained bank beside its weights.
#[derive(Clone, Debug)]
pub struct BankState {
    /// Gradients; this rank's shard of them from ZeRO-2 on.
    pub grads: u32,
    /// What the optimizer keeps.
    pub states: Vec<u32>,
    /// On the host, where it updates: gradients and weights.
    pub host: Option<[u32; 2]>,
    /// Which optimizer.
    pub rule: BankRule,
    /// Fp32 weights, where training is in a narrower format.
    pub master: Option<u32>,
}

/// Parameters of a piece that are kept alike: those of experts apart, which other ranks share.
pub(super) struct BankGroup<'a> {
    pub(super) params: Vec<&'a ParamDecl>,
    pub(super) experts: bool,
    pub(super) store: Store,
}

impl BankGroup<'_> {
    /// A piece's, but for a tied table; one that is the embedding's own is in the first.
    pub(super) fn all(params: &[ParamDecl]) -> Vec<BankGroup<'_>> {
        let mut all: Vec<BankGroup> = Vec::new();
        for decl in params.iter().filter(|decl| !decl.tied) {
            let (experts, store) = (decl.experts.is_some(), decl.store);
            match all.iter_mut().find(|group| (group.experts, group.store) == (experts, store)) {
                Some(group) => group.params.push(decl),
                None => all.push(BankGroup { params: vec![decl], experts, store }),
            }
        }
        all.sort_by_key(|group| (group.store != Store::Trained, group.experts));
        all
    }

    /// Its name in buffers' names, behind its piece's.
    pub(super) fn name(&self) -> String {
        let store = match self.store {
            Store::Trained => "",
            Store::Frozen => ".frozen",
            Store::Packed(_) => ".packed",
        };
        format!("{}{store}", if self.experts { ".experts" } else { "" })
    }
}

/// What a rank keeps of weights under a ZeRO stage is of.
pub(super) fn kept_in(store: Store, zero: u8, width: Formats) -> Elem {
    match store {
        Store::Trained => width.weights(zero),
        Store::Frozen => width.model,
        Store::Packed(_) => Elem::U32,
    }
}

/// Which banks of a piece share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Weights of the model's format, gathered in ZeRO-3.
    Weights,
    /// Packed ones.
    Packed,
    /// Gradients, scattered from ZeRO-2 on.
    Grads,
}

impl Bucket {
    /// Whether it has room for a bank of this ZeRO stage.
    pub fn holds(self, zero: u8, store: Store) -> bool {
        match self {
            Bucket::Weights => zero >= 3 && !matches!(store, Store::Packed(_)),
            Bucket::Packed => zero >= 3 && matches!(store, Store::Packed(_)),
            Bucket::Grads => zero >= 2 && store == Store::Trained,
        }
    }
}

/// Sizes of a bank, as in [`Bank`].
#[derive(Clone, Debug, Default)]
pub(super) struct BankExtent {
    pub(super) elems: usize,
    pub(super) decayed: usize,
    pub(super) whole: usize,
    pub(super) parts: Vec<Range<usize>>,
    /// How many of these are of copies, first in the bank.
    pub(super) copies: usize,
}

/// A bank's sizes, and each parameter's start: first those that tensor parallelism shards, then those that it does not, then
/// those whose gradients it makes in parts; in each part, what decays first.
pub(super) fn bank_of<'a>(
    params: impl Iterator<Item = &'a ParamDecl>,
    mesh: &Mesh,
    pad: usize,
) -> (BankExtent, Vec<(&'a ParamDecl, usize)>) {
    let mut order: Vec<&ParamDecl> = params.collect();
    // An expert that tensor parallelism leaves whole stands on one of its ranks alone.
    let replicated = |decl: &ParamDecl| decl.shard == Shard::Whole && (decl.experts.is_none() || decl.partial);
    order.sort_by_key(|decl| (replicated(decl), decl.partial, !decl.decay));
    let (mut at, mut decayed, mut starts) = (0, 0, Vec::new());
    let (mut whole, mut partial, mut parts) = (None, None, Vec::new());
    for decl in order {
        if replicated(decl) {
            whole.get_or_insert(at);
        }
        if decl.partial {
            partial.get_or_insert(at);
        }
        starts.push((decl, at));
        let copied = decl.shard.copied_from(decl.cols, mesh.tp);
        if let Some(from) = copied.filter(|_| decl.store == Store::Trained) {
            parts.push(at + from..at + decl.elems(mesh));
        }
        at += decl.elems(mesh).next_multiple_of(ALIGN);
        if decl.decay {
            decayed = at;
        }
    }
    let elems = at.next_multiple_of(pad);
    let copies = parts.len();
    parts.extend(partial.filter(|&from| from < elems).map(|from| from..elems));
    (BankExtent { elems, decayed, whole: whole.unwrap_or(elems), copies, parts }, starts)
}

/// The axis of the ranks that hold the same parameters, or of those that shard them, and the ZeRO stage that makes a difference
/// there.
pub(super) fn sharing(plan: &Plan, experts: bool, tied: bool, store: Store) -> (Axis, u8) {
    let mesh = &plan.mesh;
    let axis = match (experts, mesh.cp) {
        (true, _) => Axis::Edp,
        (false, 1) => Axis::Dp,
        (false, _) => Axis::Data,
    };
    // A table that embedding and head share is in use all the time: its gradients and weights stay whole.
    let zero = match (store, plan.zero) {
        (Store::Trained, zero) if tied => zero.min(1),
        (Store::Trained, zero) => zero,
        // Of what is frozen there are weights alone.
        (_, 3) if !tied => 3,
        _ => 0,
    };
    let part = if experts { Axis::Eshard } else { Axis::Shard };
    match zero > 0 && mesh.is_hybrid() {
        true if mesh.size(part) > 1 => (part, zero),
        // Nothing is left to shard of experts that are spread over all of a group.
        true => (axis, 0),
        false => (axis, if mesh.size(axis) > 1 { zero } else { 0 }),
    }
}

/// Whether ranks beyond an axis of [`sharing`] hold the same: in hybrid sharding those of [`Axis::Replica`].
pub fn has_replicas(axis: Axis) -> bool {
    matches!(axis, Axis::Shard | Axis::Eshard)
}

/// Whether embedding and head share a table, which is trained, and stand on different stages: its gradients are summed.
pub fn tied_apart(plan: &Plan) -> bool {
    twin_apart(plan) && plan.job.tuning.is_none()
}

/// Whether embedding and head share a table and stand on different stages.
pub fn twin_apart(plan: &Plan) -> bool {
    let last = plan.chunk_at(plan.mesh.pp * plan.chunks - 1).0;
    plan.job.model.tied && last != 0
}

/// Elements of a tied embedding on one rank, as its bank begins.
pub fn tied_elems(plan: &Plan) -> usize {
    plan.job.model.vocab_on(plan.mesh.tp) * plan.job.model.hidden
}
