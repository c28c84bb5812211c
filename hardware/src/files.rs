//! Files that a user names: profiles, models, jobs, plans, tables of runs, logs, text.
//!
//! In: a path. Out: what it holds, or why it cannot be read: a [`FileError`], in the same words whatever the file is for.
//!
//! Invariant: reading ends, and takes little memory, whatever the path names.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// The largest text that is read: many times what a plan, a configuration or a table of published runs needs.
const MOST_BYTES: u64 = 4 << 20;

/// A file or folder that could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {doing} {file}: {problem}")]
pub struct FileError {
    /// Path as given.
    pub file: String,
    /// What the system makes of it.
    pub kind: ErrorKind,
    /// What is wrong.
    pub problem: String,
    doing: &'static str,
}

impl FileError {
    /// For `map_err`: why a file or folder cannot be read.
    pub fn read(path: impl AsRef<Path>) -> impl FnOnce(Error) -> Self {
        FileError::of("read", path.as_ref())
    }

    /// For `map_err`: why a file or folder cannot be written or made.
    pub fn write(path: impl AsRef<Path>) -> impl FnOnce(Error) -> Self {
        FileError::of("write", path.as_ref())
    }

    fn of(doing: &'static str, path: &Path) -> impl FnOnce(Error) -> Self + use<> {
        let file = path.display().to_string();
        move |error| {
            let problem = match error.kind() {
                ErrorKind::NotFound if doing == "read" => "there is no such file or folder".to_owned(),
                _ => error.to_string(),
            };
            FileError { file, kind: error.kind(), problem, doing }
        }
    }
}

/// The text of a plain file, or of what a link to one leads to.
///
/// # Errors
/// The operating system's, or one that says that the file is none, too large, or no text.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, FileError> {
    let path = path.as_ref();
    let bytes = read_bytes(path, MOST_BYTES)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        FileError::read(path)(Error::other(format!("it is no text in UTF-8 at line {line}")))
    })
}

/// What a plain file holds, so many bytes at most. A pipe could wait for ever, and a device never end.
///
/// # Errors
/// The operating system's, or one that says that the file is none, or too large.
pub fn read_bytes(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>, FileError> {
    let path = path.as_ref();
    let read = || {
        if !fs::metadata(path)?.is_file() {
            return Err(Error::other("it is no plain file but a folder, device or pipe; give a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(Error::other(format!("it has more than the {} MiB that such files may have", most >> 20)));
        }
        Ok(bytes)
    };
    read().map_err(FileError::read(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_text_are_read() {
        let folder = std::env::temp_dir().join(format!("meshwright-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(folder.join(name), bytes).unwrap();
            read_text(folder.join(name)).map_err(|error| error.to_string())
        };
        assert_eq!(file("good", "a\nü".as_bytes()).unwrap(), "a\nü");
        assert!(file("bad", b"a\nb\n\xff").unwrap_err().contains("line 3"));
        assert!(read_text(&folder).unwrap_err().to_string().contains("no plain file"));
        let missing = read_text(folder.join("none")).unwrap_err();
        assert!(missing.kind == ErrorKind::NotFound && missing.to_string().starts_with("cannot read "), "{missing}");
        File::create(folder.join("large")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(read_text(folder.join("large")).unwrap_err().to_string().contains("4 MiB"));
        fs::remove_dir_all(folder).unwrap();
    }
}
