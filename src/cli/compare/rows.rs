//! RowsSoFar of `compare`: written as they come, and read again from a table that was stopped.
//!
//! In: [`Planned`], or a CSV file of before. Out: [`ScenarioRow`]s, in the scenarios' order, on disk and for table and page.
//!
//! Invariant: a row that is kept is written as it was read, byte for byte; one is kept only where its scenario's hash is the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::columns::{COLUMNS, ScenarioColumn};
use super::planned::{Planned, Ready};
use crate::failure::Failure;
use crate::out::write_csv;

/// Between two writes of a table that is not whole yet.
const PAUSE: Duration = Duration::from_secs(2);

/// A value a column.
#[derive(Clone, Debug, PartialEq)]
pub struct ScenarioRow(Vec<Value>);

impl ScenarioRow {
    /// Of an answer.
    pub fn of(planned: &Planned) -> Self {
        ScenarioRow(COLUMNS.iter().map(|column| column.value(planned)).collect())
    }

    fn read(record: &csv::StringRecord) -> Self {
        ScenarioRow(record.iter().map(read_cell).collect())
    }

    fn value(&self, name: &str) -> &Value {
        let at = COLUMNS.iter().position(|column| column.name == name);
        at.map_or(&Value::Null, |at| &self.0[at])
    }

    /// A number; none where it is not known.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name).as_f64()
    }

    /// As CSV has it; empty where it is not known.
    pub fn text(&self, name: &str) -> String {
        written(self.value(name))
    }

    /// Whether there is a plan.
    pub fn is_planned(&self) -> bool {
        self.text("status") == "planned"
    }

    /// As JSON has it.
    pub fn json(&self) -> Value {
        let named = COLUMNS.iter().zip(&self.0).map(|(column, value)| (column.name.to_owned(), value.clone()));
        named.collect::<Map<_, _>>().into()
    }

    fn record(&self) -> Vec<String> {
        self.0.iter().map(written).collect()
    }
}

fn written(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a cell was before it was written: a number where it is written as that number would be.
fn read_cell(cell: &str) -> Value {
    if cell.is_empty() {
        return Value::Null;
    }
    let number = serde_json::from_str::<Value>(cell).ok().filter(|value| value.is_number());
    number.filter(|number| written(number) == cell).unwrap_or_else(|| {
        let formula = cell.strip_prefix('\'').filter(|rest| rest.starts_with(['=', '+', '-', '@', '\t', '\r']));
        json!(formula.unwrap_or(cell))
    })
}

/// All rows, as far as they are there.
pub struct RowsSoFar<'a> {
    path: Option<&'a Path>,
    state: Mutex<(Vec<Option<ScenarioRow>>, Instant)>,
}

impl<'a> RowsSoFar<'a> {
    /// None yet, to be written to a file if one is named; with `resume` those that it holds of these scenarios.
    ///
    /// # Errors
    /// Code 2 if it is no table of this version.
    pub fn new(all: &[Ready], path: Option<&'a Path>, resume: bool) -> Result<Self, Failure> {
        let kept = match path.filter(|path| resume && path.exists()) {
            Some(path) => read_table(path)?,
            None => HashMap::new(),
        };
        let rows = all.iter().map(|ready| kept.get(&ready.hash()).cloned()).collect();
        Ok(RowsSoFar { path, state: Mutex::new((rows, Instant::now())) })
    }

    /// Those that are not there yet.
    pub fn missing(&self) -> Vec<usize> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (0..state.0.len()).filter(|&at| state.0[at].is_none()).collect()
    }

    /// Takes one in, and now and then writes what is there, for a command that is stopped. Whether that can be written is told at
    /// the end.
    pub fn take(&self, at: usize, row: ScenarioRow) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0[at] = Some(row);
        if state.1.elapsed() >= PAUSE {
            let _ = self.path.map(|path| write(path, state.0.iter().flatten()));
            state.1 = Instant::now();
        }
    }

    /// All of them, written.
    ///
    /// # Errors
    /// Code 1 if the file cannot be written.
    pub fn end(self) -> Result<Vec<ScenarioRow>, Failure> {
        let (rows, _) = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<ScenarioRow> = rows.into_iter().flatten().collect();
        self.path.map_or(Ok(()), |path| write(path, rows.iter()))?;
        Ok(rows)
    }
}

fn names() -> Vec<&'static str> {
    COLUMNS.iter().map(|column: &ScenarioColumn| column.name).collect()
}

fn write<'r>(path: &Path, rows: impl Iterator<Item = &'r ScenarioRow>) -> Result<(), Failure> {
    write_csv(path, &names(), rows.map(ScenarioRow::record))
}

/// The rows of a table by their hash.
fn read_table(path: &Path) -> Result<HashMap<String, ScenarioRow>, Failure> {
    let wrong = |what: String| {
        let help = "name another file by -o, or leave --resume out";
        Failure::input(format!("{}: {what}; {help}", path.display()))
    };
    let mut reader = csv::Reader::from_path(path).map_err(|error| wrong(error.to_string()))?;
    let header = reader.headers().map_err(|error| wrong(error.to_string()))?;
    if header.iter().ne(names()) {
        return Err(wrong("its columns are not those that `compare` writes".to_owned()));
    }
    let mut rows = HashMap::new();
    for record in reader.records() {
        let row = ScenarioRow::read(&record.map_err(|error| wrong(error.to_string()))?);
        rows.insert(row.text("inputs_hash"), row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_written_as_it_was_read() {
        for cell in
            ["", "1024", "0.1", "1e300", "1.5e-7", "007", "1e3", "words", "2026-01-01", "inf", "-5", "[1]", "true"]
        {
            let row = ScenarioRow::read(&csv::StringRecord::from(vec![cell]));
            assert_eq!(row.record(), [cell]);
        }
        assert_eq!(read_cell("1024"), json!(1024));
        assert_eq!(read_cell("'=1+1"), json!("=1+1"));
        assert_eq!(read_cell("'tis"), json!("'tis"));
    }
}
