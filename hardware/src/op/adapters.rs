//! What fine-tuning of frozen weights needs: adapters' products added to a layer's (Hu et al. 2021), and weights that are kept
//! narrow made wide for a product (Dettmers et al. 2023).
//!
//! On paper: no sizes at which devices time or run them, which is why the reference alone does.

use super::Op;
use super::dims::{AddColumns, Dequantize};
use super::reference::{Args, StepSettings, grid};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, Values, float, ids};
use crate::mesh::Coord;

impl Spec for AddColumns {
    fn class(&self) -> &'static str {
        "add-columns"
    }

    fn params(&self) -> Signature {
        let AddColumns { rows, stride, cols, back, .. } = *self;
        let part = |mode| float("part", mode, rows * cols);
        // Of the rows, only these columns are touched; added to, they are read and written.
        if back {
            [float("rows", Mode::In, rows * stride).fresh().moving(rows * cols), part(Mode::Out)].into()
        } else {
            [part(Mode::In).fresh(), float("rows", Mode::InOut, rows * stride).moving(2 * rows * cols)].into()
        }
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols * if self.back { 1 } else { 2 }) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(_: &Sizes) -> Vec<Op> {
        Vec::new()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let scale = f64::from(self.scale);
        for (r, c) in grid(self.rows, self.cols) {
            let (part, whole) = (r * self.cols + c, r * self.stride + self.first + c);
            if self.back { x[1][part] = scale * x[0][whole] } else { x[1][whole] += scale * x[0][part] }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(AddColumns { rows, ..*self }.into())
    }
}

impl Spec for Dequantize {
    fn class(&self) -> &'static str {
        "dequantize"
    }

    fn params(&self) -> Signature {
        let words = self.packing.words(self.n);
        [ids("codes", Mode::In, words, Values::Any), float("w", Mode::Out, self.n).fresh()].into()
    }

    fn flops(&self) -> f64 {
        self.n as f64
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(_: &Sizes) -> Vec<Op> {
        Vec::new()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let words: Vec<u32> = x[0].iter().map(|&word| word as u32).collect();
        (0..self.n).for_each(|i| x[1][i] = self.packing.weight(&words, self.n, i));
    }
}
