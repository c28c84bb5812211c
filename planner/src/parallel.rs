//! Work that can be done at once.
//!
//! In: a list, what to do with each. Out: what came of each, in order.
//!
//! Invariant: the same on any number of cores. On one it stays on its thread, whose memory is at hand.

use rayon::prelude::*;

/// What comes of each.
pub(crate) fn at_once<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if all.len() < 2 || rayon::current_num_threads() < 2 {
        return all.iter().map(&each).collect();
    }
    all.par_iter().map(&each).collect()
}
