//! Knobs fitted to measured runs.
//!
//! In: runs. Out: the knobs of each family and stack, and what each device sustains; held-out predictions for each source.
//!
//! First every family's knobs on all its rows, then each stack's with a pull towards its family, and the devices' sustained
//! rates between; knobs by pattern search from several starts on the absolute logarithm of predicted over measured. A source is held out
//! by fitting again without it: its stack on what is left, or where nothing is, its family, or all.
//!
//! Invariant: deterministic; no constant belongs to a row.

use std::collections::BTreeMap;

use meshwright_hardware::profile::Knobs;

use super::summary::{measured_tokens_per_s, memory_error};
use super::{Run, predict};

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

/// How strongly a stack's knobs are pulled to its family's: the loss of a knob off by a factor of e.
const PULL: f64 = 0.15;

/// The same of a family's knobs to usual values.
const LOOSE: f64 = 0.1;

/// Rows that a stack counts for at most among its family's.
const MOST: f64 = 30.0;

/// A stack with fewer rows has its family's knobs: a fit would only repeat the rows.
pub const FEW: usize = 4;

/// Leaps away from the best knobs of a stack.
const HOPS: usize = 2;

/// Weight of memory beside time.
const MEMORY: f64 = 0.7;

/// Cost of saying wrongly whether a run fits.
const FITS: f64 = 0.05;

/// A run, what its device sustains relative to its profile, and its weight.
#[derive(Clone, Copy)]
struct Row<'a> {
    run: &'a Run,
    power: f64,
    weight: f64,
}

/// The loss of a run: absolute logarithms of time and of memory.
fn loss(&Row { run, power, weight }: &Row, knobs: &Knobs) -> f64 {
    let prediction = predict(run, knobs, power);
    let mut loss = 0.0;
    if let Some(measured) = measured_tokens_per_s(run, &prediction).filter(|_| run.timed) {
        loss += blunt((prediction.tokens_per_s / measured).ln());
    }
    if let Some(error) = memory_error(run, &prediction) {
        loss += MEMORY * blunt((1.0 + error / 100.0).max(0.05).ln());
    }
    // A run that ended for want of memory must not fit, one that went on must.
    if run.measured.oom == prediction.fits && run.measured.memory_gb.is_none() {
        loss += FITS;
    }
    loss * weight
}

/// The absolute value, with a tip so that small errors are evened out, and a cap so that outliers do not lead.
fn blunt(error: f64) -> f64 {
    let error = error.abs().min(1.5);
    if error < 0.02 { error * error / 0.04 + 0.01 } else { error }
}

fn total(rows: &[Row], knobs: &Knobs, prior: &Knobs, pull: f64) -> f64 {
    rows.iter().map(|row| loss(row, knobs)).sum::<f64>() + pull * distance(knobs, prior)
}

/// Squared distance of knobs by the logarithms of their ratios; a little is added so that zero is not endlessly far.
fn distance(a: &Knobs, b: &Knobs) -> f64 {
    let (mut a, mut b) = (a.clone(), b.clone());
    let each = |index: usize| {
        let (_, low, high) = Knobs::ALL[index];
        let little = 0.02 * (high - low);
        ((*a.at(index) + little) / (*b.at(index) + little)).ln().powi(2)
    };
    (0..Knobs::ALL.len()).map(each).sum()
}

/// Pattern search from `start` (Hooke & Jeeves 1961): a sweep over the knobs, then a leap the way it went; steps that fail
/// shrink, and all grow again a few times, since a knob that was of no use may be of some once others have moved.
fn search(rows: &[Row], start: &Knobs, prior: &Knobs, pull: f64, sweeps: usize) -> Knobs {
    let cost = |knobs: &Knobs| total(rows, knobs, prior, pull);
    let mut best = start.clone();
    let mut least = cost(&best);
    for restart in 0..3 {
        let mut steps = vec![0.3 / f64::from(1 + restart); Knobs::ALL.len()];
        for _ in 0..sweeps {
            let (before, from) = (least, best.clone());
            for (index, step) in steps.iter_mut().enumerate() {
                let moved = neighbours(&best, index, *step).into_iter().find_map(|tried| {
                    let loss = cost(&tried);
                    (loss < least - 1e-9).then_some((tried, loss))
                });
                *step = if moved.is_some() { (*step * 1.4).min(0.8) } else { (*step * 0.6).max(0.004) };
                (best, least) = moved.unwrap_or((best, least));
            }
            let leap = leap(&from, &best);
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
fn hop(rows: &[Row], starts: &[&Knobs], prior: &Knobs, sweeps: usize) -> Knobs {
    let exposed = Knobs { scale_out: 0.2, dp: 1.0, ..starts[0].clone() };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut best: Option<(Knobs, f64)> = None;
    let keep = |knobs: Knobs, best: &mut Option<(Knobs, f64)>| {
        let loss = total(rows, &knobs, prior, PULL);
        if best.as_ref().is_none_or(|(_, least)| loss < *least) {
            *best = Some((knobs, loss));
        }
    };
    for start in starts.iter().copied().chain([&exposed]) {
        keep(search(rows, start, prior, PULL, sweeps), &mut best);
    }
    for _ in 0..HOPS {
        let (from, _) = best.clone().expect("there is a start");
        keep(search(rows, &dice.thrown(&from), prior, PULL, sweeps / 2), &mut best);
    }
    best.expect("there is a start").0
}

/// Chance that is the same every time (xorshift; Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Knobs of which a few are up to three times as large or as small.
    fn thrown(&mut self, from: &Knobs) -> Knobs {
        let mut to = from.clone();
        for (index, &(_, low, high)) in Knobs::ALL.iter().enumerate() {
            if self.next() < 0.25 {
                let knob = to.at(index);
                *knob = (*knob * 3_f64.powf(2.0 * self.next() - 1.0)).clamp(low, high);
            }
        }
        to
    }
}

/// Knobs with one of them a step up and a step down.
fn neighbours(knobs: &Knobs, index: usize, step: f64) -> [Knobs; 2] {
    let (_, low, high) = Knobs::ALL[index];
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
fn leap(from: &Knobs, to: &Knobs) -> Knobs {
    let (mut from, mut leap) = (from.clone(), to.clone());
    for (index, &(_, low, high)) in Knobs::ALL.iter().enumerate() {
        let knob = leap.at(index);
        *knob = (2.0 * *knob - *from.at(index)).clamp(low, high);
    }
    leap
}

impl Fitted {
    /// What a run's device sustains, relative to its profile.
    pub fn power(&self, run: &Run) -> f64 {
        self.power.get(&run.device.name).copied().unwrap_or(1.0)
    }

    /// Rows of several stacks of which none outweighs the others.
    fn balanced<'a>(&self, runs: &[&'a Run]) -> Vec<Row<'a>> {
        let stacks = grouped(runs.iter().copied(), |run| &run.stack.name);
        let weight = |run: &Run| (MOST / stacks[run.stack.name.as_str()].len() as f64).min(1.0);
        runs.iter().map(|run| Row { run, power: self.power(run), weight: weight(run) }).collect()
    }

    fn rows<'a>(&self, runs: impl Iterator<Item = &'a Run>) -> Vec<Row<'a>> {
        runs.map(|run| Row { run, power: self.power(run), weight: 1.0 }).collect()
    }

    /// The rate that a device sustains, least wrong over these runs; as its profile says if there are few.
    fn sustained(&self, runs: &[&Run]) -> f64 {
        if runs.len() < 3 {
            return 1.0;
        }
        let cost = |percent: u32| {
            let power = f64::from(percent) / 100.0;
            let rows = runs.iter().map(|run| {
                loss(&Row { run, power, weight: 1.0 }, self.stacks.get(&run.stack.name).unwrap_or(&run.stack.knobs))
            });
            rows.sum::<f64>() + 20.0 * (power - 1.0).powi(2)
        };
        let tried = (70..=120).step_by(2).map(|percent| (percent, cost(percent)));
        let best = tried.min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(1.0, |(percent, _)| f64::from(percent) / 100.0)
    }
}

/// Fits everything to all runs.
pub fn fit(runs: &[Run], sweeps: usize) -> Fitted {
    let mut fitted = Fitted::default();
    for round in 0..3 {
        let families: Vec<_> = grouped(runs.iter(), |run| &run.stack.family).into_iter().collect();
        let families = both_cores(&families, |(family, rows)| {
            let start = fitted.families.get(*family).cloned().unwrap_or_default();
            ((*family).to_owned(), search(&fitted.balanced(rows), &start, &Knobs::default(), LOOSE, sweeps))
        });
        fitted.families = families.into_iter().collect();
        let groups: Vec<_> = grouped(runs.iter(), |run| &run.stack.name).into_iter().collect();
        let stacks = both_cores(&groups, |(name, rows)| {
            let family = &fitted.families[&rows[0].stack.family];
            let start = fitted.stacks.get(*name).unwrap_or(family);
            if rows.len() < FEW {
                return ((*name).to_owned(), family.clone());
            }
            let rows = fitted.rows(rows.iter().copied());
            let found = hop(&rows, &[start, &Knobs::default()], family, sweeps);
            ((*name).to_owned(), found)
        });
        fitted.stacks = stacks.into_iter().collect();
        if round < 2 {
            let devices = grouped(runs.iter(), |run| &run.device.name);
            let power = devices.iter().map(|(name, runs)| ((*name).to_owned(), fitted.sustained(runs)));
            fitted.power = power.collect();
        }
    }
    fitted
}

/// Maps over items on two threads.
pub fn both_cores<T: Sync, R: Send>(items: &[T], map: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let every_other = |first: usize| items.iter().skip(first).step_by(2).map(&map).collect::<Vec<R>>();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| every_other(1));
        let mut all = every_other(0);
        all.extend(other.join().expect("a search does not panic"));
        all
    })
}

fn grouped<'a>(
    runs: impl Iterator<Item = &'a Run>,
    key: impl Fn(&'a Run) -> &'a String,
) -> BTreeMap<&'a str, Vec<&'a Run>> {
    let mut groups: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        groups.entry(key(run)).or_default().push(run);
    }
    groups
}

/// Knobs and devices for a source that no fit has seen: of its stack's other sources, else of its family's, else of all.
pub fn held_out(runs: &[Run], source: &str, fitted: &Fitted) -> Fitted {
    let others: Vec<&Run> = runs.iter().filter(|run| run.group != source).collect();
    // A device's rate is learnt without the source too.
    let mut found = Fitted { stacks: fitted.stacks.clone(), ..Fitted::default() };
    for run in runs.iter().filter(|run| run.group == source) {
        if !found.power.contains_key(&run.device.name) {
            let same: Vec<&Run> = others.iter().filter(|r| r.device.name == run.device.name).copied().collect();
            found.power.insert(run.device.name.clone(), found.sustained(&same));
        }
    }
    for (device, power) in &fitted.power {
        found.power.entry(device.clone()).or_insert(*power);
    }
    let mut stacks = BTreeMap::new();
    for (name, own) in grouped(runs.iter().filter(|run| run.group == source), |run| &run.stack.name) {
        let family = &own[0].stack.family;
        let relatives: Vec<&Run> = others.iter().filter(|r| r.stack.family == *family).copied().collect();
        let relatives = if relatives.is_empty() { others.iter().step_by(3).copied().collect() } else { relatives };
        let family = search(&found.balanced(&relatives), &Knobs::default(), &Knobs::default(), LOOSE, 8);
        let same: Vec<&Run> = others.iter().filter(|r| r.stack.name == name).copied().collect();
        let knobs = match same.is_empty() {
            true => family,
            false => hop(&found.rows(same.into_iter()), &[&family], &family, 12),
        };
        stacks.insert(name.to_owned(), knobs);
    }
    found.stacks = stacks;
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::validate::row;
    use crate::validate::summary::{Stats, throughput_error};

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
            run.measured.tokens_per_s = Some(predict(&run, truth, 1.0).tokens_per_s);
            run
        };
        plans.iter().enumerate().map(row).collect()
    }

    fn median(runs: &[Run], knobs: impl Fn(&Run) -> Knobs) -> f64 {
        let error = |run: &Run| throughput_error(run, &predict(run, &knobs(run), 1.0));
        Stats::of(&runs.iter().filter_map(error).collect::<Vec<_>>()).median
    }

    #[test]
    fn knobs_that_made_the_runs_are_found_or_ones_as_good() {
        let truth = Knobs { matmul: 0.7, tp: 1.8, stream: 2.4, pp: 1.5, ..Knobs::default() };
        let runs = runs(&truth);
        assert!(median(&runs, |_| Knobs::default()) > 10.0);
        let fitted = fit(&runs, 20);
        let found = |run: &Run| fitted.stacks[&run.stack.name].clone();
        let left = runs
            .iter()
            .map(|run| throughput_error(run, &predict(run, &found(run), fitted.power(run))).expect("it is measured"));
        assert!(Stats::of(&left.collect::<Vec<_>>()).median < 2.0);
    }

    #[test]
    fn a_source_that_is_held_out_is_not_read() {
        let truth = Knobs { matmul: 0.7, ..Knobs::default() };
        let mut runs = runs(&truth);
        let full = fit(&runs, 4);
        let before = held_out(&runs, "source-0", &full).stacks;
        for run in runs.iter_mut().filter(|run| run.group == "source-0") {
            run.measured.tokens_per_s = Some(1.0);
        }
        assert_eq!(held_out(&runs, "source-0", &full).stacks, before);
    }
}
