//! Kinds of memory: what elements are, and how they are aligned.
//!
//! In: a job's precision, what ops take. Out: [`Formats`], the [`Class`] of a value.
//!
//! Statistics stay in fp32 and ids are numbers, whatever the format of weights and activations; so memory is of three
//! classes, each with its own buffers.
//!
//! Invariant: where the model's format is fp32, statistics are of its class.

use meshwright_hardware::op::DtypeClass;
use meshwright_hardware::program::Elem;
use meshwright_hardware::units::Precision;
use rustc_hash::FxHashMap;

use crate::model::{Step, Value};

/// Elements to which views are aligned: 64 bytes.
pub(super) const ALIGN: usize = 16;

/// Kinds of memory by what their elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of the format of weights and activations.
    Model,
    /// Of fp32 where that is another format.
    Full,
    /// Of numbers.
    Ids,
}

/// Something for each class.
pub type ByClass<T> = [T; 3];

impl Class {
    /// All classes, in the order of [`ByClass`].
    pub const ALL: ByClass<Class> = [Class::Model, Class::Full, Class::Ids];

    /// The class of what an op takes, beside weights and activations of `model`.
    fn of(takes: DtypeClass, model: Elem) -> Class {
        match takes {
            DtypeClass::Full if model != Elem::F32 => Class::Full,
            DtypeClass::Float | DtypeClass::Sum | DtypeClass::Full => Class::Model,
            DtypeClass::Ids => Class::Ids,
        }
    }

    /// Its elements.
    pub fn elem(self, model: Elem) -> Elem {
        match self {
            Class::Model => model,
            Class::Full => Elem::F32,
            Class::Ids => Elem::U32,
        }
    }
}

/// What elements are.
#[derive(Clone, Copy, Debug)]
pub struct Formats {
    /// Weights and activations.
    pub model: Elem,
    /// Gradients' sums, moments and fp32 weights.
    pub state: Elem,
}

impl Formats {
    /// Of a format: mixed precision keeps sums and state in fp32 (Micikevicius et al. 2018).
    pub fn of(precision: Precision) -> Formats {
        Formats { model: Elem::of(precision), state: Elem::F32 }
    }

    /// Whether fp32 weights are kept beside narrower ones.
    pub fn master(self) -> bool {
        self.model != self.state
    }

    /// Bytes of so many elements of each class.
    pub fn bytes(self, elems: ByClass<usize>) -> ByClass<u64> {
        Class::ALL.map(|class| elems[class as usize] as u64 * class.elem(self.model).bytes())
    }
}

/// What the elements of a piece's values are.
#[derive(Clone, Debug)]
pub struct ValueFormats {
    model: Elem,
    /// Of values that an op takes as something else than weights and activations.
    special: FxHashMap<Value, Class>,
}

impl ValueFormats {
    /// Of all values of a piece's passes, with weights and activations of `model`.
    pub fn of(forward: &[Step], backward: &[Step], model: Elem) -> ValueFormats {
        let mut special = FxHashMap::default();
        for step in forward.iter().chain(backward) {
            let Step::Call(op, uses) = step else { continue };
            let classed = uses.iter().zip(op.signature()).map(|(at, param)| (at.value, Class::of(param.takes, model)));
            special.extend(classed.filter(|(_, class)| *class != Class::Model));
        }
        ValueFormats { model, special }
    }

    /// The class of memory that a value lies in, unless it is a parameter's.
    pub fn class(&self, value: Value) -> Class {
        self.special.get(&value).copied().unwrap_or(Class::Model)
    }

    /// What a value's elements are: gradients of weights add up in fp32, whatever an op could take.
    pub fn elem(&self, value: Value) -> Elem {
        match value {
            Value::WeightGrad(_) => Elem::F32,
            _ => self.class(value).elem(self.model),
        }
    }
}
