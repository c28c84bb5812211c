//! What the software that runs a job makes of it before it is lowered: which kernels it has, and in which formats it keeps what.
//!
//! In: a [`Stack`], a job. Out: [`Software`], by which tapes are written and buffers declared.
//!
//! Invariant: without a stack it is what the executor does; no file holds it, for a job names its stack.

use meshwright_hardware::profile::{AttentionKernel, GradientSums, LossKernel, Stack};

use super::{Experts, Job};

/// What a stack makes of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Software {
    /// Whether attention stores its scores, which a tiled one never does.
    pub stores_scores: bool,
    /// Whether layers have dropout, whose masks are kept for backward.
    pub dropout: bool,
    /// How the loss is made of logits.
    pub loss: LossKernel,
    /// How gradients are kept between microbatches.
    pub gradients: GradientSums,
    /// Whether sharded weights exist only as fp32 masters, cast as they are gathered (PyTorch FSDP).
    pub casts: bool,
    /// Whether weights, gradients and moments are all of the format of activations.
    pub pure: bool,
    /// Whether layers in eight bits keep the inputs of their linear layers so.
    pub keeps_narrow: bool,
    /// Whether they send tokens to experts so.
    pub dispatches_narrow: bool,
    /// Whether the activated gate of a gated feed-forward part is kept beside its product.
    pub keeps_gate: bool,
    /// Whether what sequence parallelism gathers is kept for backward.
    pub keeps_gathered: bool,
    /// Elements of the buffers in which gradients and weights are flattened where states are sharded.
    pub flat: usize,
    /// Whether norms keep what their gains multiply.
    pub eager_norms: bool,
}

impl Software {
    /// Of a stack.
    pub fn of(stack: &Stack) -> Software {
        Software {
            stores_scores: stack.attention == AttentionKernel::Unfused,
            dropout: stack.dropout,
            loss: stack.loss,
            gradients: stack.gradients,
            casts: stack.casts,
            pure: stack.pure,
            keeps_narrow: stack.keeps_narrow,
            dispatches_narrow: stack.dispatches_narrow,
            keeps_gate: stack.keeps_gate,
            keeps_gathered: stack.keeps_gathered,
            flat: stack.flat,
            eager_norms: stack.eager_norms,
        }
    }
}

impl Job {
    /// The job as a stack runs it.
    pub fn under(&self, stack: &Stack) -> Job {
        Job { software: Software::of(stack), ..self.clone() }
    }

    /// The stack as it runs the job: its layers launched as the job says, tokens sent to experts as its model routes them.
    pub fn runs_under(&self, stack: &Stack) -> Stack {
        stack.clone().running(self.cuda_graphs, self.no_dropout, self.model.experts().map(Experts::routing))
    }
}
