//! Attention of which a token sees the last so many tokens alone (Beltagy et al. 2020): on paper.
//!
//! A tiled kernel skips what no query sees, so that a window's work is what is left.

use super::Op;
use super::attention::BACKWARD;
use super::dims::{Attention, AttentionGrad, WindowAttention, WindowAttentionGrad};
use super::kinds::AttentionDims;
use super::reference::{Args, StepSettings};
use super::sizes::Sizes;
use super::spec::{Dims, Signature, Spec};
use crate::mesh::Coord;

/// FLOPs forward: the first tokens see those before them, the others as many as the window has.
fn forward_flops(dims: &AttentionDims, window: usize) -> f64 {
    let (seq, window) = (dims.seq as f64, window.min(dims.seq) as f64);
    let seen = window * seq - window * (window - 1.0) / 2.0;
    4.0 * (dims.batch * dims.heads * dims.head_dim) as f64 * seen
}

impl Spec for WindowAttention {
    fn class(&self) -> &'static str {
        "window-attention"
    }

    fn params(&self) -> Signature {
        Attention { dims: self.dims }.params()
    }

    fn flops(&self) -> f64 {
        forward_flops(&self.dims, self.window)
    }

    fn dims(&self) -> Dims {
        [self.dims.seq, self.dims.batch * self.dims.heads, self.dims.head_dim, self.window].into()
    }

    fn samples(_: &Sizes) -> Vec<Op> {
        Vec::new()
    }

    fn reference(&self, _: &mut Args, _: Coord, _: &StepSettings) {
        unreachable!("{} is on paper alone", self.class())
    }

    fn is_matrix(&self) -> bool {
        true
    }
}

impl Spec for WindowAttentionGrad {
    fn class(&self) -> &'static str {
        "window-attention-grad"
    }

    fn params(&self) -> Signature {
        AttentionGrad { dims: self.dims }.params()
    }

    fn flops(&self) -> f64 {
        BACKWARD * forward_flops(&self.dims, self.window)
    }

    fn dims(&self) -> Dims {
        [self.dims.seq, self.dims.batch * self.dims.heads, self.dims.head_dim, self.window].into()
    }

    fn samples(_: &Sizes) -> Vec<Op> {
        Vec::new()
    }

    fn reference(&self, _: &mut Args, _: Coord, _: &StepSettings) {
        unreachable!("{} is on paper alone", self.class())
    }

    fn is_matrix(&self) -> bool {
        true
    }
}
