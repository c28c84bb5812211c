//! What a script has set so far, and what is not known.
//!
//! In: what a script is read with. Out: [`Shell`].
//!
//! Invariant: a hole is one sign of a word, whose number says what it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::syntax::{Script, ShellNode};
use super::{FilesBeside, Reading, ScriptInput, Started};

/// Commands that are read, loops and calls counted each time.
const MOST_STEPS: usize = 20_000;
/// Signs of all texts that are made.
const MOST_TEXT: usize = 8 << 20;
/// The first sign that stands for a hole, and how many there are.
const FIRST_HOLE: u32 = 0xF0000;
const MOST_HOLES: usize = 60_000;

/// Why a hole is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A variable that the script sets nowhere.
    Unset,
    /// An argument that was not given.
    Argument,
    /// Something else.
    Other,
}

/// What is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Hole {
    /// As it stands in the script.
    pub spelt: String,
    /// Why it is not known.
    pub why: String,
    /// What kind of thing it is.
    pub(super) lack: Lack,
    /// What it may be: words, for each way.
    pub maybe: Vec<Vec<String>>,
}

/// What comes after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    Break,
    Continue,
    Return,
    Exit,
}

/// How a command ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Well,
    Badly,
    /// Unknown; the condition, for people.
    Unknown(String),
}

impl Ending {
    pub fn of(yes: bool) -> Ending {
        if yes { Ending::Well } else { Ending::Badly }
    }

    pub fn not(self) -> Ending {
        match self {
            Ending::Well => Ending::Badly,
            Ending::Badly => Ending::Well,
            Ending::Unknown(what) => Ending::Unknown(format!("not {what}")),
        }
    }
}

/// What a variable holds.
#[derive(Clone, Debug, PartialEq)]
pub enum ShellValue {
    /// A text.
    One(String),
    /// An array.
    Many(Vec<String>),
    /// An array by names.
    Named(BTreeMap<String, String>),
}

/// The reader of a script.
pub(super) struct Shell<'a> {
    pub given: &'a ScriptInput<'a>,
    pub beside: FilesBeside<'a>,
    pub variables: BTreeMap<String, ShellValue>,
    pub exported: BTreeSet<String>,
    pub functions: BTreeMap<String, Rc<Vec<ShellNode>>>,
    pub arguments: Vec<String>,
    /// Whether the arguments are all there are.
    pub told: bool,
    pub scripts: Vec<Rc<Script>>,
    pub holes: Vec<Hole>,
    pub written: BTreeMap<String, String>,
    pub started: Vec<Started>,
    pub unset: BTreeSet<String>,
    pub notes: Vec<String>,
    pub when: Vec<String>,
    pub steps: usize,
    pub text: usize,
    pub depth: usize,
}

/// Whether a sign stands for a hole.
pub fn is_hole(c: char) -> bool {
    c as u32 >= FIRST_HOLE
}

/// The number of the hole that a sign stands for.
pub fn hole_number(c: char) -> Option<usize> {
    is_hole(c).then(|| (c as u32 - FIRST_HOLE) as usize)
}

/// A word for people.
pub fn shown(holes: &[Hole], word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match hole_number(c).and_then(|number| holes.get(number)) {
            Some(hole) => text += &hole.spelt,
            None => text.push(c),
        }
    }
    text
}

impl<'a> Shell<'a> {
    pub fn new(given: &'a ScriptInput<'a>) -> Shell<'a> {
        let variables = given.environment.iter().map(|(name, value)| (name.clone(), ShellValue::One(value.clone())));
        Shell {
            given,
            beside: given.beside,
            variables: variables.collect(),
            exported: given.environment.keys().cloned().collect(),
            functions: BTreeMap::new(),
            arguments: given.arguments.to_vec(),
            told: !given.arguments.is_empty(),
            scripts: Vec::new(),
            holes: Vec::new(),
            written: BTreeMap::new(),
            started: Vec::new(),
            unset: BTreeSet::new(),
            notes: Vec::new(),
            when: Vec::new(),
            steps: 0,
            text: 0,
            depth: 0,
        }
    }

    /// Everything that was read.
    pub fn reading(self) -> Reading {
        Reading {
            started: self.started,
            written: self.written,
            holes: self.holes,
            unset: self.unset,
            notes: self.notes,
            variables: self.variables,
        }
    }

    /// A word that stands for what is not known.
    pub fn hole(&mut self, spelt: &str, why: impl Into<String>, lack: Lack, maybe: Vec<Vec<String>>) -> String {
        const LONGEST: usize = 120;
        let mut spelt: String = spelt.split_whitespace().collect::<Vec<_>>().join(" ");
        if spelt.chars().count() > LONGEST {
            spelt = spelt.chars().take(LONGEST).chain(['…']).collect();
        }
        if let Some(old) = self.holes.iter().position(|hole| hole.spelt == spelt && hole.maybe == maybe) {
            return sign(old);
        }
        if self.holes.len() < MOST_HOLES {
            self.holes.push(Hole { spelt, why: why.into(), lack, maybe });
        }
        sign(self.holes.len() - 1)
    }

    /// A hole of what the machine alone knows.
    pub fn other(&mut self, spelt: &str, why: &str) -> String {
        self.hole(spelt, why, Lack::Other, Vec::new())
    }

    /// A word for people.
    pub fn show(&self, word: &str) -> String {
        shown(&self.holes, word)
    }

    /// Whether a word is wholly what is set nowhere, or an argument that was not given.
    pub fn lack(&self, word: &str) -> Option<Lack> {
        let mut signs = word.chars();
        let hole = hole_number(signs.next()?).and_then(|number| self.holes.get(number))?;
        signs.next().is_none().then_some(hole.lack)
    }

    /// The first hole of a word.
    pub fn hole_in(&self, word: &str) -> Option<&Hole> {
        word.chars().find_map(|c| hole_number(c).and_then(|number| self.holes.get(number)))
    }

    /// Counts a step; whether there are any left.
    pub fn step(&mut self) -> bool {
        self.steps += 1;
        let left = self.steps < MOST_STEPS && self.text < MOST_TEXT;
        if self.steps == MOST_STEPS || (!left && self.text != usize::MAX) {
            self.text = usize::MAX;
            self.note("the script is longer than is read: what comes after so many commands is left out".to_owned());
        }
        left
    }

    /// Counts a text that was made, and cuts one that is too long.
    pub fn count(&mut self, text: String) -> String {
        self.text = self.text.saturating_add(text.len());
        if self.text > MOST_TEXT { String::new() } else { text }
    }

    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What Slurm sets, from a script's own header.
    pub fn slurm_header(&mut self, text: &str) {
        let mut header: BTreeMap<String, String> = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("#SBATCH")) {
            let line = line.split(" #").next().unwrap_or_default();
            let mut words = line.split_whitespace().peekable();
            while let Some(word) = words.next() {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (word, words.next_if(|next| !next.starts_with('-')).map(str::to_owned)),
                };
                if let Some(value) = value {
                    header.insert(name.to_owned(), value.trim_matches(['"', '\'']).to_owned());
                }
            }
        }
        let of = |names: &[&str]| names.iter().find_map(|name| header.get(*name).cloned());
        let count = |text: String| text.rsplit(':').next().and_then(|count| count.parse::<usize>().ok());
        let Some(nodes) = of(&["--nodes", "-N"]).and_then(|nodes| nodes.split('-').next()?.parse::<usize>().ok())
        else {
            return;
        };
        let gpus = of(&["--gpus-per-node"]).or(of(&["--gres"]).filter(|gres| gres.starts_with("gpu"))).and_then(count);
        let tasks = of(&["--ntasks-per-node", "--tasks-per-node"]).and_then(count);
        let total = of(&["--ntasks", "-n"]).and_then(count).or(tasks.map(|tasks| tasks.saturating_mul(nodes)));
        let tasks = tasks.or(total.filter(|total| nodes > 0 && total.is_multiple_of(nodes)).map(|total| total / nodes));
        let mut set = |names: &[&str], value: Option<usize>| {
            for name in names.iter().filter(|_| value.is_some()) {
                let value = ShellValue::One(value.unwrap_or_default().to_string());
                self.variables.entry((*name).to_owned()).or_insert(value);
            }
        };
        set(&["SLURM_NNODES", "SLURM_JOB_NUM_NODES"], Some(nodes));
        set(&["SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"], gpus);
        set(&["SLURM_NTASKS_PER_NODE"], tasks);
        set(&["SLURM_NTASKS", "SLURM_NPROCS"], total.or(Some(nodes)));
        let cpus = of(&["--cpus-per-task", "-c"]).and_then(count);
        set(&["SLURM_CPUS_PER_TASK"], cpus);
        set(&["SLURM_GPUS"], gpus.map(|gpus| gpus.saturating_mul(nodes)));
        if let Some(name) = of(&["--job-name", "-J"]) {
            self.variables.entry("SLURM_JOB_NAME".to_owned()).or_insert(ShellValue::One(name));
        }
    }
}

fn sign(number: usize) -> String {
    char::from_u32(FIRST_HOLE + number as u32).unwrap_or('\u{FFFD}').to_string()
}
