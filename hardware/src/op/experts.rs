//! Mixtures of experts: routing, and tokens to their slots and back.

use super::Op;
use super::dims::{Combine, CombineGrad, Dispatch, DispatchGrad, Route, RouteGrad};
use super::reference::{Args, StepSettings, results};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, NONE, Param, Signature, Spec, Values, float, full, ids, result};
use crate::mesh::Coord;

/// Rows, experts, experts a token, columns, slots an expert.
fn routes(sizes: &Sizes) -> impl Iterator<Item = [usize; 5]> + use<'_> {
    sizes.routes.iter().flat_map(|&[rows, experts, top_k, cols]| {
        // Room for all; and for few, or for a quarter more than even shares.
        let shares = (rows * top_k).div_ceil(if sizes.edges { 2 * experts } else { experts });
        let capacities = if sizes.edges { vec![rows, shares] } else { vec![(shares + shares / 4).max(1)] };
        capacities.into_iter().map(move |capacity| [rows, experts, top_k, cols, capacity])
    })
}

/// Rows, columns, experts a token, slots.
fn slotted(sizes: &Sizes) -> impl Iterator<Item = [usize; 4]> + use<'_> {
    routes(sizes).map(|[rows, experts, top_k, cols, capacity]| [rows, cols, top_k, experts * capacity])
}

/// What combining reads: rows in their slots, and tokens' slots and shares.
fn combined([rows, cols, top_k, slots]: [usize; 4]) -> [Param; 3] {
    [
        float("y", Mode::In, slots * cols),
        ids("slots", Mode::In, rows * top_k, Values::Distinct(slots)),
        full("shares", Mode::In, rows * top_k),
    ]
}

/// A row's experts, likeliest first.
fn best(probs: &[f64], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probs.len()).collect();
    // As fp32 sees them: there they may be equal.
    order.sort_by(|&a, &b| (probs[b] as f32).total_cmp(&(probs[a] as f32)).then(a.cmp(&b)));
    order[..top_k].to_vec()
}

/// Choices that have a slot, with it.
fn seated(slots: &[f64]) -> impl Iterator<Item = (usize, usize)> + use<> {
    let slots = slots.to_vec();
    slots.into_iter().enumerate().filter(|(_, slot)| *slot != f64::from(NONE)).map(|(i, slot)| (i, slot as usize))
}

impl Spec for Route {
    fn class(&self) -> &'static str {
        "route"
    }

    fn params(&self) -> Signature {
        let Route { rows, experts, top_k, capacity } = *self;
        [
            float("logits", Mode::In, rows * experts).fresh(),
            full("probs", Mode::Out, rows * experts),
            full("shares", Mode::Out, rows * top_k),
            ids("slots", Mode::Out, rows * top_k, Values::Distinct(experts * capacity)),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.experts) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.experts, self.top_k].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        routes(sizes).map(|[rows, experts, top_k, _, capacity]| Op::Route { rows, experts, top_k, capacity }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        let Route { rows, experts, top_k, capacity } = *self;
        let mut taken = vec![0; experts];
        for r in 0..rows {
            let row = x[0][r * experts..(r + 1) * experts].to_vec();
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            let probs: Vec<f64> = row.iter().map(|x| x.exp() / sum).collect();
            x[1][r * experts..(r + 1) * experts].copy_from_slice(&probs);
            let chosen = best(&probs, top_k);
            let whole: f64 = if top_k == 1 { 1.0 } else { chosen.iter().map(|&e| probs[e]).sum() };
            for (i, e) in chosen.into_iter().enumerate() {
                let slot = if taken[e] < capacity { (e * capacity + taken[e]) as f64 } else { f64::from(NONE) };
                (x[2][r * top_k + i], x[3][r * top_k + i]) = (probs[e] / whole, slot);
                taken[e] += 1;
            }
        }
    }
}

impl Spec for RouteGrad {
    fn class(&self) -> &'static str {
        "route-grad"
    }

    fn params(&self) -> Signature {
        let RouteGrad { rows, experts, top_k, .. } = *self;
        [
            full("probs", Mode::In, rows * experts),
            full("dshares", Mode::In, rows * top_k).fresh(),
            float("dlogits", Mode::Out, rows * experts),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.experts) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.experts, self.top_k].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let of = |[rows, experts, top_k, _, capacity]: [usize; 5]| Op::RouteGrad {
            rows,
            experts,
            top_k,
            capacity,
            balance: 0.3,
        };
        routes(sizes).map(of).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, step: &StepSettings) {
        let RouteGrad { rows, experts, top_k, balance, .. } = *self;
        let balance = f64::from(balance) * step.loss_scale;
        let of = |x: &Args, r: usize| x[0][r * experts..(r + 1) * experts].to_vec();
        let chosen: Vec<Vec<usize>> = (0..rows).map(|r| best(&of(x, r), top_k)).collect();
        let mut times = vec![0.0; experts];
        chosen.iter().flatten().for_each(|&e| times[e] += 1.0);
        for r in 0..rows {
            let (probs, mine) = (of(x, r), &chosen[r]);
            let whole: f64 = if top_k == 1 { 1.0 } else { mine.iter().map(|&e| probs[e]).sum() };
            // Of the balancing loss: experts that are chosen often are pushed down.
            let push = |e: usize| balance * experts as f64 * times[e] / (rows * top_k) as f64;
            let mut dprobs: Vec<f64> = (0..experts).map(push).collect();
            // d share_i / d prob_e: 1/whole for its own, less share/whole for each of the chosen.
            for (i, &e) in mine.iter().enumerate() {
                let d = x[1][r * top_k + i];
                dprobs[e] += d / whole;
                if top_k > 1 {
                    mine.iter().for_each(|&other| dprobs[other] -= d * probs[e] / (whole * whole));
                }
            }
            for e in 0..experts {
                let slope = |other: usize| probs[other] * (f64::from(u8::from(other == e)) - probs[e]);
                x[2][r * experts + e] = (0..experts).map(|other| dprobs[other] * slope(other)).sum();
            }
        }
    }

    fn settle(&self, x: &mut Args) {
        let RouteGrad { rows, experts, top_k, capacity, .. } = *self;
        x[0].clone_from(&results(Op::Route { rows, experts, top_k, capacity }, &[&x[0]])[1]);
    }
}

impl Spec for Dispatch {
    fn class(&self) -> &'static str {
        "dispatch"
    }

    fn params(&self) -> Signature {
        let Dispatch { rows, cols, top_k, slots } = *self;
        [
            float("x", Mode::In, rows * cols).fresh(),
            ids("slots", Mode::In, rows * top_k, Values::Distinct(slots)),
            float("out", Mode::Out, slots * cols),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        0.0
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        slotted(sizes).map(|[rows, cols, top_k, slots]| Op::Dispatch { rows, cols, top_k, slots }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        x[2].fill(0.0);
        for (i, slot) in seated(&x[1]) {
            let (from, to) = (i / self.top_k * self.cols, slot * self.cols);
            (0..self.cols).for_each(|c| x[2][to + c] = x[0][from + c]);
        }
    }
}

impl Spec for DispatchGrad {
    fn class(&self) -> &'static str {
        "dispatch-grad"
    }

    fn params(&self) -> Signature {
        let DispatchGrad { rows, cols, top_k, slots, accumulate } = *self;
        [
            ids("slots", Mode::In, rows * top_k, Values::Distinct(slots)),
            float("dout", Mode::In, slots * cols).fresh(),
            float("dx", result(accumulate), rows * cols),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        2.0 * (self.rows * self.cols * self.top_k) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let of = |[rows, cols, top_k, slots]: [usize; 4]| {
            let all = sizes.either(true).iter();
            all.map(move |&accumulate| Op::DispatchGrad { rows, cols, top_k, slots, accumulate })
        };
        slotted(sizes).flat_map(of).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        if !self.accumulate {
            x[2].fill(0.0);
        }
        for (i, slot) in seated(&x[0]) {
            let (to, from) = (i / self.top_k * self.cols, slot * self.cols);
            (0..self.cols).for_each(|c| x[2][to + c] += x[1][from + c]);
        }
    }
}

impl Spec for Combine {
    fn class(&self) -> &'static str {
        "combine"
    }

    fn params(&self) -> Signature {
        let Combine { rows, cols, top_k, slots } = *self;
        let [y, seats, shares] = combined([rows, cols, top_k, slots]);
        [y.fresh(), seats, shares, float("out", Mode::Out, rows * cols)].into()
    }

    fn flops(&self) -> f64 {
        2.0 * (self.rows * self.cols * self.top_k) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        slotted(sizes).map(|[rows, cols, top_k, slots]| Op::Combine { rows, cols, top_k, slots }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        x[3].fill(0.0);
        for (i, slot) in seated(&x[1]) {
            let (to, from) = (i / self.top_k * self.cols, slot * self.cols);
            (0..self.cols).for_each(|c| x[3][to + c] += x[2][i] * x[0][from + c]);
        }
    }
}

impl Spec for CombineGrad {
    fn class(&self) -> &'static str {
        "combine-grad"
    }

    fn params(&self) -> Signature {
        let CombineGrad { rows, cols, top_k, slots } = *self;
        let [y, seats, shares] = combined([rows, cols, top_k, slots]);
        let dshares = full("dshares", Mode::Out, rows * top_k);
        [y, seats, shares, float("dout", Mode::In, rows * cols).fresh(), float("dy", Mode::Out, slots * cols), dshares]
            .into()
    }

    fn flops(&self) -> f64 {
        3.0 * (self.rows * self.cols * self.top_k) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        slotted(sizes).map(|[rows, cols, top_k, slots]| Op::CombineGrad { rows, cols, top_k, slots }).collect()
    }

    fn reference(&self, x: &mut Args, _: Coord, _: &StepSettings) {
        x[4].fill(0.0);
        x[5].fill(0.0);
        for (i, slot) in seated(&x[1]) {
            let (row, at) = (i / self.top_k * self.cols, slot * self.cols);
            for c in 0..self.cols {
                let d = x[3][row + c];
                x[4][at + c] = x[2][i] * d;
                x[5][i] += x[0][at + c] * d;
            }
        }
    }
}
