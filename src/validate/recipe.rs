//! What a row says of its recipe beside its plan.
//!
//! In: a [`Record`]. Out: what a job states of it; nothing where the row says nothing, for a stack has its own ways.
//!
//! Invariant: nothing that was measured is read.

use meshwright_hardware::profile::{AttentionKernel, LossKernel};
use meshwright_planner::job::{Optimizer, OptimizerName};

use super::record::Record;

/// What makes the loss: `loss=eager` in the notes, by the names that stacks' files have; Megatron Core's tests are named after their
/// flags.
pub(super) fn loss(record: &Record) -> Option<LossKernel> {
    if record.text("model_name").contains("cross_entropy_loss_fusion") {
        return Some(LossKernel::ParallelFused);
    }
    let (_, after) = record.text("notes").split_once("loss=")?;
    let word: String = after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
    LossKernel::named(&word)
}

/// How attention runs, by a row's own word: `attention=unfused` or `attention=flash` in the notes.
pub(super) fn attention(notes: &str) -> Option<AttentionKernel> {
    let (_, after) = notes.split_once("attention=")?;
    match after.split(|c: char| !c.is_ascii_alphanumeric()).next()? {
        "unfused" => Some(AttentionKernel::Unfused),
        "flash2" => Some(AttentionKernel::Flash2),
        "flash" => Some(AttentionKernel::Flash),
        _ => None,
    }
}

/// The optimizer, where a row says of another than AdamW on the device.
pub(super) fn optimizer(record: &Record) -> Optimizer {
    let says = |word: &str| [record.text("zero_stage"), record.text("notes")].iter().any(|text| text.contains(word));
    let name = match () {
        () if says("Muon") => OptimizerName::Muon,
        () if says("8-bit AdamW") => OptimizerName::AdamW8bit,
        () => OptimizerName::AdamW,
    };
    Optimizer { name, offload: record.text("offload").contains("optimizer"), ..Optimizer::default() }
}
