//! Architectures as tapes: what each piece of a model computes, and from that its backward pass.
//!
//! In: a [`crate::job::Model`] and the local shape. Out: [`Tape`]s of embedding, layer and head; [`Step`] lists.
//!
//! Invariant: only this folder knows what a transformer is; nothing here knows of stages, schedules or memory.

mod backward;
mod beside;
mod cross;
mod decoder;
mod experts;
mod head;
mod latent;
mod local;
mod modules;
mod mtp;
mod narrow;
mod parts;
mod ring;
mod split;
mod stores;
mod tape;
mod tuning;

pub use backward::Backward;
pub use beside::Beside;
pub use decoder::{embed, layer};
pub use experts::{capacity, ops_of_routed};
pub use head::{by_parts, head};
pub use local::Local;
pub use modules::RecomputeModule;
pub use split::SplitBackward;
pub use stores::Stores;
pub use tape::{Arg, Home, ParamDecl, RingAttention, Step, Store, Tape, TapeNode, Tensor, Use, Value};
