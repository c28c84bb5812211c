//! What a stack's kernels need beside the tensors of a tape.
//!
//! In: counts that architectures note as they write ops. Out: bytes kept for backward, bytes while attention or the loss runs.
//!
//! With both, layers of GPT keep the 34·s·b·h + 5·a·s²·b bytes of Korthikanti et al. 2022, §4.1. No op here reads any of it: it has
//! room in slots and working memory, and its passes over memory are in the prices of the kernels.
//!
//! Invariant: all zero for the executor's own kernels.

use super::local::Local;
use crate::plan::Recompute;

/// Bytes of the mask of dropout's that an element has.
const MASK: usize = 1;

/// What a piece needs beside its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Elements of scores that attention stores: after the softmax and, with dropout, after that too.
    scores: usize,
    /// Of these, most of one attention.
    widest: usize,
    /// Elements of the residual stream that are dropped or not.
    dropped: usize,
    /// Whether scores are.
    dropout: bool,
    /// Elements of fp32 logits.
    logits: usize,
}

impl Beside {
    /// Notes an attention of so many queries and keys in all heads together.
    pub(super) fn attends(&mut self, local: Local, scores: usize) {
        if local.software.stores_scores {
            self.scores += scores;
            self.widest = self.widest.max(scores);
            self.dropout = local.software.dropout;
        }
    }

    /// Notes so many elements that go into the residual stream.
    pub(super) fn drops(&mut self, local: Local, elems: usize) {
        if local.software.dropout {
            self.dropped += elems;
        }
    }

    /// Notes a loss over so many logits.
    pub(super) fn scored(&mut self, local: Local, logits: usize) {
        self.logits += usize::from(local.software.logit_copies) * logits;
    }

    /// Bytes of scores that are kept from forward to backward, where activations have so many an element: the softmax's; dropout's
    /// and its mask.
    fn kept_scores(&self, width: usize) -> usize {
        self.scores * (width + if self.dropout { width + MASK } else { 0 })
    }

    /// Bytes kept of a microbatch in a recompute mode: what [`Recompute::Selective`] keeps are matmuls' outputs, and masks without
    /// which what follows them cannot be made again.
    pub fn kept(&self, mode: Recompute, width: usize) -> usize {
        let masks = self.dropped * MASK;
        match mode {
            Recompute::None => self.kept_scores(width) + masks,
            Recompute::Selective => masks,
            Recompute::Full => 0,
        }
    }

    /// Bytes while attention runs: forward its scores before the softmax, which are gone before dropout makes as many; backward the
    /// gradients of one more matrix than what it has no use for any more; and what is not kept.
    pub fn attention(&self, mode: Recompute, backward: bool, width: usize) -> usize {
        let matrices = usize::from(backward || !self.dropout);
        let again = if mode == Recompute::None { 0 } else { self.kept_scores(width) };
        matrices * self.widest * width + again
    }

    /// Bytes while the loss is made.
    pub fn loss(&self) -> usize {
        4 * self.logits
    }
}
