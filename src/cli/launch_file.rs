//! Launch files of engines where a plan is wanted: what the user knows beside them, and what lies beside them.
//!
//! In: paths, and `--gpus`, `--set`, `--env`, `--launch`. Out: what was read, or the plan.
//!
//! Invariant: of what a file names only plain files of its own folder are read, and none that is large.

use std::path::{Path, PathBuf};

use clap::Args;
use meshwright_engines::engine::{ENGINES, Engine, TextFile, fit};
use meshwright_engines::import::{Draft, Imported, Knowledge, import};
use meshwright_engines::launch::Launch;
use meshwright_engines::setting::Setting;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::read_text;
use meshwright_hardware::profile::Cluster;
use meshwright_planner::job::Job;
use meshwright_planner::plan::Plan;

use crate::failure::Failure;

/// What the user knows beside launch files.
#[derive(Args, Clone, Default)]
pub struct KnownArguments {
    /// Devices that a launch file is for, where it does not say
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// A value that a launch file does not say, as `--set vocab=32000`; several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A variable of the environment that a script is started with, as `--env NNODES=16`; several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Which of several launches of a script, from 1
    #[arg(long, value_name = "N")]
    launch: Option<usize>,
}

impl KnownArguments {
    /// The same as the reader takes it.
    pub fn known(&self, arguments: &[String]) -> Result<Knowledge, Failure> {
        let pair = |option: &str, text: &str| {
            let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Failure::input(format!("--{option} is `{text}`: give it as NAME=VALUE")))
        };
        for (option, count) in [("--gpus", self.gpus), ("--launch", self.launch)] {
            if count == Some(0) {
                return Err(Failure::input(format!("{option} is 0: it must be above zero")));
            }
        }
        Ok(Knowledge {
            gpus: self.gpus,
            values: self.set.iter().map(|text| pair("set", text)).collect::<Result<_, _>>()?,
            environment: self.env.iter().map(|text| pair("env", text)).collect::<Result<_, _>>()?,
            arguments: arguments.to_vec(),
            launch: self.launch,
        })
    }
}

/// Whether a path is a launch file and no plan, job or model.
pub fn is_launch(path: &str) -> bool {
    let name = path.to_lowercase();
    let end = name.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, end)| end);
    match end {
        "toml" => {
            read_text(path).ok().and_then(|text| toml::from_str::<toml::Table>(&text).ok()).is_some_and(|table| {
                let theirs = ["training", "parallelism", "experimental", "activation_checkpoint"];
                !table.contains_key("mesh") && theirs.iter().any(|name| table.contains_key(*name))
            })
        }
        "json" => read_text(path).is_ok_and(|text| {
            !text.contains("\"model_type\"")
                && ["zero_optimization", "train_batch_size", "train_micro_batch"].iter().any(|key| text.contains(key))
        }),
        "sh" | "bash" | "sbatch" | "slurm" | "args" | "txt" | "yaml" | "yml" | "py" => true,
        _ => false,
    }
}

/// Reads launch files.
pub fn read_launch(paths: &[String], known: &Knowledge) -> Result<Imported, Failure> {
    let mut files = Vec::new();
    for path in paths {
        files.push(TextFile::new(path.clone(), read_text(path)?));
    }
    let folder = Path::new(&paths[0]).parent().map_or(PathBuf::from("."), Path::to_path_buf);
    import(&files, known, &|name| beside(&folder, name)).map_err(Failure::input)
}

/// A plain file of a folder by the name that another file has for it: as it stands, or its last part.
pub fn beside(folder: &Path, name: &str) -> Option<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let root = folder.canonicalize().ok()?;
    let last = Path::new(name).file_name()?;
    let plain = !name.contains("..") && !name.starts_with(['/', '~']) && name.len() < 1000;
    let tried = [plain.then(|| folder.join(name)), Some(folder.join(last))];
    tried.into_iter().flatten().find_map(|path| {
        // A link may lead out of the folder.
        let inside = path.canonicalize().ok()?.starts_with(&root);
        if inside { read_text(&path).ok() } else { None }
    })
}

/// What a launch file says on a cluster's devices; nothing where a path is none.
pub fn launch_on(path: &str, known: &KnownArguments, cluster: &Cluster) -> Result<Option<Imported>, Failure> {
    let mut known = known.known(&[])?;
    if !is_launch(path) {
        return Ok(None);
    }
    known.gpus = known.gpus.or(Some(cluster.devices()));
    read_launch(&[path.to_owned()], &known).map(Some)
}

/// A plan of a plan file, or of a launch file on a cluster's devices, with what was read of that.
pub fn plan_of(path: &str, known: &KnownArguments, cluster: &Cluster) -> Result<(Plan, Option<Imported>), Failure> {
    match launch_on(path, known, cluster)? {
        Some(imported) => Ok((whole(&imported, path)?, Some(imported))),
        None => Ok((Plan::read(path)?, None)),
    }
}

/// What a launch file trains, however it is laid out.
pub fn job_of(imported: &Imported, path: &str) -> Result<Job, Failure> {
    if let Some(job) = &imported.job {
        return Ok(under_its_engine(job.clone(), imported));
    }
    Err(whole(imported, path).err().unwrap_or_else(|| Failure::input(format!("{path}: what it trains is not known"))))
}

/// A job that names no stack, under the usual one of the engine whose launch file was read.
fn under_its_engine(job: Job, imported: &Imported) -> Job {
    let usual = || engine_of(&imported.draft).map(|engine| engine.about().usual_stack.to_owned());
    Job { stack: job.stack.clone().or_else(usual), ..job }
}

/// The best plan in the words of the engine whose launch file was read.
pub fn print_words(imported: &Imported, best: &Plan, cluster: &Cluster) {
    let (Some(engine), Some(plan)) = (engine_of(&imported.draft), &imported.plan) else { return };
    let (title, lines) = (engine.about().title, changes(engine, plan, best, cluster));
    if lines.is_empty() {
        println!("\nas the launch file has it, in {title}'s words");
    } else {
        println!("\nto change in the launch file, in {title}'s words\n{}", lines.join("\n"));
    }
}

/// The plan of what was read.
///
/// # Errors
/// Code 2 where a value is not known, 3 where rules are broken; each with all of them.
pub fn whole(imported: &Imported, path: &str) -> Result<Plan, Failure> {
    if let Some(plan) = &imported.plan {
        return Ok(Plan { job: under_its_engine(plan.job.clone(), imported), ..plan.clone() });
    }
    let lines: Vec<String> = imported.missing.iter().map(|key| lacking(&imported.draft, key)).collect();
    let broken = violation_lines(imported);
    // What is not known often follows from what is broken.
    if imported.violations.iter().any(|rule| !rule.harmless) {
        let beside = if lines.is_empty() { String::new() } else { format!("\nnot known:\n{}", lines.join("\n")) };
        let message = format!("{path}: no plan, as it stands:\n{}{beside}", broken.join("\n"));
        return Err(Failure::new(Exit::Infeasible, message));
    }
    Err(Failure::input(format!("{path}: no plan, as these are not known:\n{}", lines.join("\n"))))
}

/// A value that is not known, with why.
fn lacking(draft: &Draft, key: &str) -> String {
    let fact = draft.facts.get(key);
    let word = fact.map(|fact| fact.word.as_str()).filter(|word| !word.is_empty());
    let why = fact.map_or(String::new(), |fact| fact.why.clone());
    let why = if why.is_empty() { format!("no file says it; give it by --set {key}=…") } else { why };
    match word {
        Some(word) if word != key => format!("   {key} ({word}): {why}"),
        _ => format!("   {key}: {why}"),
    }
}

/// A line a broken rule.
pub fn violation_lines(imported: &Imported) -> Vec<String> {
    let line = |violation: &meshwright_engines::import::Violation| {
        let what = match (violation.word.as_str(), violation.value.as_str()) {
            ("", _) => String::new(),
            (word, "" | "null") => format!("{word}: "),
            (word, value) => format!("{word} is {value}: "),
        };
        let near: Vec<String> = violation.near.iter().map(usize::to_string).collect();
        let near = if near.is_empty() { String::new() } else { format!("; legal near: {}", near.join(", ")) };
        let passes = if violation.passes { " (the engine's own parser lets it pass)" } else { "" };
        format!("   {what}{}{near}{passes}", violation.problem)
    };
    imported.violations.iter().map(line).collect()
}

/// The engine whose files were read, where plans can be written in its words.
pub fn engine_of(draft: &Draft) -> Option<&'static dyn Engine> {
    ENGINES.iter().find(|engine| engine.about().name == draft.engine).copied()
}

/// What changes from a plan to another, in an engine's words; nothing where they are no longer apart.
pub fn changes(engine: &dyn Engine, from: &Plan, to: &Plan, cluster: &Cluster) -> Vec<String> {
    let settings = |plan: &Plan| -> Vec<Setting> {
        let mut launch = Launch::new(plan.clone(), Some((cluster, None)));
        launch.plan = fit(engine, &launch).0;
        engine.settings(&launch).into_iter().flat_map(|section| section.settings).collect()
    };
    let (old, new) = (settings(from), settings(to));
    let find = |all: &[Setting], key: &str| all.iter().find(|setting| setting.key == key).cloned();
    let mut lines = Vec::new();
    for setting in &new {
        let shown = |setting: &Setting| match setting.value.shell() {
            value if value.is_empty() => setting.key.clone(),
            value => format!("{} {}", setting.key, value.split_whitespace().collect::<Vec<_>>().join(" ")),
        };
        match find(&old, &setting.key) {
            Some(before) if before.value == setting.value => {}
            Some(before) => lines.push(format!("   {} instead of {}", shown(setting), before.value.shell())),
            None => lines.push(format!("   add {}", shown(setting))),
        }
    }
    let gone = old.iter().filter(|setting| find(&new, &setting.key).is_none());
    lines.extend(gone.map(|setting| format!("   leave out {}", setting.key)));
    lines
}
