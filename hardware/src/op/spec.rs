//! What is said of an op: its arguments, what it costs, how it is cut, at which sizes it is run, what it computes.
//!
//! In: an op's dims. Out: what devices, prices, calibration and tests derive everything else from.
//!
//! Invariant: nothing outside `op/` says any of this again; an op without a specification, and so without samples, does not
//! compile.

use std::ops::Deref;

use super::reference::{Args, StepSettings};
use super::sizes::Sizes;
use super::vocabulary::{Op, dims, vocabulary};
use crate::elem::Elem;
use crate::mesh::Coord;

/// One op's specification. Devices' kernels and the planner's backward rule come on top; all else follows from this.
pub(super) trait Spec {
    /// The class under which a profile's measured curve prices it.
    fn class(&self) -> &'static str;

    /// The arguments in call order.
    fn params(&self) -> Signature;

    /// Floating-point operations.
    fn flops(&self) -> f64;

    /// What its measured curve is over, beside its work.
    fn dims(&self) -> Dims;

    /// The ops that run it on a device: those that calibration times, or, at [`Sizes::edges`], those that tests compare.
    fn samples(sizes: &Sizes) -> Vec<Op>
    where
        Self: Sized;

    /// What it does, in plain `f64` loops, from the formulas: arguments as in [`Spec::params`], ids as numbers. Devices
    /// without a kernel run this; every kernel is compared with it.
    fn reference(&self, x: &mut Args, at: Coord, step: &StepSettings);

    /// Makes drawn arguments possible ones, such as statistics that belong to their rows.
    fn settle(&self, _x: &mut Args) {}

    /// Whether it runs on the matrix units: a matmul or attention.
    fn is_matrix(&self) -> bool {
        false
    }

    /// Rows along which it can be cut; none if it runs whole.
    fn rows(&self) -> Option<Rows> {
        None
    }

    /// The same over so many of [`Spec::rows`].
    fn over(&self, _rows: usize) -> Option<Op> {
        None
    }

    /// Ranks that share what it works on, of which each does its part.
    fn shards(&self) -> usize {
        1
    }

    /// Whether the result may be written over one of the first two arguments.
    fn in_place(&self) -> bool {
        false
    }

    /// Whether processors and adapters are held to having a kernel for it; what is new or rare may be left to the reference.
    fn wants_kernels(&self) -> bool {
        true
    }
}

/// Rows of an op: how many, and how many must stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// All of them.
    pub count: usize,
    /// A part is a multiple of this.
    pub unit: usize,
}

impl Rows {
    /// Rows of which `unit` stay together; rows that begin in the middle of a unit cannot be cut.
    pub(super) fn of(count: usize, unit: usize) -> Option<Rows> {
        let unit = if unit > 0 && count.is_multiple_of(unit) { unit } else { count };
        Some(Rows { count, unit })
    }

    /// Rows a part, where a row is of so many floats and a part of about `most`.
    pub fn at_once(self, floats: usize, most: usize) -> usize {
        let units = most / (floats * self.unit).max(1);
        (units.max(1) * self.unit).min(self.count)
    }
}

/// How an op uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Read only.
    In,
    /// Written whole, what was there is lost.
    Out,
    /// Read and written.
    InOut,
}

/// Which elements an argument may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DtypeClass {
    /// Any floats: weights and activations. Kernels compute in fp32 and round what they write once, to nearest even.
    Float,
    /// Any floats; in a model mostly fp32, as sums of weights' gradients are.
    Sum,
    /// f32 alone: statistics.
    Full,
    /// Sums of weights' gradients, state of the optimizer: any floats, of which kernels here have f32. A program for software that
    /// keeps them narrower is priced, not run.
    State,
    /// u32: numbers of tokens and slots, words of packed weights.
    Ids,
    /// Whatever there is: what only moves elements moves them as they lie.
    Any,
}

impl DtypeClass {
    /// Whether elements of this kind will do.
    pub fn accepts(self, elem: Elem) -> bool {
        match self {
            DtypeClass::Float | DtypeClass::Sum | DtypeClass::State => elem != Elem::U32,
            DtypeClass::Full => elem == Elem::F32,
            DtypeClass::Ids => elem == Elem::U32,
            DtypeClass::Any => true,
        }
    }

    /// Whether kernels take it in two bytes.
    pub fn may_be_narrow(self) -> bool {
        matches!(self, DtypeClass::Float | DtypeClass::Sum)
    }

    /// What elements of this kind are in a model whose weights and activations are `model`.
    pub fn elem(self, model: Elem) -> Elem {
        match self {
            DtypeClass::Float | DtypeClass::Any => model,
            DtypeClass::Sum | DtypeClass::Full | DtypeClass::State => Elem::F32,
            DtypeClass::Ids => Elem::U32,
        }
    }
}

/// Which values an argument can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Any numbers.
    Any,
    /// Ids below this.
    Below(usize),
    /// Ids below this, none twice, or [`NONE`].
    Distinct(usize),
}

/// The id that stands for none: a target that does not count, a choice without a slot.
pub const NONE: u32 = u32::MAX;

/// One argument of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in listings.
    pub name: &'static str,
    /// How it is used.
    pub mode: Mode,
    /// Number of elements.
    pub elems: usize,
    /// Which elements it may have.
    pub takes: DtypeClass,
    /// What they can be.
    pub values: Values,
    /// Whether every row needs all of it; else it is cut along the op's rows.
    pub whole: bool,
    /// Whether the op before made it, or one of those just before, in most programs: a processor's caches hold it.
    pub fresh: bool,
    /// Elements that cross memory, those read and written twice.
    pub(super) moved: usize,
}

impl Param {
    fn new(name: &'static str, mode: Mode, elems: usize, takes: DtypeClass) -> Param {
        let moved = if mode == Mode::InOut { 2 * elems } else { elems };
        Param { name, mode, elems, takes, values: Values::Any, whole: false, fresh: false, moved }
    }

    /// The same, needed whole by every row.
    pub(super) fn whole(self) -> Param {
        Param { whole: true, ..self }
    }

    /// The same, just made.
    pub(super) fn fresh(self) -> Param {
        Param { fresh: true, ..self }
    }

    /// The same, of which only so many elements cross memory.
    pub(super) fn moving(self, moved: usize) -> Param {
        Param { moved, ..self }
    }
}

/// Weights or activations.
pub(super) fn float(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param::new(name, mode, elems, DtypeClass::Float)
}

/// What is mostly a sum of gradients.
pub(super) fn sum(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param::new(name, mode, elems, DtypeClass::Sum)
}

/// What is only moved.
pub(super) fn moved(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param::new(name, mode, elems, DtypeClass::Any)
}

/// What is fp32 whatever the model is.
pub(super) fn full(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param::new(name, mode, elems, DtypeClass::Full)
}

/// What is fp32 unless software keeps it narrower: weights' gradients and the optimizer's state.
pub(super) fn state(name: &'static str, mode: Mode, elems: usize) -> Param {
    Param::new(name, mode, elems, DtypeClass::State)
}

/// Ids with these values.
pub(super) fn ids(name: &'static str, mode: Mode, elems: usize, values: Values) -> Param {
    Param { values, ..Param::new(name, mode, elems, DtypeClass::Ids) }
}

/// A result that is written, or added to.
pub(super) fn result(accumulate: bool) -> Mode {
    if accumulate { Mode::InOut } else { Mode::Out }
}

/// Most arguments of an op.
const MOST: usize = 7;

/// The arguments of an op, in call order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    all: [Param; MOST],
    len: usize,
}

impl Signature {
    /// These, without those that are `None`.
    pub(super) fn of<const N: usize>(given: [Option<Param>; N]) -> Signature {
        let mut params = Signature { all: [Param::new("", Mode::In, 0, DtypeClass::Float); MOST], len: 0 };
        for param in given.into_iter().flatten() {
            params.all[params.len] = param;
            params.len += 1;
        }
        params
    }
}

impl<const N: usize> From<[Param; N]> for Signature {
    fn from(given: [Param; N]) -> Signature {
        Signature::of(given.map(Some))
    }
}

impl Deref for Signature {
    type Target = [Param];

    fn deref(&self) -> &[Param] {
        &self.all[..self.len]
    }
}

impl IntoIterator for Signature {
    type Item = Param;
    type IntoIter = std::iter::Take<std::array::IntoIter<Param, MOST>>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter().take(self.len)
    }
}

impl<'a> IntoIterator for &'a Signature {
    type Item = &'a Param;
    type IntoIter = std::slice::Iter<'a, Param>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a measured curve is over, beside the work: at most four sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dims {
    all: [f64; 4],
    len: usize,
}

impl<const N: usize> From<[usize; N]> for Dims {
    fn from(sizes: [usize; N]) -> Dims {
        let mut dims = Dims { all: [0.0; 4], len: N };
        dims.all.iter_mut().zip(sizes).for_each(|(to, size)| *to = size as f64);
        dims
    }
}

impl Deref for Dims {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.all[..self.len]
    }
}

/// From an op to what is said of it.
macro_rules! specify {
    ($($family:ident { $(
        $(#[$doc:meta])* $name:ident $({ $($field:ident: $ty:ty),* $(,)? })? $(($dims:ident: $of:ty))?,
    )* })*) => {
        impl Op {
            /// What is said of it.
            pub(super) fn spec<R>(&self, ask: impl FnOnce(&dyn Spec) -> R) -> R {
                match *self { $($(
                    Op::$name $({ $($field),* })? $(($dims))? =>
                        ask(&dims::$name { $($($field),*)? $($dims)? }),
                )*)* }
            }

            /// Every op at these sizes, by family.
            pub fn samples(sizes: &Sizes) -> Vec<(&'static str, Vec<Op>)> {
                vec![$((stringify!($family), [$(dims::$name::samples(sizes)),*].concat())),*]
            }
        }
    };
}

vocabulary!(specify);
