//! What a stack takes of a device's memory beside the buffers that programs declare.
//!
//! In: `[memory]` of a stack's file. Out: [`Allocator`]: bytes allocated, reserved and taken, by bytes declared.
//!
//! PyTorch tells allocated from reserved bytes; what the driver shows as taken (`nvidia-smi`) has the context, and what libraries
//! take without the allocator, in it too.
//!
//! Invariant: a plan of no more than [`Allocator::declarable`] bytes takes no more than the memory that was asked of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::input::Fault;

/// A stack's allocator and what stands beside it; all zero where a program's buffers are all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Allocator {
    /// GB (1e9 bytes) that libraries take within it: cuBLAS's workspaces of 32 MiB on Hopper, 8 MiB before, a stream each (NVIDIA,
    /// cuBLAS documentation, §2.1.7).
    pub workspace: f64,
    /// What fragments add, as a share of what is allocated.
    pub fragments: f64,
    /// GB beside it: buffers of communication libraries.
    pub reserve: f64,
    /// GB of the driver's context.
    pub context: f64,
}

impl Allocator {
    /// Refuses what no library takes.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let gigabytes = [("workspace", self.workspace), ("reserve", self.reserve), ("context", self.context)];
        if let Some((key, value)) = gigabytes.iter().find(|(_, value)| !(0.0..=1e3).contains(value)) {
            return Err(Fault::new(key, value, "it must be 0 to 1000 GB"));
        }
        match (0.0..=10.0).contains(&self.fragments) {
            true => Ok(()),
            false => Err(Fault::new("fragments", self.fragments, "a share of what is allocated, 0 to 10")),
        }
    }

    /// Each figure: its name in files, what it is, its value.
    pub fn figures(&self) -> [(&'static str, &'static str, f64); 4] {
        [
            ("workspace", "GB that libraries take within the allocator", self.workspace),
            ("fragments", "What fragments add, as a share of what is allocated", self.fragments),
            ("reserve", "GB beside the allocator: buffers of communication libraries", self.reserve),
            ("context", "GB of the driver's context", self.context),
        ]
    }

    /// Whether it adds nothing.
    pub fn is_none(&self) -> bool {
        *self == Allocator::default()
    }

    /// Bytes that are allocated where so many are declared.
    pub fn allocated(&self, declared: u64) -> u64 {
        declared + (self.workspace * 1e9).round() as u64
    }

    /// Bytes that the allocator holds: with its fragments.
    pub fn reserved(&self, declared: u64) -> u64 {
        let allocated = self.allocated(declared);
        allocated + (allocated as f64 * self.fragments).round() as u64
    }

    /// Bytes of the device that are taken: with what stands beside the allocator.
    pub fn taken(&self, declared: u64) -> u64 {
        self.reserved(declared) + ((self.reserve + self.context) * 1e9).round() as u64
    }

    /// The most bytes that a plan may declare on a device with so many.
    pub fn declarable(&self, memory: u64) -> u64 {
        let held = memory as f64 - (self.reserve + self.context) * 1e9;
        let declared = held / (1.0 + self.fragments) - self.workspace * 1e9;
        // Each of the sums above is rounded.
        if self.is_none() { memory } else { (declared - 4.0).max(0.0) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_declared_takes_all_but_a_few_bytes() {
        let all = Allocator { workspace: 0.067, fragments: 0.04, reserve: 1.0, context: 1.5 };
        assert_eq!([all.allocated(1_000_000_000), all.reserved(1_000_000_000)], [1_067_000_000, 1_109_680_000]);
        assert_eq!(all.taken(1_000_000_000), 3_609_680_000);
        for memory in [16_000_000_000, 80_000_000_001, 191_999_999_999] {
            let taken = all.taken(all.declarable(memory));
            assert!(taken <= memory && taken + 16 > memory, "{taken} of {memory}");
        }
        assert_eq!(all.declarable(1_000_000_000), 0);
        assert_eq!([Allocator::default().declarable(7), Allocator::default().taken(7)], [7, 7]);
    }
}
