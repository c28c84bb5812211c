//! What leaves the command: text to stdout and stderr, and every file that it writes.
//!
//! In: `print!`, `println!`, `eprint!`, `eprintln!` of this crate, which stand before the standard ones; paths and texts. Out:
//! text, or the end; files.
//!
//! Invariant: a reader that has read enough, as `head` does, ends the process without a word; nothing panics here. A file is
//! whole or as it was before: it is written aside and renamed, where its links lead to. What is no plain file, as a pipe or a
//! device, is written to, never replaced.

use std::fmt::Arguments;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::FileError;

use crate::failure::Failure;

/// In the name of a file that is not whole yet; the process's number follows.
const UNFINISHED: &str = ".tmp-";

/// Links that lead from one to the next, at most; Linux follows as many.
const LINKS: usize = 40;

/// Writes to stdout. Ends the process where nobody reads any more, and where the text cannot be written.
pub fn out(text: Arguments) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            err(format_args!("error: stdout: {error}\n"));
            std::process::exit(1);
        }
    }
}

/// Writes to stderr, if anybody reads it.
pub fn err(text: Arguments) {
    let _ = std::io::stderr().lock().write_fmt(text);
}

/// Writes a file whole: aside, to disk, then renamed. Where the path leads to a device or a pipe, the text is written to that.
///
/// # Errors
/// Code 1, with the path; a file that was there is there still.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || match target(path)? {
        Destination::Through => OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes()),
        Destination::Replace(file) => replace(&file, text),
    };
    Ok(write().map_err(FileError::write(path))?)
}

/// Writes a table as CSV, whole or not at all. A text that a spreadsheet would take for a formula stands behind a quote.
///
/// # Errors
/// As [`write_whole`].
pub fn write_csv(path: &Path, header: &[&str], records: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let unwritten = |error: csv::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    writer.write_record(header).map_err(unwritten)?;
    for record in records {
        writer.write_record(record.into_iter().map(no_formula)).map_err(unwritten)?;
    }
    let bytes = writer.into_inner().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    write_whole(path, &String::from_utf8_lossy(&bytes))
}

/// A field that spreadsheets show as it is: what begins like a formula, and is no number, begins with a quote (OWASP, CSV
/// injection).
fn no_formula(field: String) -> String {
    let begins = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if begins && field.parse::<f64>().is_err() { format!("'{field}") } else { field }
}

/// Deletes what processes that were killed left half-written in a folder in which nobody writes now.
///
/// # Errors
/// Code 1, with the file.
pub fn delete_unfinished(folder: &Path) -> Result<(), Failure> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(FileError::read(folder))? {
        let (name, path) = (entry.file_name(), entry.path());
        let process = name.to_str().and_then(|name| name.rsplit_once(UNFINISHED)).map(|(_, process)| process);
        let left = process.is_some_and(|process| !process.is_empty() && process.bytes().all(|c| c.is_ascii_digit()));
        if left && path.is_file() {
            fs::remove_file(&path).map_err(FileError::write(&path))?;
        }
    }
    Ok(())
}

/// How a path is written.
enum Destination {
    /// What is there takes the text as it comes.
    Through,
    /// This plain file is replaced, or made.
    Replace(PathBuf),
}

fn target(path: &Path) -> io::Result<Destination> {
    // `/dev/stdout` may lead to a plain file that others write to as well.
    let there = fs::metadata(path).ok().filter(|there| !there.is_file() || path.starts_with("/dev"));
    if there.is_some() {
        return Ok(Destination::Through);
    }
    let mut file = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&file) {
            Ok(to) => file = file.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(Destination::Replace(file)),
        }
    }
    Err(io::Error::other("its links lead in a circle"))
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!("{UNFINISHED}{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let write = || {
        let mut written = File::create(&aside)?;
        written.write_all(text.as_bytes())?;
        if let Ok(there) = fs::metadata(file) {
            written.set_permissions(there.permissions())?;
        }
        written.sync_all()?;
        fs::rename(&aside, file)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

macro_rules! print {
    ($($text:tt)*) => { $crate::out::out(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::out::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::out::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::out::err(format_args!($($text)*)) };
}

macro_rules! eprintln {
    () => { $crate::out::err(format_args!("\n")) };
    ($($text:tt)*) => { $crate::out::err(format_args!("{}\n", format_args!($($text)*))) };
}
