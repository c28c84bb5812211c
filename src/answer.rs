//! What a command says beside its answer, and its answer as JSON.
//!
//! In: notes and warnings, as they come up; a document. Out: lines on stderr; the document on stdout, with its schema's name and all
//! that was said.
//!
//! Invariant: a note that `--quiet` keeps from stderr still stands in the document.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicBool = AtomicBool::new(false);
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From here on notes are not shown.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether only answers, warnings and errors are wanted.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// From here on what takes long is followed closely.
pub fn be_verbose() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// Whether what takes long is followed closely.
pub fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Says what was taken for granted, or left out.
pub fn note(text: &str) {
    keep(text);
    if !is_quiet() {
        eprintln!("note: {text}");
    }
}

/// Says what is being done, where that takes long.
pub fn progress(text: &str) {
    if !is_quiet() {
        eprintln!("{text}");
    }
}

/// Says what went wrong, or may have.
pub fn warn(text: &str) {
    keep(text);
    eprintln!("warning: {text}");
}

fn keep(text: &str) {
    SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(text.to_owned());
}

/// Prints a document of a kind: `schema` names the kind and its version, `warnings` is all that was said. A list stands under the
/// kind's name.
pub fn print(kind: &str, document: Value) {
    let mut document = match document {
        Value::Object(_) => document,
        list => json!({ kind: list }),
    };
    document["schema"] = format!("meshwright.{kind}/1").into();
    document["warnings"] = json!(*SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    println!("{document}");
}
