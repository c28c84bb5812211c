//! What of a piece is kept that the pass of weights has no use for.
//!
//! In: a tape, what is kept of it, its pass of weights. Out: tensors.

use std::collections::BTreeSet;

use crate::model::{Step, Tape, Value};

/// Kept tensors that the pass of weights does not read.
pub(super) fn brief(tape: &Tape, kept: &BTreeSet<usize>, weights: &[Step]) -> BTreeSet<usize> {
    let tensor = |value: Value| match value {
        Value::Tensor(t) => Some(t),
        _ => None,
    };
    let mut read: BTreeSet<usize> = weights.iter().flat_map(Step::values).filter_map(tensor).collect();
    if tape.streams().any(|t| read.contains(&t)) {
        read.extend(tape.streams());
    }
    kept.difference(&read).copied().collect()
}
