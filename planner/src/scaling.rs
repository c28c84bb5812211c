//! Scaling laws: the loss of a model of so many parameters on so many tokens, and how FLOPs are best divided between the two.
//!
//! In: published laws, each with its source and the runs it was fitted to. Out: a loss, an [`Optimum`], its spread.
//!
//! FLOPs are 6 a parameter and token (Kaplan et al. 2020, §2.1): attention's scores and recomputation are not counted. A loss is of the
//! data and the tokenizer that the law was fitted to, in nats a token.
//!
//! Invariant: a law is never used without saying where it lies outside what it was fitted to.

mod fit;
mod law;
mod optimum;
mod shape;

pub use fit::{bootstrap, points, refit};
pub use law::{ALLOCATIONS, Allocation, LAWS, Law, LawForm, Sum, law};
pub use optimum::{Optimum, SizeGiven, optimum, served};
pub use shape::decoder;

/// Training FLOPs a parameter and token.
pub const FLOPS: f64 = 6.0;
