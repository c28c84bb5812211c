//! What of a model a rank holds.
//!
//! In: a plan's mesh and microbatch. Out: [`Local`], by which tapes are sharded.
//!
//! Invariant: sizes are those of one rank.

use crate::job::Software;

/// What a rank holds, as a plan fixes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Sequences a microbatch.
    pub microbatch: usize,
    /// Tokens a sequence on the rank.
    pub seq: usize,
    /// Samples a sequence, which attend each to itself alone.
    pub samples: usize,
    /// Tokens a sequence of a decoder beside an encoder.
    pub target: usize,
    /// Whether a token sees only earlier ones.
    pub causal: bool,
    /// Ranks of tensor parallelism.
    pub tp: usize,
    /// Whether they share tokens too.
    pub sp: bool,
    /// Ranks of context parallelism.
    pub cp: usize,
    /// Whether keys and values go round a ring of them.
    pub ring: bool,
    /// Ranks of expert parallelism.
    pub ep: usize,
    /// Ranks of tensor parallelism that share an expert.
    pub etp: usize,
    /// What software makes of the job.
    pub software: Software,
}

impl Local {
    /// The same of the decoder beside an encoder.
    pub fn of_target(self) -> Local {
        Local { seq: self.target, ..self }
    }

    /// Tokens a microbatch.
    pub fn rows(&self) -> usize {
        self.microbatch * self.seq
    }

    /// Sequences of attention, and tokens of each on the rank: samples.
    pub fn attended(&self) -> (usize, usize) {
        (self.microbatch * self.samples, self.seq / self.samples)
    }

    /// Whether a part of tensor parallelism shares an expert, so that each rank routes its own tokens.
    pub fn routes_own(&self) -> bool {
        self.etp < self.tp
    }

    /// Ranks that share the tokens of the residual stream.
    pub fn sharers(&self) -> usize {
        if self.sp { self.tp } else { 1 }
    }

    /// Tokens of the residual stream.
    pub fn residual_rows(&self) -> usize {
        self.rows() / self.sharers()
    }
}
