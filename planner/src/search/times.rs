//! Seconds of a plan's parts: of a piece's passes, of what ranks share, of moves, of a stage.
//!
//! In: prices (see [`super::cost`]). Out: [`Costs`] by piece, [`Times`] by stage.
//!
//! Invariant: sums alone; nothing here asks for a price.

use crate::job::LayerKind;
use crate::plan::Recompute;
use crate::schedule::Passes;

/// Seconds of a piece a microbatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassTimes {
    /// Forward.
    pub forward: f64,
    /// Of forward, what comes after the last that is kept.
    pub tail: f64,
    /// Backward, by recompute mode; of inputs alone where it is split.
    pub backward: [f64; 3],
    /// Gradients of weights, where they are apart.
    pub weights: f64,
    /// What goes round a ring beside kernels, forward and backward.
    pub ring: [f64; 2],
    /// What the host takes to issue each.
    pub issue: IssueTimes,
}

/// Seconds in which a host issues a piece's passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct IssueTimes {
    /// Forward.
    pub forward: f64,
    /// Backward, by recompute mode.
    pub backward: [f64; 3],
    /// Gradients of weights, where they are apart.
    pub weights: f64,
}

/// Seconds in which a host issues what ranks with the same parameters do for each other, of one piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShareIssue {
    /// Clearing gradients.
    pub clear: f64,
    /// Clearing the bucket of gradients.
    pub empty: f64,
    /// Adding up what was scattered.
    pub settle: f64,
    /// Gathering weights.
    pub gather: f64,
    /// Scattering gradients, or summing them.
    pub sums: f64,
    /// Squares of gradients.
    pub norm: f64,
    /// The optimizer, and gathering new weights.
    pub update: f64,
}

/// Seconds of what ranks with the same parameters do for each other, of one piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShareTimes {
    /// What the host takes to issue it.
    pub issue: ShareIssue,
    /// Once a step, at its start: clearing gradients.
    pub clear: f64,
    /// A microbatch, before backward's kernels: clearing the bucket of gradients.
    pub empty: f64,
    /// A microbatch, after a later piece's kernels: adding up what was scattered.
    pub settle: f64,
    /// Of it, what the last bank takes, which alone waits for all of that.
    pub last_settle: f64,
    /// A pass, before its kernels: copying shards of weights to where they are gathered.
    pub copy: f64,
    /// A pass, beside kernels: gathering weights.
    pub gather: f64,
    /// Of it, those of experts, which come last and which kernels before the experts need not wait for.
    pub gather_experts: f64,
    /// A microbatch, beside kernels: scattering gradients.
    pub scatter: f64,
    /// Once a step, beside kernels: summing gradients.
    pub reduce: f64,
    /// Of this, summing what ranks of tensor parallelism have parts of, which is whole before weights that are apart.
    pub parts: f64,
    /// Of what is summed or scattered, summing gradients of copied keys and values, which are whole before their pass ends.
    pub copies: f64,
    /// Once a step, beside kernels: summing what was scattered over replicas, once it is added up.
    pub replicate: f64,
    /// Once a step: squares of gradients.
    pub norm: f64,
    /// Of these, those of the bank that is summed last.
    pub last_norm: f64,
    /// Once a step: the optimizer.
    pub update: f64,
    /// Once a step, beside the optimizer: gathering new weights.
    pub renew: f64,
}

/// A piece's costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct PieceCost {
    /// Its passes.
    pub pass: PassTimes,
    /// Its parameters.
    pub share: ShareTimes,
    /// Moving what it keeps to the host or back.
    pub moves: Moves,
}

/// Seconds of moving what a piece keeps: numbers of the model's format first, which its kernels use at once, then others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moves {
    /// The first.
    pub first: f64,
    /// All.
    pub all: f64,
}

/// Seconds of a tied table's gradient, which embedding and head make each a part of, once both are done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tied {
    /// Sending it to the other's stage; nothing where that is the same.
    pub sent: f64,
    /// Receiving it there and adding it up.
    pub added: f64,
    /// Summing it, beside kernels: the embedding's bank, and the head's.
    pub reduce: [f64; 2],
}

impl Tied {
    /// One after the other, on the stage where it takes longer.
    pub fn total(&self) -> f64 {
        self.sent + self.added + self.reduce[0].max(self.reduce[1])
    }
}

/// Costs of all plans of a shape, mesh and ZeRO stage.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// The embedding.
    pub embed: PieceCost,
    /// Layers by kind.
    pub layers: Vec<(LayerKind, PieceCost)>,
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
    /// What becomes of a tied table's gradient; nothing where embedding and head are one chunk.
    pub tied: Tied,
    /// Bytes of activations that a rank may move to the host.
    pub host_capacity: u64,
    /// Of a collective's time beside compute, what it takes from compute.
    pub shown: f64,
    /// Before the host issues the first kernel of a step.
    pub starts: f64,
    /// What the host takes to issue an instruction that is no block.
    pub issue_once: f64,
}

impl Costs {
    /// A kind's costs.
    pub fn layer(&self, kind: LayerKind) -> &PieceCost {
        let found = self.layers.iter().find(|(other, _)| *other == kind);
        &found.expect("every kind of the model is priced").1
    }
}

impl ShareTimes {
    /// Adds another, so many times.
    pub fn add(&mut self, other: &ShareTimes, times: f64) {
        self.clear += times * other.clear;
        self.empty += times * other.empty;
        self.settle += times * other.settle;
        self.last_settle += times * other.last_settle;
        self.gather += times * other.gather;
        self.gather_experts += times * other.gather_experts;
        self.scatter += times * other.scatter;
        self.reduce += times * other.reduce;
        self.parts += times * other.parts;
        self.copies += times * other.copies;
        self.replicate += times * other.replicate;
        self.norm += times * other.norm;
        self.last_norm += times * other.last_norm;
        self.update += times * other.update;
        self.renew += times * other.renew;
    }
}

/// Seconds of a stage, or of one of its chunks, a microbatch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Forward.
    pub forward: f64,
    /// Backward; of inputs alone where it is split.
    pub backward: f64,
    /// Gradients of weights, where they are apart.
    pub weights: f64,
    /// What travels beside.
    pub beside: f64,
    /// Moves to the host and back, beside both.
    pub moves: f64,
    /// What the host takes to issue all of them.
    pub issue: f64,
}

impl Times {
    /// Adds a piece.
    pub fn layer(&mut self, piece: &PieceCost, mode: Recompute) {
        self.forward += piece.pass.forward;
        self.backward += piece.pass.backward[mode as usize] + piece.share.empty;
        self.weights += piece.pass.weights;
        self.beside += piece.share.scatter;
        let IssueTimes { forward, backward, weights } = piece.pass.issue;
        self.issue += forward + backward[mode as usize] + weights;
    }

    /// Adds others.
    pub fn plus(&mut self, other: &Times) {
        self.forward += other.forward;
        self.backward += other.backward;
        self.weights += other.weights;
        self.beside += other.beside;
        self.moves += other.moves;
        self.issue += other.issue;
    }

    /// Without others.
    pub fn less(&self, other: &Times) -> Times {
        Times {
            forward: self.forward - other.forward,
            backward: self.backward - other.backward,
            weights: self.weights - other.weights,
            beside: self.beside - other.beside,
            moves: self.moves - other.moves,
            issue: self.issue - other.issue,
        }
    }

    /// Kernels of each pass.
    pub fn passes(&self) -> Passes {
        Passes { forward: self.forward, backward: self.backward, weights: self.weights }
    }

    /// Kernels in all.
    pub fn total(&self) -> f64 {
        self.forward + self.backward + self.weights
    }

    /// The longest of kernels, what travels and moves.
    pub fn longer(&self) -> f64 {
        self.total().max(self.beside).max(self.moves)
    }

    /// So many of them.
    pub fn scaled(&self, by: f64) -> Times {
        Times {
            forward: self.forward * by,
            backward: self.backward * by,
            weights: self.weights * by,
            beside: self.beside * by,
            moves: self.moves * by,
            issue: self.issue * by,
        }
    }
}
