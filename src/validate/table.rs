//! A table of published runs.
//!
//! In: CSV. Out: a [`Line`] a record, in their order.
//!
//! Invariant: what a column holds is what it may hold; what is not read is said.

use std::collections::{BTreeMap, HashMap};

use meshwright_hardware::input::{Fault, InputError, near};

use super::{Run, Skip, row};
use crate::failure::Failure;

/// A line: its name, and its run or why there is none.
pub struct Line {
    /// Its name.
    pub id: String,
    /// Its run.
    pub run: Result<Run, Skip>,
}

/// Every line of a table, and what of it is not read, a sentence each.
///
/// # Errors
/// With file, line and column: a column that is missing, a value that is none of its column's; or that no line has a run.
pub fn read_table(file: &str, text: &str) -> Result<(Vec<Line>, Option<String>), Failure> {
    let (mut rows, note) = rows(file, text)?;
    row::complete(&mut rows);
    let line = |columns: &CsvRow| Line { id: columns.get("id").cloned().unwrap_or_default(), run: row::read(columns) };
    let lines: Vec<Line> = rows.iter().map(line).collect();
    if lines.iter().all(|line| line.run.is_err()) {
        return Err(nothing(file, "predicted", &count(lines.iter().filter_map(|line| line.run.as_ref().err()))));
    }
    Ok((lines, note))
}

/// What a row has, by column.
type CsvRow = HashMap<String, String>;

/// Every row, whose numbers are such; and which columns are not read.
fn rows(what: &str, text: &str) -> Result<(Vec<CsvRow>, Option<String>), Failure> {
    let fault = |error: csv::Error| Failure::input(format!("{what}: {error}; a table of runs is CSV with a header"));
    let body = text.trim_start_matches('\u{feff}'); // spreadsheets write it
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body.as_bytes());
    let header: Vec<String> = reader.headers().map_err(fault)?.iter().map(str::to_owned).collect();
    for column in row::COLUMNS.iter().filter(|column| column.needed) {
        if !header.iter().any(|name| name == column.name) {
            let (name, columns) = (column.name, header.len());
            return Err(Failure::input(format!(
                "{what}: column `{name}` is missing; the header has {columns} columns, `validate --columns` lists all"
            )));
        }
    }
    let note = unread(&header);
    let columns: Vec<_> = header.iter().map(|name| row::column(name)).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(fault)?;
        for (at, value) in record.iter().map(str::trim).enumerate().filter(|(_, value)| !value.is_empty()) {
            if let Some(problem) = columns.get(at).and_then(|column| column.as_ref()?.problem(value)) {
                let start = record.position().map_or(0, |position| position.byte() as usize);
                let fault = Fault::new(&header[at], value, problem);
                return Err(InputError::of_csv_fault(what, body, (start, at), &fault).into());
            }
        }
        rows.push(header.iter().zip(&record).map(|(name, value)| (name.clone(), value.to_owned())).collect());
    }
    Ok((rows, note))
}

/// Which columns of a table are not read, and what they may have been meant to be.
fn unread(header: &[String]) -> Option<String> {
    let strange = header.iter().filter(|name| row::column(name).is_none());
    let (mut misspelt, mut others) = (Vec::new(), Vec::new());
    for name in strange {
        let absent = row::COLUMNS
            .iter()
            .map(|column| column.name)
            .filter(|known| known.len() > 2 && !header.iter().any(|h| h == known));
        match near(name, absent).first() {
            Some(meant) => misspelt.push(format!("`{name}` (did you mean `{meant}`?)")),
            None => others.push(format!("`{name}`")),
        }
    }
    misspelt.extend(others);
    (!misspelt.is_empty()).then(|| format!("columns that are not read: {}", misspelt.join(", ")))
}

/// How often each reason stands there.
pub fn count<'a>(skips: impl Iterator<Item = &'a Skip>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for skip in skips {
        *counts.entry(skip.reason).or_default() += 1;
    }
    counts
}

/// Of a table of which nothing can be said.
pub fn nothing(what: &str, done: &str, reasons: &BTreeMap<&str, usize>) -> Failure {
    let rows: usize = reasons.values().sum();
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Failure::input(match rows {
        0 => format!("{what}: nothing can be {done}: below its header there is no row"),
        _ => format!("{what}: nothing can be {done}, of {rows} rows: {}", reasons.join("; ")),
    })
}
