//! What a figure of hardware may be: wide enough for any machine that was or will be built soon, so narrow that a slip of units is
//! seen.
//!
//! In: a quantity. Out: its least and its most.

use crate::units::{ByteRate, Bytes, Dollars, FlopRate, Seconds, Watts};

/// A quantity that profiles have figures of.
pub trait Plausible: Copy + PartialOrd {
    /// The least that a figure may be; above zero.
    const LEAST: Self;
    /// The most.
    const MOST: Self;

    /// With its unit, all digits.
    fn written(self) -> String;

    /// Whether it may be one.
    ///
    /// # Errors
    /// What would do.
    fn check(self) -> Result<(), String> {
        // What is no number is neither.
        if self >= Self::LEAST && self <= Self::MOST {
            return Ok(());
        }
        Err(format!("it must be {} to {}", Self::LEAST.written(), Self::MOST.written()))
    }
}

macro_rules! figures {
    ($($unit:ident: $least:literal to $most:literal,)*) => {
        $(impl Plausible for $unit {
            const LEAST: Self = $unit($least);
            const MOST: Self = $unit($most);

            fn written(self) -> String {
                self.exact()
            }
        })*
    };
}

figures! {
    Bytes: 1 to 1_125_899_906_842_624,
    // A machine that was calibrated as one rank has links of a byte a second.
    ByteRate: 1.0 to 1e18,
    FlopRate: 1e6 to 1e24,
    Seconds: 1e-12 to 1e12,
    Watts: 1e-3 to 1e9,
    Dollars: 1e-6 to 1e6,
}

/// Shares, and what is counted in them.
impl Plausible for f64 {
    const LEAST: f64 = 1e-6;
    const MOST: f64 = 1e3;

    fn written(self) -> String {
        self.to_string()
    }
}
