//! What a device-hour costs: rents by device, cloud, region and term, and what owning takes.
//!
//! In: `hardware/profiles/prices/`, and over it a user's file. Out: [`PriceBook`].
//!
//! Invariant: a price is above zero and has a date; what is not known is not there.

pub mod dates;
pub mod owning;

mod book;
mod rent;

use serde::{Deserialize, Serialize};

pub use book::PriceBook;
pub use rent::{Pricing, Rent, Term, rent_of};

/// Who says what something costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceKind {
    /// The user.
    Given,
    /// The seller.
    List,
    /// Others, who collected prices.
    Secondary,
    /// Nobody.
    Assumed,
}

impl PriceKind {
    /// As price files say it.
    pub fn name(self) -> &'static str {
        match self {
            PriceKind::Given => "given",
            PriceKind::List => "list",
            PriceKind::Secondary => "secondary",
            PriceKind::Assumed => "assumed",
        }
    }

    /// What stands in no price file: the user's own.
    pub fn given() -> Self {
        PriceKind::Given
    }

    /// Whether neither the user nor a seller says so. Where dollars decide, such a price is taken only when asked for.
    pub fn is_doubtful(self) -> bool {
        self > PriceKind::List
    }
}

/// A figure of what owning takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostFact {
    /// In the unit that its name says.
    pub value: f64,
    /// When it was so; none of what is assumed.
    #[serde(default)]
    pub date: String,
    /// Who says so.
    pub kind: PriceKind,
    /// Where it is written.
    pub source: String,
}
