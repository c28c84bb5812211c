//! What a kind of device gives the table of devices: its code, and what it finds.
//!
//! In: nothing. Out: a driver's functions, a device's name, what is known of a device that is there.
//!
//! Invariant: a name means the same device as long as the machine and its drivers are the same.

use std::fmt;

use meshwright_hardware::mesh::Rank;
use meshwright_hardware::program::Buffer;

use super::Device;
use crate::error::ExecutorError;

/// The code of a kind of device.
pub struct Driver {
    /// The devices of this machine, by number, usable or not; at least one. [`LocalDevice::name`] is set by who calls.
    pub(super) find: fn() -> Vec<LocalDevice>,
    /// Allocates a rank's buffers, all zeros, on one; the last argument is threads of a processor.
    pub(super) open: Open,
}

/// Allocates the buffers of a rank.
type Open = fn(Backend, Rank, &[Buffer], usize) -> Result<Box<dyn Device>, ExecutorError>;

/// A device by name: which kind, and of several which. It is read from text, by the table of devices; the usual one is the
/// processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    pub(super) name: &'static str,
    pub(super) number: Option<usize>,
}

impl Backend {
    /// Processor cores.
    pub const CPU: Backend = Backend { name: "cpu", number: None };

    /// Which of its kind.
    pub fn number(self) -> usize {
        self.number.unwrap_or(0)
    }

    /// That a rank cannot use it.
    pub(super) fn failed(self, rank: Rank, problem: String) -> ExecutorError {
        ExecutorError::Device { device: self.to_string(), rank, problem }
    }
}

impl Default for Backend {
    fn default() -> Backend {
        Backend::CPU
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}:{number}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Whose memory a device has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// The host's, as processors and integrated GPUs.
    #[default]
    Host,
    /// Its own.
    Own,
    /// Its own, but its driver does not tell how much.
    Untold,
}

/// A device of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalDevice {
    /// What `--device` calls it.
    pub name: String,
    /// What it calls itself.
    pub title: String,
    /// Interface and driver, with versions.
    pub driver: String,
    /// The library that runs ops on it, with its version.
    pub library: String,
    /// Whether host memory and cores are all it has.
    pub software: bool,
    /// Whose memory it has.
    pub memory: Memory,
    /// Bytes of it; where that is [`Memory::Untold`], of the largest buffer.
    pub memory_bytes: u64,
    /// Bytes of the largest buffer, where there is a limit.
    pub largest_buffer: Option<u64>,
    /// Why it cannot be used, if it cannot.
    pub problem: Option<String>,
}

impl LocalDevice {
    /// That there is none, and why.
    pub(super) fn absent(problem: impl Into<String>) -> LocalDevice {
        LocalDevice { problem: Some(problem.into()), ..LocalDevice::default() }
    }
}
