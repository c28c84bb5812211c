//! Engines' launch files as plans.
//!
//! In: texts of scripts, argument lists and configurations, what the user knows beside them, and files that lie beside. Out:
//! [`Imported`]: each value with where it comes from, what is not known, what breaks a rule, and the plan where nothing does.
//!
//! Invariant: files are read, never run; no value is made up, and none that is stated is dropped in silence.

use std::collections::BTreeMap;

use meshwright_planner::job::Job;
use meshwright_planner::plan::Plan;

use crate::engine::TextFile;

mod build;
mod command;
mod detect;
mod dialect;
mod draft;
mod flags;
mod known_models;
mod launched;
mod rules;
mod settle;
pub mod shell;
mod tree;

pub use draft::{Draft, Fact, ValueOrigin};
pub use rules::Violation;

use detect::{of_reading, read};
use shell::{FilesBeside, Reading, Started};

/// What the user knows beside the files.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Devices.
    pub gpus: Option<usize>,
    /// Values by key, as `vocab`.
    pub values: Vec<(String, String)>,
    /// Variables of the environment.
    pub environment: BTreeMap<String, String>,
    /// Arguments of the script.
    pub arguments: Vec<String>,
    /// Which of several launches, from 1.
    pub launch: Option<usize>,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Values.
    pub draft: Draft,
    /// Keys that a plan needs and nobody knows.
    pub missing: Vec<&'static str>,
    /// Rules that are broken.
    pub violations: Vec<Violation>,
    /// The plan, where all is known and no rule is broken.
    pub plan: Option<Plan>,
    /// What it trains, where that is known, however it is laid out.
    pub job: Option<Job>,
}

/// Keys that the user may give by hand.
pub const SETTABLE: &str = "
    layers hidden heads kv_heads head_dim ffn vocab seq target_seq global_batch microbatch accumulation precision tp
    pp cp ep etp zero shard chunks sequence_parallel recompute recompute_layers optimizer offload experts top_k
    expert_ffn shared_ffn dense_layers steps gated tied positions architecture rope_theta model ring capacity
    lora_rank schedule lr warmup decoder_layers
";

/// Reads launch files, of which the first is what is started.
///
/// # Errors
/// Why nothing of them can be read.
pub fn import(files: &[TextFile], known: &Knowledge, beside: FilesBeside) -> Result<Imported, String> {
    let first = files.first().ok_or("no file was given")?;
    let find = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        let given = files.iter().find(|file| file.name == name || file.name.rsplit('/').next() == Some(last));
        given.map(|file| file.text.clone()).or_else(|| beside(name))
    };
    let (mut draft, launched) = read(first, files, known, &find)?;
    for (key, value) in &known.values {
        let Some(key) = SETTABLE.split_whitespace().find(|known| known == key) else {
            return Err(format!(
                "--set {key}=…: no such value; known: {}",
                SETTABLE.split_whitespace().collect::<Vec<_>>().join(", ")
            ));
        };
        draft.state_text(key, "--set", value);
    }
    settle::settle(&mut draft, known.gpus, launched.as_ref());
    let name = first.name.rsplit('/').next().unwrap_or("imported");
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    Ok(Imported::of(draft, name))
}

/// Reads a command that was recorded as it was started, of several the one that trains.
///
/// # Errors
/// Why none of them is known to train.
pub fn import_commands(commands: Vec<Vec<String>>, known: &Knowledge, beside: FilesBeside) -> Result<Imported, String> {
    let start = |words| Started { words, environment: known.environment.clone(), line: 0, when: Vec::new() };
    let reading = Reading { started: commands.into_iter().map(start).collect(), ..Reading::default() };
    let (mut draft, launch) = of_reading(&reading, known, beside, false)?;
    settle::settle(&mut draft, known.gpus, launch.as_ref());
    Ok(Imported::of(draft, "captured"))
}

impl Imported {
    fn of(draft: Draft, name: &str) -> Imported {
        let missing = build::missing(&draft);
        let violations = rules::violations(&draft, name);
        let built = build::build(&draft, name);
        let job = build::job(&draft, name).filter(|job| job.check().is_ok());
        let plan = built.filter(|plan| violations.iter().all(|rule| rule.harmless) && plan.check().is_ok());
        Imported { draft, missing, violations, plan, job }
    }
}
