//! `models`: known models, and how large those of files are.
//!
//! In: names, files, folders; none for all that are known. Out: a line each, or JSON.

use clap::Args;
use meshwright_planner::models::{self, ModelSize};
use serde_json::{Value, json};

use super::columns::folded;
use crate::answer;
use crate::failure::Failure;

/// Arguments of `models`.
#[derive(Args)]
pub struct ModelsCommand {
    /// Model files, a config.json, its folder or a cached `org/name` of Hugging Face; by default all models that are known
    models: Vec<String>,
    /// `model_type` that a config.json is read as, whatever it says
    #[arg(long = "as", value_name = "FAMILY", requires = "models")]
    family: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ModelsCommand {
    /// Counts, and prints.
    pub fn run(self) -> Result<(), Failure> {
        let known = || models::names().map(str::to_owned).collect();
        let names: Vec<String> = if self.models.is_empty() { known() } else { self.models.clone() };
        let mut all = Vec::new();
        for name in &names {
            let counted = models::count(name, self.family.as_deref())?;
            counted.notes.iter().for_each(|note| answer::note(&format!("{name}: {note}")));
            if self.json {
                all.push(value(name, &counted));
            } else {
                print(name, &counted, !self.models.is_empty());
            }
        }
        if self.json {
            answer::print("models", json!(all));
        }
        Ok(())
    }
}

fn value(name: &str, ModelSize { parameters, model, .. }: &ModelSize) -> Value {
    let mut all = json!({ "name": name, "parameters": parameters.round() as u64, "planned": model.is_ok() });
    match model {
        Ok(model) => {
            for (key, size) in [("layers", model.depth()), ("hidden", model.hidden), ("heads", model.heads)] {
                all[key] = size.into();
            }
        }
        Err(why) => all["why_not"] = why.as_str().into(),
    }
    all
}

/// A line of a model, and with `closely` another of what training keeps of it.
fn print(name: &str, ModelSize { parameters, states, model, .. }: &ModelSize, closely: bool) {
    let billions = parameters / 1e9;
    let sizes = match model {
        Ok(model) => {
            let (layers, hidden, heads) = (model.depth(), model.hidden, model.heads);
            format!("{layers:>3} layers × {hidden:>5}, {heads:>3} heads")
        }
        Err(why) => format!("not planned: {why}"),
    };
    println!("{}", folded(&format!("{name:<16} {billions:>8.3} B parameters   {sizes}"), 17));
    if closely {
        println!("{:<16} {states}", "");
    }
}
