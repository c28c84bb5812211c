//! A bound where a mesh's parts sit in unlike pools: whether a step can end before a time at all, however the work is shared.
//!
//! In: how many stages or replicas each pool has, what a rank that had the whole model takes there, a pipeline. Out: yes, or no plan does.
//!
//! Of stages, pool i has n_i, each with τ = T / M seconds a microbatch: Σ n_i·τ / w_i is at least 1, for w_i seconds of all layers
//! on one device of it; layers are whole, so that Σ n_i·⌊τ / l_i⌋ reaches them all; and their way through all stages is no shorter than
//! where the fastest have as much as they have time for. Of several chunks layers are even, and the slowest stage has its part.
//! Of replicas, each pool's are through as many microbatches as their own floor has time for: together the batch.
//!
//! Invariant: never no where a plan ends before the time (tests over plans on pools).

use rustc_hash::FxHashMap;

use crate::schedule::Pipeline;

use super::bound::{Whole, least_ratio};
use super::stages::least;

/// What of a quotient is its rounding.
const ROUNDING: f64 = 1e-9;

/// Whether stages, so many in each pool, can be through before a time, whose schedule takes `ratio` of their way.
pub(super) fn stages_may_end(pipeline: &Pipeline, counts: &[usize], wholes: &[Whole], ratio: f64, before: f64) -> bool {
    let chunks = pipeline.stages * pipeline.chunks;
    let (mut shared, mut held, mut layers) = (0.0, 0.0, 0);
    // By pool: seconds of all layers on one of its devices, and the share of them that its stages have time for.
    let mut pools: Vec<[f64; 2]> = Vec::with_capacity(counts.len());
    let mut starts = f64::INFINITY;
    for (&count, whole) in counts.iter().zip(wholes).filter(|(count, _)| **count > 0) {
        let each = (before - whole.starts) / pipeline.microbatches as f64;
        let (busy, way) = whole.microbatch(chunks);
        let (layer, count) = (whole.layer.total(), count as f64);
        if pipeline.chunks > 1 {
            let even = pipeline.chunks * (whole.layers / chunks).max(1);
            if even as f64 * layer > each {
                return false;
            }
        }
        let fits = each.max(0.0) / layer;
        held += count * if pipeline.chunks == 1 { (fits + ROUNDING).floor() } else { fits };
        shared += count * each / busy;
        layers = whole.layers;
        starts = starts.min(whole.starts);
        pools.push([way, count * each / busy]);
    }
    if shared < 1.0 - ROUNDING || held < layers as f64 * (1.0 - ROUNDING) {
        return false;
    }
    pools.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let (mut left, mut all) = (1.0f64, 0.0);
    for [way, most] in pools {
        all += way * left.min(most);
        left = (left - most).max(0.0);
    }
    pipeline.chunks > 1 || starts + all * ratio <= before
}

/// Microbatches that a replica's own floor has time for before a time, up to `all`.
pub(super) fn most_before(
    pipeline: &Pipeline,
    (whole, all): (&Whole, usize),
    before: f64,
    ratios: &mut FxHashMap<Pipeline, f64>,
) -> usize {
    let late = |microbatches: usize| {
        let pipeline = Pipeline { microbatches, ..*pipeline };
        whole.floor(&pipeline, least_ratio(&pipeline, ratios)) > before
    };
    least(1, all + 1, late) - 1
}
