//! The gradient's norm and AdamW.
//!
//! In: flat shards of gradients, weights and moments. Out: a squared norm, or the weights and moments after a step.
//!
//! Invariant: sums go by blocks of a fixed size, in `f64`, added in order.

use super::elementwise::GRAIN;
use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};

/// What a step of AdamW is told (Loshchilov & Hutter 2019, Algorithm 2, with the decay scaled by the learning rate as
/// PyTorch does).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct AdamWSettings {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay, a fraction of the weight per unit of learning rate.
    pub weight_decay: f32,
    /// `1 − beta1^t` in step t = 1, 2, …
    pub bias1: f32,
    /// `1 − beta2^t`.
    pub bias2: f32,
    /// What gradients are multiplied by first: clipping.
    pub grad_scale: f32,
}

/// `sum[0] += Σ g²`, where elements whose global index (`first_global_index` + local) is `whole` or more are held by
/// `copies` ranks and count `1/copies` each; all is divided by `replicas`.
pub fn squared_norm(
    team: &Team,
    g: &[f32],
    first_global_index: usize,
    whole: usize,
    copies: usize,
    replicas: usize,
    sum: &mut [f32],
) {
    let whole = whole.saturating_sub(first_global_index).min(g.len());
    let (mine, shared) = g.split_at(whole);
    let total = squares(team, mine) + squares(team, shared) / copies as f64;
    sum[0] += (total / replicas as f64) as f32;
}

fn squares(team: &Team, g: &[f32]) -> f64 {
    let mut partials = vec![0.0; g.len().div_ceil(GRAIN)];
    let split = Split::new(&mut partials);
    team.ranges(g.len(), GRAIN, |range| {
        let block = range.start / GRAIN;
        // SAFETY: a block has one partial sum.
        unsafe { split.part(block..block + 1)[0] = squares_of(&g[range]) };
    });
    partials.iter().sum()
}

/// One step on a shard; `g`, `w`, `m` and `v` are equally long, and the first `decayed` weights decay:
/// `g' = g·grad_scale; m = β₁m + (1−β₁)g'; v = β₂v + (1−β₂)g'²; w = w·(1 − lr·decay) − lr·(m/bias1)/(√(v/bias2) + eps)`.
pub fn adamw(
    team: &Team,
    hyper: &AdamWSettings,
    decayed: usize,
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    assert!(w.len() == g.len() && m.len() == g.len() && v.len() == g.len());
    let (w, m, v) = (Split::new(w), Split::new(m), Split::new(v));
    let undecayed = AdamWSettings { weight_decay: 0.0, ..*hyper };
    team.ranges(g.len(), GRAIN, |range| {
        let edge = decayed.clamp(range.start, range.end);
        for (hyper, range) in [(hyper, range.start..edge), (&undecayed, edge..range.end)] {
            // SAFETY: ranges are disjoint.
            let (w, m, v) = unsafe { (w.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
            step(hyper, &g[range], w, m, v);
        }
    });
}

vectorised! {
    fn squares_of(g: &[f32]) -> f64 = squares_body;
    fn step(hyper: &AdamWSettings, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) = step_body;
}

/// Plain `f64` code, which the compiler vectorises for `L`'s instruction set.
#[inline(always)]
fn squares_body<L: Lanes>(g: &[f32]) -> f64 {
    let mut sums = [0.0; 32];
    let mut rows = g.chunks_exact(32);
    for row in &mut rows {
        for (sum, &g) in sums.iter_mut().zip(row) {
            *sum += f64::from(g) * f64::from(g);
        }
    }
    let rest: f64 = rows.remainder().iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    sums.iter().sum::<f64>() + rest
}

#[inline(always)]
fn step_body<L: Lanes>(hyper: &AdamWSettings, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let c = L::splat;
    let (kept1, kept2) = (c(hyper.beta1), c(hyper.beta2));
    let (new1, new2) = (c(1.0 - hyper.beta1), c(1.0 - hyper.beta2));
    let (rate, root_bias) = (c(-hyper.lr / hyper.bias1), c(1.0 / hyper.bias2.sqrt()));
    let kept = c(1.0 - hyper.lr * hyper.weight_decay);
    for i in (0..g.len()).step_by(L::WIDTH) {
        let g = L::read(&g[i..]).mul(c(hyper.grad_scale));
        let m_i = g.mul_add(new1, L::read(&m[i..]).mul(kept1));
        let v_i = g.mul(g).mul_add(new2, L::read(&v[i..]).mul(kept2));
        m_i.write(&mut m[i..]);
        v_i.write(&mut v[i..]);
        let scale = v_i.sqrt().mul_add(root_bias, c(hyper.eps));
        L::read(&w[i..]).mul_add(kept, rate.mul(m_i).div(scale)).write(&mut w[i..]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, on_teams, random, wide};
    use super::*;

    #[test]
    fn replicated_elements_count_by_their_share() {
        on_teams(|team| {
            let g = random(1, 3 * GRAIN + 7);
            let (first, whole) = (1000, 40_000);
            let weight = |i: usize| if first + i >= whole { 0.25 } else { 1.0 };
            let want: f64 = wide(&g).iter().enumerate().map(|(i, g)| g * g * weight(i)).sum();
            let mut sum = [2.0];
            squared_norm(team, &g, first, whole, 4, 1, &mut sum);
            assert_close(&sum, &[2.0 + want], 1e-7);
        });
    }

    #[test]
    fn steps_as_the_paper_says_and_decays_only_what_it_is_told() {
        on_teams(|team| {
            let (n, decayed) = (2 * GRAIN + 11, GRAIN + 3);
            let (g, mut w, mut m) = (random(1, n), random(2, n), random(3, n));
            let mut v: Vec<f32> = random(4, n).iter().map(|v| v.abs()).collect();
            let hyper = AdamWSettings {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                bias1: 0.271,
                bias2: 0.142_625,
                grad_scale: 0.5,
            };
            let step = |i: usize| -> [f64; 3] {
                let [g, w, m, v] = [g[i] * 0.5, w[i], m[i], v[i]].map(f64::from);
                let (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
                let w = if i < decayed { w * (1.0 - 0.01 * 0.1) } else { w };
                [w - 0.01 * (m / 0.271) / ((v / 0.142_625).sqrt() + 1e-8), m, v]
            };
            let want: Vec<[f64; 3]> = (0..n).map(step).collect();
            adamw(team, &hyper, decayed, &g, &mut w, &mut m, &mut v);
            for (got, kind) in [(w, 0), (m, 1), (v, 2)] {
                assert_close(&got, &want.iter().map(|want| want[kind]).collect::<Vec<_>>(), 1e-6);
            }
        });
    }
}
