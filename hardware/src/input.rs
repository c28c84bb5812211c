//! What is wrong with a text that a user wrote, and where it stands.
//!
//! In: a file's name and text, with a parser's complaint or the [`Fault`] of a check. Out: an [`InputError`].
//!
//! Invariant: the location is that of the value in the text, however the text is laid out; of a key that is not there, that of
//! the innermost table that is.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::IgnoredAny;
use strsim::levenshtein;
use toml::de::{DeTable, DeValue};

/// A value that a check refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The key from the file's root, dotted, items of arrays by number: `stages[1].layers`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong and what would do.
    pub problem: String,
}

impl Fault {
    /// A refusal of `value` at `key`.
    pub fn new(key: &str, value: impl ToString, problem: impl Into<String>) -> Self {
        Fault { key: key.to_owned(), value: value.to_string(), problem: problem.into() }
    }

    /// The same in a file that has what was checked in a table of this name.
    pub fn within(self, table: &str) -> Self {
        Fault { key: format!("{table}.{}", self.key), ..self }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is {}: {}", self.key, self.value, self.problem)
    }
}

/// Which of all names a misspelt one may mean, the nearest first.
pub fn near<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let close = |other: &&str| {
        let contained = wanted.len() >= 3 && (other.contains(&wanted) || wanted.contains(*other));
        contained || levenshtein(&wanted, other) <= wanted.len() / 3
    };
    let mut near: Vec<&str> = all.filter(close).collect();
    near.sort_by_key(|other| levenshtein(&wanted, other));
    near
}

/// A text that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct InputError {
    /// Path as given, or the embedded file's.
    pub file: String,
    /// Where; boxed, as errors are returned through every reader.
    pub at: Box<Location>,
    /// The key that a check refuses; none where the text does not parse.
    pub key: Option<String>,
    /// What is wrong, of which value, and what would do.
    pub problem: String,
}

impl std::fmt::Display for InputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InputError { file, at, key, problem } = self;
        let Location { line, column, excerpt, .. } = &**at;
        write!(f, "{file}:{line}:{column}: {problem}")?;
        // A refused value stands in the problem already.
        if key.is_none() { write!(f, ", at `{}`", excerpt.trim()) } else { Ok(()) }
    }
}

impl std::error::Error for InputError {}

impl InputError {
    /// Of TOML's complaint about `text`.
    pub fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let (span, problem) = match error.span() {
            Some(span) => (span, error.message().to_owned()),
            // The parser has no place for a key of too many parts.
            None => (most_dots(text), format!("{}: a key has too many parts", error.message())),
        };
        InputError { file: file.to_owned(), at: Box::new(Location::of_span(text, span)), key: None, problem }
    }

    /// Of JSON's complaint about `text`.
    pub fn of_json(file: &str, text: &str, error: &serde_json::Error) -> Self {
        let before = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
        let start = before + error.column().saturating_sub(1);
        let said = error.to_string();
        let problem = said.rsplit_once(" at line ").map_or(said.as_str(), |(problem, _)| problem).to_owned();
        InputError {
            file: file.to_owned(),
            at: Box::new(Location::of_span(text, start..start + 1)),
            key: None,
            problem,
        }
    }

    /// Of a value in `text`, which is TOML, that a check refuses.
    pub fn of_fault(file: &str, text: &str, fault: &Fault) -> Self {
        InputError::refused(file, Location::of_span(text, toml_span(text, &fault.key)), fault)
    }

    /// Of a value in `text`, which is one JSON object, that a check refuses.
    pub fn of_json_fault(file: &str, text: &str, fault: &Fault) -> Self {
        InputError::refused(file, Location::of_span(text, json_span(text, &fault.key)), fault)
    }

    /// Of a field of CSV `text` that a check refuses: that of a column, counted from 0, in the record that starts at a byte.
    pub fn of_csv_fault(file: &str, text: &str, (record, column): (usize, usize), fault: &Fault) -> Self {
        InputError::refused(file, Location::of_span(text, csv_span(text, record, column)), fault)
    }

    fn refused(file: &str, at: Location, fault: &Fault) -> Self {
        InputError { file: file.to_owned(), at: Box::new(at), key: Some(fault.key.clone()), problem: fault.to_string() }
    }
}

/// A stretch of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// The line, from 1.
    pub line: usize,
    /// The character in that line, from 1.
    pub column: usize,
    /// The line, or what of a long one is near; control characters are replaced.
    pub excerpt: String,
    /// The bytes of the excerpt that are meant.
    pub mark: Range<usize>,
}

/// Characters of a long line that are shown before and after where a fault begins.
const NEAR: [usize; 2] = [40, 80];

impl Location {
    /// Of bytes of a text. Where they go over several lines, their part of the first.
    pub fn of_span(text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |end| start + end);
        let line_end = line_start + text[line_start..line_end].trim_end_matches('\r').len();
        let end = text.floor_char_boundary(span.end).clamp(start, line_end.max(start));
        let before = text[line_start..start.min(line_end)].chars().count();
        let width = text[start.min(end)..end].chars().count().max(1);
        let first = before.saturating_sub(NEAR[0]);
        let (mut excerpt, mut mark) = (String::new(), 0..0);
        let near = text[line_start..line_end].chars().enumerate().skip(first).take(NEAR[0] + NEAR[1]);
        for (at, character) in near {
            if at == before {
                mark.start = excerpt.len();
            }
            excerpt.push(if character.is_control() { ' ' } else { character });
            if (before..before + width).contains(&at) {
                mark.end = excerpt.len();
            }
        }
        if mark.end == 0 {
            // The end of a line.
            mark = excerpt.len()..excerpt.len();
        }
        Location { line: text[..line_start].matches('\n').count() + 1, column: before + 1, excerpt, mark }
    }
}

/// The bytes of the value at a key of TOML; of the innermost table or array on the way that is there.
fn toml_span(text: &str, key: &str) -> Range<usize> {
    let Ok(root) = DeTable::parse(text) else { return 0..0 };
    let (mut span, mut at): (_, Option<&DeValue>) = (0..0, None);
    for step in steps(key) {
        let found = match (step, at) {
            (KeyStep::Key(key), None) => root.get_ref().get(key),
            (KeyStep::Key(key), Some(DeValue::Table(table))) => table.get(key),
            (KeyStep::Item(index), Some(DeValue::Array(items))) => items.get(index),
            _ => None,
        };
        let Some(found) = found else { break };
        (span, at) = (found.span(), Some(found.get_ref()));
    }
    span
}

/// The bytes of the line with the longest dotted key.
fn most_dots(text: &str) -> Range<usize> {
    let dots = |line: &&str| line.bytes().filter(|byte| *byte == b'.').count();
    let line = text.lines().max_by_key(dots).unwrap_or_default();
    let start = line.as_ptr().addr().saturating_sub(text.as_ptr().addr()).min(text.len());
    start..start + line.len()
}

enum KeyStep<'a> {
    Key(&'a str),
    Item(usize),
}

/// `stages[1].layers`: `stages`, item 1, `layers`.
fn steps(key: &str) -> impl Iterator<Item = KeyStep<'_>> {
    let step = |part| {
        let item = |part: &str| part.strip_suffix(']').and_then(|index| index.parse().ok());
        item(part).map_or(KeyStep::Key(part), KeyStep::Item)
    };
    key.split(['.', '[']).map(step)
}

/// The bytes of the name of a JSON object's key; of nothing if it is not there.
fn json_span(text: &str, key: &str) -> Range<usize> {
    // Names without escapes are borrowed from the text, so that their address says where they stand.
    let names: BTreeMap<&str, IgnoredAny> = serde_json::from_str(text).unwrap_or_default();
    names.get_key_value(key).map_or(0..0, |(name, _)| {
        let start = name.as_ptr().addr() - text.as_ptr().addr();
        start..start + name.len()
    })
}

/// The bytes of a field of CSV, quotes included.
fn csv_span(text: &str, record: usize, column: usize) -> Range<usize> {
    // Ends of lines before a record count as part of it.
    let first = text.len() - text[record.min(text.len())..].trim_start_matches(['\r', '\n']).len();
    let (mut start, mut field, mut quoted) = (first, 0, false);
    for (at, character) in text[first..].char_indices().map(|(at, character)| (first + at, character)) {
        match character {
            '"' => quoted = !quoted,
            ',' | '\r' | '\n' if !quoted && field == column => return start..at,
            ',' if !quoted => (field, start) = (field + 1, at + 1),
            _ => {}
        }
    }
    start..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line and column of a refused key, and what is marked there.
    fn found(text: &str, key: &str) -> (usize, usize, String) {
        let Location { line, column, excerpt, mark } =
            *InputError::of_fault("f.toml", text, &Fault::new(key, "", "")).at;
        (line, column, excerpt[mark].to_owned())
    }

    #[test]
    fn a_value_is_found_however_the_text_is_laid_out() {
        let tables =
            "zero = 0 # layers = 0\n\n[[stages]]\nlayers = 8\n\n[[stages]]\nname = \"layers = 0\"\nlayers = 0\n";
        assert_eq!(found(tables, "stages[1].layers"), (8, 10, "0".to_owned()));
        let inline = "stages = [ { layers = 8 }, {\tlayers = 0 } ]";
        assert_eq!(found(inline, "stages[1].layers"), (1, 39, "0".to_owned()));
        let lines = "stages = [\n  { layers = 8 },\n  { 'layers' = 0 }, # ü\n]\n";
        assert_eq!(found(lines, "stages[1].layers"), (3, 16, "0".to_owned()));
        let dotted = "mesh.tp = 4\r\njob . model.\"heads\"= 6\r\n";
        assert_eq!(found(dotted, "mesh.tp"), (1, 11, "4".to_owned()));
        assert_eq!(found(dotted, "job.model.heads"), (2, 22, "6".to_owned()));
        let after_wide = "a = { n = \"äöü\", b = 12 }";
        assert_eq!(found(after_wide, "a.b"), (1, 22, "12".to_owned()));
    }

    #[test]
    fn of_a_key_that_is_not_there_the_table_is_found() {
        let text = "a = 1\n[job]\nseq = 1\n[job.goal]\ntokens = 1\n[[stages]]\nlayers = 1\n";
        assert_eq!(found(text, "job.goal.headroom"), (4, 1, "[job.goal]".to_owned()));
        assert_eq!(found(text, "stages.layers"), (6, 1, "[[stages]]".to_owned()));
        assert_eq!(found(text, "stages[7].layers"), (6, 1, "[[stages]]".to_owned()));
        assert_eq!(found(text, "zero"), (1, 1, "a".to_owned()));
        assert_eq!(found("", "zero"), (1, 1, String::new()));
    }

    #[test]
    fn parsers_complaints_stand_where_they_belong() {
        let text = "a = 1\nb = [1, 2\nc = 3\n";
        let error = InputError::of_toml("f.toml", text, &toml::from_str::<toml::Table>(text).unwrap_err());
        assert!(error.to_string().starts_with("f.toml:3:1: "), "{error}");
        let text = "{\n  \"heads\": 1,\n  \"layers\" 2\n}";
        let error = InputError::of_json("c.json", text, &serde_json::from_str::<IgnoredAny>(text).unwrap_err());
        assert_eq!(error.to_string(), "c.json:3:12: expected `:`, at `\"layers\" 2`");
        let text = "{\n  \"n\": { \"heads\": 1 }, \"heads\": 7 }";
        let error = InputError::of_json_fault("c.json", text, &Fault::new("heads", 7, "it must be even"));
        assert_eq!(error.to_string(), "c.json:2:25: `heads` is 7: it must be even");
    }

    #[test]
    fn a_field_of_a_table_is_found() {
        let text = "id,n\n\"a, \"\"b\"\"\",1\n\nü,\"x\ny\",z\r\n";
        let found = |record, column| {
            let fault = Fault::new("n", "", "");
            let Location { line, column, excerpt, mark } =
                *InputError::of_csv_fault("f.csv", text, (record, column), &fault).at;
            (line, column, excerpt[mark].to_owned())
        };
        assert_eq!(found(5, 1), (2, 12, "1".to_owned()));
        assert_eq!(found(17, 0), (4, 1, "ü".to_owned()));
        assert_eq!(found(18, 2), (5, 4, "z".to_owned()));
    }

    #[test]
    fn long_lines_are_cut_and_control_characters_do_not_pass() {
        let text = format!("a = \"{}\"\nb = [{}, x]", "y".repeat(9), "1, ".repeat(100_000));
        let at = Location::of_span(&text, 60_000..60_003);
        assert!(at.excerpt.chars().count() <= NEAR[0] + NEAR[1] && at.line == 2, "{at:?}");
        assert_eq!(at.mark.len(), 3);
        assert_eq!(Location::of_span("k = \u{1b}[31m", 4..5).excerpt, "k =  [31m");
    }
}
