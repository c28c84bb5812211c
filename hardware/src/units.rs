//! Quantities as newtypes that print and parse their units.
//!
//! In: text such as `80 GiB`, `2.0 TB/s`, `312 TFLOP/s`, `5 us`, `$1.23`. Out: values that only combine where the units do.
//!
//! Two written forms: [`std::fmt::Display`] rounds to three digits for people; `exact` (and serde) keeps every bit.
//!
//! Invariant: `x.exact().parse() == x` for every quantity, and a bare number never parses.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::str::FromStr;

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
type Unit = (&'static str, f64);

fn parse(text: &str, what: &'static str, units: &[&[Unit]]) -> Result<f64, UnitError> {
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

/// The shortest number and unit that read back as `value`.
fn exact(value: f64, units: &[&[Unit]]) -> String {
    let tables = units.iter().flat_map(|table| table.iter());
    let written = tables.filter_map(|&(name, scale)| {
        let number = value / scale;
        (number * scale == value).then(|| format!("{number} {name}"))
    });
    written.min_by_key(String::len).unwrap_or_else(|| format!("{value} {}", units[0][0].0))
}

/// Three significant digits in the largest unit that leaves at least one before the point.
fn rounded(value: f64, units: &[Unit]) -> String {
    let shown = if value == 0.0 { 1.0 } else { value };
    let &(name, scale) = units.iter().rev().find(|unit| shown >= unit.1 * 0.9995).unwrap_or(&units[0]);
    format!("{} {name}", three_digits(value / scale))
}

fn three_digits(number: f64) -> String {
    let size = number.abs();
    let places = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 2 + (-size.log10()).ceil() as usize,
    };
    let text = format!("{number:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
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
    };
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
const BINARY: &[Unit] = &[
    ("B", 1.0),
    ("KiB", KI),
    ("MiB", KI * KI),
    ("GiB", KI * KI * KI),
    ("TiB", KI * KI * KI * KI),
    ("PiB", KI * KI * KI * KI * KI),
];
const DECIMAL: &[Unit] = &[("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15)];
const BYTE_RATE: &[Unit] = &[("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12), ("PB/s", 1e15)];
const BIT_RATE: &[Unit] = &[
    ("Mb/s", 1e6 / 8.0),
    ("Gb/s", 1e9 / 8.0),
    ("Tb/s", 1e12 / 8.0),
    ("Mbit/s", 1e6 / 8.0),
    ("Gbit/s", 1e9 / 8.0),
    ("Tbit/s", 1e12 / 8.0),
];
const FLOP: &[Unit] = &[
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
const FLOP_RATE: &[Unit] = &[
    ("FLOP/s", 1.0),
    ("kFLOP/s", 1e3),
    ("MFLOP/s", 1e6),
    ("GFLOP/s", 1e9),
    ("TFLOP/s", 1e12),
    ("PFLOP/s", 1e15),
    ("EFLOP/s", 1e18),
];
const TIME: &[Unit] =
    &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];
const TIME_READ: &[Unit] = &[("µs", 1e-6)];
const NANOS: &[Unit] =
    &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("min", 60e9), ("h", 3600e9), ("d", 86400e9)];
const POWER: &[Unit] = &[("W", 1.0), ("kW", 1e3), ("MW", 1e6), ("GW", 1e9)];
const MONEY: &[Unit] = &[("USD", 1.0)];
const MONEY_READ: &[Unit] = &[("kUSD", 1e3), ("MUSD", 1e6), ("BUSD", 1e9)];
const TOKENS: &[Unit] = &[("tokens", 1.0), ("k tokens", 1e3), ("M tokens", 1e6), ("G tokens", 1e9), ("T tokens", 1e12)];
const PARAMETERS: &[Unit] = &[("parameters", 1.0), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)];
const TOKENS_READ: &[Unit] = &[("k", 1e3), ("M", 1e6), ("G", 1e9), ("B", 1e9), ("T", 1e12)];

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

/// US dollars. Prints `$1.23`; reads that, `1.23 USD`, and `$1.5M` or `1.5 MUSD`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dollars(pub f64);

arithmetic!(Dollars, f64);

impl Dollars {
    /// The shortest text that reads back as this very value.
    pub fn exact(self) -> String {
        format!("${}", self.0)
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

/// A number format of matrix units and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the formats carry their names
pub enum Precision {
    Fp32,
    /// 32 bits in memory, 19 of them multiplied.
    Tf32,
    Bf16,
    Fp16,
    Fp8,
    /// 4 bits and a scale shared by a block (NVFP4, MXFP4).
    Fp4,
    Int8,
}

impl Precision {
    /// Every format.
    pub const ALL: [Precision; 7] = [
        Precision::Fp32,
        Precision::Tf32,
        Precision::Bf16,
        Precision::Fp16,
        Precision::Fp8,
        Precision::Fp4,
        Precision::Int8,
    ];

    /// Bytes an element takes in memory; a 4-bit one with its neighbour.
    pub fn bytes(self) -> u64 {
        match self {
            Precision::Fp32 | Precision::Tf32 => 4,
            Precision::Bf16 | Precision::Fp16 => 2,
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => 1,
        }
    }

    /// The format in which weights and activations are kept and sent: matmuls in eight bits and fewer take them rounded from
    /// bf16 (Micikevicius et al. 2022).
    pub fn stored(self) -> Precision {
        match self {
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => Precision::Bf16,
            wide => wide,
        }
    }

    /// The format's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
            Precision::Fp8 => "fp8",
            Precision::Fp4 => "fp4",
            Precision::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        Precision::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| UnknownPrecision(text.to_owned()))
    }
}

/// A precision's name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision `{0}`; known: fp32, tf32, bf16, fp16, fp8, fp4, int8")]
pub struct UnknownPrecision(String);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_read_three_digits_and_a_unit() {
        assert_eq!(Bytes(80 << 30).to_string(), "80 GiB");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(ByteRate(1.5e9).to_string(), "1.5 GB/s");
        assert_eq!(FlopRate(312e12).to_string(), "312 TFLOP/s");
        assert_eq!(Seconds(0.0032).to_string(), "3.2 ms");
        assert_eq!(Seconds(0.0).to_string(), "0 s");
        assert_eq!(Seconds(5400.0).to_string(), "1.5 h");
        assert_eq!(Nanos(1_234_567).to_string(), "1.23 ms");
        assert_eq!(Watts(400.0).to_string(), "400 W");
        assert_eq!(Dollars(1.234).to_string(), "$1.23");
        assert_eq!(Dollars(1_234_567.8).to_string(), "$1,234,568");
        assert_eq!(format!("{:>8}|", Watts(400.0)), "   400 W|");
    }

    #[test]
    fn sizes_read_in_both_systems_and_links_in_bits() {
        assert_eq!("80 GB".parse(), Ok(Bytes(80_000_000_000)));
        assert_eq!("80GiB".parse(), Ok(Bytes(80 << 30)));
        assert_eq!("200 Gb/s".parse(), Ok(ByteRate(25e9)));
        assert_eq!("5 µs".parse::<Seconds>(), "5 us".parse());
        assert_eq!("$1,234.5".parse(), Ok(Dollars(1234.5)));
        assert_eq!("2 USD".parse(), Ok(Dollars(2.0)));
    }

    #[test]
    fn tokens_and_money_read_as_people_write_them() {
        for text in ["300G", "300 G tokens", "300B", "0.3 T", "3e11 tokens"] {
            assert_eq!(text.parse(), Ok(Tokens(3e11)), "{text}");
        }
        assert_eq!(Tokens(1.5e13).to_string(), "15 T tokens");
        for text in ["$1.5M", "1.5MUSD", "1,500,000 USD", "$1500k", "$1500000"] {
            assert_eq!(text.parse(), Ok(Dollars(1.5e6)), "{text}");
        }
        let bare = "300".parse::<Tokens>().unwrap_err().to_string();
        assert!(bare.contains("`300` is not a count of tokens: no unit") && bare.contains("G tokens"), "{bare}");
        assert!("$1.5X".parse::<Dollars>().is_err() && "$".parse::<Dollars>().is_err());
    }

    #[test]
    fn what_is_not_a_quantity_is_told_the_units() {
        let bare = "80".parse::<Bytes>().unwrap_err().to_string();
        assert!(bare.contains("`80` is not a size: no unit") && bare.contains("GiB"), "{bare}");
        let unknown = "80 Go".parse::<Bytes>().unwrap_err().to_string();
        assert!(unknown.contains("unknown unit"), "{unknown}");
        for text in ["", "GB", "-1 GB", "inf GB", "nan GB", "1..2 GB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert!("bf32".parse::<Precision>().unwrap_err().to_string().contains("bf16"));
    }

    #[test]
    fn units_divide_to_times() {
        assert_eq!(Bytes(3_000) / ByteRate(1e3), Seconds(3.0));
        assert_eq!(Flops(1e12) / FlopRate(2e12), Seconds(0.5));
        assert_eq!(Seconds(1.6e-9).nanos(), Nanos(2));
    }

    proptest! {
        #[test]
        fn exact_text_reads_back(bits in any::<u64>(), size in 0u64..1 << 52, real in 1e-12f64..1e24) {
            prop_assert_eq!(Bytes(size).exact().parse(), Ok(Bytes(size)));
            prop_assert_eq!(Seconds(real).exact().parse(), Ok(Seconds(real)));
            prop_assert_eq!(ByteRate(real).exact().parse(), Ok(ByteRate(real)));
            prop_assert_eq!(Dollars(real).exact().parse(), Ok(Dollars(real)));
            prop_assert_eq!(Tokens(real).exact().parse(), Ok(Tokens(real)));
            prop_assert_eq!(Parameters(real).exact().parse(), Ok(Parameters(real)));
            let any = f64::from_bits(bits).abs();
            if any.is_normal() {
                prop_assert_eq!(Flops(any).exact().parse(), Ok(Flops(any)));
            }
        }

        #[test]
        fn printed_text_reads_back_to_three_digits(real in 1e-9f64..1e26) {
            let near = |read: f64| (read / real - 1.0).abs() < 5.1e-3;
            prop_assert!(near(Seconds(real).to_string().parse::<Seconds>().unwrap().0));
            prop_assert!(near(Flops(real).to_string().parse::<Flops>().unwrap().0));
        }
    }
}
