//! Engines' own languages, a file each: what of a command line or configuration is which concept.
//!
//! In: a [`TrainCommand`] or a configuration's tree. Out: a [`Draft`].
//!
//! Invariant: a key that an engine defines and no file states has that engine's default, of the release that is named.

use std::collections::BTreeMap;

use serde_json::Value;

use super::draft::Draft;
use super::flags::CommandLine;
use super::launched::Launched;
use super::shell::FilesBeside;

pub mod accelerate;
pub mod axolotl;
pub mod deepspeed;
pub mod foundry;
pub mod hugging_face;
pub mod llama_factory;
pub mod maxtext;
pub mod megatron;
pub mod nanotron;
pub mod neox;
pub mod titan_python;
pub mod torchtitan;
pub mod trainer;
pub mod training_arguments;

/// A program that trains, with its arguments.
pub struct TrainCommand<'a> {
    /// Its path or module.
    pub program: String,
    /// Its arguments.
    pub line: CommandLine,
    /// Variables that are set for it.
    pub environment: BTreeMap<String, String>,
    /// How it is launched.
    pub launched: Launched,
    /// Files that the script wrote, or that lie beside it.
    pub files: FilesBeside<'a>,
}

impl TrainCommand<'_> {
    /// The program's name without its folders.
    pub fn program_name(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or_default()
    }
}

/// A configuration: nested tables, by dotted names.
pub struct Tree<'a>(pub &'a Value);

impl Tree<'_> {
    /// The value at a dotted name; nothing where it is `null`.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let found = path.split('.').try_fold(self.0, |table, part| table.get(part))?;
        (!found.is_null()).then_some(found)
    }

    /// The first of these that is there.
    pub fn any(&self, paths: &[&'static str]) -> Option<(&'static str, &Value)> {
        paths.iter().find_map(|path| Some((*path, self.get(path)?)))
    }

    /// A count.
    pub fn count(&self, path: &str) -> Option<usize> {
        let value = self.get(path)?;
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 1e15).then_some(x as usize);
        value.as_u64().and_then(|n| usize::try_from(n).ok()).or_else(|| whole(value.as_f64()?))
    }

    /// A text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// Yes or no.
    pub fn flag(&self, path: &str) -> bool {
        matches!(self.get(path), Some(Value::Bool(true)))
    }

    /// States a fact for each name that is there; numbers in texts count as numbers.
    pub fn state_all(&self, draft: &mut Draft, names: &[(&'static str, &'static str)]) {
        for (path, key) in names {
            match self.get(path) {
                Some(Value::String(text)) => draft.state_text(key, path, text),
                Some(value) => draft.state(key, path, value.clone()),
                None => {}
            }
        }
    }

    /// Leaves by dotted name, of which none of these names is a beginning.
    pub fn others(&self, known: &[&str]) -> Vec<String> {
        const MOST: usize = 400;
        let mut found = Vec::new();
        leaves(self.0, String::new(), known, &mut found);
        found.truncate(MOST);
        found
    }
}

fn leaves(value: &Value, path: String, known: &[&str], found: &mut Vec<String>) {
    let under = |name: &&str| path == **name || path.strip_prefix(*name).is_some_and(|rest| rest.starts_with('.'));
    if !path.is_empty() && known.iter().any(under) {
        return;
    }
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, path, known, found);
            }
        }
        Value::Null => {}
        value => {
            let text: String = value.to_string().chars().take(80).collect();
            found.push(format!("{path}: {text}"));
        }
    }
}
