//! Initial weights, drawn by position.
//!
//! In: a seed, a parameter's name and shape. Out: the part of it that a tensor-parallel rank holds.
//!
//! Invariant: an element depends on the seed, the parameter's name and the element's index in the whole tensor alone, so
//! every plan starts from the same numbers, and stages that share a tensor by name hold the same values.

use meshwright_hardware::hash::fnv1a;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use meshwright_hardware::params::{Init, ParamSpec, Part};

use crate::random::mixed;

/// What a rank starts with: [`ParamSpec::local_elems`] numbers.
pub fn initial(spec: &ParamSpec, seed: u64, part: Part) -> Vec<f32> {
    match spec.init {
        Init::Ones => vec![1.0; spec.local_elems(part)],
        Init::Zeros => vec![0.0; spec.local_elems(part)],
        Init::Normal { std } => {
            let key = mixed(seed ^ fnv1a(&spec.name));
            let stretches = spec.stretches(part);
            let mut values = vec![0.0; spec.local_elems(part)];
            let cores = thread::available_parallelism().map_or(1, NonZero::get);
            let share = values.len().div_ceil(cores).max(GRAIN);
            let chunks = Mutex::new(values.chunks_mut(share).enumerate());
            let next = || chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let work = || {
                while let Some((i, values)) = next() {
                    let indices = stretches.iter().cloned().flatten().skip(i * share);
                    values.iter_mut().zip(indices).for_each(|(value, index)| *value = std * normal(key, index as u64));
                }
            };
            thread::scope(|scope| {
                // Where the system gives no more threads, those there are do all of it.
                (1..cores).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, work)));
                work();
            });
            values
        }
    }
}

/// So many numbers are worth a thread.
const GRAIN: usize = 1 << 16;

/// A standard normal number for an index (Box & Muller 1958).
fn normal(key: u64, index: u64) -> f32 {
    // Two uniform numbers in (0, 1], of 53 bits each.
    let uniform = |i: u64| ((mixed(key.wrapping_add(i.wrapping_mul(GOLDEN))) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (uniform(2 * index), uniform(2 * index + 1));
    ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
}

/// What parts the keys of numbers: SplitMix64's increment, so that they are a stream of it.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;
    use meshwright_hardware::params::Shard;

    fn spec(name: &str, shard: Shard) -> ParamSpec {
        let init = Init::Normal { std: 0.5 };
        ParamSpec {
            name: name.to_owned(),
            weights: 0,
            grads: Some(1),
            offset: 0,
            rows: 96,
            cols: 64,
            shard,
            init,
            experts: None,
            weights_over: None,
            grads_over: None,
            master: None,
            master_over: None,
        }
    }

    #[test]
    fn shards_hold_the_numbers_of_the_whole() {
        let whole = initial(&spec("w", Shard::Whole), 7, Part::ALL);
        for shard in [Shard::Rows { sections: vec![64, 32] }, Shard::Cols] {
            let spec = spec("w", shard);
            let locals: Vec<_> = Part::each(4, 1).map(|part| (part, initial(&spec, 7, part))).collect();
            assert_eq!(spec.gather(&locals), whole);
        }
    }

    #[test]
    fn numbers_are_normal_and_differ_by_name_and_seed() {
        let drawn = initial(&spec("w", Shard::Whole), 7, Part::ALL);
        let n = drawn.len() as f32;
        let mean = drawn.iter().sum::<f32>() / n;
        let moment = |power: i32| drawn.iter().map(|x| (x / 0.5).powi(power)).sum::<f32>() / n;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((moment(2) - 1.0).abs() < 0.06 && (moment(4) - 3.0).abs() < 0.5, "{} {}", moment(2), moment(4));
        assert_ne!(drawn, initial(&spec("v", Shard::Whole), 7, Part::ALL));
        assert_ne!(drawn, initial(&spec("w", Shard::Whole), 8, Part::ALL));
    }
}
