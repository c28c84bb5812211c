//! `validate --fit` and `--cross-validate`: stacks' figures from published runs, and how they do on what they have not seen.
//!
//! In: runs, a folder of profiles. Out: its `stacks/*.toml` and `intervals.toml`; errors, for people and as CSV.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use meshwright_hardware::profile::{Band, FitErrors, Intervals, Overheads, Stack, Support, catalog};

use crate::cli::progress::ProgressLine;
use crate::failure::Failure;
use crate::out::{write_csv, write_whole};
use crate::validate::intervals::{Unseen, gains, residuals};
use crate::validate::overheads::{FittedOverheads, fit, part_of};
use crate::validate::summary::Stats;
use crate::validate::{Run, memory};

/// Fits what stacks' allocators add, and writes it.
pub(super) fn allocators(runs: &[&Run], folder: &Path) -> Result<(), Failure> {
    memory::fit(runs)
        .into_iter()
        .try_for_each(|(name, memory)| write_stack(folder, &Stack { memory, ..Stack::clone(catalog().stack(&name)?) }))
}

/// Fits the overheads of all stacks, prints how they do, and writes them, with intervals, into a folder of profiles; every run's errors
/// into a file.
pub(super) fn overheads(runs: &[&Run], folder: Option<&Path>, output: Option<&Path>) -> Result<(), Failure> {
    let line = ProgressLine::new();
    line.say("fitting …");
    let fitted = fit(runs);
    let usual = &catalog().stack(Stack::TYPICAL)?.memory;
    let memory = [memory::held_out(runs, usual, part), memory::held_out(runs, usual, publisher)];
    drop(line);
    print_fit(&fitted, runs);
    let [step, memory_unseen] = [
        unseen(runs, |run, which| fitted.errors.get(&run.id).map(|errors| errors[1 + which])),
        unseen(runs, |run, which| memory[which].get(&run.id).copied()),
    ];
    print_coverage("step", &step);
    print_coverage("memory", &memory_unseen);
    if let Some(output) = output {
        write_csv(output, &HELD_OUT, held_out_records(&fitted, &memory[1], runs).into_iter())?;
    }
    let Some(folder) = folder else { return Ok(()) };
    write_stacks(folder, &fitted, runs)?;
    let intervals = Intervals {
        source: "meshwright validate runs.csv --fit: measured over predicted, by fits without the run's part of the rows where its \
                 stack was measured, else without its publisher"
            .to_owned(),
        executor: catalog().intervals.executor.clone(),
        step: step.bands(),
        memory: memory_unseen.bands(),
        gain: gains(runs, |run| fitted.errors.get(&run.id).map(|errors| errors[2])),
    };
    let text = toml::to_string(&intervals).expect("intervals are tables of strings and numbers");
    write_whole(&folder.join("intervals.toml"), &text)
}

fn part(run: &Run) -> String {
    part_of(run).to_string()
}

fn publisher(run: &Run) -> String {
    run.publisher.clone()
}

/// Residuals of runs by fits without their part of the rows (0), and without their publisher (1).
fn unseen<'a>(runs: &[&'a Run], error: impl Fn(&Run, usize) -> Option<f64>) -> Unseen<'a> {
    Unseen {
        rows: residuals(runs, part, |run| error(run, 0)),
        publishers: residuals(runs, publisher, |run| error(run, 1)),
    }
}

fn print_coverage(what: &str, unseen: &Unseen) {
    let bands = unseen.bands();
    for (held, counts) in ["rows", "publishers"].into_iter().zip(unseen.coverage()) {
        let share = |[runs, covered]: &[usize; 2]| format!("{:.0} % of {runs}", 100.0 * *covered as f64 / *runs as f64);
        let counts: Vec<String> = counts.iter().map(|(name, counts)| format!("{name} {}", share(counts))).collect();
        println!("80 % intervals of {what} hold of {held} held out: {}", counts.join(", "));
    }
    let of = |(support, band): (&Support, &Band)| format!("{} {} to {}", support.name(), band.low, band.high);
    println!("measured over predicted {what}: {}", bands.iter().map(of).collect::<Vec<_>>().join(", "));
}

fn print_fit(fitted: &FittedOverheads, runs: &[&Run]) {
    let line = |name: &str, errors: &[[f64; 3]]| {
        let stats = [0, 1, 2].map(|which| Stats::of(&errors.iter().map(|all| 100.0 * all[which]).collect::<Vec<_>>()));
        let shown = stats.each_ref().map(|stats| format!("{:5.1} / {:5.1}", stats.median, stats.p90)).join("   ");
        println!("{name:28} {:5}  {shown}", errors.len());
    };
    println!("{:28} {:>5}  fitted          rows held out   publishers held out", "|step / measured - 1|, %", "runs");
    line("all", &fitted.errors.values().copied().collect::<Vec<_>>());
    for name in fitted.stacks.keys() {
        line(name, &errors_of(fitted, runs, name));
    }
    let (stacks, each) = (fitted.stacks.len(), Overheads::ALL.len());
    println!("{} figures fitted: {each} of all stacks together, and of each of {stacks}", (stacks + 1) * each);
}

/// Columns of what a fit writes of every run.
const HELD_OUT: [&str; 9] = [
    "id",
    "publisher",
    "stack",
    "accelerator",
    "precision",
    "fitted_step_error_pct",
    "held_out_by_rows_step_error_pct",
    "held_out_by_publisher_step_error_pct",
    "held_out_by_publisher_memory_error_pct",
];

/// The errors of every run that was fitted, or whose memory was, by fits that have not seen it.
fn held_out_records(fitted: &FittedOverheads, memory: &BTreeMap<String, f64>, runs: &[&Run]) -> Vec<Vec<String>> {
    let percent = |error: Option<f64>| error.map(|error| (100.0 * error).to_string()).unwrap_or_default();
    let record = |run: &&Run| {
        let (step, memory) = (fitted.errors.get(&run.id), memory.get(&run.id));
        if step.is_none() && memory.is_none() {
            return None;
        }
        let steps = [0, 1, 2].map(|which| percent(step.map(|errors| errors[which])));
        let mut record = vec![
            run.id.clone(),
            run.publisher.clone(),
            run.stack().name.clone(),
            run.device().name.clone(),
            run.plans[0].job.precision.to_string(),
        ];
        record.extend(steps);
        record.push(percent(memory.copied()));
        Some(record)
    };
    runs.iter().filter_map(record).collect()
}

fn errors_of(fitted: &FittedOverheads, runs: &[&Run], stack: &str) -> Vec<[f64; 3]> {
    let own = runs.iter().filter(|run| run.stack().name == stack);
    own.filter_map(|run| fitted.errors.get(&run.id)).copied().collect()
}

/// Writes fitted overheads and allocators into the stacks' files of a folder of profiles.
fn write_stacks(folder: &Path, fitted: &FittedOverheads, runs: &[&Run]) -> Result<(), Failure> {
    let allocators = memory::fit(runs);
    for (name, measured) in &fitted.measured {
        let errors = errors_of(fitted, runs, name);
        let of = |which: usize| {
            let stats = Stats::of(&errors.iter().map(|all| 100.0 * all[which]).collect::<Vec<_>>());
            [stats.median, stats.p90].map(|percent| (percent * 10.0).round() / 10.0)
        };
        let errors = Some(FitErrors { fitted: of(0), held_out: of(1) });
        let (overheads, measured) = (fitted.stacks[name].clone(), measured.clone());
        let publishers = runs.iter().filter(|run| run.stack().name == *name).map(|run| run.publisher.as_str());
        let publishers = publishers.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
        let source = format!(
            "meshwright validate runs.csv --fit: {} runs of {publishers}",
            measured.values().flat_map(|formats| formats.values()).sum::<usize>()
        );
        let stack = Stack::clone(catalog().stack(name)?);
        let memory = allocators.get(name).copied().unwrap_or(stack.memory);
        write_stack(folder, &Stack { source, errors, overheads, memory, measured, ..stack })?;
    }
    [Stack::TYPICAL, Stack::TYPICAL_2021].into_iter().try_for_each(|name| {
        let source = "meshwright validate runs.csv --fit: all stacks together".to_owned();
        write_stack(
            folder,
            &Stack { source, overheads: fitted.typical.clone(), ..Stack::clone(catalog().stack(name)?) },
        )
    })
}

/// Refuses, before minutes of fitting, a folder into which no stack could be written.
pub(super) fn holds_stacks(folder: &Path) -> Result<(), Failure> {
    if folder.join("stacks").is_dir() {
        return Ok(());
    }
    let path = folder.display();
    Err(Failure::input(format!(
        "{path} is no folder of profiles: it has no folder `stacks`; make it, or name one that has"
    )))
}

/// Writes a stack into its file of a folder of profiles.
fn write_stack(folder: &Path, stack: &Stack) -> Result<(), Failure> {
    let text = toml::to_string(stack).expect("a stack is tables of strings and numbers");
    write_whole(&folder.join("stacks").join(format!("{}.toml", stack.name)), &text)
}
