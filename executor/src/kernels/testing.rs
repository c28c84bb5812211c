//! What the kernels' tests share: teams, random operands, comparisons and finite differences.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::team::Team;

/// Runs a test with one thread and with three.
pub(super) fn on_teams(test: impl Fn(&Team)) {
    for threads in [1, 3] {
        test(&Team::new(threads));
    }
}

/// `n` values in -1..1, the same for a seed.
pub(super) fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut random = SplitMix64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let next = |_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..n).map(next).collect()
}

/// In `f64`.
pub(super) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `n` ids below `below`, as kernels hold them.
pub(super) fn random_ids(seed: u64, n: usize, below: u32) -> Vec<f32> {
    random(seed, n).iter().map(|x| f32::from_bits(((x + 1.0) / 2.0 * below as f32) as u32 % below)).collect()
}

/// Panics where `got` is further than `tolerance` from `want`, relative to `max(1, |want|)`.
#[track_caller]
pub(super) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * want.abs().max(1.0), "[{i}]: got {got}, want {want}");
    }
}

/// d f / d x by central differences in `f64`.
pub(super) fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut moved = x.to_vec();
    let slope = |i: usize| {
        moved[i] = x[i] + step;
        let up = f(&moved);
        moved[i] = x[i] - step;
        let down = f(&moved);
        moved[i] = x[i];
        (up - down) / (2.0 * step)
    };
    (0..x.len()).map(slope).collect()
}
