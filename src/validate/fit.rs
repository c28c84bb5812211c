//! Knobs fitted to measured runs.
//!
//! In: runs. Out: the knobs of each family and stack, and what each device sustains.
//!
//! First every family's knobs on all its rows, pulled towards usual values, then each stack's, pulled towards its family's, and
//! the devices' sustained rates between: a stack with few rows keeps to its family, one with many to its rows. Knobs of time
//! and those of memory are fitted apart, by pattern search on the absolute logarithm of predicted over measured. What is
//! held out is predicted by a fit without it: by its stack's knobs, or where no row of that is left, its family's, or the usual.
//!
//! Invariant: deterministic; no constant belongs to a row.

mod loss;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use meshwright_hardware::hash::fnv1a;
use meshwright_hardware::profile::Knobs;
use rayon::prelude::*;

use super::Run;
use loss::{FitRow, FitTarget};
use pattern::{Aim, hop, search};

/// What a fit finds.
#[derive(Clone, Debug, Default)]
pub struct Fitted {
    /// By stack.
    pub stacks: BTreeMap<String, Knobs>,
    /// By family.
    pub families: BTreeMap<String, Knobs>,
    /// By device: what it sustains, relative to its profile.
    pub power: BTreeMap<String, f64>,
}

/// How strongly a stack's knobs are pulled to its family's: the loss of a knob off by its spread. Chosen by cross-validation
/// over rows and over sources, as are the two below.
const PULL: f64 = 0.025;

/// The same of a family's knobs to usual values.
const LOOSE: f64 = 0.1;

/// The same of a family's knobs of memory, which say the same of all stacks: they follow the op list.
const FIRM: f64 = 0.5;

/// Rows that a stack counts for at most among its family's, so that none outweighs the others.
const MOST: usize = 40;

/// A stack with fewer rows has its family's knobs: a fit would only repeat the rows.
pub const FEW: usize = 4;

/// How hard is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Sweeps over the knobs.
    pub sweeps: usize,
    /// Leaps away from the best knobs of a stack.
    pub hops: usize,
}

/// For profiles.
pub const FULL: Effort = Effort { sweeps: 30, hops: 2 };

/// For held-out figures, which take a fit for each part held out.
pub const QUICK: Effort = Effort { sweeps: 20, hops: 1 };

impl Fitted {
    /// A run's knobs: its stack's, or if no row of that was seen, its family's, or the usual ones.
    pub fn knobs(&self, run: &Run) -> Knobs {
        let found = self.stacks.get(&run.stack.name).or_else(|| self.families.get(&run.stack.family));
        found.cloned().unwrap_or_default()
    }

    /// What a run's device sustains, relative to its profile.
    pub fn power(&self, run: &Run) -> f64 {
        self.power.get(&run.device.name).copied().unwrap_or(1.0)
    }

    fn rows<'a>(&self, runs: &[&'a Run], part: FitTarget) -> Vec<FitRow<'a>> {
        let row = |run: &&'a Run| FitRow { run, power: self.power(run) };
        runs.iter().map(row).filter(|row| row.bears(part)).collect()
    }

    /// Knobs of a family, on rows of several stacks of which none outweighs the others.
    fn family<'a>(&self, runs: &[&'a Run], start: &Knobs, sweeps: usize) -> Knobs {
        let stacks = grouped(runs, |run| &run.stack.name);
        // So many of a stack's rows, spread over them, say what all do.
        let some = |rows: &Vec<&'a Run>| rows.iter().step_by(rows.len().div_ceil(MOST)).copied().collect::<Vec<_>>();
        let runs: Vec<&Run> = stacks.values().flat_map(some).collect();
        let usual = Knobs::default();
        [FitTarget::Time, FitTarget::Memory].into_iter().fold(start.clone(), |knobs, part| {
            let aim = Aim {
                rows: self.rows(&runs, part),
                part,
                prior: &usual,
                pull: if part == FitTarget::Memory { FIRM } else { LOOSE },
            };
            search(&aim, &knobs, sweeps)
        })
    }

    /// Knobs of a stack.
    fn stack(&self, runs: &[&Run], start: &Knobs, family: &Knobs, effort: Effort) -> Knobs {
        if runs.len() < FEW {
            return family.clone();
        }
        [FitTarget::Time, FitTarget::Memory].into_iter().fold(start.clone(), |knobs, part| {
            let aim = Aim { rows: self.rows(runs, part), part, prior: family, pull: PULL };
            let mut other = family.clone();
            for index in (0..Knobs::ALL.len()).filter(|index| !part.knobs().contains(index)) {
                *other.at(index) = *knobs.clone().at(index);
            }
            let other = (effort.hops > 0).then_some(&other);
            hop(&aim, &[Some(&knobs), other].into_iter().flatten().collect::<Vec<_>>(), effort)
        })
    }

    /// The rate that a device sustains, least wrong over these runs; as its profile says if there are few.
    fn sustained(&self, runs: &[&Run]) -> f64 {
        if runs.len() < 3 {
            return 1.0;
        }
        let knobs: Vec<Knobs> = runs.iter().map(|run| self.knobs(run)).collect();
        let cost = |percent: u32| {
            let power = f64::from(percent) / 100.0;
            let rows = runs.iter().zip(&knobs).filter(|(run, _)| run.timed);
            let rows = rows.map(|(run, knobs)| FitRow { run, power }.loss(FitTarget::Time, knobs));
            rows.sum::<f64>() + 20.0 * (power - 1.0).powi(2)
        };
        let tried = (70..=120).step_by(2).map(|percent| (percent, cost(percent)));
        let best = tried.min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(1.0, |(percent, _)| f64::from(percent) / 100.0)
    }
}

/// Fits everything to all runs.
pub fn fit(runs: &[&Run], effort: Effort) -> Fitted {
    let mut fitted = Fitted::default();
    let families: Vec<_> = grouped(runs, |run| &run.stack.family).into_iter().collect();
    let groups: Vec<_> = grouped(runs, |run| &run.stack.name).into_iter().collect();
    let rounds = if effort == FULL { 3 } else { 2 };
    for round in 0..rounds {
        let found = families.par_iter().map(|(family, rows)| {
            let start = fitted.families.get(*family).cloned().unwrap_or_default();
            ((*family).to_owned(), fitted.family(rows, &start, effort.sweeps))
        });
        fitted.families = found.collect();
        let found = groups.par_iter().map(|(name, rows)| {
            let family = &fitted.families[&rows[0].stack.family];
            let start = fitted.stacks.get(*name).unwrap_or(family);
            ((*name).to_owned(), fitted.stack(rows, start, family, effort))
        });
        fitted.stacks = found.collect();
        if round + 1 < rounds {
            let devices = grouped(runs, |run| &run.device.name);
            let power = devices.iter().map(|(name, runs)| ((*name).to_owned(), fitted.sustained(runs)));
            fitted.power = power.collect();
        }
    }
    fitted
}

/// What has the same key, in order.
pub(super) fn grouped<'a, T>(all: &[&'a T], key: impl Fn(&'a T) -> &'a String) -> BTreeMap<&'a str, Vec<&'a T>> {
    let mut groups: BTreeMap<&str, Vec<&T>> = BTreeMap::new();
    for one in all {
        groups.entry(key(one)).or_default().push(one);
    }
    groups
}

/// Knobs and devices for one source by a fit that has not seen it; `fitted` is one that has, for other sources' stacks.
pub fn without_source(runs: &[&Run], source: &str, fitted: &Fitted) -> Fitted {
    let (own, others): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| run.group == source);
    let mut found = Fitted { stacks: fitted.stacks.clone(), power: fitted.power.clone(), ..Fitted::default() };
    // A device's rate is learnt without the source too.
    for device in own.iter().map(|run| &run.device.name).collect::<BTreeSet<_>>() {
        let same: Vec<&Run> = others.iter().filter(|r| r.device.name == *device).copied().collect();
        found.power.insert(device.clone(), found.sustained(&same));
    }
    found.stacks.clear();
    for (family, own) in grouped(&own, |run| &run.stack.family) {
        let relatives: Vec<&Run> = others.iter().filter(|r| r.stack.family == family).copied().collect();
        // No relative is left: what is usual over all.
        let relatives = if relatives.is_empty() { others.iter().step_by(3).copied().collect() } else { relatives };
        let knobs = found.family(&relatives, &Knobs::default(), QUICK.sweeps);
        for name in own.iter().map(|run| &run.stack.name).collect::<BTreeSet<_>>() {
            let same: Vec<&Run> = others.iter().filter(|r| r.stack.name == *name).copied().collect();
            found.stacks.insert(name.clone(), found.stack(&same, &knobs, &knobs, QUICK));
        }
        found.families.insert(family.to_owned(), knobs);
    }
    found
}

/// In which of `count` parts a run is held out: by its name, so that others beside it change nothing (FNV-1a).
pub fn part_of(run: &Run, count: u64) -> u64 {
    fnv1a(&run.id) % count
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::validate::summary::{Stats, throughput_error};
    use crate::validate::{row, timing};

    /// LLaMA 2 70B on A100 in several layouts, as if measured with these knobs.
    fn runs(truth: &Knobs) -> Vec<Run> {
        let plans = [(1, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (8, 2, 1), (4, 4, 2), (2, 8, 2), (8, 4, 4), (4, 8, 1)];
        let row = |(index, (tp, pp, micro)): (usize, &(usize, usize, usize))| {
            let devices = 64 << (index % 3);
            let text = format!(
                "group=source-{};arch=dense-decoder;layers=80;hidden=8192;ffn_hidden=28672;heads=64;kv_heads=8;vocab=32000;\
                gated_mlp=1;seq_len=4096;accelerator=A100-SXM4-80GB;n_devices={devices};framework=Megatron-Core;year=2024;\
                recompute_class=none;recompute=none;precision_class=bf16;global_batch=512;tp={tp};pp={pp};micro_batch={micro}",
                index % 2
            );
            let pairs = text.split(';').filter_map(|pair| pair.trim().split_once('='));
            let columns: HashMap<String, String> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let mut run = row::read(&columns).unwrap();
            run.measured.tokens_per_s = Some(timing(&run, truth, 1.0).tokens_per_s);
            run
        };
        plans.iter().enumerate().map(row).collect()
    }

    fn median(runs: &[Run], knobs: impl Fn(&Run) -> Knobs) -> f64 {
        let error = |run: &Run| throughput_error(run, &timing(run, &knobs(run), 1.0));
        Stats::of(&runs.iter().filter_map(error).collect::<Vec<_>>()).median
    }

    #[test]
    fn knobs_that_made_the_runs_are_found_or_ones_as_good() {
        let truth = Knobs { matmul: 0.7, tp: 1.8, stream: 2.4, pp: 1.5, ..Knobs::default() };
        let runs = runs(&truth);
        assert!(median(&runs, |_| Knobs::default()) > 10.0);
        let fitted = fit(&runs.iter().collect::<Vec<_>>(), Effort { sweeps: 20, ..FULL });
        let left = runs.iter().map(|run| {
            throughput_error(run, &timing(run, &fitted.knobs(run), fitted.power(run))).expect("it is measured")
        });
        assert!(Stats::of(&left.collect::<Vec<_>>()).median < 2.0);
    }

    #[test]
    fn a_source_that_is_held_out_is_not_read() {
        let truth = Knobs { matmul: 0.7, ..Knobs::default() };
        let mut runs = runs(&truth);
        let held_out = |runs: &[Run]| {
            let runs: Vec<&Run> = runs.iter().collect();
            let without: Vec<&Run> = runs.iter().filter(|run| run.group != "source-0").copied().collect();
            without_source(&runs, "source-0", &fit(&without, Effort { sweeps: 4, hops: 0 })).stacks
        };
        let before = held_out(&runs);
        for run in runs.iter_mut().filter(|run| run.group == "source-0") {
            run.measured.tokens_per_s = Some(1.0);
        }
        assert_eq!(held_out(&runs), before);
    }
}
