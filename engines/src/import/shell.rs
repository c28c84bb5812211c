//! Launch scripts: which commands they would start, with which arguments. They are read, never run.
//!
//! In: a script of bash, arguments, variables that the user names, and the files beside it. Out: [`Reading`]: commands, texts of
//! files that it writes, and what nobody can know from it.
//!
//! What a script asks of the machine (`$(hostname)`, a variable that is set nowhere) is a *hole*: one sign of a word that stands
//! for what is not known. Branches on what is not known are both read; where they set a variable differently it has a hole.
//!
//! Invariant: reading ends within bounded steps, depth and text; no process is started, and nothing is read but what `beside` gives.

use std::collections::{BTreeMap, BTreeSet};

mod arithmetic;
mod assign;
mod commands;
mod compound;
mod condition;
mod expand;
mod glob;
mod parameter;
mod parser;
mod run;
mod simple;
mod state;
mod syntax;
mod words;

pub use state::{Hole, ShellValue, is_hole};

/// The text of a file beside the script, by its name; nothing where there is none or it is not to be read.
pub type FilesBeside<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A command that a script would start.
#[derive(Clone, Debug)]
pub struct Started {
    /// Name and arguments, with holes.
    pub words: Vec<String>,
    /// Variables of its environment that the script sets.
    pub environment: BTreeMap<String, String>,
    /// Line of the script.
    pub line: usize,
    /// Conditions, each unknown, under which it is started.
    pub when: Vec<String>,
}

/// What is read of a script.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Commands, in order.
    pub started: Vec<Started>,
    /// Files that it writes, by name, with holes.
    pub written: BTreeMap<String, String>,
    /// What is not known, by the number in a hole's sign.
    pub holes: Vec<Hole>,
    /// Variables that are set nowhere and were taken as such.
    pub unset: BTreeSet<String>,
    /// What else is to be known of the reading.
    pub notes: Vec<String>,
    /// Variables at the end.
    pub variables: BTreeMap<String, ShellValue>,
}

/// What a script is read with.
pub struct ScriptInput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Its arguments, if they are known.
    pub arguments: &'a [String],
    /// Variables of the environment that are known.
    pub environment: &'a BTreeMap<String, String>,
    /// Files beside it.
    pub beside: FilesBeside<'a>,
}

/// Reads a script.
///
/// # Errors
/// What cannot be read, with its line.
pub fn read(given: &ScriptInput) -> Result<Reading, String> {
    // Signs that mark holes are no signs of a script's.
    let text: String = given.text.chars().filter(|c| !state::is_hole(*c)).collect();
    let script = parser::parse(&text)?;
    let mut shell = state::Shell::new(given);
    shell.slurm_header(&text);
    shell.run_script(script);
    Ok(shell.reading())
}

impl Reading {
    /// A word for people: holes by what stands in the script.
    pub fn shown(&self, word: &str) -> String {
        state::shown(&self.holes, word)
    }

    /// The first hole of a word.
    pub fn hole(&self, word: &str) -> Option<&Hole> {
        word.chars().find_map(|c| state::hole_number(c).and_then(|number| self.holes.get(number)))
    }
}
