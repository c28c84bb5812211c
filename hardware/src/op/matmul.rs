//! Matmuls, of linear layers and of experts.

use super::Op;
use super::dims::{ExpertMatmul, Matmul};
use super::kinds::Layout;
use super::reference::{Args, StepSettings, grid};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Signature, Spec, float, result, state, sum};
use crate::mesh::Coord;

impl Layout {
    /// `m`, `n`, `k` of a pass of a linear layer over so many tokens, from so deep an input to so wide an output.
    fn of_layer(self, [tokens, wide, deep]: [usize; 3]) -> [usize; 3] {
        match self {
            Layout::Nt => [tokens, wide, deep],
            Layout::Nn => [tokens, deep, wide],
            Layout::Tn => [wide, deep, tokens],
        }
    }

    /// Elements of A and of B that are multiplied for an element `[i, j]` of C at step `p`.
    fn at(self, [m, n, k]: [usize; 3], i: usize, j: usize, p: usize) -> [usize; 2] {
        match self {
            Layout::Nt => [i * k + p, j * k + p],
            Layout::Nn => [i * k + p, p * n + j],
            Layout::Tn => [p * m + i, p * n + j],
        }
    }
}

impl Spec for Matmul {
    fn class(&self) -> &'static str {
        match self.layout {
            Layout::Nt => "matmul-nt",
            Layout::Nn => "matmul-nn",
            Layout::Tn => "matmul-tn",
        }
    }

    fn params(&self) -> Signature {
        let Matmul { layout, m, n, k, bias, accumulate } = *self;
        // In `tn` it is a weight's gradient.
        let c = if layout == Layout::Tn { sum } else { float };
        Signature::of([
            Some(float("a", Mode::In, m * k).fresh()),
            Some(float("b", Mode::In, n * k)),
            bias.then(|| float("bias", Mode::In, n)),
            Some(c("c", result(accumulate), m * n)),
        ])
    }

    fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }

    fn dims(&self) -> Dims {
        [self.m, self.n, self.k].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let mut ops = Vec::new();
        for &layer in &sizes.layers {
            for layout in Layout::ALL {
                let [m, n, k] = if sizes.edges { layer } else { layout.of_layer(layer) };
                let usual = [(false, layout == Layout::Tn)];
                let all = [(false, false), (false, true), (true, false), (true, true)];
                let large = m * n > 1 << 20;
                let wanted = if sizes.edges && !large { &all[..] } else { &usual };
                ops.extend(wanted.iter().map(|&(bias, accumulate)| Op::Matmul { layout, m, n, k, bias, accumulate }));
            }
        }
        ops
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let Matmul { layout, m, n, k, bias, accumulate } = *self;
        let out = x.len() - 1;
        for (i, j) in grid(m, n) {
            let term = |p: usize| {
                let [a, b] = layout.at([m, n, k], i, j, p);
                x[0][a] * x[1][b]
            };
            let before = if accumulate { x[out][i * n + j] } else { 0.0 };
            x[out][i * n + j] = (0..k).map(term).sum::<f64>() + before + if bias { x[2][j] } else { 0.0 };
        }
    }

    fn is_matrix(&self) -> bool {
        true
    }
}

impl Spec for ExpertMatmul {
    fn class(&self) -> &'static str {
        match self.layout {
            Layout::Nt => "expert-matmul-nt",
            Layout::Nn => "expert-matmul-nn",
            Layout::Tn => "expert-matmul-tn",
        }
    }

    fn params(&self) -> Signature {
        let ExpertMatmul { layout, experts, sources, m, n, k, accumulate } = *self;
        let (a, b) = match layout {
            Layout::Tn => (sources * k * m, sources * k * n),
            Layout::Nt | Layout::Nn => (sources * m * k, n * k),
        };
        let c = match layout {
            // Sums over sources are not rounded between.
            Layout::Tn => state("c", result(accumulate), experts * m * n),
            Layout::Nt | Layout::Nn => float("c", result(accumulate), experts * sources * m * n),
        };
        [float("a", Mode::In, experts * a).fresh(), float("b", Mode::In, experts * b), c].into()
    }

    fn flops(&self) -> f64 {
        2.0 * (self.experts * self.sources * self.m * self.n) as f64 * self.k as f64
    }

    fn dims(&self) -> Dims {
        [self.experts * self.sources, self.m, self.n, self.k].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let mut ops = Vec::new();
        for &(experts, sources, layer) in &sizes.expert_layers {
            for layout in Layout::ALL {
                let [m, n, k] = if sizes.edges { layer } else { layout.of_layer(layer) };
                let of = |&accumulate: &bool| Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate };
                ops.extend(sizes.either(layout == Layout::Tn).iter().map(of));
            }
        }
        ops
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let ExpertMatmul { layout, experts, sources, m, n, k, accumulate } = *self;
        if !accumulate {
            x[2].fill(0.0);
        }
        for (source, expert) in grid(sources, experts) {
            let at = source * experts + expert;
            let (b, c) = match layout {
                Layout::Tn => (at, expert),
                Layout::Nt | Layout::Nn => (expert, at),
            };
            for (i, j) in grid(m, n) {
                let term = |p: usize| {
                    let [of_a, of_b] = layout.at([m, n, k], i, j, p);
                    x[0][at * m * k + of_a] * x[1][b * n * k + of_b]
                };
                let product: f64 = (0..k).map(term).sum();
                x[2][c * m * n + i * n + j] += product;
            }
        }
    }

    fn is_matrix(&self) -> bool {
        true
    }
}
