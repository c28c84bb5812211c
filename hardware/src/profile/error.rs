//! What can be wrong with a profile or a cluster's name; each message says where it is.
//!
//! In: a file's text and TOML's complaint or a failed check. Out: one [`ProfileError`].

use crate::files::FileError;
use crate::input::{Fault, InputError};

/// A profile that cannot be used, or a name that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text is no profile, or its figures contradict each other.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No profile has this name.
    #[error("unknown {kind} `{name}`; {near}`meshwright {list}` shows all", list = list_of(.kind))]
    Unknown {
        /// Device, system, either, or stack.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// Near names, as a clause.
        near: String,
    },
    /// A cluster's text that is not `COUNTx NAME [+ COUNTx NAME …]` or a path ending in `.toml`.
    #[error(
        "cannot read cluster `{text}`: {problem}; write for example `16x dgx-a100-80gb`, or a path ending in .toml"
    )]
    Cluster {
        /// The text as given.
        text: String,
        /// What is wrong.
        problem: String,
    },
}

impl ProfileError {
    /// Of TOML's complaint about `text`.
    pub(super) fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        InputError::of_toml(file, text, error).into()
    }

    /// Of a failed check.
    pub(super) fn of_fault(file: &str, text: &str, fault: Fault) -> Self {
        InputError::of_fault(file, text, &fault).into()
    }
}

/// The command that lists all of a kind.
fn list_of(kind: &str) -> &'static str {
    if kind == "stack" { "stacks" } else { "hardware list" }
}
