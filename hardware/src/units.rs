//! Quantities as newtypes that print and parse their units.
//!
//! In: text such as `80 GiB`, `2.0 TB/s`, `312 TFLOP/s`, `5 us`, `$1.23`. Out: values that only combine where the units do.
//!
//! Two written forms: [`std::fmt::Display`] rounds to three digits for people; `exact` (and serde) keeps every bit.
//!
//! Invariant: `x.exact().parse() == x` for every quantity, and a bare number never parses.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Text that is not the quantity it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {problem}; write a number and one of {known}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    problem: &'static str,
    known: String,
}

/// A unit's name and how many base units it is. Tables list the units that printing chooses from, smallest first,
/// then spellings that are only read.
type NamedUnit = (&'static str, f64);

fn parse(text: &str, what: &'static str, units: &[&[NamedUnit]]) -> Result<f64, UnitError> {
    let fail = |problem| {
        let known: Vec<_> = units.iter().flat_map(|table| table.iter()).map(|unit| unit.0).collect();
        UnitError { text: text.to_owned(), what, problem, known: known.join(", ") }
    };
    // The number ends at a space, so that `1e15 FLOP` reads, or where digits do, so that `80GiB` does.
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| c.is_whitespace()).unwrap_or_else(|| {
        trimmed.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | ','))).unwrap_or(trimmed.len())
    });
    let (digits, name) = (trimmed[..end].replace(',', ""), trimmed[end..].trim());
    let number: f64 = digits.parse().map_err(|_| fail("no number"))?;
    if !number.is_finite() || number < 0.0 {
        return Err(fail("not a finite number from zero up"));
    }
    if name.is_empty() {
        return Err(fail("no unit"));
    }
    let scale = units.iter().flat_map(|table| table.iter()).find(|unit| unit.0 == name).map(|unit| unit.1);
    let value = number * scale.ok_or_else(|| fail("unknown unit"))?;
    if value.is_finite() { Ok(value) } else { Err(fail("too large")) }
}

/// `exact`, parsing and serde over it, for a newtype that knows its unit tables and how to become and come from f64.
macro_rules! written {
    ($name:ident, $what:literal, [$($table:ident),+], $from:expr) => {
        impl $name {
            /// The shortest text that reads back as this very value.
            pub fn exact(self) -> String {
                exact(self.0 as f64, &[$($table),+])
            }
        }

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                parse(text, $what, &[$($table),+]).map($from)
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.exact()
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                quantity($what, &[$($table),+])
            }
        }
    };
}

/// The schema of a quantity's text: a number and one of its units.
fn quantity(what: &str, units: &[&[NamedUnit]]) -> Schema {
    let names: Vec<&str> = units.iter().flat_map(|table| table.iter()).map(|unit| unit.0).collect();
    json_schema!({ "type": "string", "description": what, "units": names })
}

/// What any quantity can do: add up and be scaled.
macro_rules! arithmetic {
    ($name:ident, $inner:ty) => {
        impl Add for $name {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;

            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl Mul<$inner> for $name {
            type Output = Self;

            fn mul(self, factor: $inner) -> Self {
                Self(self.0 * factor)
            }
        }

        impl Div<$inner> for $name {
            type Output = Self;

            fn div(self, divisor: $inner) -> Self {
                Self(self.0 / divisor)
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                all.fold(Self::default(), Add::add)
            }
        }
    };
}

/// A quantity over f64.
macro_rules! real {
    ($(#[$doc:meta])* $name:ident, $what:literal, [$first:ident $(, $more:ident)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub f64);

        written!($name, $what, [$first $(, $more)*], $name);
        arithmetic!($name, f64);

        impl $name {
            /// The larger of two.
            pub fn max(self, other: Self) -> Self {
                Self(self.0.max(other.0))
            }

            /// The smaller of two.
            pub fn min(self, other: Self) -> Self {
                Self(self.0.min(other.0))
            }
        }

        /// How many times one goes into the other.
        impl Div for $name {
            type Output = f64;

            fn div(self, other: Self) -> f64 {
                self.0 / other.0
            }
        }
    };
}

macro_rules! shown_rounded {
    ($($name:ident: $table:ident),+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&rounded(self.0 as f64, $table))
            }
        })+
    };
}

const KI: f64 = 1024.0;
const BINARY: &[NamedUnit] = &[
    ("B", 1.0),
    ("KiB", KI),
    ("MiB", KI * KI),
    ("GiB", KI * KI * KI),
    ("TiB", KI * KI * KI * KI),
    ("PiB", KI * KI * KI * KI * KI),
];
const DECIMAL: &[NamedUnit] = &[("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15)];
const BYTE_RATE: &[NamedUnit] =
    &[("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12), ("PB/s", 1e15)];
const BIT_RATE: &[NamedUnit] = &[
    ("Mb/s", 1e6 / 8.0),
    ("Gb/s", 1e9 / 8.0),
    ("Tb/s", 1e12 / 8.0),
    ("Mbit/s", 1e6 / 8.0),
    ("Gbit/s", 1e9 / 8.0),
    ("Tbit/s", 1e12 / 8.0),
];
const FLOP: &[NamedUnit] = &[
    ("FLOP", 1.0),
    ("kFLOP", 1e3),
    ("MFLOP", 1e6),
    ("GFLOP", 1e9),
    ("TFLOP", 1e12),
    ("PFLOP", 1e15),
    ("EFLOP", 1e18),
    ("ZFLOP", 1e21),
    ("YFLOP", 1e24),
];
const FLOP_RATE: &[NamedUnit] = &[
    ("FLOP/s", 1.0),
    ("kFLOP/s", 1e3),
    ("MFLOP/s", 1e6),
    ("GFLOP/s", 1e9),
    ("TFLOP/s", 1e12),
    ("PFLOP/s", 1e15),
    ("EFLOP/s", 1e18),
];
const TIME: &[NamedUnit] =
    &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];
const TIME_READ: &[NamedUnit] = &[("µs", 1e-6)];
const NANOS: &[NamedUnit] =
    &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("min", 60e9), ("h", 3600e9), ("d", 86400e9)];
const POWER: &[NamedUnit] = &[("W", 1.0), ("kW", 1e3), ("MW", 1e6), ("GW", 1e9)];
const MONEY: &[NamedUnit] = &[("USD", 1.0)];
const MONEY_READ: &[NamedUnit] = &[("kUSD", 1e3), ("MUSD", 1e6), ("BUSD", 1e9)];
const TOKENS: &[NamedUnit] =
    &[("tokens", 1.0), ("k tokens", 1e3), ("M tokens", 1e6), ("G tokens", 1e9), ("T tokens", 1e12)];
const PARAMETERS: &[NamedUnit] = &[("parameters", 1.0), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)];
const TOKENS_READ: &[NamedUnit] = &[("k", 1e3), ("M", 1e6), ("G", 1e9), ("B", 1e9), ("T", 1e12)];

/// A size in memory or on a wire. Prints binary units; reads `GiB` (2³⁰) and `GB` (10⁹) alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

written!(Bytes, "a size", [BINARY, DECIMAL], |bytes| Bytes(bytes.round() as u64));
arithmetic!(Bytes, u64);

impl Bytes {
    /// Subtraction that stops at zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Bytes(self.0.saturating_sub(other.0))
    }
}

/// An instant or duration of the simulator and of measured traces; serde writes the bare integer, as traces hold millions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

arithmetic!(Nanos, u64);

impl Nanos {
    /// Subtraction that stops at zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Nanos(self.0.saturating_sub(other.0))
    }

    /// The same span in seconds.
    pub fn seconds(self) -> Seconds {
        Seconds(self.0 as f64 * 1e-9)
    }
}

real!(
    /// A count of floating-point operations.
    Flops, "a count of FLOPs", [FLOP]
);
real!(
    /// A duration.
    Seconds, "a duration", [TIME, TIME_READ]
);
real!(
    /// Bytes a second.
    ByteRate, "a bandwidth", [BYTE_RATE, BIT_RATE]
);
real!(
    /// Floating-point operations a second.
    FlopRate, "a compute rate", [FLOP_RATE]
);
real!(
    /// Power.
    Watts, "a power", [POWER]
);
real!(
    /// Tokens to train on. Prints `300 G tokens`; reads that, `300G`, and `300B`, where B is 10⁹.
    Tokens, "a count of tokens", [TOKENS, TOKENS_READ]
);
real!(
    /// Parameters of a model. Prints `6.74 B`.
    Parameters, "a count of parameters", [PARAMETERS]
);

shown_rounded!(Bytes: BINARY, Nanos: NANOS, Flops: FLOP, Seconds: TIME, ByteRate: BYTE_RATE, FlopRate: FLOP_RATE, Watts: POWER);
shown_rounded!(Tokens: TOKENS, Parameters: PARAMETERS);

impl Div<ByteRate> for Bytes {
    type Output = Seconds;

    fn div(self, rate: ByteRate) -> Seconds {
        Seconds(self.0 as f64 / rate.0)
    }
}

impl Div<Seconds> for Bytes {
    type Output = ByteRate;

    fn div(self, time: Seconds) -> ByteRate {
        ByteRate(self.0 as f64 / time.0)
    }
}

impl Div<FlopRate> for Flops {
    type Output = Seconds;

    fn div(self, rate: FlopRate) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}

impl Div<Seconds> for Flops {
    type Output = FlopRate;

    fn div(self, time: Seconds) -> FlopRate {
        FlopRate(self.0 / time.0)
    }
}

impl Seconds {
    /// Rounded to whole nanoseconds.
    pub fn nanos(self) -> Nanos {
        Nanos((self.0 * 1e9).round() as u64)
    }
}

impl From<Seconds> for Nanos {
    fn from(time: Seconds) -> Nanos {
        time.nanos()
    }
}

impl From<Nanos> for Seconds {
    fn from(time: Nanos) -> Seconds {
        time.seconds()
    }
}

mod dollars;
mod precision;
#[cfg(test)]
mod tests;
mod written;

pub use dollars::Dollars;
pub use precision::{Precision, UnknownPrecision};
use written::{exact, rounded};
