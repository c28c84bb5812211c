//! Whole vectors, and the optimizer's pass over them.

use super::Op;
use super::dims::{Accumulate, AdamW, Copy, SquaredNorm, Zero};
use super::reference::{Args, StepSettings, first};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, float, full, moved, state, sum};
use crate::mesh::{Axis, Coord};

impl Spec for Zero {
    fn class(&self) -> &'static str {
        "zero"
    }

    fn params(&self) -> Signature {
        [sum("x", Mode::Out, self.n)].into()
    }

    fn flops(&self) -> f64 {
        0.0
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.vectors.iter().map(|&n| Op::Zero { n }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        x[0].fill(0.0);
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.n, 1)
    }

    fn over(&self, n: usize) -> Option<Op> {
        Some(Op::Zero { n })
    }
}

impl Spec for Copy {
    fn class(&self) -> &'static str {
        "copy"
    }

    fn params(&self) -> Signature {
        [moved("src", Mode::In, self.n), moved("dst", Mode::Out, self.n)].into()
    }

    fn flops(&self) -> f64 {
        0.0
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.vectors.iter().map(|&n| Op::Copy { n }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        x[1] = x[0].clone();
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.n, 1)
    }

    fn over(&self, n: usize) -> Option<Op> {
        Some(Op::Copy { n })
    }
}

impl Spec for Accumulate {
    fn class(&self) -> &'static str {
        "accumulate"
    }

    fn params(&self) -> Signature {
        [sum("src", Mode::In, self.n).fresh(), sum("dst", Mode::InOut, self.n)].into()
    }

    fn flops(&self) -> f64 {
        self.n as f64
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        sizes.vectors.iter().map(|&n| Op::Accumulate { n }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        (0..self.n).for_each(|i| x[1][i] += x[0][i]);
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.n, 1)
    }

    fn over(&self, n: usize) -> Option<Op> {
        Some(Op::Accumulate { n })
    }
}

/// Elements, shards of a longer vector, and a border in it; the axis of shards.
fn shards(sizes: &Sizes) -> Vec<(usize, usize, usize, Axis)> {
    if !sizes.edges {
        return sizes.vectors.iter().map(|&n| (n, 1, n, Axis::Data)).collect();
    }
    let edges = [(1, 1, 1), (255, 1, 100), (300, 2, 450), (1000, 4, 900), (70_001, 1, 35_000)];
    edges.map(|(n, shards, border)| (n, shards, border, Axis::Dp)).to_vec()
}

impl Spec for SquaredNorm {
    fn class(&self) -> &'static str {
        "squared-norm"
    }

    fn params(&self) -> Signature {
        [state("g", Mode::In, self.n), full("sum", Mode::InOut, 1)].into()
    }

    fn flops(&self) -> f64 {
        2.0 * self.n as f64
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let copies = if sizes.edges { &[1, 4][..] } else { &[1] };
        let of = |(n, shards, whole, axis): (usize, usize, usize, Axis)| {
            copies.iter().map(move |&copies| {
                let replicas = if copies == 1 { 1 } else { 3 };
                Op::SquaredNorm { n, whole, copies, replicas, shards, axis }
            })
        };
        shards(sizes).into_iter().flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let SquaredNorm { n, whole, copies, replicas, shards, axis } = *self;
        let first = first(shards, at.on(axis), n);
        let share = |i: usize| if first + i < whole { 1.0 } else { 1.0 / copies as f64 };
        x[1][0] += (0..n).map(|i| x[0][i] * x[0][i] * share(i)).sum::<f64>() / replicas as f64;
    }

    fn shards(&self) -> usize {
        self.shards
    }
}

impl Spec for AdamW {
    fn class(&self) -> &'static str {
        "adamw"
    }

    fn params(&self) -> Signature {
        let AdamW { n, master, .. } = *self;
        Signature::of([
            Some(full("norm", Mode::In, 1)),
            Some(state("g", Mode::In, n)),
            Some(if master { float("w", Mode::Out, n) } else { state("w", Mode::InOut, n) }),
            Some(state("m", Mode::InOut, n)),
            Some(state("v", Mode::InOut, n)),
            master.then(|| state("master", Mode::InOut, n)),
        ])
    }

    fn flops(&self) -> f64 {
        14.0 * self.n as f64
    }

    fn dims(&self) -> Dims {
        [self.n].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let masters = if sizes.edges { &[false, true][..] } else { std::slice::from_ref(&sizes.master) };
        let of = |(n, shards, decayed, axis): (usize, usize, usize, Axis)| {
            masters.iter().map(move |&master| Op::AdamW { n, decayed, shards, axis, master })
        };
        shards(sizes).into_iter().flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, step: &StepSettings) {
        let AdamW { n, decayed, shards, axis, master } = *self;
        // A norm that is not finite updates nothing: narrow weights stay what their masters round to.
        if !x[0][0].is_finite() {
            if master {
                x[2] = x[5].clone();
            }
            return;
        }
        let first = first(shards, at.on(axis), n);
        let norm = x[0][0].sqrt() / step.loss_scale;
        let shrink = if step.clip > 0.0 { (step.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        #[allow(clippy::needless_range_loop)] // several arguments are walked side by side
        for i in 0..n {
            let decay = if first + i < decayed { step.weight_decay } else { 0.0 };
            let g = x[1][i] / step.loss_scale * shrink;
            x[3][i] = step.beta1 * x[3][i] + (1.0 - step.beta1) * g;
            x[4][i] = step.beta2 * x[4][i] + (1.0 - step.beta2) * g * g;
            let w = if master { x[5][i] } else { x[2][i] };
            let moved = step.lr * (x[3][i] / step.bias1) / ((x[4][i] / step.bias2).sqrt() + step.eps);
            x[2][i] = w * (1.0 - step.lr * decay) - moved;
            if master {
                x[5][i] = x[2][i];
            }
        }
    }

    fn settle(&self, x: &mut Args) {
        x[0] = vec![7.3];
        x[4].iter_mut().for_each(|v| *v = v.abs());
    }

    fn shards(&self) -> usize {
        self.shards
    }
}
