//! Steps of optimizers beside AdamW.
//!
//! On paper: what they keep, move and multiply is priced; no device runs them, so that there is no reference and no sample.

use super::Op;
use super::dims::{Orthogonalize, Update};
use super::kinds::Rule;
use super::reference::{Args, StepSettings};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Signature, Spec, Values, float, full, ids, state};
use crate::mesh::Coord;

impl Spec for Update {
    fn class(&self) -> &'static str {
        match self.rule {
            Rule::Adam8bit => "adamw-8bit",
            Rule::Adafactor => "adafactor",
            Rule::Lion => "lion",
            Rule::Sgd => "sgd",
            Rule::Momentum => "sgd-momentum",
        }
    }

    fn params(&self) -> Signature {
        let Update { rule, n, kept, master, .. } = *self;
        let coded = |name| Some(ids(name, Mode::InOut, kept, Values::Any));
        let (first, second) = match rule {
            Rule::Adam8bit => (coded("m"), coded("v")),
            Rule::Adafactor => (Some(state("factors", Mode::InOut, kept)), None),
            Rule::Lion | Rule::Momentum => (Some(state("m", Mode::InOut, kept)), None),
            Rule::Sgd => (None, None),
        };
        Signature::of([
            Some(full("norm", Mode::In, 1)),
            Some(state("g", Mode::In, n)),
            Some(if master { float("w", Mode::Out, n) } else { state("w", Mode::InOut, n) }),
            first,
            second,
            master.then(|| state("master", Mode::InOut, n)),
        ])
    }

    fn flops(&self) -> f64 {
        let each = match self.rule {
            Rule::Adam8bit | Rule::Adafactor => 14.0,
            Rule::Lion => 8.0,
            Rule::Momentum => 6.0,
            Rule::Sgd => 4.0,
        };
        each * self.n as f64
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(_: &Sizes) -> Vec<Op> {
        Vec::new()
    }

    fn reference(&self, _: &mut Args, _: Coord, _: &StepSettings) {
        unreachable!("{} is on paper alone", self.class())
    }

    fn shards(&self) -> usize {
        self.shards
    }
}

impl Spec for Orthogonalize {
    fn class(&self) -> &'static str {
        "orthogonalize"
    }

    fn params(&self) -> Signature {
        let Orthogonalize { n, rows, cols, matrices, shards } = *self;
        // Of the vector only these matrices are touched.
        [state("g", Mode::InOut, n).moving(2 * matrices * rows * cols / shards)].into()
    }

    fn flops(&self) -> f64 {
        let (narrow, wide) = (self.rows.min(self.cols) as f64, self.rows.max(self.cols) as f64);
        let once = 4.0 * narrow * narrow * wide + 2.0 * narrow.powi(3);
        Orthogonalize::ROUNDS * once * self.matrices as f64 / self.shards as f64
    }

    fn dims(&self) -> Dims {
        [self.matrices.div_ceil(self.shards), self.rows, self.cols].into()
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

impl Orthogonalize {
    /// Rounds of Newton's and Schulz's iteration (Jordan et al. 2024).
    const ROUNDS: f64 = 5.0;
}
