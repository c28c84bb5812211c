//! The most of each size that is modelled: one mistyped digit is refused before it costs memory or time.
//!
//! In: a key, its value, what it may be. Out: nothing, or the [`Fault`].
//!
//! Invariant: no product of sizes within these limits, and within [`ACTIVATIONS`], overflows 63 bits where it is taken.

use std::ops::RangeInclusive;

use meshwright_hardware::profile::Cluster;

use crate::error::Fault;

/// Layers of a model, or of each half of an encoder-decoder; 1,000 were trained (Wang et al. 2022, DeepNet).
pub const LAYERS: usize = 1024;
/// Width of the residual stream.
pub const HIDDEN: usize = 1 << 20;
/// Query heads.
pub const HEADS: usize = 1 << 16;
/// Width of a head, or of a part of it.
pub const HEAD_DIM: usize = 1 << 16;
/// Width of a feed-forward part.
pub const FFN: usize = 1 << 24;
/// Tokens in a vocabulary.
pub const VOCAB: usize = 1 << 27;
/// Parameters that no op reads; a vision tower of 22 B was trained (Dehghani et al. 2023).
pub const UNPRICED: usize = 100_000_000_000;
/// Experts a layer; 2,048 were trained (Fedus et al. 2021).
pub const EXPERTS: usize = 1 << 16;
/// Parameters of a model: 500 times the largest that was trained.
pub const PARAMETERS: f64 = 1e15;
/// Tokens of a sequence.
pub const SEQ: usize = 1 << 28;
/// Sequences a step; 65,536 were trained with (You et al. 2019).
pub const BATCH: usize = 1 << 20;
/// Steps of a training run.
pub const STEPS: usize = 1_000_000_000_000;
/// Tokens of a training run.
pub const TOKENS: f64 = 1e18;
/// Elements that a layer's widest matrix of activations has for all tokens of a step, times layers: 2⁵⁴. Some 20 such
/// matrices of 4 bytes are kept, which makes 2⁶¹ bytes.
pub const ACTIVATIONS: f64 = (1_u64 << 54) as f64;
/// Ranks of a plan.
pub const RANKS: usize = Cluster::MOST_DEVICES;
/// Sites that train together.
pub const SITES: usize = 1 << 16;
/// Steps between two meetings of sites.
pub const STEPS_APART: usize = 1_000_000;
/// Microbatches of a step times the layers they go through: what a program writes down one by one, in seconds and some
/// gigabytes.
pub const PASSES: usize = 500_000;

/// Refuses the first size that is not what it may be.
pub(crate) fn sizes(all: &[(&str, usize, RangeInclusive<usize>)]) -> Result<(), Fault> {
    match all.iter().find(|(_, size, may)| !may.contains(size)) {
        Some((key, size, may)) => Err(Fault::new(key, size, format!("it must be {} to {}", may.start(), may.end()))),
        None => Ok(()),
    }
}

/// Refuses a number that is NaN, infinite or outside of its range, bounds included.
pub(crate) fn number(key: &str, value: f64, may: RangeInclusive<f64>) -> Result<(), Fault> {
    if may.contains(&value) {
        return Ok(());
    }
    let shown = if value.abs() < 1e15 { value.to_string() } else { format!("{value:e}") };
    Err(Fault::new(key, shown, format!("it must be {} to {}", may.start(), may.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_refused_and_named() {
        sizes(&[("a", 1, 1..=2), ("b", 0, 0..=0)]).unwrap();
        assert_eq!(sizes(&[("a", 1, 1..=2), ("b", 3, 1..=2)]), Err(Fault::new("b", 3, "it must be 1 to 2")));
        number("c", 0.5, 0.0..=1.0).unwrap();
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(number("c", odd, 0.0..=1.0).unwrap_err().problem, "it must be 0 to 1");
        }
    }
}
