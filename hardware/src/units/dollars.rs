//! Money.
//!
//! In: text such as `$1.23`, `1.5 MUSD`. Out: [`Dollars`].
//!
//! Invariant: `x.exact().parse() == x`, and a bare number never parses.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::written::digits;
use super::{MONEY, MONEY_READ, UnitError, parse};

/// US dollars. Prints `$1.23`; reads that, `1.23 USD`, and `$1.5M` or `1.5 MUSD`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dollars(pub f64);

arithmetic!(Dollars, f64);

impl Dollars {
    /// The shortest text that reads back as this very value.
    pub fn exact(self) -> String {
        format!("${}", digits(self.0))
    }
}

impl FromStr for Dollars {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let what = "an amount of money";
        let Some(number) = text.trim().strip_prefix('$') else {
            return parse(text, what, &[MONEY, MONEY_READ]).map(Dollars);
        };
        let (digits, size) = match number.strip_suffix(['k', 'M', 'B']) {
            Some(digits) => (digits, &number[digits.len()..]),
            None => (number, ""),
        };
        parse(&format!("{digits} {size}USD"), what, &[MONEY, MONEY_READ]).map(Dollars)
    }
}

impl TryFrom<String> for Dollars {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Dollars> for String {
    fn from(value: Dollars) -> String {
        value.exact()
    }
}

impl JsonSchema for Dollars {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Dollars".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "an amount of money", "units": ["$", "USD", "kUSD", "MUSD", "BUSD"] })
    }
}

impl fmt::Display for Dollars {
    /// Cents below a thousand dollars, whole dollars in groups of three above.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.abs() < 999.995 {
            return f.pad(&format!("${:.2}", self.0));
        }
        let digits = format!("{:.0}", self.0);
        let mut grouped = String::from("$");
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i) % 3 == 0 && grouped != "$-" {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}
