//! The kernel vocabulary: every op, forward **and** backward, written once.
//!
//! An [`Op`] is a kernel with its local (already sharded) dims fixed. Its family's file says of it (`spec.rs`): its
//! arguments, FLOPs, class, how it is cut by rows, its samples, and in `f64` what it computes. From that follow bytes,
//! curves' dims, slices, the calibration's grid, the tests of every device, and how devices without a kernel run it.
//! [`Op::signature`] lists the arguments in call order; the verifier checks buffers against it, the executor binds them
//! by it. All matrices are row-major.
//!
//! Invariant: nothing here knows how fast a device is.

mod adapters;
mod attention;
mod context;
mod embed;
mod experts;
mod kinds;
mod loss;
mod matmul;
mod norm;
mod optimizers;
mod pointwise;
mod reference;
mod rotary;
mod sizes;
mod spec;
mod vector;
mod vocabulary;
mod window;

pub use kinds::{ActivationKind, AttentionDims, ContextDims, LatentDims, Layout, NormKind, Packing, Rule};
pub use reference::StepSettings;
pub use sizes::Sizes;
pub use spec::{Dims, DtypeClass, Mode, NONE, Param, Rows, Signature, Values};
pub use vocabulary::Op;
use vocabulary::dims;

use std::hash::{Hash, Hasher};

use crate::elem::Elem;
use crate::mesh::{Coord, Mesh};
use crate::units::Bytes;

impl Op {
    /// The arguments in call order.
    pub fn signature(&self) -> Signature {
        self.spec(|spec| spec.params())
    }

    /// Floating-point operations: matmuls and attention exactly, the rest by operations an element.
    pub fn flops(&self) -> f64 {
        self.spec(|spec| spec.flops())
    }

    /// Bytes that must cross memory once where the arguments have these elements, in the order of [`Op::signature`]: every
    /// argument read, written or both; an embedding touches only its rows.
    pub fn traffic(&self, elems: impl IntoIterator<Item = Elem>) -> Bytes {
        Bytes(self.signature().iter().zip(elems).map(|(param, elem)| param.moved as u64 * elem.bytes()).sum())
    }

    /// The same where all are of four bytes: what curves are over.
    pub fn bytes(&self) -> u64 {
        self.traffic(std::iter::repeat(Elem::F32)).0
    }

    /// The class under which a profile's measured curve prices this op.
    pub fn class(&self) -> &'static str {
        self.spec(|spec| spec.class())
    }

    /// What the op's measured curve is over, beside its work: m, n, k of a matmul; sequence, heads and width of attention;
    /// rows and columns of a row-wise op; elements of a vector.
    pub fn dims(&self) -> Dims {
        self.spec(|spec| spec.dims())
    }

    /// What the op's measured curve is over: FLOPs for matmuls and attention, bytes for the rest.
    pub fn work(&self) -> f64 {
        if self.is_matrix() { self.flops() } else { self.bytes() as f64 }
    }

    /// Whether the op runs on the matrix units: a matmul or attention.
    pub fn is_matrix(&self) -> bool {
        self.spec(|spec| spec.is_matrix())
    }

    /// Rows along which the op can be cut: arguments that are not whole are cut alike. None if it runs whole.
    pub fn rows(&self) -> Option<Rows> {
        self.spec(|spec| spec.rows())
    }

    /// The op over so many of [`Op::rows`]; itself, if it runs whole.
    pub fn over(&self, rows: usize) -> Op {
        self.spec(|spec| spec.over(rows)).unwrap_or(*self)
    }

    /// Whether the result may be written over one of the first two arguments.
    pub fn may_run_in_place(&self) -> bool {
        self.spec(|spec| spec.in_place())
    }

    /// Whether processors and adapters are held to having a kernel for it; else it may be left to [`Op::reference`].
    pub fn wants_kernels(&self) -> bool {
        self.spec(|spec| spec.wants_kernels())
    }

    /// What it does to its arguments on the rank at `at`, in `f64`: ids are numbers, an id of none is [`NONE`].
    pub fn reference(&self, arguments: &mut [Vec<f64>], at: Coord, step: &StepSettings) {
        self.spec(|spec| spec.reference(arguments, at, step));
    }

    /// Makes drawn arguments possible ones, such as statistics that belong to their rows.
    pub fn settle(&self, arguments: &mut [Vec<f64>]) {
        self.spec(|spec| spec.settle(arguments));
    }

    /// A rank that has the second part of what several share, on whatever axis.
    pub fn second_shard(&self) -> Coord {
        let at = self.spec(|spec| spec.shards()).min(2) - 1;
        let mesh = Mesh { dp: 2, cp: 2, tp: 2, ..Mesh::ONE };
        mesh.coord_of(mesh.rank(0, at, at, at))
    }
}

/// Equal ops are of as many elements; what else tells them apart `==` sees.
impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        self.signature().iter().for_each(|param| param.elems.hash(state));
    }
}

/// Numbers in ops are finite.
impl Eq for Op {}

/// The place in its whole sequence of a token that is the `at`-th of the `seq` that rank `rank` of `cp` holds. A sequence is
/// cut into `2·cp` parts of which a rank holds one from each end, so that causal attention is as much work for all (Llama
/// Team 2024, §3.3.2).
pub fn position(at: usize, seq: usize, cp: usize, rank: usize) -> usize {
    let half = seq / 2;
    if cp == 1 {
        at
    } else if at < half {
        rank * half + at
    } else {
        (2 * cp - 1 - rank) * half + at - half
    }
}

#[cfg(test)]
mod tests;
