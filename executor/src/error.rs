//! What can go wrong while a program runs, and the exit code each kind ends the command with.
//!
//! Invariant: a message names the thing, where it is and why it is wrong; the user's mistakes also say what to do.

use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::FileError;
use meshwright_hardware::mesh::Rank;

/// Any failure of the executor.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// Something the user gave is wrong.
    #[error("{what} `{place}`: {why}; {fix}")]
    BadInput {
        /// What kind of thing: "text", "checkpoint", "parameter".
        what: String,
        /// Which one: a path, or a key and its value.
        place: String,
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        fix: String,
    },
    /// A device refused or failed an operation.
    #[error("device {device}, rank {rank}: {problem}")]
    Device {
        /// The device's name.
        device: String,
        /// Whose part of the program it ran.
        rank: Rank,
        /// What failed.
        problem: String,
    },
    /// Communication failed.
    #[error("communication of rank {rank}: {problem}")]
    Transport {
        /// The rank that noticed.
        rank: Rank,
        /// What failed.
        problem: String,
    },
    /// This rank stopped because another one failed; that one's error is the cause.
    #[error("rank {rank} stopped because another rank failed")]
    PeerFailed {
        /// The rank that stopped.
        rank: Rank,
    },
    /// Training gets nowhere any more.
    #[error(
        "training diverged at step {step}: {problem}; take a lower `lr` or a longer warm-up; checkpoints of earlier steps are kept"
    )]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// What is not finite, and since when.
        problem: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ExecutorError {
    /// A [`ExecutorError::BadInput`] from anything that is text.
    pub fn bad_input(
        what: impl Into<String>,
        place: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        ExecutorError::BadInput { what: what.into(), place: place.into(), why: why.into(), fix: fix.into() }
    }

    /// Of a rank for which the system has no thread.
    pub(crate) fn no_thread(device: impl ToString, rank: Rank, error: &std::io::Error) -> Self {
        let problem = format!("no thread for it: {error}; raise the limit of processes, or take fewer ranks");
        ExecutorError::Device { device: device.to_string(), rank, problem }
    }

    /// All ranks' outcomes, or the first failure; one of a rank that only stopped for another's sake says nothing.
    pub(crate) fn first<T>(mut outcomes: Vec<Result<T, Self>>) -> Result<Vec<T>, Self> {
        let own =
            |outcome: &Result<T, Self>| matches!(outcome, Err(e) if !matches!(e, ExecutorError::PeerFailed { .. }));
        if let Some(failed) = outcomes.iter().position(own) {
            outcomes.swap(0, failed);
        }
        outcomes.into_iter().collect()
    }

    /// What a command that fails so ends with.
    pub fn exit_code(&self) -> Exit {
        match self {
            ExecutorError::BadInput { .. } => Exit::Input,
            ExecutorError::Device { .. } | ExecutorError::Transport { .. } | ExecutorError::PeerFailed { .. } => {
                Exit::Device
            }
            ExecutorError::Diverged { .. } => Exit::Diverged,
            ExecutorError::File(_) => Exit::Failed,
        }
    }
}
