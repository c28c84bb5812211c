//! `export`: a plan as a folder that another engine runs.
//!
//! In: a plan, an engine, a launcher, the cluster if one is named. Out: files, and on the screen what was lost and how to start.
//!
//! Invariant: nothing is written where an engine cannot express the plan, unless `--force` asks for the nearest that it can.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use meshwright_engines::engine::{self, ENGINES, Engine};
use meshwright_engines::export::{Export, Refusal, export};
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::{self, LAUNCHERS};
use meshwright_engines::setting::shell_word;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::FileError;
use meshwright_hardware::profile::Cluster;
use meshwright_planner::ability::{Ability, Lost, Reach};
use meshwright_planner::job::Job;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Figures, predict_figures};
use serde_json::{Map, Value, json};

use super::show::{does_not_fit, missing_memory};
use super::stack::StackArgument;
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;

/// Which engine runs a plan, and what starts it.
#[derive(Args)]
pub struct ExportTarget {
    /// Engine (`meshwright export --list`); by default that of the plan's software stack
    #[arg(long, value_name = "ENGINE")]
    to: Option<String>,
    /// What starts it on every node: torchrun (by hand), slurm, kubernetes, trainjob or skypilot
    #[arg(long, default_value = "torchrun")]
    launcher: String,
    /// Where the engine cannot express the plan, write the nearest that it can, and list what is lost; a plan that does not fit too
    #[arg(long)]
    force: bool,
}

/// Arguments of `export`.
#[derive(Args)]
pub struct ExportCommand {
    /// A plan file
    #[arg(required_unless_present = "list")]
    plan: Option<String>,
    /// Folder to write
    #[arg(short, long, value_name = "DIR", required_unless_present = "list")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: ExportTarget,
    /// The cluster it is for: devices a node, and what is predicted there
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    stack: StackArgument,
    /// Show engines, their releases, and what each can express
    #[arg(long)]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExportCommand {
    /// Writes the folder, or shows the list.
    pub fn run(self) -> Result<(), Failure> {
        let (Some(path), Some(output), false) = (&self.plan, &self.output, self.list) else {
            if self.json {
                list_json()
            } else {
                list()
            }
            return Ok(());
        };
        let plan = Plan::read(path)?;
        let exported = match &self.cluster {
            None => self.target.write(&plan, None, output)?,
            Some(text) => {
                let cluster = self.stack.on(Cluster::parse(text)?, &plan.job)?;
                let figures = predict_figures(&plan, &cluster)?;
                match missing_memory(&figures, &cluster) {
                    Some(missing) if self.target.force => answer::warn(&format!("the plan does not fit: {missing}")),
                    missing => does_not_fit(missing)?,
                }
                self.target.write(&plan, Some((&cluster, Some(figures))), output)?
            }
        };
        if self.json {
            answer::print("export", exported.json())
        } else {
            exported.print()
        }
        Ok(())
    }
}

/// A folder that was written.
pub struct Exported<'a> {
    engine: &'static dyn Engine,
    launcher: &'a str,
    folder: &'a Path,
    files: Vec<String>,
    losses: Vec<Lost>,
    plan: Plan,
    start: String,
}

impl Exported<'_> {
    /// For people: what it is, what is not as planned, and how to start it.
    pub fn print(&self) {
        let about = self.engine.about();
        println!("{} ({}): {}", about.title, about.version, self.plan.summary());
        if !self.losses.is_empty() {
            println!("not as planned:\n{}", lines(&self.losses).trim_end());
        }
        println!("wrote {} to {}", self.files.join(", "), self.folder.display());
        println!("\nnext: cd {} && {}", shell_word(&self.folder.display().to_string()), self.start);
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let about = self.engine.about();
        let lost = self.losses.iter().map(|Lost { what, instead }| json!({ "what": what, "instead": instead }));
        json!({
            "engine": about.name, "engine_version": about.version, "launcher": self.launcher,
            "folder": self.folder.display().to_string(), "files": self.files,
            "not_as_planned": lost.collect::<Vec<_>>(), "plan": self.plan, "start": self.start,
        })
    }
}

impl ExportTarget {
    /// Writes a plan's folder.
    pub fn write<'a>(
        &'a self,
        plan: &Plan,
        on: Option<(&Cluster, Option<Figures>)>,
        folder: &'a Path,
    ) -> Result<Exported<'a>, Failure> {
        let stack = on.as_ref().map(|(cluster, _)| cluster.stack.shipped().to_owned()).or(plan.job.stack.clone());
        let engine = self.engine(stack.as_deref())?;
        let launcher = launcher::find(&self.launcher).map_err(Failure::input)?;
        let launch = Launch::new(plan.clone(), on);
        let title = engine.about().title;
        let done = export(&launch, engine, launcher, self.force).map_err(|refusal| refused(title, &refusal))?;
        let Export { files, losses, usage, .. } = done;
        std::fs::create_dir_all(folder).map_err(FileError::write(folder))?;
        for file in &files {
            write_whole(&folder.join(&file.name), &file.text)?;
        }
        let files = files.into_iter().map(|file| file.name).collect();
        Ok(Exported { engine, launcher: &self.launcher, folder, files, losses, plan: launch.plan, start: usage })
    }

    /// The engine that is named, or else the stack's, if it is one.
    pub fn known_engine(&self, stack: Option<&str>) -> Result<Option<&'static dyn Engine>, Failure> {
        match &self.to {
            Some(name) => engine::find(name).map(Some).map_err(Failure::input),
            None => Ok(stack.and_then(engine::of_stack)),
        }
    }

    fn engine(&self, stack: Option<&str>) -> Result<&'static dyn Engine, Failure> {
        self.known_engine(stack)?.ok_or_else(|| {
            let known: Vec<&str> = ENGINES.iter().map(|engine| engine.about().name).collect();
            let is = stack.map_or("the plan names no software stack".to_owned(), |stack| {
                format!("the plan's software stack, `{stack}`, is none of these engines")
            });
            Failure::input(format!("{is}: name one by --to, of {}", known.join(", ")))
        })
    }
}

/// What plans keep to that are for an engine, in a line; nothing where they are for any.
pub fn engine_line(engine: Option<&'static dyn Engine>, job: &Job) -> Option<String> {
    let about = engine?.about();
    let lacks = about.ability.lacks(job);
    let but = if lacks.is_empty() {
        String::new()
    } else {
        format!("; it has no {}", lacks.iter().map(|lost| lost.what.as_str()).collect::<Vec<_>>().join(", no "))
    };
    Some(format!("engine {} ({}): plans that it can express{but}", about.title, about.version))
}

/// A line a loss.
fn lines(losses: &[Lost]) -> String {
    losses.iter().fold(String::new(), |mut text, Lost { what, instead }| {
        let _ = writeln!(text, "   {what}: {}", instead.as_deref().unwrap_or("nothing like it"));
        text
    })
}

fn refused(engine: &str, Refusal { losses, nearest }: &Refusal) -> Failure {
    let way = match nearest {
        Ok(plan) => format!("nearest that it can: {}; --force writes that", plan.summary()),
        Err(why) => why.clone(),
    };
    Failure::new(Exit::Infeasible, format!("{engine} cannot express the plan:\n{}{way}", lines(losses)))
}

/// The same as [`list`] for scripts.
fn list_json() {
    let engine = |engine: &&dyn Engine| {
        let about = engine.about();
        let can: Map<String, Value> =
            abilities(&about.ability).into_iter().map(|(what, can)| (what.to_owned(), can.into())).collect();
        json!({ "name": about.name, "title": about.title, "version": about.version, "dated": about.dated, "can": can })
    };
    let launchers = LAUNCHERS.iter().map(|known| json!({ "name": known.name(), "title": known.title() }));
    let engines: Vec<Value> = ENGINES.iter().map(engine).collect();
    answer::print("engines", json!({ "engines": engines, "launchers": launchers.collect::<Vec<_>>() }));
}

/// Engines, launchers, and what they can.
fn list() {
    for engine in ENGINES {
        let about = engine.about();
        println!("{:12} {} ({}, read {})", about.name, about.title, about.version, about.dated);
        for (what, can) in abilities(&about.ability) {
            println!("   {what:13} {can}");
        }
    }
    println!("\nlaunchers");
    for launcher in LAUNCHERS {
        println!("   {:12} {}", launcher.name(), launcher.title());
    }
}

/// What an engine can express, in a few words each.
fn abilities(ability: &Ability) -> Vec<(&'static str, String)> {
    let some = |words: Vec<&str>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let pick = |has: [bool; 2], words: [&'static str; 2]| {
        some(words.into_iter().zip(has).filter(|(_, has)| *has).map(|(word, _)| word).collect())
    };
    let schedules = ability.schedules.iter().map(|(schedule, chunks)| {
        if *chunks { format!("{} of any chunks", schedule.name()) } else { schedule.name().to_owned() }
    });
    let schedules: Vec<String> = schedules.collect();
    let zero: Vec<String> = ability.zero.iter().map(u8::to_string).collect();
    let reach = |reach: Reach| match reach {
        Reach::Nowhere => "none",
        Reach::Everywhere => "all layers or none",
        Reach::Leading => "the first layers of each stage",
    };
    let precisions: Vec<String> = ability.precisions.iter().map(ToString::to_string).collect();
    let optimizers: Vec<&str> = ability.optimizers.iter().map(|name| name.name()).collect();
    let models = ability.models;
    let models = [
        (models.gpt2, "GPT"),
        (models.llama, "LLaMA"),
        (models.experts, "experts"),
        (models.latent, "latent attention"),
        (models.encoder, "encoders"),
        (models.encoder_decoder, "encoder-decoders"),
    ];
    let models = models.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
    vec![
        ("models", some(models)),
        ("tensor", pick(ability.tp, ["plain", "with sequence parallelism"])),
        ("context", pick(ability.cp, ["gathered", "ring"])),
        ("expert", pick(ability.ep, ["cut by tensor parallelism", "whole"])),
        (
            "pipeline",
            some(schedules.iter().map(String::as_str).collect()) + if ability.uneven { ", uneven stages" } else { "" },
        ),
        ("ZeRO", zero.join(", ") + if ability.hybrid { ", hybrid" } else { "" }),
        ("recompute", format!("full: {}; selective: {}", reach(ability.full), reach(ability.selective))),
        ("formats", precisions.join(", ")),
        ("optimizers", optimizers.join(", ") + if ability.optimizer_on_host { ", on the host too" } else { "" }),
    ]
}
