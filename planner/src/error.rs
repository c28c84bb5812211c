//! What can be wrong with a model, a job, a plan or a search; each message says where it is.
//!
//! In: TOML's complaint, a failed check, or a search's tally. Out: one [`PlanError`], which knows its exit code.

use std::collections::BTreeMap;

use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::FileError;
use meshwright_hardware::input::InputError;
use meshwright_hardware::price::PriceError;
use meshwright_hardware::profile::ProfileError;
use meshwright_hardware::verify::VerifyError;

pub use meshwright_hardware::input::Fault;

/// A model, job or plan that cannot be used, or a search that found nothing.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text does not parse, or a value in it is refused.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No model file has this name.
    #[error(
        "unknown model `{name}`{meant}; known: {known}; or give a path ending in .toml, one to a config.json or its folder, or \
         `org/name` of the hub's local cache"
    )]
    UnknownModel {
        /// The name as given.
        name: String,
        /// Which near ones may be meant, as a question.
        meant: String,
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
    /// What a command that fails so ends with.
    pub fn exit_code(&self) -> Exit {
        match self {
            PlanError::Infeasible { .. } => Exit::Infeasible,
            PlanError::File(_) | PlanError::Profile(ProfileError::File(_)) | PlanError::Unsound(_) => Exit::Failed,
            PlanError::Input(_)
            | PlanError::UnknownModel { .. }
            | PlanError::Unknown { .. }
            | PlanError::Sites { .. }
            | PlanError::Profile(_)
            | PlanError::Price(_) => Exit::Input,
        }
    }

    /// Of TOML's complaint about `text`.
    pub(crate) fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        InputError::of_toml(file, text, error).into()
    }

    /// Of a failed check.
    pub(crate) fn of_fault(file: &str, text: &str, fault: Fault) -> Self {
        InputError::of_fault(file, text, &fault).into()
    }
}

fn reasons(rejected: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<_> = rejected.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    all.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join("; ")
}
