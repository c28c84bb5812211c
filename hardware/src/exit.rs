//! What a command ends with.
//!
//! In: an error of any crate. Out: the code that a shell sees.

/// The codes of a command that ends early; one that does what it was asked for ends with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A file could not be read or written, or there is a fault in Meshwright.
    Failed = 1,
    /// Arguments or a file's contents cannot be used.
    Input = 2,
    /// No plan fits the devices, or none keeps the limits.
    Infeasible = 3,
    /// A device or the communication between ranks failed.
    Device = 4,
    /// A measured step is further from its prediction than asked for.
    Inaccurate = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

impl PartialEq<u8> for Exit {
    /// Whether it is what a shell sees.
    fn eq(&self, code: &u8) -> bool {
        *self as u8 == *code
    }
}
