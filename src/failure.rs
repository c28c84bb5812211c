//! What ends a command: a message and an exit code.
//!
//! Codes: 1 a file could not be read or written, or a bug; 2 bad input; 3 nothing fits; 4 a device or its communication
//! failed; 5 a measured run strayed further from its prediction than asked for.

use meshwright_executor::ExecutorError;
use meshwright_hardware::price::PriceError;
use meshwright_hardware::profile::ProfileError;
use meshwright_hardware::simulate::SimulateError;
use meshwright_planner::PlanError;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What, where, why, and what would do.
    pub message: String,
    /// What the process ends with.
    pub code: u8,
}

impl Failure {
    /// The user's mistake.
    pub fn input(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: 2 }
    }

    /// For `map_err`: a system error with its file.
    pub fn io(path: impl AsRef<std::path::Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |error| Failure { message: format!("{path}: {error}"), code: 1 }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Failure { message: error.to_string(), code: error.exit_code() }
    }
}

impl From<ExecutorError> for Failure {
    fn from(error: ExecutorError) -> Self {
        Failure { message: error.to_string(), code: error.exit_code() }
    }
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Self {
        Failure::input(error.to_string())
    }
}

impl From<PriceError> for Failure {
    fn from(error: PriceError) -> Self {
        Failure::input(error.to_string())
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        Failure { message: format!("internal error, please report it: {error}"), code: 1 }
    }
}
