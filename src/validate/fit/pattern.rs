//! Search for knobs of least loss, by patterns of steps.
//!
//! In: an [`Aim`], knobs to start from. Out: the best knobs that were found.
//!
//! Invariant: deterministic.

use meshwright_hardware::profile::Knobs;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::Effort;
use super::loss::{FitRow, FitTarget};

/// What a search is about: rows, the part, where it is pulled to and how strongly.
pub(super) struct Aim<'a> {
    pub rows: Vec<FitRow<'a>>,
    pub part: FitTarget,
    pub prior: &'a Knobs,
    pub pull: f64,
}

impl Aim<'_> {
    fn cost(&self, knobs: &Knobs) -> f64 {
        let rows: f64 = self.rows.iter().map(|row| row.loss(self.part, knobs)).sum();
        rows + self.pull * self.distance(knobs)
    }

    /// Distance to the prior, of all knobs of the part.
    fn distance(&self, knobs: &Knobs) -> f64 {
        let (mut a, mut b) = (knobs.clone(), self.prior.clone());
        let each = |index: usize| Knobs::ALL[index].distance(*a.at(index), *b.at(index));
        self.part.knobs().into_iter().map(each).sum()
    }
}

/// Pattern search from `start` (Hooke & Jeeves 1961): a sweep over the knobs, then a leap the way it went; steps that fail
/// shrink, and all grow again a few times, since a knob that was of no use may be of some once others have moved.
pub(super) fn search(aim: &Aim, start: &Knobs, sweeps: usize) -> Knobs {
    let cost = |knobs: &Knobs| aim.cost(knobs);
    let all = aim.part.knobs();
    let mut best = start.clone();
    let mut least = cost(&best);
    for restart in 0..3 {
        let mut steps: Vec<f64> =
            all.iter().map(|index| Knobs::ALL[*index].spread.min(0.4) / f64::from(1 + restart)).collect();
        for _ in 0..sweeps {
            let (before, from) = (least, best.clone());
            for (&index, step) in all.iter().zip(&mut steps) {
                let moved = neighbours(&best, index, *step).into_iter().find_map(|tried| {
                    let loss = cost(&tried);
                    (loss < least - 1e-9).then_some((tried, loss))
                });
                *step = if moved.is_some() { (*step * 1.4).min(0.8) } else { (*step * 0.6).max(0.004) };
                (best, least) = moved.unwrap_or((best, least));
            }
            let leap = leap(&from, &best, &all);
            let loss = cost(&leap);
            if loss < least - 1e-9 {
                (best, least) = (leap, loss);
            }
            if before - least < 1e-5 * before && steps.iter().all(|step| *step < 0.02) {
                break;
            }
        }
    }
    best
}

/// The best of searches from several starts and from leaps away from the best so far (basin hopping: Wales & Doye 1997), for
/// there are several valleys: slow links that something hides, or fast ones that nothing does.
pub(super) fn hop(aim: &Aim, starts: &[&Knobs], effort: Effort) -> Knobs {
    let exposed = Knobs { scale_out: 0.2, dp: 1.0, ..starts[0].clone() };
    let mut random = SplitMix64::seed_from_u64(0);
    let mut best: Option<(Knobs, f64)> = None;
    let keep = |knobs: Knobs, best: &mut Option<(Knobs, f64)>| {
        let loss = aim.cost(&knobs);
        if best.as_ref().is_none_or(|(_, least)| loss < *least) {
            *best = Some((knobs, loss));
        }
    };
    let further = if aim.part == FitTarget::Time { Some(&exposed) } else { None };
    for start in starts.iter().copied().chain(further) {
        keep(search(aim, start, effort.sweeps), &mut best);
    }
    for _ in 0..effort.hops {
        let (from, _) = best.clone().expect("there is a start");
        keep(search(aim, &thrown(&from, aim.part, &mut random), effort.sweeps / 2), &mut best);
    }
    best.expect("there is a start").0
}

/// Knobs of which a few are up to three times as large or as small.
fn thrown(from: &Knobs, part: FitTarget, random: &mut SplitMix64) -> Knobs {
    let mut share = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut to = from.clone();
    for index in part.knobs() {
        if share() < 0.25 {
            let (knob, bounds) = (to.at(index), Knobs::ALL[index]);
            *knob = (*knob * 3_f64.powf(2.0 * share() - 1.0)).clamp(bounds.low, bounds.high);
        }
    }
    to
}

/// Knobs with one of them a step up and a step down.
fn neighbours(knobs: &Knobs, index: usize, step: f64) -> [Knobs; 2] {
    let (low, high) = (Knobs::ALL[index].low, Knobs::ALL[index].high);
    let moved = |up: bool| {
        let mut tried = knobs.clone();
        let knob = tried.at(index);
        let little = 0.05 * step * (high - low);
        *knob = if up { *knob * (1.0 + step) + little } else { *knob / (1.0 + step) - little }.clamp(low, high);
        tried
    };
    [moved(true), moved(false)]
}

/// As far again from `from` through `to`.
fn leap(from: &Knobs, to: &Knobs, all: &[usize]) -> Knobs {
    let (mut from, mut leap) = (from.clone(), to.clone());
    for &index in all {
        let (knob, bounds) = (leap.at(index), Knobs::ALL[index]);
        *knob = (2.0 * *knob - *from.at(index)).clamp(bounds.low, bounds.high);
    }
    leap
}
