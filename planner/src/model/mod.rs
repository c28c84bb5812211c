//! Architectures as tapes: what each piece of a model computes, and from that its backward pass.
//!
//! In: a [`crate::job::Model`] and the local shape. Out: [`Tape`]s of embedding, layer and head; [`Step`] lists.
//!
//! Invariant: only this folder knows what a transformer is; nothing here knows of stages, schedules or memory.

mod backward;
mod decoder;
mod tape;

pub use decoder::{Shape, embed, head, layer};
pub use tape::{Arg, Home, Node, ParamDecl, Step, Tape, Tensor, Use, Value};
