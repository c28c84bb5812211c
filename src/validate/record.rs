//! A record of a table of published runs, by column.
//!
//! In: texts by column's name. Out: a column as text, number or size; [`Skip`] where what is needed is missing.
//!
//! Invariant: numbers are finite, sizes at least one.

use std::collections::HashMap;

use meshwright_planner::error::{Fault, PlanError};

/// Why a row is not predicted: a reason that is counted, and what it is in this row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The same for all rows of a kind.
    pub reason: &'static str,
    /// Of this row; empty where the reason says all.
    pub detail: String,
}

impl Skip {
    /// A reason that says all.
    pub const fn new(reason: &'static str) -> Skip {
        Skip { reason, detail: String::new() }
    }

    /// A model or plan that is refused.
    pub(super) fn fault(reason: &'static str, fault: &Fault) -> Skip {
        Skip { reason, detail: fault.to_string() }
    }

    /// A plan that cannot be priced.
    pub(super) fn error(reason: &'static str, error: &PlanError) -> Skip {
        Skip { reason, detail: error.to_string() }
    }
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.detail.as_str() {
            "" => f.write_str(self.reason),
            detail => write!(f, "{}: {detail}", self.reason),
        }
    }
}

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
