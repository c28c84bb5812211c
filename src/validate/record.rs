//! A record of a table of published runs, by column.
//!
//! In: texts by column's name. Out: a column as text, number or size; [`Skip`] where what is needed is missing.
//!
//! Invariant: numbers are finite, sizes at least one.

use std::collections::HashMap;

/// Why a row is not predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Skip(pub &'static str);

/// A record by column.
pub struct Record<'a>(pub &'a HashMap<String, String>);

impl Record<'_> {
    pub(super) fn text(&self, column: &str) -> &str {
        self.0.get(column).map_or("", |text| text.trim())
    }

    pub(super) fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok().filter(|value: &f64| value.is_finite())
    }

    pub(super) fn size(&self, column: &str) -> Option<usize> {
        self.number(column).filter(|value| *value >= 1.0).map(|value| value.round() as usize)
    }
}
