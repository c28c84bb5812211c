//! The machine for real: runs a verified program on devices and measures it.
pub mod kernels;
