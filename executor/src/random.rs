//! Chance that depends on a place, not on what was drawn before.
//!
//! In: a key. Out: 64 bits, each of which depends on every bit of the key.
//!
//! Invariant: a key means the same bits in every version: they say which text a sample is and what weights start from.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// The first number that SplitMix64 (Steele, Lea & Flood 2014) draws from this seed.
pub fn mixed(key: u64) -> u64 {
    SplitMix64::seed_from_u64(key).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_the_bits_that_it_always_meant() {
        // The first three are Vigna's reference for seed 0, whose state grows by the golden ratio.
        let golden = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!(mixed(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mixed(golden), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(mixed(golden.wrapping_mul(2)), 0x06c4_5d18_8009_454f);
    }
}
