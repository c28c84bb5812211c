//! What a command ends with.
//!
//! In: an error of any crate. Out: the code that a shell sees.

/// The codes of a command that ends early; one that does what it was asked for ends with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A file could not be read or written, or there is a fault in Meshwright.
    Failed,
    /// Arguments or a file's contents cannot be used.
    Input,
    /// No plan fits the devices, or none keeps the limits.
    Infeasible,
    /// A device or the communication between ranks failed.
    Device,
    /// A measured step is further from its prediction than asked for.
    Inaccurate,
    /// Training diverged: its loss is no number any more, or it updates nothing.
    Diverged,
    /// A signal of this number ended it: 128 and the number, as shells have it.
    Signal(u8),
}

impl Exit {
    /// What a shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Input => 2,
            Exit::Infeasible => 3,
            Exit::Device => 4,
            Exit::Inaccurate => 5,
            Exit::Diverged => 6,
            Exit::Signal(number) => 128 + number,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl PartialEq<u8> for Exit {
    /// Whether it is what a shell sees.
    fn eq(&self, code: &u8) -> bool {
        self.code() == *code
    }
}
