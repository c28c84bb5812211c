//! CPU kernels: plain functions over `f32` slices.
