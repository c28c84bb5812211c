//! Decisions that a search is not to change.
//!
//! In: a job's `[fix]`, or the command line. Out: [`Fix`].
//!
//! Invariant: what is not named is the search's to decide.

use meshwright_hardware::mesh::Order;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recompute::Recompute;
use crate::schedule::Schedule;

/// What the user has fixed, in a job's `[fix]` or on the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fix {
    /// Data parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp: Option<usize>,
    /// Pipeline parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pp: Option<usize>,
    /// Tensor parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tp: Option<usize>,
    /// Context parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cp: Option<usize>,
    /// Expert parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ep: Option<usize>,
    /// Sequences a microbatch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microbatch: Option<usize>,
    /// Order of microbatches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Chunks a stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<usize>,
    /// ZeRO stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero: Option<u8>,
    /// Ranks over which ZeRO shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<usize>,
    /// Whether tensor parallelism shards tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_parallel: Option<bool>,
    /// Whether context parallelism goes round a ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring: Option<bool>,
    /// How axes are laid over ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::keys::orders")]
    pub order: Option<Order>,
    /// Kinds of recomputation that layers may have: `none`, `selective`, `full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Vec<Recompute>>,
    /// `false`: no activations in the host's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<bool>,
    /// The most tensor parallelism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tp: Option<usize>,
    /// The most pipeline stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pp: Option<usize>,
}

impl Fix {
    /// Whether nothing is fixed.
    pub fn is_empty(&self) -> bool {
        *self == Fix::default()
    }
}
