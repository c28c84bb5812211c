//! Ops with operands and what they make of them in `f64`, which every device is compared with.
//!
//! In: a family of ops, a format. Out: its cases.
//!
//! Invariant: operands come from fixed seeds, so a case is the same for every device and in every run.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use meshwright_executor::device::StepArgs;
use meshwright_hardware::op::{DtypeClass, NONE, Op, Param, Sizes, StepSettings, Values};
use meshwright_hardware::program::Elem;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::suite::step;

/// An op with operands, and what it makes of them in `f64`.
pub struct Case {
    pub op: Op,
    pub given: Vec<Vec<f64>>,
    pub want: Vec<Vec<f64>>,
    pub step: StepArgs,
}

impl Case {
    /// The op of this number in its family, operands of `elem`.
    fn of(op: &Op, number: usize, elem: Elem) -> Case {
        let mut random = Random::new(100 + number as u64);
        let (mut given, step) = (operands(op, &mut random), step([0.5, 0.0][number % 2]));
        for (values, _) in given.iter_mut().zip(op.signature()).filter(|(_, p)| p.takes.may_be_narrow()) {
            values.iter_mut().for_each(|x| *x = rounded(elem, *x));
        }
        let mut want = given.clone();
        op.reference(&mut want, op.second_shard(), &StepSettings::from(&step));
        Case { op: *op, given, want, step }
    }
}

/// Gives the cases of a family, one after another. Those of matrix ops, whose reference takes longest, are made once for all
/// devices; the others would take memory for little.
pub fn each_case(family: &str, elem: Elem, mut check: impl FnMut(&Case)) {
    static MADE: Mutex<BTreeMap<String, &'static OnceLock<Case>>> = Mutex::new(BTreeMap::new());
    let ops = Op::samples(&Sizes::edges()).into_iter().find(|(name, _)| *name == family);
    let ops = ops.unwrap_or_else(|| panic!("no op is of the family {family}")).1;
    for (number, op) in ops.iter().enumerate() {
        if !op.is_matrix() {
            check(&Case::of(op, number, elem));
            continue;
        }
        let key = format!("{family} {number} {elem:?}");
        let made = *MADE.lock().unwrap().entry(key).or_insert_with(|| Box::leak(Box::default()));
        check(made.get_or_init(|| Case::of(op, number, elem)));
    }
}

/// Operands that an op can be given: ids in range, statistics that belong to their rows, squares above zero.
fn operands(op: &Op, random: &mut Random) -> Vec<Vec<f64>> {
    let draw = |param: Param| match param.values {
        Values::Any => random.values(param.elems),
        Values::Below(most) => (0..param.elems).map(|_| random.from(0, most - 1) as f64).collect(),
        Values::Distinct(most) => slots(random, param.elems, most),
    };
    let mut all: Vec<Vec<f64>> = op.signature().into_iter().map(draw).collect();
    op.settle(&mut all);
    // What an `f32` buffer can hold of it.
    all.iter_mut().zip(op.signature()).filter(|(_, param)| !is_ids(param)).for_each(|(values, _)| {
        values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
    });
    all
}

/// Different slots for as many choices as there are slots for, in any order; the others get none.
fn slots(random: &mut Random, choices: usize, slots: usize) -> Vec<f64> {
    let mut free: Vec<usize> = (0..slots).collect();
    let slot = |_| {
        let wanted = random.from(0, 1 << 20);
        if free.is_empty() || wanted % 7 == 3 {
            return f64::from(NONE);
        }
        free.swap_remove(wanted % free.len()) as f64
    };
    (0..choices).map(slot).collect()
}

/// Operands by chance.
pub struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(SplitMix64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// In `low ..= high`.
    pub fn from(&mut self, low: usize, high: usize) -> usize {
        low + (self.0.next_u64() % (high - low + 1) as u64) as usize
    }

    /// `n` values in -1..1 that an `f32` holds.
    fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| f64::from((self.0.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0)).collect()
    }
}

/// The nearest number of a format, the even one of two, by arithmetic.
pub fn rounded(elem: Elem, x: f64) -> f64 {
    let (digits, least) = match elem {
        Elem::F32 | Elem::U32 => return x,
        Elem::Bf16 => (8, -126),
        Elem::F16 => (11, -14),
        Elem::F8 => (4, -6),
    };
    if !x.is_finite() {
        return x;
    }
    let exponent = x.abs().log2().floor().max(f64::from(least));
    let unit = (exponent - f64::from(digits - 1)).exp2();
    let near = (x / unit).round_ties_even() * unit;
    if elem == Elem::F16 && near.abs() > 65504.0 { f64::INFINITY.copysign(x) } else { near }
}

pub fn is_ids(param: &Param) -> bool {
    param.takes == DtypeClass::Ids
}
