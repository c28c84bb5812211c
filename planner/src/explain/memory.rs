//! Where a stage's bytes go: every declared buffer has one use.
//!
//! In: a stage's buffers. Out: [`StageMemory`].
//!
//! Invariant: the uses but `host` sum to the stage's declared bytes, which are its predicted peak.

use meshwright_hardware::program::{Lifetime, RankProgram};
use serde::Serialize;

/// Bytes of a rank of a stage, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// Weights in the format of matmuls.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// Moments and fp32 weights.
    pub optimizer: u64,
    /// What sites need to meet: weights of the last time, and momentum.
    pub sites: u64,
    /// Activations kept for backward.
    pub activations: u64,
    /// Weights gathered and gradients to be scattered.
    pub gathered: u64,
    /// What goes to other stages or comes from them.
    pub messages: u64,
    /// Working memory, targets, loss and norm.
    pub working: u64,
    /// In the host's memory; counts in no sum.
    pub host: u64,
}

impl StageMemory {
    /// Of a stage's declarations.
    pub fn of(role: &RankProgram) -> StageMemory {
        let mut memory = StageMemory::default();
        for buffer in &role.buffers {
            let kind = buffer.name.split('.').next().unwrap_or_default();
            let place = match (kind, buffer.lifetime) {
                (_, Lifetime::Hosted | Lifetime::HostPersistent) => &mut memory.host,
                ("weights", _) => &mut memory.weights,
                ("grads", _) => &mut memory.gradients,
                ("outer", _) => &mut memory.sites,
                (_, Lifetime::Persistent) => &mut memory.optimizer,
                (_, Lifetime::Saved) => &mut memory.activations,
                ("gathered" | "made", _) => &mut memory.gathered,
                ("flow" | "out" | "peer", _) => &mut memory.messages,
                (_, Lifetime::Scratch) => &mut memory.working,
            };
            *place += buffer.bytes();
        }
        memory
    }

    /// Uses with their names, largest meaning first; all but the host's.
    pub fn uses(&self) -> [(&'static str, u64); 8] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("sites", self.sites),
            ("activations", self.activations),
            ("gathered", self.gathered),
            ("messages", self.messages),
            ("working", self.working),
        ]
    }

    /// Bytes on the device.
    pub fn total(&self) -> u64 {
        self.uses().iter().map(|(_, bytes)| bytes).sum()
    }
}
