//! What can be wrong with a profile or a cluster's name; each message names file, line, key and value.
//!
//! In: a file's text and TOML's complaint or a failed check. Out: one [`ProfileError`].

use super::system::Fault;

/// A profile that cannot be used, or a name that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read {file}: {problem}")]
    Read {
        /// Path as given.
        file: String,
        /// The operating system's reason.
        problem: String,
    },
    /// The text is not TOML, or not a profile: a missing or unknown key, a value that does not parse.
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
    /// Every key reads, but the figures contradict each other.
    #[error("{file}:{line}: `{key}` is {value}: {problem}")]
    Contradiction {
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
    /// No profile has this name.
    #[error("unknown {kind} `{name}`; {near}`meshwright hardware list` shows all")]
    Unknown {
        /// Device, system, or either.
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
        let (line, key_and_value) = place_of(text, error);
        ProfileError::Text { file: file.to_owned(), line, key_and_value, problem: error.message().to_owned() }
    }

    /// Of a failed check: the line is the first that sets the key.
    pub(super) fn of_fault(file: &str, text: &str, fault: Fault) -> Self {
        let key = fault.key.rsplit('.').next().unwrap_or(fault.key);
        let sets = |line: &str| {
            let rest = line.trim_start().strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let line = text.lines().position(sets).map_or(1, |at| at + 1);
        let Fault { key, value, problem } = fault;
        ProfileError::Contradiction { file: file.to_owned(), line, key: key.to_owned(), value, problem }
    }
}

/// Where TOML complains: the line, from 1, and what stands on it.
pub fn place_of(text: &str, error: &toml::de::Error) -> (usize, String) {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text[..start].matches('\n').count() + 1;
    (line, text.lines().nth(line - 1).unwrap_or_default().trim().to_owned())
}
