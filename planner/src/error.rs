//! What can be wrong with a model, a job, a plan or a search; each message names file, line, key and value.
//!
//! In: TOML's complaint, a failed check, or a search's tally. Out: one [`PlanError`], which knows its exit code.

use std::collections::BTreeMap;

use meshwright_hardware::price::PriceError;
use meshwright_hardware::profile::{ProfileError, place_of};
use meshwright_hardware::verify::VerifyError;

/// A model, job or plan that cannot be used, or a search that found nothing.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("cannot read {file}: {problem}")]
    Read {
        /// Path as given.
        file: String,
        /// The operating system's reason.
        problem: String,
    },
    /// The text is not TOML, or holds an unknown key, a missing one or a value of the wrong type.
    #[error("{file}:{line}: {problem}, at `{key_and_value}`")]
    Text {
        /// Path as given, or the embedded file's.
        file: String,
        /// Line, from 1.
        line: usize,
        /// That line: the key and its value.
        key_and_value: String,
        /// What is wrong and what would do.
        problem: String,
    },
    /// Every key reads, but a value is out of range or contradicts another.
    #[error("{file}:{line}: `{key}` is {value}: {problem}")]
    Value {
        /// Path as given, or the embedded file's.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong and what would do.
        problem: String,
    },
    /// No model file has this name.
    #[error("unknown model `{name}`; known: {known}; or give a path ending in .toml, or to a config.json")]
    UnknownModel {
        /// The name as given.
        name: String,
        /// All known names.
        known: String,
    },
    /// Nothing in the space can run.
    #[error("no plan fits: {considered} considered, {}", reasons(.rejected))]
    Infeasible {
        /// Candidates looked at.
        considered: usize,
        /// How many fell for which reason.
        rejected: BTreeMap<String, usize>,
    },
    /// A goal needs a figure that a profile does not have.
    #[error("{wanted} needs {what}; {without} has none")]
    Unknown {
        /// The goal.
        wanted: String,
        /// The figure.
        what: String,
        /// The pools without.
        without: String,
    },
    /// A plan for another number of sites than the cluster has.
    #[error(
        "the plan is for {plan} sites, the cluster has {cluster}; write `[sites]` with `count = {cluster}` into the plan for \
         several, or name the cluster as `{plan}x(…) @ 10 Gbit/s 50 ms`"
    )]
    Sites {
        /// Of the plan.
        plan: usize,
        /// Of the cluster.
        cluster: usize,
    },
    /// The cluster's profile is not usable.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The program cannot be priced on the cluster.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A lowered program is unsound: a bug here, never the user's.
    #[error("internal error, please report it: the lowered program is unsound: {0}")]
    Unsound(#[from] VerifyError),
}

impl PlanError {
    /// What a process ends with: 2 for bad input, 3 where nothing fits, 1 for a bug.
    pub fn exit_code(&self) -> u8 {
        match self {
            PlanError::Infeasible { .. } => 3,
            PlanError::Unsound(_) => 1,
            PlanError::Read { .. }
            | PlanError::Text { .. }
            | PlanError::Value { .. }
            | PlanError::UnknownModel { .. }
            | PlanError::Unknown { .. }
            | PlanError::Sites { .. }
            | PlanError::Profile(_)
            | PlanError::Price(_) => 2,
        }
    }

    /// The text of a file.
    pub(crate) fn text_of(file: &str) -> Result<String, PlanError> {
        std::fs::read_to_string(file)
            .map_err(|error| PlanError::Read { file: file.to_owned(), problem: error.to_string() })
    }

    /// Of TOML's complaint about `text`.
    pub(crate) fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let (line, key_and_value) = place_of(text, error);
        PlanError::Text { file: file.to_owned(), line, key_and_value, problem: error.message().to_owned() }
    }

    /// Of a failed check: the line is the first that sets the key's last part.
    pub(crate) fn of_fault(file: &str, text: &str, fault: Fault) -> Self {
        let last = fault.key.rsplit('.').next().unwrap_or(&fault.key);
        let sets = |line: &str| {
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '=' || c == '-'));
            words.any(|word| word.trim_end_matches('=') == last) && line.contains('=')
        };
        let line = text.lines().position(sets).map_or(1, |at| at + 1);
        PlanError::Value { file: file.to_owned(), line, key: fault.key, value: fault.value, problem: fault.problem }
    }
}

/// A value that a check refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The key, dotted.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong and what would do.
    pub problem: String,
}

impl Fault {
    /// A refusal of `value` at `key`.
    pub fn new(key: &str, value: impl ToString, problem: impl Into<String>) -> Self {
        Fault { key: key.to_owned(), value: value.to_string(), problem: problem.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is {}: {}", self.key, self.value, self.problem)
    }
}

fn reasons(rejected: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<_> = rejected.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    all.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join("; ")
}
