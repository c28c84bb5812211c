//! What of a tape's [`Beside`](crate::model::Beside) is kept of a microbatch, in elements of activations.
//!
//! In: a tape, a recompute mode. Out: elements behind its kept tensors.
//!
//! [`Recompute::Selective`] keeps matmuls' outputs, and masks, without which what follows them cannot be made again. What
//! Megatron-LM calls selective (Korthikanti et al. 2022) drops the scores alone: [`RecomputeModule::CoreAttn`].
//!
//! Invariant: nothing for the executor's own kernels.

use meshwright_hardware::program::Elem;

use super::format::ALIGN;
use crate::model::Tape;
use crate::plan::Recompute;
#[cfg(doc)]
use crate::plan::RecomputeModule;

/// Elements kept beside a tape's tensors.
pub(super) fn saved_beside(tape: &Tape, mode: Recompute, model: Elem) -> usize {
    let (beside, width) = (&tape.beside, model.bytes() as usize);
    let scores = if beside.makes_scores_again() { 0 } else { beside.kept_scores(width) };
    let bytes = match mode {
        Recompute::None => scores + beside.masks() + beside.made_between(width),
        Recompute::Selective => beside.masks(),
        Recompute::Full => 0,
    };
    in_elems(bytes, model)
}

/// Elements of activations that are so many bytes.
pub(super) fn in_elems(bytes: usize, model: Elem) -> usize {
    bytes.div_ceil(model.bytes() as usize).next_multiple_of(ALIGN)
}
