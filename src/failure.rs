//! What ends a command early: a message, an exit code, and the place in a user's text if it is about one.
//!
//! In: errors of the three crates. Out: one line that can be searched, `FILE:LINE:COLUMN: what; what would do`, or on a terminal
//! the line of the file with what is wrong marked.
//!
//! Invariant: no control character of an input reaches the terminal.

use std::ops::Range;

use codespan_reporting::diagnostic::{Diagnostic, Label};
use codespan_reporting::files::{Error as FilesError, Files};
use codespan_reporting::term;
use meshwright_executor::ExecutorError;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::FileError;
use meshwright_hardware::input::InputError;
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
    pub exit: Exit,
    /// The place in a user's text that it is about.
    pub input: Option<Box<InputError>>,
}

impl Failure {
    /// A failure that is about no place in a text.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { message: message.into(), exit, input: None }
    }

    /// The user's mistake.
    pub fn input(message: impl Into<String>) -> Self {
        Failure::new(Exit::Input, message)
    }

    /// What stderr shows: the line of the file too, if it is a terminal.
    pub fn report(&self, terminal: bool) -> String {
        let shown = self.input.as_ref().filter(|_| terminal).and_then(|input| excerpt(input).ok());
        let text = shown.unwrap_or_else(|| format!("error: {}", self.message));
        text.trim_end().lines().map(printable).collect::<Vec<_>>().join("\n")
    }
}

/// A line as a terminal can show it: it may hold what came from a file.
fn printable(line: &str) -> String {
    const LONGEST: usize = 2000;
    let safe = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let more = line.chars().count().saturating_sub(LONGEST);
    let tail = if more > 0 { format!(" … and {more} characters more") } else { String::new() };
    line.chars().take(LONGEST).map(safe).collect::<String>() + &tail
}

/// The problem, and below it the line that it is about.
fn excerpt(input: &InputError) -> Result<String, FilesError> {
    let label = Label::primary((), input.at.mark.clone());
    let diagnostic = Diagnostic::error().with_message(&input.problem).with_labels(vec![label]);
    term::emit_into_string(&term::Config::default(), &SourceLine(input), &diagnostic)
}

/// One line of a file, as codespan wants files.
struct SourceLine<'a>(&'a InputError);

impl<'a> Files<'a> for SourceLine<'_> {
    type FileId = ();
    type Name = &'a str;
    type Source = &'a str;

    fn name(&'a self, (): ()) -> Result<&'a str, FilesError> {
        Ok(&self.0.file)
    }

    fn source(&'a self, (): ()) -> Result<&'a str, FilesError> {
        Ok(&self.0.at.excerpt)
    }

    fn line_index(&'a self, (): (), _: usize) -> Result<usize, FilesError> {
        Ok(0)
    }

    fn line_number(&'a self, (): (), _: usize) -> Result<usize, FilesError> {
        Ok(self.0.at.line)
    }

    fn column_number(&'a self, (): (), _: usize, _: usize) -> Result<usize, FilesError> {
        Ok(self.0.at.column)
    }

    fn line_range(&'a self, (): (), _: usize) -> Result<Range<usize>, FilesError> {
        Ok(0..self.0.at.excerpt.len())
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Failure { message: error.to_string(), exit: Exit::Input, input: Some(Box::new(error)) }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Failure::new(Exit::Failed, error.to_string())
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Input(error) | PlanError::Profile(ProfileError::Input(error)) => error.into(),
            _ => Failure::new(error.exit_code(), error.to_string()),
        }
    }
}

impl From<ExecutorError> for Failure {
    fn from(error: ExecutorError) -> Self {
        Failure::new(error.exit_code(), error.to_string())
    }
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Self {
        PlanError::from(error).into()
    }
}

impl From<PriceError> for Failure {
    fn from(error: PriceError) -> Self {
        PlanError::from(error).into()
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        Failure::new(Exit::Failed, format!("internal error, please report it: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwright_hardware::input::Fault;

    fn failure() -> Failure {
        let fault = Fault::new("stages[1].layers", 0, "a stage has a layer at least");
        InputError::of_fault("bad.toml", "[[stages]]\nlayers = 8\n[[stages]]\nlayers = 0\n", &fault).into()
    }

    #[test]
    fn away_from_a_terminal_it_is_one_line_that_can_be_searched() {
        let text = failure().report(false);
        assert_eq!(text, "error: bad.toml:4:10: `stages[1].layers` is 0: a stage has a layer at least");
    }

    #[test]
    fn on_a_terminal_the_line_is_shown_and_marked() {
        let text = failure().report(true);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "error: `stages[1].layers` is 0: a stage has a layer at least");
        assert!(lines[1].ends_with("bad.toml:4:10"), "{text}");
        assert_eq!(lines[3], "4 │ layers = 0");
        assert_eq!(lines[4], "  │          ^");
    }

    #[test]
    fn control_characters_and_endless_lines_do_not_reach_the_terminal() {
        let text = Failure::input("cannot read \u{1b}[31mred\u{7}\n  help").report(true);
        assert_eq!(text, "error: cannot read \\u{1b}[31mred\\u{7}\n  help");
        let text = Failure::input("x".repeat(1_000_000)).report(false);
        assert!(text.len() < 2100 && text.ends_with("and 998007 characters more"), "{text}");
    }
}
