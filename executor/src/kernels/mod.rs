//! CPU kernels: one plain function an op of [`meshwright_hardware::op`], over `f32` slices, or [`Floats`] of two bytes too.
//!
//! In: a [`Team`] of threads, the op's dims, its operands. Out: the operands an op's signature calls written. All
//! matrices are row-major; ids and targets are `u32` bits held in `f32` slices. Lengths are checked by assertion: a
//! wrong one is a bug of the caller.
//!
//! Invariant: the same operands give the same bits, whatever the number of threads; only the instruction set counts.

mod activation;
mod attention;
mod context;
mod elementwise;
mod embed;
mod experts;
mod gemm;
mod lanes;
mod latent;
mod loss;
mod narrow;
mod norm;
mod optimizer;
mod pack;
mod rope;
mod team;
#[cfg(test)]
mod testing;
mod tile;
mod transpose;

pub use activation::{activation, activation_grad};
pub use attention::{attention, attention_grad};
pub use context::{Given, context_attention, context_attention_grad};
pub use elementwise::{accumulate, add, columns, copy, into_columns, zero};
pub use embed::{add_positions, embed, embed_grad, positions_grad};
pub use experts::{combine, combine_grad, dispatch, dispatch_grad, expert_matmul, route, route_grad};
pub use gemm::matmul;
pub use latent::{latent_pack, latent_pack_grad};
pub use loss::{VocabShard, loss, loss_stats};
pub use narrow::{Floats, FloatsMut, Half, copy_halves, narrow, narrow_all, widen, widen_all, zero_halves};
pub use norm::{bias_grad, norm, norm_grad};
pub use optimizer::{AdamWSettings, adamw, squared_norm};
pub use rope::rope;
pub use team::Team;
