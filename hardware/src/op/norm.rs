//! Normalisation of rows.

use super::Op;
use super::dims::{Norm, NormGrad};
use super::kinds::NormKind;
use super::reference::{Args, EPS, StepSettings, results};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, float, full, result, state};
use crate::mesh::Coord;

const KINDS: [NormKind; 2] = [NormKind::Layer, NormKind::Rms];

/// Of narrower rows' gradients, cancellation leaves little but rounding errors.
const NARROWEST: usize = 7;

impl Spec for Norm {
    fn class(&self) -> &'static str {
        match self.kind {
            NormKind::Layer => "layer-norm",
            NormKind::Rms => "rms-norm",
        }
    }

    fn params(&self) -> Signature {
        let Norm { kind, rows, cols } = *self;
        Signature::of([
            Some(float("x", Mode::In, rows * cols).fresh()),
            Some(float("gain", Mode::In, cols).whole()),
            (kind == NormKind::Layer).then(|| float("bias", Mode::In, cols).whole()),
            Some(float("y", Mode::Out, rows * cols)),
            Some(full("stats", Mode::Out, 2 * rows)),
        ])
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let shapes = sizes.rows.iter().map(|&[rows, cols]| (rows, cols.max(NARROWEST)));
        shapes.flat_map(|(rows, cols)| KINDS.map(|kind| Op::Norm { kind, rows, cols })).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let (cols, layer, last) = (self.cols, self.kind == NormKind::Layer, x.len() - 1);
        let n = cols as f64;
        for r in 0..self.rows {
            let row = x[0][r * cols..(r + 1) * cols].to_vec();
            let mean = if layer { row.iter().sum::<f64>() / n } else { 0.0 };
            let rstd = 1.0 / (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
            for (c, value) in row.iter().enumerate() {
                x[last - 1][r * cols + c] = (value - mean) * rstd * x[1][c] + if layer { x[2][c] } else { 0.0 };
            }
            (x[last][2 * r], x[last][2 * r + 1]) = (mean, rstd);
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Norm { rows, ..*self }.into())
    }
}

impl Spec for NormGrad {
    fn class(&self) -> &'static str {
        match self.kind {
            NormKind::Layer => "layer-norm-grad",
            NormKind::Rms => "rms-norm-grad",
        }
    }

    fn params(&self) -> Signature {
        let NormGrad { kind, rows, cols, accumulate } = *self;
        Signature::of([
            Some(float("x", Mode::In, rows * cols)),
            Some(float("gain", Mode::In, cols).whole()),
            Some(full("stats", Mode::In, 2 * rows)),
            Some(float("dy", Mode::In, rows * cols).fresh()),
            Some(float("dx", result(accumulate), rows * cols)),
            Some(state("dgain", Mode::InOut, cols).whole()),
            (kind == NormKind::Layer).then(|| state("dbias", Mode::InOut, cols).whole()),
        ])
    }

    fn flops(&self) -> f64 {
        12.0 * (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let shapes = sizes.rows.iter().map(|&[rows, cols]| (rows, cols.max(NARROWEST)));
        let of = |(rows, cols)| {
            let kinds = KINDS.iter().flat_map(|&kind| sizes.either(true).iter().map(move |&add| (kind, add)));
            kinds.map(move |(kind, accumulate)| Op::NormGrad { kind, rows, cols, accumulate })
        };
        shapes.flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let (cols, layer) = (self.cols, self.kind == NormKind::Layer);
        let n = cols as f64;
        for r in 0..self.rows {
            let (mean, rstd) = (x[2][2 * r], x[2][2 * r + 1]);
            let hat = |x: &Args, c: usize| (x[0][r * cols + c] - mean) * rstd;
            let g = |x: &Args, c: usize| x[3][r * cols + c] * x[1][c];
            let mean_g = if layer { (0..cols).map(|c| g(x, c)).sum::<f64>() / n } else { 0.0 };
            let mean_gx = (0..cols).map(|c| g(x, c) * hat(x, c)).sum::<f64>() / n;
            for c in 0..cols {
                let (dy, hat) = (x[3][r * cols + c], hat(x, c));
                let dx = rstd * (g(x, c) - mean_g - hat * mean_gx);
                x[4][r * cols + c] = dx + if self.accumulate { x[4][r * cols + c] } else { 0.0 };
                x[5][c] += dy * hat;
                if layer {
                    x[6][c] += dy;
                }
            }
        }
    }

    fn settle(&self, x: &mut Args) {
        let NormGrad { kind, rows, cols, .. } = *self;
        // A bias, where there is one, changes no statistics.
        let made = results(Op::Norm { kind, rows, cols }, &[&x[0], &x[1]]);
        x[2].clone_from(&made[made.len() - 1]);
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(NormGrad { rows, ..*self }.into())
    }
}
