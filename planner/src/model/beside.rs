//! What a stack's kernels need beside the tensors of a tape.
//!
//! In: counts that architectures note as they write ops. Out: bytes kept for backward, bytes while attention or the loss runs.
//!
//! With both, layers of GPT keep the 34·s·b·h + 5·a·s²·b bytes of Korthikanti et al. 2022, §4.1. No op here reads any of it: it has
//! room in slots and working memory, and its passes over memory are in the prices of the kernels.
//!
//! Invariant: all zero for the executor's own kernels.

use meshwright_hardware::profile::LossKernel;

use super::local::Local;

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
    /// Elements of activated gates, and of norms before their gains, that are kept.
    made: usize,
    /// Logits that stand at once, and ranks that hold those of other words.
    logits: usize,
    ranks: usize,
    /// What makes a loss of them.
    loss: LossKernel,
    /// Whether scores are made again in backward, and not kept.
    pub(super) scores_again: bool,
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

    /// Notes a feed-forward part with so many gates.
    pub(super) fn gates(&mut self, local: Local, elems: usize) {
        if local.software.keeps_gate {
            self.made += elems;
        }
    }

    /// Notes a norm of so many elements.
    pub(super) fn norms(&mut self, local: Local, elems: usize) {
        if local.software.eager_norms {
            self.made += elems;
        }
    }

    /// Notes a loss over so many logits at once.
    pub(super) fn scored(&mut self, local: Local, logits: usize) {
        (self.logits, self.ranks, self.loss) = (logits, local.tp, local.software.loss);
    }

    /// Bytes of scores that are kept from forward to backward, where activations have so many an element: the softmax's; dropout's
    /// and its mask.
    pub fn kept_scores(&self, width: usize) -> usize {
        self.scores * (width + if self.dropout { width + MASK } else { 0 })
    }

    /// Whether scores are made again where all else is kept.
    pub fn makes_scores_again(&self) -> bool {
        self.scores_again
    }

    /// Bytes of what kernels of their own make between ops here, where activations have so many an element.
    pub fn made_between(&self, width: usize) -> usize {
        self.made * width
    }

    /// Bytes of masks over the residual stream.
    pub fn masks(&self) -> usize {
        self.dropped * MASK
    }

    /// Bytes while attention runs: forward its scores before the softmax, which are gone before dropout makes as many; backward the
    /// gradients of one more matrix than what it has no use for any more.
    pub fn attention(&self, backward: bool, width: usize) -> usize {
        usize::from(backward || !self.dropout) * self.widest * width
    }

    /// Bytes while the loss is made, where activations have so many an element.
    pub fn loss(&self, width: usize) -> usize {
        self.loss.bytes_beside(self.logits, width, self.ranks)
    }
}
