//! `validate --fit` and `--cross-validate`: stacks' figures from published runs, and how they do on what they have not seen.
//!
//! In: runs, a folder of profiles. Out: its `stacks/*.toml`, `families.toml` and `intervals.toml`; errors, for people and as CSV.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use meshwright_hardware::profile::{Band, FitErrors, Intervals, Overheads, Stack, StackFigures, Support, catalog};
use meshwright_hardware::units::Precision;

use crate::cli::progress::ProgressLine;
use crate::failure::Failure;
use crate::out::{write_csv, write_whole};
use crate::validate::intervals::{Unseen, gains, residuals};
use crate::validate::overheads::{FittedOverheads, fit, part_of};
use crate::validate::summary::Stats;
use crate::validate::{Run, memory};

/// Runs by accelerator and format.
type RunCounts = BTreeMap<String, BTreeMap<Precision, usize>>;

/// Fits what stacks' allocators add, and writes it.
pub(super) fn allocators(runs: &[&Run], folder: &Path) -> Result<(), Failure> {
    memory::fit(runs).into_iter().try_for_each(|(name, memory)| {
        let stack = Stack { memory, ..Stack::clone(catalog().stack(&name)?) };
        write_stack(folder, &stack, &catalog().inherited(&stack.family))
    })
}

/// Fits the overheads of all stacks, prints how they do, and writes them, with intervals, into a folder of profiles; every run's errors
/// into a file.
pub(super) fn overheads(runs: &[&Run], folder: Option<&Path>, output: Option<&Path>) -> Result<(), Failure> {
    let line = ProgressLine::new();
    line.say("fitting …");
    let fitted = fit(runs);
    let memory = [memory::held_out(runs, part), memory::held_out(runs, publisher)];
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
    let shared = Inheritance::of(fitted);
    let everyone = shared.everyone.beside(&StackFigures::default()).len();
    let families: usize = shared.families.values().map(|family| family.beside(&shared.everyone).len()).sum();
    let own = |(name, overheads): (&String, &Overheads)| {
        let family = shared.by(&catalog().stack(name).expect("it was fitted").family);
        StackFigures { overheads: overheads.clone(), memory: family.memory }.beside(family).len()
    };
    let stacks: usize = fitted.stacks.iter().map(own).sum();
    println!(
        "{} overheads: {everyone} of all stacks with memory's, {families} of families, {stacks} of stacks alone",
        everyone + families + stacks
    );
}

/// What stacks inherit after a fit.
struct Inheritance {
    everyone: StackFigures,
    families: BTreeMap<String, StackFigures>,
}

impl Inheritance {
    fn of(fitted: &FittedOverheads) -> Inheritance {
        let everyone = StackFigures { overheads: fitted.typical.clone(), memory: catalog().everyone().memory };
        let names: BTreeSet<&String> = catalog().families.keys().chain(fitted.families.keys()).collect();
        let family = |name: &String| {
            let overheads = fitted.families.get(name).unwrap_or(&fitted.typical).clone();
            (name.clone(), StackFigures { overheads, memory: catalog().inherited(name).memory })
        };
        let families = names.into_iter().map(family).collect();
        Inheritance { everyone, families }
    }

    fn by(&self, family: &str) -> &StackFigures {
        self.families.get(family).unwrap_or(&self.everyone)
    }
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

/// Writes fitted overheads and allocators into the stacks' files of a folder of profiles, and what they share into its families.
fn write_stacks(folder: &Path, fitted: &FittedOverheads, runs: &[&Run]) -> Result<(), Failure> {
    let (allocators, shared) = (memory::fit(runs), Inheritance::of(fitted));
    for stack in catalog().stacks.iter().filter(|stack| !BY_DEFINITION.contains(&stack.name.as_str())) {
        let (name, inherited) = (&stack.name, shared.by(&stack.family));
        if name == Stack::TYPICAL {
            let stack = Stack { overheads: fitted.typical.clone(), ..Stack::clone(stack) };
            write_stack(folder, &stack, &StackFigures::default())?;
            continue;
        }
        let overheads = fitted.stacks.get(name).unwrap_or(&inherited.overheads).clone();
        let memory = allocators.get(name).copied().unwrap_or(inherited.memory);
        let stack = Stack { overheads, memory, ..Stack::clone(stack) };
        let stack = match fitted.measured.get(name) {
            Some(measured) => measured_by(fitted, runs, stack, measured),
            None => stack,
        };
        write_stack(folder, &stack, inherited)?;
    }
    let sections = |(name, figures): (&String, &StackFigures)| (name.clone(), figures.sections(&shared.everyone));
    let mut families: BTreeMap<_, _> = shared.families.iter().map(sections).collect();
    families.retain(|_, sections| !sections.is_empty());
    let text = toml::to_string(&families).expect("families are tables of numbers");
    let text = format!("# What the stacks of a family share: meshwright validate runs.csv --fit\n\n{text}");
    write_whole(&folder.join("families.toml"), &text)
}

/// Stacks of which nothing is fitted.
const BY_DEFINITION: [&str; 2] = [Stack::IDEAL, Stack::EXECUTOR];

/// A stack with the runs on which it stands, and how far they are off.
fn measured_by(fitted: &FittedOverheads, runs: &[&Run], stack: Stack, measured: &RunCounts) -> Stack {
    let errors = errors_of(fitted, runs, &stack.name);
    let of = |which: usize| {
        let stats = Stats::of(&errors.iter().map(|all| 100.0 * all[which]).collect::<Vec<_>>());
        [stats.median, stats.p90].map(|percent| (percent * 10.0).round() / 10.0)
    };
    let errors = Some(FitErrors { fitted: of(0), held_out: of(1) });
    let publishers = runs.iter().filter(|run| run.stack().name == stack.name).map(|run| run.publisher.as_str());
    let publishers = publishers.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    let count = measured.values().flat_map(|formats| formats.values()).sum::<usize>();
    let source = format!("meshwright validate runs.csv --fit: {count} runs of {publishers}");
    Stack { source, errors, measured: measured.clone(), ..stack }
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
fn write_stack(folder: &Path, stack: &Stack, inherited: &StackFigures) -> Result<(), Failure> {
    write_whole(&folder.join("stacks").join(format!("{}.toml", stack.name)), &stack.own_text(inherited))
}
