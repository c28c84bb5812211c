//! What goes row by row: activations, residuals, columns, and sums of columns.

use super::Op;
use super::dims::{Activation, ActivationGrad, Add, BiasGrad, Columns};
use super::kinds::ActivationKind;
use super::reference::{Args, StepSettings, grid};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, float, state};
use crate::mesh::Coord;

const KINDS: [ActivationKind; 2] = [ActivationKind::Gelu, ActivationKind::SwiGlu];

/// GELU's tanh form and its slope.
fn gelu(x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + 0.044_715 * x.powi(3))).tanh();
    let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), slope)
}

/// x·σ(x) and its slope.
fn silu(x: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

impl Spec for Activation {
    fn class(&self) -> &'static str {
        match self.kind {
            ActivationKind::Gelu => "gelu",
            ActivationKind::SwiGlu => "swiglu",
        }
    }

    fn params(&self) -> Signature {
        let n = self.rows * self.cols;
        [float("u", Mode::In, n * self.kind.width()).fresh(), float("out", Mode::Out, n)].into()
    }

    fn flops(&self) -> f64 {
        12.0 * (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.rows.iter().flat_map(|&[rows, cols]| KINDS.map(|kind| Op::Activation { kind, rows, cols })).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let cols = self.cols;
        for (r, c) in grid(self.rows, cols) {
            x[1][r * cols + c] = match self.kind {
                ActivationKind::Gelu => gelu(x[0][r * cols + c]).0,
                ActivationKind::SwiGlu => silu(x[0][r * 2 * cols + c]).0 * x[0][r * 2 * cols + cols + c],
            };
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Activation { rows, ..*self }.into())
    }
}

impl Spec for ActivationGrad {
    fn class(&self) -> &'static str {
        match self.kind {
            ActivationKind::Gelu => "gelu-grad",
            ActivationKind::SwiGlu => "swiglu-grad",
        }
    }

    fn params(&self) -> Signature {
        let (n, width) = (self.rows * self.cols, self.kind.width());
        [float("u", Mode::In, n * width), float("dout", Mode::In, n).fresh(), float("du", Mode::Out, n * width)].into()
    }

    fn flops(&self) -> f64 {
        20.0 * (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.rows.iter().flat_map(|&[rows, cols]| KINDS.map(|kind| Op::ActivationGrad { kind, rows, cols })).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let cols = self.cols;
        for (r, c) in grid(self.rows, cols) {
            let d = x[1][r * cols + c];
            match self.kind {
                ActivationKind::Gelu => x[2][r * cols + c] = d * gelu(x[0][r * cols + c]).1,
                ActivationKind::SwiGlu => {
                    let (gate, up) = (r * 2 * cols + c, r * 2 * cols + cols + c);
                    let (value, slope) = silu(x[0][gate]);
                    x[2][gate] = d * x[0][up] * slope;
                    x[2][up] = d * value;
                }
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(ActivationGrad { rows, ..*self }.into())
    }
}

impl Spec for Add {
    fn class(&self) -> &'static str {
        "add"
    }

    fn params(&self) -> Signature {
        let n = self.rows * self.cols;
        Signature::of([
            Some(float("a", Mode::In, n)),
            Some(float("b", Mode::In, n).fresh()),
            self.bias.then(|| float("bias", Mode::In, self.cols).whole()),
            Some(float("out", Mode::Out, n)),
        ])
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols * if self.bias { 2 } else { 1 }) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let of = |&[rows, cols]: &[usize; 2]| {
            sizes.either(false).iter().map(move |&bias| Op::Add { rows, cols, bias }).collect::<Vec<_>>()
        };
        sizes.rows.iter().flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let out = x.len() - 1;
        for (r, c) in grid(self.rows, self.cols) {
            let i = r * self.cols + c;
            x[out][i] = x[0][i] + x[1][i] + if self.bias { x[2][c] } else { 0.0 };
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Add { rows, ..*self }.into())
    }

    fn in_place(&self) -> bool {
        true
    }
}

impl Spec for Columns {
    fn class(&self) -> &'static str {
        "columns"
    }

    fn params(&self) -> Signature {
        let Columns { rows, stride, cols, into, .. } = *self;
        let part = |mode| float("part", mode, rows * cols);
        // Of the rows, only these columns are touched.
        let whole = |mode| float("rows", mode, rows * stride).moving(rows * cols);
        if into {
            [part(Mode::In).fresh(), whole(Mode::InOut)].into()
        } else {
            [whole(Mode::In).fresh(), part(Mode::Out)].into()
        }
    }

    fn flops(&self) -> f64 {
        0.0
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let edges = [[1, 1, 0, 1], [9, 40, 7, 33], [300, 5, 2, 1]];
        let usual = || sizes.rows.iter().map(|&[rows, cols]| [rows, 3 * cols, cols, cols]).collect();
        let all = if sizes.edges { edges.to_vec() } else { usual() };
        let of = |[rows, stride, first, cols]: [usize; 4]| {
            sizes.either(false).iter().map(move |&into| Op::Columns { rows, stride, first, cols, into })
        };
        all.into_iter().flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        for (r, c) in grid(self.rows, self.cols) {
            let (part, whole) = (r * self.cols + c, r * self.stride + self.first + c);
            if self.into { x[1][whole] = x[0][part] } else { x[1][part] = x[0][whole] }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Columns { rows, ..*self }.into())
    }
}

impl Spec for BiasGrad {
    fn class(&self) -> &'static str {
        "bias-grad"
    }

    fn params(&self) -> Signature {
        let BiasGrad { rows, cols } = *self;
        [float("dy", Mode::In, rows * cols).fresh(), state("db", Mode::InOut, cols).whole()].into()
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.rows.iter().map(|&[rows, cols]| Op::BiasGrad { rows, cols }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        grid(self.rows, self.cols).for_each(|(r, c)| x[1][c] += x[0][r * self.cols + c]);
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(BiasGrad { rows, ..*self }.into())
    }
}
