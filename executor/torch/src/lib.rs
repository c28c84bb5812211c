//! Torch as a device, behind the C ABI of `meshwright_executor::device::torch::abi`.
//!
//! In: declared buffers, ops with their regions. Out: changed tensors.
//!
//! A library of its own because it links libtorch, which the command opens at run time; `scripts/torch` builds it. Without
//! the feature `torch` it is empty.
//!
//! Invariant: every op is explicit, forward and backward; autograd records nothing.

#![cfg(feature = "torch")]

mod batch;
mod cache;
mod cuda;
mod export;
mod ffi;
mod kernels;
mod launch;
mod ops;
mod tensors;
mod torch;
mod view;
mod worker;
