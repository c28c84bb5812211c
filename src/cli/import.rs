//! `import` and `check`: launch files of engines as a plan, and which rules they break.
//!
//! In: launch files. Out: each value with where it comes from, the plan; for `check` every broken rule.
//!
//! Invariant: files are read, never run.

use std::path::PathBuf;

use clap::Args;
use meshwright_engines::import::{Fact, Imported, ValueOrigin};
use meshwright_engines::setting::shell_word;
use meshwright_hardware::exit::Exit;
use serde_json::{Value, json};

use super::launch_file::{KnownArguments, read_launch, violation_lines, whole};
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;

/// Arguments of `import`.
#[derive(Args)]
pub struct ImportCommand {
    /// A script, list of arguments or configuration; further files that it needs
    #[arg(required = true)]
    files: Vec<String>,
    /// Where to write the plan
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    known: KnownArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Arguments of the script
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct CheckCommand {
    /// A script, list of arguments or configuration, or a plan; further files that it needs
    #[arg(required = true)]
    files: Vec<String>,
    #[command(flatten)]
    known: KnownArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Arguments of the script
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl ImportCommand {
    /// Reads, prints, and writes the plan.
    pub fn run(self) -> Result<(), Failure> {
        let imported = read_launch(&self.files, &self.known.known(&self.arguments)?)?;
        show(&imported, &self.files[0], self.output.as_deref(), self.json)
    }
}

/// Prints what was read, and writes the plan where one is asked for.
pub fn show(imported: &Imported, from: &str, output: Option<&std::path::Path>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        answer::print("import", imported_json(imported));
    } else {
        print!("{}", text(imported, from));
    }
    let plan = whole(imported, from)?;
    if let Some(path) = output {
        let draft = &imported.draft;
        let mut head = format!("# Read from {from}, {}: what no file says is of {}.\n", draft.engine, draft.version);
        for other in &draft.unpriced {
            head += &format!("# not priced: {}\n", other.replace('\n', " "));
        }
        write_whole(path, &format!("{head}{}", plan.to_toml()))?;
    }
    if !as_json {
        let path = output.map_or_else(|| from.to_owned(), |path| path.display().to_string());
        println!("\nplan: {}", plan.summary());
        let path = shell_word(&path);
        println!("\nnext: meshwright explain {path} --cluster \"{}\"", nodes(plan.mesh.ranks()));
    }
    Ok(())
}

/// So many devices as nodes of eight.
fn nodes(ranks: usize) -> String {
    if ranks.is_multiple_of(8) { format!("{}x dgx-h100", ranks / 8) } else { format!("{ranks}x h100") }
}

/// Keys that are of use to a reader alone where they are stated.
fn is_step(fact: &Fact) -> bool {
    fact.origin == ValueOrigin::Stated || fact.origin == ValueOrigin::Unknown || fact.origin == ValueOrigin::Inert
}

fn text(imported: &Imported, from: &str) -> String {
    let draft = &imported.draft;
    let mut text = format!("{from}: {}, defaults of {}\n\n", draft.engine, draft.version);
    for (key, fact) in &draft.facts {
        if !is_step(fact)
            && !meshwright_engines::import::SETTABLE.split_whitespace().any(|known| known == *key)
            && !["devices", "dp", "tuning", "targets", "base"].contains(key)
        {
            continue;
        }
        let value = match &fact.value {
            Value::Null => "?".to_owned(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let why = match (fact.word.as_str(), fact.why.as_str()) {
            ("", why) => why.to_owned(),
            (word, why) if why.is_empty() || why == word => word.to_owned(),
            (word, why) => format!("{word}: {why}"),
        };
        text += &format!("{key:<22} {value:<18} {:<9} {why}\n", fact.origin.name());
    }
    let mut list = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            text += &format!("\n{title}\n");
            lines.iter().for_each(|line| text += &format!("   {line}\n"));
        }
    };
    list("stated, and not priced", &draft.unpriced);
    list("to know", &draft.notes);
    let broken: Vec<String> = violation_lines(imported).into_iter().map(|line| line.trim_start().to_owned()).collect();
    list("rules that are broken", &broken);
    text
}

/// What was read, for scripts.
pub fn imported_json(imported: &Imported) -> Value {
    let draft = &imported.draft;
    let values: serde_json::Map<String, Value> = draft
        .facts
        .iter()
        .map(|(key, fact)| {
            let all = json!({ "value": fact.value, "origin": fact.origin.name(), "word": fact.word, "why": fact.why });
            ((*key).to_owned(), all)
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"), "engine": draft.engine, "defaults": draft.version, "values": values,
        "unpriced": draft.unpriced, "notes": draft.notes, "missing": imported.missing, "violations": violations_json(imported),
        "plan": imported.plan, "summary": imported.plan.as_ref().map(|plan| plan.summary()),
    })
}

fn violations_json(imported: &Imported) -> Value {
    let one = |violation: &meshwright_engines::import::Violation| {
        json!({
            "name": violation.word, "value": violation.value, "problem": violation.problem, "near": violation.near,
            "passes_its_parser": violation.passes,
        })
    };
    imported.violations.iter().map(one).collect()
}

impl CheckCommand {
    /// Reads, and says every broken rule.
    pub fn run(self) -> Result<(), Failure> {
        if self.files[0].ends_with(".toml") && !super::launch_file::is_launch(&self.files[0]) {
            let plan = meshwright_planner::plan::Plan::read(&self.files[0])?;
            if self.json {
                answer::print("check", json!({ "violations": [], "unknown": [], "summary": plan.summary() }));
                return Ok(());
            }
            println!("{}: no rule is broken\n   {}", self.files[0], plan.summary());
            return Ok(());
        }
        let imported = read_launch(&self.files, &self.known.known(&self.arguments)?)?;
        let from = &self.files[0];
        let lines = violation_lines(&imported);
        let unknown: Vec<&str> = imported.missing.clone();
        if self.json {
            let violations = violations_json(&imported);
            let all = json!({ "engine": imported.draft.engine, "violations": violations, "unknown": unknown });
            answer::print("check", all);
        } else if lines.is_empty() {
            println!("{from}: no rule is broken, of {}", imported.draft.engine);
            if !unknown.is_empty() {
                println!("   not known, so that rules over them were left out: {}", unknown.join(", "));
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let rest = if unknown.is_empty() {
            String::new()
        } else {
            format!("\n   not known, and left out: {}", unknown.join(", "))
        };
        let count = lines.len();
        Err(Failure::new(Exit::Infeasible, format!("{from}: {count} rule(s) broken:\n{}{rest}", lines.join("\n"))))
    }
}
