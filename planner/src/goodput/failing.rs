//! A run that fails and is saved: how long it takes, by Daly's closed form and by chance.
//!
//! In: durations between and after failures. Out: the interval between checkpoints, the expected time, times of simulated runs.
//!
//! Failures are a Poisson process of the whole cluster. Work is lost back to the last checkpoint; the interval between
//! checkpoints is Daly's. [`Failing::simulate`] plays the same by chance, seeded, and confirms the closed form.

use meshwright_hardware::units::Seconds;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A run that is stopped by failures and saved by checkpoints. All durations above zero but `restart` and `write`, which may
/// be zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failing {
    /// Mean time between failures of the whole cluster.
    pub mtbf: Seconds,
    /// For which training stands still while a checkpoint is written.
    pub write: Seconds,
    /// From a failure until training goes on from the checkpoint. It may fail too, and begins again.
    pub restart: Seconds,
}

impl Failing {
    /// Young's interval between checkpoints, of work alone: √(2 δ M) (Young 1974).
    pub fn young(&self) -> Seconds {
        Seconds((2.0 * self.write.0 * self.mtbf.0).sqrt())
    }

    /// Daly's interval (2006, eq. 37): of higher order, so that it also holds where writing takes long.
    pub fn daly(&self) -> Seconds {
        let (write, mtbf) = (self.write.0, self.mtbf.0);
        if write >= 2.0 * mtbf {
            return self.mtbf;
        }
        let small = write / (2.0 * mtbf);
        Seconds((2.0 * write * mtbf).sqrt() * (1.0 + small.sqrt() / 3.0 + small / 9.0) - write)
    }

    /// How many times its work an expected run takes at the least, whatever the interval: where the derivative of eq. 20 by τ
    /// is zero, with x = τ/M, (1 − x)·e^(x + δ/M) = 1.
    pub fn least(&self) -> f64 {
        let (write, restart) = (self.write.0 / self.mtbf.0, self.restart.0 / self.mtbf.0);
        let (mut low, mut high) = (0.0_f64, 1.0_f64);
        for _ in 0..64 {
            let x = (low + high) / 2.0;
            if (1.0 - x) * (x + write).exp() > 1.0 { low = x } else { high = x }
        }
        // There (e^(x + δ/M) − 1)/x = e^(x + δ/M).
        restart.exp() * (low + write).exp() * (1.0 - 1e-9)
    }

    /// The expected time of `work` in intervals of `every`, each with its checkpoint (Daly 2006, eq. 20):
    /// M·e^(R/M)·(e^((τ+δ)/M) − 1)·work/τ.
    pub fn expected(&self, work: Seconds, every: Seconds) -> Seconds {
        let mtbf = self.mtbf.0;
        let segment = ((every + self.write).0 / mtbf).exp_m1();
        Seconds(mtbf * (self.restart.0 / mtbf).exp() * segment * work.0 / every.0)
    }

    /// The share of time that is useful work.
    pub fn goodput(&self, every: Seconds) -> f64 {
        every.0 / self.expected(every, every).0
    }

    /// How long `runs` runs of `segments` intervals take that fail by chance; seconds, ascending.
    pub fn simulate(&self, segments: u64, every: Seconds, runs: usize, seed: u64) -> Vec<f64> {
        let mut random = SplitMix64::seed_from_u64(seed);
        let mut all: Vec<f64> = (0..runs).map(|_| self.run(segments, every, &mut random)).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// One run: from failure to failure.
    fn run(&self, segments: u64, every: Seconds, random: &mut SplitMix64) -> f64 {
        let (segment, mut left, mut clock) = ((every + self.write).0, segments, 0.0);
        loop {
            let alive = exponential(random, self.mtbf);
            let done = (alive / segment) as u64;
            if done >= left {
                return clock + left as f64 * segment;
            }
            left -= done;
            clock += alive;
            // A restart that fails begins again.
            loop {
                let alive = exponential(random, self.mtbf);
                if alive >= self.restart.0 {
                    clock += self.restart.0;
                    break;
                }
                clock += alive;
            }
        }
    }
}

/// Exponentially distributed chance: by inversion of 53 bits in (0, 1], so that a seed means the same in every version.
fn exponential(random: &mut SplitMix64, mean: Seconds) -> f64 {
    let uniform = ((random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.ln() * mean.0
}
