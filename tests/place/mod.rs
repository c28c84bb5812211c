//! Where tests run the command as its user does: a folder of a test's own.
//!
//! In: a name and a file to start with, then arguments. Out: what the command said, and how it ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder.
pub struct Place(pub PathBuf);

impl Place {
    /// Empty but for a file.
    pub fn new(name: &str, file: &str, text: &str) -> Place {
        let place = Place(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let _ = std::fs::remove_dir_all(&place.0);
        std::fs::create_dir_all(&place.0).unwrap();
        place.write(file, text);
        place
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    /// The command, not started yet, on a terminal so wide that no line is broken. One calibration serves all tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.args(arguments).current_dir(&self.0).env("XDG_CACHE_HOME", cache).env("COLUMNS", "1000");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A command that ends with a code, prints nothing and says why.
    pub fn refused(&self, arguments: &[&str], code: i32, says: &[&str]) {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        says.iter().for_each(|part| assert!(message.contains(part), "`{part}` in: {message}"));
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// What a command that did well printed as JSON.
pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
