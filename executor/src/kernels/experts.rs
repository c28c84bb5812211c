//! Mixtures of experts: routing, dispatch, products by expert, combination, and their gradients.
//!
//! In: router logits and tokens; slots are `u32` bits held in `f32` slices. Out: shares and slots of each token, tokens by
//! slot, and what comes back.
//!
//! Invariant: tokens take slots in their order, so the same logits give the same slots.

use super::gemm::matmul;
use super::narrow::{Floats, FloatsMut};
use super::team::{Split, Team};
use meshwright_hardware::op::Layout;

/// Rows a task.
const ROWS: usize = 16;

/// The `top_k` likeliest experts of a row, likeliest first; of equals the first.
fn likeliest(probs: &[f32], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probs.len()).collect();
    order.sort_by(|&a, &b| probs[b].total_cmp(&probs[a]).then(a.cmp(&b)));
    order.truncate(top_k);
    order
}

/// Softmax over experts; `shares` and `slots` are `[rows, top_k]`. Several shares of a token add up to one; a single one is
/// its probability. An expert has `capacity` slots.
pub fn route(
    [rows, experts, top_k, capacity]: [usize; 4],
    logits: &[f32],
    probs: &mut [f32],
    shares: &mut [f32],
    slots: &mut [f32],
) {
    assert!(logits.len() == rows * experts && probs.len() == logits.len());
    assert!(shares.len() == rows * top_k && slots.len() == shares.len());
    let mut taken = vec![0; experts];
    for row in 0..rows {
        let probs = &mut probs[row * experts..(row + 1) * experts];
        softmax(&logits[row * experts..(row + 1) * experts], probs);
        let chosen = likeliest(probs, top_k);
        let sum: f32 = if top_k > 1 { chosen.iter().map(|&expert| probs[expert]).sum() } else { 1.0 };
        for (i, &expert) in chosen.iter().enumerate() {
            shares[row * top_k + i] = probs[expert] / sum;
            let slot = if taken[expert] < capacity { (expert * capacity + taken[expert]) as u32 } else { u32::MAX };
            slots[row * top_k + i] = f32::from_bits(slot);
            taken[expert] += 1;
        }
    }
}

fn softmax(logits: &[f32], probs: &mut [f32]) {
    let greatest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    probs.iter_mut().zip(logits).for_each(|(p, x)| *p = (x - greatest).exp());
    let sum: f32 = probs.iter().sum();
    probs.iter_mut().for_each(|p| *p /= sum);
}

/// The gradient of the logits from that of the shares, and of `balance · experts · Σ_e f_e·Σ_rows p_e`, where `f_e` is the
/// part of all choices that fell on expert e.
pub fn route_grad(
    [rows, experts, top_k]: [usize; 3],
    balance: f32,
    probs: &[f32],
    dshares: &[f32],
    dlogits: &mut [f32],
) {
    assert!(probs.len() == rows * experts && dlogits.len() == probs.len() && dshares.len() == rows * top_k);
    let chosen: Vec<Vec<usize>> = probs.chunks(experts).map(|row| likeliest(row, top_k)).collect();
    let mut pull = vec![0.0f32; experts];
    chosen.iter().flatten().for_each(|&expert| pull[expert] += 1.0);
    let scale = balance * experts as f32 / (rows * top_k) as f32;
    pull.iter_mut().for_each(|count| *count *= scale);
    for (row, chosen) in chosen.iter().enumerate() {
        let probs = &probs[row * experts..(row + 1) * experts];
        let dshares = &dshares[row * top_k..(row + 1) * top_k];
        let mut dprobs = pull.clone();
        let sum: f32 = if top_k > 1 { chosen.iter().map(|&expert| probs[expert]).sum() } else { 1.0 };
        let mean: f32 = chosen.iter().zip(dshares).map(|(&expert, d)| probs[expert] / sum * d).sum();
        for (&expert, d) in chosen.iter().zip(dshares) {
            dprobs[expert] += if top_k > 1 { (d - mean) / sum } else { *d };
        }
        let inner: f32 = probs.iter().zip(&dprobs).map(|(p, d)| p * d).sum();
        let dlogits = &mut dlogits[row * experts..(row + 1) * experts];
        for ((dlogit, p), d) in dlogits.iter_mut().zip(probs).zip(&dprobs) {
            *dlogit = p * (d - inner);
        }
    }
}

/// The slot that is written in a float, if it is one.
fn slot(bits: f32) -> Option<usize> {
    let slot = bits.to_bits();
    (slot != u32::MAX).then_some(slot as usize)
}

/// `out[slot] = x[row]` for each slot of a row; zeros elsewhere. `out` is `[slots, cols]`.
pub fn dispatch(team: &Team, cols: usize, top_k: usize, x: &[f32], slots: &[f32], out: &mut [f32]) {
    assert!(x.len() / cols * top_k == slots.len() && out.len().is_multiple_of(cols));
    let mut source = vec![None; out.len() / cols];
    for (i, &bits) in slots.iter().enumerate() {
        if let Some(slot) = slot(bits) {
            source[slot] = Some(i / top_k);
        }
    }
    let out = Split::new(out);
    team.ranges(source.len(), ROWS, |range| {
        for slot in range {
            // SAFETY: slots are disjoint.
            let out = unsafe { out.part(slot * cols..(slot + 1) * cols) };
            match source[slot] {
                Some(row) => out.copy_from_slice(&x[row * cols..(row + 1) * cols]),
                None => out.fill(0.0),
            }
        }
    });
}

/// `dx[row] (+)= Σ dout[slot]` over the slots of a row.
pub fn dispatch_grad(
    team: &Team,
    cols: usize,
    top_k: usize,
    accumulate: bool,
    slots: &[f32],
    dout: &[f32],
    dx: &mut [f32],
) {
    assert!(dx.len() / cols * top_k == slots.len() && dout.len().is_multiple_of(cols));
    let (rows, dx) = (dx.len() / cols, Split::new(dx));
    team.ranges(rows, ROWS, |range| {
        for row in range {
            // SAFETY: rows are disjoint.
            let dx = unsafe { dx.part(row * cols..(row + 1) * cols) };
            if !accumulate {
                dx.fill(0.0);
            }
            for slot in slots[row * top_k..(row + 1) * top_k].iter().filter_map(|&bits| slot(bits)) {
                dx.iter_mut().zip(&dout[slot * cols..(slot + 1) * cols]).for_each(|(dx, d)| *dx += d);
            }
        }
    });
}

/// `out[row] = Σ share · y[slot]` over the slots of a row.
pub fn combine(team: &Team, cols: usize, top_k: usize, y: &[f32], slots: &[f32], shares: &[f32], out: &mut [f32]) {
    assert!(out.len() / cols * top_k == slots.len() && shares.len() == slots.len());
    let (rows, out) = (out.len() / cols, Split::new(out));
    team.ranges(rows, ROWS, |range| {
        for row in range {
            // SAFETY: rows are disjoint.
            let out = unsafe { out.part(row * cols..(row + 1) * cols) };
            out.fill(0.0);
            for i in row * top_k..(row + 1) * top_k {
                let Some(slot) = slot(slots[i]) else { continue };
                out.iter_mut().zip(&y[slot * cols..(slot + 1) * cols]).for_each(|(out, y)| *out += shares[i] * y);
            }
        }
    });
}

/// The gradients of [`combine`]: `dy[slot] = share · dout[row]`, zero where no token stands; `dshares = y[slot]·dout[row]`.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn combine_grad(
    team: &Team,
    cols: usize,
    top_k: usize,
    y: &[f32],
    slots: &[f32],
    shares: &[f32],
    dout: &[f32],
    dy: &mut [f32],
    dshares: &mut [f32],
) {
    assert!(dout.len() / cols * top_k == slots.len() && dy.len() == y.len() && dshares.len() == shares.len());
    dy.fill(0.0);
    let (dy, dshares) = (Split::new(dy), Split::new(dshares));
    team.ranges(slots.len(), ROWS, |range| {
        for i in range {
            let dout = &dout[i / top_k * cols..(i / top_k + 1) * cols];
            // SAFETY: each choice has its own share.
            let dshare = &mut unsafe { dshares.part(i..i + 1) }[0];
            *dshare = 0.0;
            let Some(slot) = slot(slots[i]) else { continue };
            *dshare = y[slot * cols..(slot + 1) * cols].iter().zip(dout).map(|(y, d)| y * d).sum();
            // SAFETY: no two choices have one slot.
            let dy = unsafe { dy.part(slot * cols..(slot + 1) * cols) };
            dy.iter_mut().zip(dout).for_each(|(dy, d)| *dy = shares[i] * d);
        }
    });
}

/// A product for every expert and source; see [`meshwright_hardware::op::Op::ExpertMatmul`].
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn expert_matmul(
    team: &Team,
    layout: Layout,
    [experts, sources]: [usize; 2],
    [m, n, k]: [usize; 3],
    accumulate: bool,
    a: Floats,
    b: Floats,
    mut c: FloatsMut,
) {
    assert!(a.len() == experts * sources * m * k);
    for source in 0..sources {
        for expert in 0..experts {
            let at = source * experts + expert;
            let a = a.slice(at * m * k..(at + 1) * m * k);
            // Gradients of an expert's weights add up over sources.
            let (b, c, adds) = match layout {
                Layout::Tn => {
                    let c = c.slice(expert * m * n..(expert + 1) * m * n);
                    (b.slice(at * n * k..(at + 1) * n * k), c, accumulate || source > 0)
                }
                Layout::Nt | Layout::Nn => {
                    let c = c.slice(at * m * n..(at + 1) * m * n);
                    (b.slice(expert * n * k..(expert + 1) * n * k), c, accumulate)
                }
            };
            matmul(team, layout, m, n, k, a, b, None, adds, c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, finite_differences, on_teams, random, wide};
    use super::*;

    const ROWS: usize = 7;
    const EXPERTS: usize = 4;
    const COLS: usize = 5;

    fn routed(top_k: usize, capacity: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>) {
        let logits = random(1, ROWS * EXPERTS);
        let mut probs = vec![f32::NAN; logits.len()];
        let (mut shares, mut slots) = (vec![f32::NAN; ROWS * top_k], vec![f32::NAN; ROWS * top_k]);
        route([ROWS, EXPERTS, top_k, capacity], &logits, &mut probs, &mut shares, &mut slots);
        (logits, probs, shares, slots)
    }

    #[test]
    fn tokens_go_to_their_likeliest_experts_while_there_is_room() {
        let (_, probs, shares, slots) = routed(2, 2);
        let mut taken = [0; EXPERTS];
        for row in 0..ROWS {
            let best = likeliest(&probs[row * EXPERTS..(row + 1) * EXPERTS], 2);
            assert!((shares[2 * row] + shares[2 * row + 1] - 1.0).abs() < 1e-6 && shares[2 * row] >= 0.5);
            for (i, expert) in best.into_iter().enumerate() {
                let want = (taken[expert] < 2).then_some(expert * 2 + taken[expert]);
                assert_eq!(slot(slots[2 * row + i]), want);
                taken[expert] += 1;
            }
        }
        assert!(taken.iter().any(|&taken| taken > 2), "some must find none left");
    }

    #[test]
    fn gradients_of_logits_are_finite_differences() {
        for top_k in [1, 2] {
            let (logits, probs, ..) = routed(top_k, ROWS);
            let dshares = random(2, ROWS * top_k);
            let mut dlogits = vec![f32::NAN; logits.len()];
            let balance = 0.3;
            route_grad([ROWS, EXPERTS, top_k], balance, &probs, &dshares, &mut dlogits);
            let chosen: Vec<Vec<usize>> = probs.chunks(EXPERTS).map(|row| likeliest(row, top_k)).collect();
            let all = &chosen;
            let loss = |logits: &[f64]| -> f64 {
                let mut total = 0.0;
                for (row, chosen) in chosen.iter().enumerate() {
                    let x = &logits[row * EXPERTS..(row + 1) * EXPERTS];
                    let sum: f64 = x.iter().map(|x| x.exp()).sum();
                    let p = |e: usize| x[e].exp() / sum;
                    let whole: f64 = if top_k > 1 { chosen.iter().map(|&e| p(e)).sum() } else { 1.0 };
                    let d = |i: usize| f64::from(dshares[row * top_k + i]);
                    total += chosen.iter().enumerate().map(|(i, &e)| p(e) / whole * d(i)).sum::<f64>();
                    for e in 0..EXPERTS {
                        let times = all.iter().flatten().filter(|&&other| other == e).count();
                        let f = times as f64 / (ROWS * top_k) as f64;
                        total += f64::from(balance) * EXPERTS as f64 * f * p(e);
                    }
                }
                total
            };
            assert_close(&dlogits, &finite_differences(&wide(&logits), loss), 1e-5);
        }
    }

    /// Σ w·out, with everything that leads to it in `f64`.
    fn mixed(x: &[f64], shares: &[f64], slots: &[f32], top_k: usize, w: &[f32]) -> f64 {
        let row = |i: usize| i / top_k;
        let there = (0..slots.len()).filter(|&i| slot(slots[i]).is_some());
        let dot = |i: usize| (0..COLS).map(|c| x[row(i) * COLS + c] * f64::from(w[row(i) * COLS + c])).sum::<f64>();
        there.map(|i| shares[i] * dot(i)).sum()
    }

    #[test]
    fn what_is_dispatched_and_combined_has_the_gradient_of_finite_differences() {
        on_teams(|team| {
            let top_k = 2;
            let (_, _, shares, slots) = routed(top_k, 2);
            let (x, w) = (random(3, ROWS * COLS), random(4, ROWS * COLS));
            let mut sent = vec![f32::NAN; EXPERTS * 2 * COLS];
            dispatch(team, COLS, top_k, &x, &slots, &mut sent);
            let mut out = vec![f32::NAN; x.len()];
            combine(team, COLS, top_k, &sent, &slots, &shares, &mut out);
            let got: f64 = out.iter().zip(&w).map(|(o, w)| f64::from(*o) * f64::from(*w)).sum();
            assert!((got - mixed(&wide(&x), &wide(&shares), &slots, top_k, &w)).abs() < 1e-5);
            let (mut dsent, mut dshares) = (vec![f32::NAN; sent.len()], vec![f32::NAN; shares.len()]);
            combine_grad(team, COLS, top_k, &sent, &slots, &shares, &w, &mut dsent, &mut dshares);
            let mut dx = vec![f32::NAN; x.len()];
            dispatch_grad(team, COLS, top_k, false, &slots, &dsent, &mut dx);
            let of_x = |x: &[f64]| mixed(x, &wide(&shares), &slots, top_k, &w);
            assert_close(&dx, &finite_differences(&wide(&x), of_x), 1e-5);
            let of_shares = |shares: &[f64]| mixed(&wide(&x), shares, &slots, top_k, &w);
            assert_close(&dshares, &finite_differences(&wide(&shares), of_shares), 1e-5);
        });
    }

    #[test]
    fn experts_multiply_each_their_own_rows() {
        on_teams(|team| {
            let (experts, sources, m, n, k) = (3, 2, 4, 5, 6);
            let (a, b) = (random(1, experts * sources * m * k), random(2, experts * n * k));
            let mut c = vec![f32::NAN; experts * sources * m * n];
            expert_matmul(
                team,
                Layout::Nt,
                [experts, sources],
                [m, n, k],
                false,
                Floats::Full(&a),
                Floats::Full(&b),
                FloatsMut::Full(&mut c),
            );
            let mut want = vec![0.0; c.len()];
            let mut grad = vec![0.0f64; b.len()];
            for at in 0..experts * sources {
                for (i, j, p) in (0..m).flat_map(|i| (0..n).flat_map(move |j| (0..k).map(move |p| (i, j, p)))) {
                    let (x, y) = (f64::from(a[(at * m + i) * k + p]), f64::from(b[(at % experts * n + j) * k + p]));
                    want[(at * m + i) * n + j] += x * y;
                    grad[(at % experts * n + j) * k + p] += f64::from(c[(at * m + i) * n + j]) * x;
                }
            }
            assert_close(&c, &want, 1e-5);
            let mut db = vec![0.0; b.len()];
            expert_matmul(
                team,
                Layout::Tn,
                [experts, sources],
                [n, k, m],
                true,
                Floats::Full(&c),
                Floats::Full(&a),
                FloatsMut::Full(&mut db),
            );
            assert_close(&db, &grad, 1e-5);
        });
    }
}
