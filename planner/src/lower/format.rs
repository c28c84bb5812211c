//! Kinds of memory: what elements are, and how they are aligned.
//!
//! In: a job's precision, what ops take. Out: [`Formats`], the [`Class`] of a value.
//!
//! Statistics stay in fp32 and ids are numbers, whatever the format of weights and activations, and where linear layers multiply in
//! eight bits, so may lie what they alone read; so memory is of four classes, each with its own buffers.
//!
//! Invariant: where the model's format is fp32, statistics are of its class.

use meshwright_hardware::op::DtypeClass;
use meshwright_hardware::profile::GradientSums;
use meshwright_hardware::program::Elem;
use meshwright_hardware::units::Precision;
use rustc_hash::FxHashMap;

use crate::job::Job;
use crate::model::{Step, Tape, Value};

pub(super) use crate::plan::ALIGN;

/// Kinds of memory by what their elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of the format of weights and activations.
    Model,
    /// Of fp32 where that is another format.
    Full,
    /// Of numbers.
    Ids,
    /// Of eight bits: inputs of linear layers that nothing else reads.
    Narrow,
}

/// Something for each class.
pub type ByClass<T> = [T; 4];

impl Class {
    /// All classes, in the order of [`ByClass`].
    pub const ALL: ByClass<Class> = [Class::Model, Class::Full, Class::Ids, Class::Narrow];

    /// What buffers' names of each class have behind what they are.
    pub(super) const SUFFIX: ByClass<&str> = ["", ".stats", ".ids", ".fp8"];

    /// The class of what an op takes, beside weights and activations of `model`.
    fn of(takes: DtypeClass, model: Elem) -> Class {
        match takes {
            DtypeClass::Full | DtypeClass::State if model != Elem::F32 => Class::Full,
            DtypeClass::Float | DtypeClass::Sum | DtypeClass::Full | DtypeClass::State | DtypeClass::Any => {
                Class::Model
            }
            DtypeClass::Ids => Class::Ids,
        }
    }

    /// Its elements.
    pub fn elem(self, model: Elem) -> Elem {
        match self {
            Class::Model => model,
            Class::Full => Elem::F32,
            Class::Ids => Elem::U32,
            Class::Narrow => Elem::F8,
        }
    }
}

/// What elements are.
#[derive(Clone, Copy, Debug)]
pub struct Formats {
    /// Weights and activations.
    pub model: Elem,
    /// Sums of weights' gradients.
    pub gradients: Elem,
    /// What backward makes gradients in, where that stands beside their sums all the step.
    pub beside: Option<Elem>,
    /// Moments and fp32 weights.
    pub state: Elem,
    /// Whether sharded weights are fp32 ones, cast as they are gathered.
    casts: bool,
    /// Whether layers keep inputs of their linear layers in eight bits.
    narrow: bool,
    /// Whether they send tokens to experts so.
    dispatches_narrow: bool,
}

impl Formats {
    /// Of a job: mixed precision keeps sums and state in fp32 (Micikevicius et al. 2018), unless its software does otherwise.
    pub fn of(job: &Job) -> Formats {
        let (model, software) = (Elem::of(job.precision), &job.software);
        let pure = job.pure || software.pure;
        let sums = if pure { GradientSums::Narrow } else { software.gradients };
        Formats {
            model,
            gradients: sums.elem(model),
            beside: sums.beside(model),
            state: if pure { model } else { Elem::F32 },
            casts: software.casts,
            dispatches_narrow: software.dispatches_narrow,
            narrow: software.keeps_narrow && matches!(job.precision, Precision::Fp8 | Precision::Fp4),
        }
    }

    /// What linear layers read of their inputs, or narrower than it.
    pub fn inputs(self) -> Elem {
        if self.narrow { Elem::F8 } else { self.model }
    }

    /// What tokens are sent to experts in.
    pub fn sent(self) -> Elem {
        if self.dispatches_narrow { self.inputs() } else { self.model }
    }

    /// What a rank keeps of a bank's weights under a ZeRO stage.
    pub fn weights(self, zero: u8) -> Elem {
        if self.casts && zero >= 3 { self.state } else { self.model }
    }

    /// Whether fp32 weights are kept beside them.
    pub fn master(self, zero: u8) -> bool {
        self.weights(zero) != self.state
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
    gradients: Elem,
    /// Of values that an op takes as something else than weights and activations.
    special: FxHashMap<Value, Class>,
}

impl ValueFormats {
    /// Of all values of a piece's passes.
    pub fn of(tape: &Tape, backward: &[Step], formats: Formats) -> ValueFormats {
        let Formats { model, gradients, .. } = formats;
        let mut special = FxHashMap::default();
        let forward = tape.forward();
        if formats.narrow {
            let narrow = tape.inputs_of_linear(&forward, backward, formats.dispatches_narrow);
            special.extend(narrow.into_iter().map(|tensor| (Value::Tensor(tensor), Class::Narrow)));
        }
        for step in forward.iter().chain(backward) {
            let Step::Call(op, uses) = step else { continue };
            let classed = uses.iter().zip(op.signature()).map(|(at, param)| (at.value, Class::of(param.takes, model)));
            special.extend(classed.filter(|(_, class)| *class != Class::Model));
        }
        ValueFormats { model, gradients, special }
    }

    /// Elements of weights and activations.
    pub fn model(&self) -> Elem {
        self.model
    }

    /// The class of memory that a value lies in, unless it is a parameter's.
    pub fn class(&self, value: Value) -> Class {
        self.special.get(&value).copied().unwrap_or(Class::Model)
    }

    /// What a value's elements are: gradients of weights add up in their own format, whatever an op could take.
    pub fn elem(&self, value: Value) -> Elem {
        match value {
            Value::WeightGrad(_) => self.gradients,
            _ => self.class(value).elem(self.model),
        }
    }
}
