//! Which measured runs bear on a prediction, and so how well it is supported.
//!
//! In: a stack, an accelerator, a format. Out: [`Evidence`], and its [`Support`].

use super::{Stack, Support, catalog};
use crate::units::Precision;

/// Runs in fewer than which a stack does not count as measured.
const FEW: usize = 3;

/// Measured runs that bear on a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Of the stack on the accelerator in the format.
    pub own: usize,
    /// Of the stack anywhere.
    pub stack: usize,
    /// Of any stack on the accelerator in the format.
    pub device: usize,
}

impl Evidence {
    /// Of a stack on an accelerator in a format, beside the stacks that ship.
    pub fn of(stack: &Stack, device: &str, precision: Precision) -> Evidence {
        let others = catalog().stacks.iter().filter(|other| other.name != stack.shipped());
        let own = stack.runs_in(device, precision);
        let elsewhere: usize = others.map(|other| other.runs_in(device, precision)).sum();
        Evidence { own, stack: stack.runs(), device: own + elsewhere }
    }

    /// What they support.
    pub fn support(self) -> Support {
        match self {
            Evidence { own: FEW.., .. } => Support::Measured,
            Evidence { stack: FEW.., .. } | Evidence { device: FEW.., .. } => Support::Near,
            _ => Support::Extrapolated,
        }
    }
}
