//! What goes to stdout and stderr, through one place.
//!
//! In: `print!`, `println!`, `eprint!`, `eprintln!` of this crate, which stand before the standard ones. Out: text, or the end.
//!
//! Invariant: a reader that has read enough, as `head` does, ends the process without a word; nothing panics here.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

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
