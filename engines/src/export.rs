//! A folder that trains by a plan: an engine's files, a launcher's, and `PLAN.md`.
//!
//! In: a launch, an engine, a launcher, whether losses are accepted. Out: an [`Export`], or what the engine cannot express.
//!
//! Invariant: without `force` a folder does exactly what the plan says.

use std::fmt::Write;

use meshwright_planner::plan::Plan;
use meshwright_planner::predict::FIGURES;

use crate::engine::{Engine, TextFile, fit, stamp};
use crate::launch::Launch;
use crate::launcher::Launcher;
use crate::setting::{Section, Whence};
use meshwright_planner::ability::Lost;

/// What is told of a plan.
const STORY: &str = "PLAN.md";

/// A folder's files, and what was lost on the way.
#[derive(Clone, Debug)]
pub struct Export {
    /// In no order.
    pub files: Vec<TextFile>,
    /// What the plan says and the folder does not.
    pub losses: Vec<Lost>,
    /// The plan that the folder runs.
    pub plan: Plan,
    /// What to type to start it.
    pub usage: String,
}

/// An engine cannot express a plan.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What it cannot.
    pub losses: Vec<Lost>,
    /// The nearest plan that it can; none where there is none, with the reason.
    pub nearest: Result<Box<Plan>, String>,
}

/// Writes a launch in an engine's words; with `force` the nearest that it can express.
///
/// # Errors
/// What cannot be expressed, where there is anything and it is not accepted, or nothing stands in its place.
pub fn export(launch: &Launch, engine: &dyn Engine, launcher: &dyn Launcher, force: bool) -> Result<Export, Refusal> {
    let (near, losses) = fit(engine, launch);
    if !losses.0.is_empty() {
        let sound = if losses.have_a_way() {
            near.check().map_err(|fault| format!("the nearest plan cannot be: {fault}"))
        } else {
            Err("nothing near it can be expressed".to_owned())
        };
        if !force || sound.is_err() {
            return Err(Refusal { losses: losses.0, nearest: sound.map(|()| Box::new(near)) });
        }
    }
    let launch = Launch { plan: near, ..launch.clone() };
    let settings = engine.settings(&launch);
    let mut files = engine.files(&launch, &settings);
    files.extend(launcher.file(&launch, &stamp(engine)));
    files.push(TextFile::new("plan.toml", launch.plan.to_toml()));
    let story = story(&launch, engine, launcher, (&settings, &losses.0));
    files.push(TextFile::new(STORY, story));
    let usage = launcher.usage(&launch);
    Ok(Export { files, losses: losses.0, plan: launch.plan, usage })
}

/// `PLAN.md`.
fn story(launch: &Launch, engine: &dyn Engine, launcher: &dyn Launcher, told: (&[Section], &[Lost])) -> String {
    let (about, plan) = (engine.about(), &launch.plan);
    let (settings, losses) = told;
    let mut text = format!("# {} by {}\n\n{}\n\n", plan.job.model.name, about.title, plan.summary());
    let _ = writeln!(
        text,
        "{} node(s) of {} device(s); {} sequences of {} tokens a step, {}, {} steps. Written for {}.\n",
        launch.nodes,
        launch.per_node,
        plan.job.global_batch,
        plan.job.seq,
        plan.job.precision,
        plan.job.steps,
        about.version
    );
    let _ = writeln!(text, "## Start\n\n```sh\n{}\n```\n", launcher.usage(launch));
    for yours in engine.yours() {
        let until = if yours.until.is_empty() { "empty" } else { yours.until };
        let _ = writeln!(text, "- `{}` ({until}): {}", yours.name, yours.what);
    }
    if !losses.is_empty() {
        text += "\n## What is not as it was planned\n\n";
        for Lost { what, instead } in losses {
            let _ = writeln!(text, "- {what}: {}", instead.as_deref().unwrap_or("nothing"));
        }
    }
    text += "\n## Predicted\n\n";
    text += &predicted(launch);
    let notes = engine.notes(launch);
    if !notes.is_empty() {
        text += "\n## To know\n\n";
        for note in notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    let _ = writeln!(text, "\n## Measured\n\nThe step is {}. Compare it with the step above.\n", about.log);
    text += "## What the plan decides, in the engine's words\n\n| setting | value |\n|---|---|\n";
    let all = settings.iter().flat_map(|section| &section.settings);
    for setting in all.filter(|setting| setting.from == Whence::Plan) {
        let value = setting.value.python().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {value} |", setting.key);
    }
    text
}

fn predicted(launch: &Launch) -> String {
    let Some(hardware) = &launch.hardware else {
        return "Nothing: no cluster was named (`--cluster`).\n".to_owned();
    };
    let mut text = format!("On {}, with the prices of the stack `{}`.\n\n", hardware.cluster, hardware.stack);
    let Some(figures) = &hardware.figures else {
        return text + "The plan could not be priced there.\n";
    };
    text += "| figure | predicted |\n|---|---|\n";
    for figure in FIGURES {
        let _ = writeln!(text, "| {} | {} |", figure.title, figure.unit.show((figure.get)(figures)));
    }
    text
}
