//! GELU and SwiGLU, forward and backward.
//!
//! In: `u`, `[rows, cols]` for GELU or packed rows `[gate | up]`, `[rows, 2·cols]`, for SwiGLU. Out: `[rows, cols]`
//! forward, the gradient of `u` backward.
//!
//! Invariant: σ is computed once an element, by the same code forward and backward.

use super::elementwise::GRAIN;
use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};
use meshwright_hardware::op::ActivationKind;

/// `2·√(2/π)`: GELU's tanh form is `u·σ(2z)`, `z = √(2/π)·(u + 0.044715·u³)`, since `(1 + tanh z)/2 = σ(2z)`.
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// GELU (Hendrycks & Gimpel 2016, tanh form): `out = u·(1 + tanh z)/2`; SwiGLU (Shazeer 2020): `out = silu(gate)·up`.
/// `u` is `[rows, kind.width()·cols]`, `out` is `[rows, cols]`.
pub fn activation(team: &Team, kind: ActivationKind, rows: usize, cols: usize, u: &[f32], out: &mut [f32]) {
    let wide = cols * kind.width();
    assert!(u.len() == rows * wide && out.len() == rows * cols);
    let out = Split::new(out);
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            let u = &u[row * wide..(row + 1) * wide];
            // SAFETY: rows are disjoint.
            let out = unsafe { out.part(row * cols..(row + 1) * cols) };
            match kind {
                ActivationKind::Gelu => gelu(u, out),
                ActivationKind::SwiGlu => swiglu(&u[..cols], &u[cols..], out),
            }
        }
    });
}

/// `du = dout · d out / d u`, shapes as in [`activation`].
pub fn activation_grad(
    team: &Team,
    kind: ActivationKind,
    rows: usize,
    cols: usize,
    u: &[f32],
    dout: &[f32],
    du: &mut [f32],
) {
    let wide = cols * kind.width();
    assert!(u.len() == rows * wide && dout.len() == rows * cols && du.len() == u.len());
    let du = Split::new(du);
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            let (u, dout) = (&u[row * wide..(row + 1) * wide], &dout[row * cols..(row + 1) * cols]);
            // SAFETY: rows are disjoint.
            let du = unsafe { du.part(row * wide..(row + 1) * wide) };
            match kind {
                ActivationKind::Gelu => gelu_grad(u, dout, du),
                ActivationKind::SwiGlu => {
                    let (dgate, dup) = du.split_at_mut(cols);
                    swiglu_grad(&u[..cols], &u[cols..], dout, dgate, dup);
                }
            }
        }
    });
}

vectorised! {
    fn gelu(u: &[f32], out: &mut [f32]) = gelu_body;
    fn gelu_grad(u: &[f32], dout: &[f32], du: &mut [f32]) = gelu_grad_body;
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = swiglu_body;
    fn swiglu_grad(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) = swiglu_grad_body;
}

#[inline(always)]
fn gelu_body<L: Lanes>(u: &[f32], out: &mut [f32]) {
    for i in (0..out.len()).step_by(L::WIDTH) {
        let x = L::read(&u[i..]);
        let slope = L::splat(TWICE_ROOT * CUBIC).mul_add(x.mul(x), L::splat(TWICE_ROOT));
        x.mul(x.mul(slope).sigmoid()).write(&mut out[i..]);
    }
}

#[inline(always)]
fn gelu_grad_body<L: Lanes>(u: &[f32], dout: &[f32], du: &mut [f32]) {
    let one = L::splat(1.0);
    for i in (0..du.len()).step_by(L::WIDTH) {
        let x = L::read(&u[i..]);
        let square = x.mul(x);
        let s = x.mul(L::splat(TWICE_ROOT * CUBIC).mul_add(square, L::splat(TWICE_ROOT))).sigmoid();
        // d(2z)/du, then (u·σ)' = σ + u·σ·(1 − σ)·(2z)'.
        let inner = L::splat(3.0 * TWICE_ROOT * CUBIC).mul_add(square, L::splat(TWICE_ROOT));
        let slope = x.mul(inner).mul(one.sub(s)).mul_add(s, s);
        slope.mul(L::read(&dout[i..])).write(&mut du[i..]);
    }
}

#[inline(always)]
fn swiglu_body<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for i in (0..out.len()).step_by(L::WIDTH) {
        let g = L::read(&gate[i..]);
        g.mul(g.sigmoid()).mul(L::read(&up[i..])).write(&mut out[i..]);
    }
}

#[inline(always)]
fn swiglu_grad_body<L: Lanes>(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let one = L::splat(1.0);
    for i in (0..dout.len()).step_by(L::WIDTH) {
        let (g, d) = (L::read(&gate[i..]), L::read(&dout[i..]));
        let s = g.sigmoid();
        d.mul(g.mul(s)).write(&mut dup[i..]);
        // silu' = σ + g·σ·(1 − σ).
        let slope = g.mul(one.sub(s)).mul_add(s, s);
        d.mul(L::read(&up[i..])).mul(slope).write(&mut dgate[i..]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, finite_differences, on_teams, random, wide};
    use super::*;

    const KINDS: [ActivationKind; 2] = [ActivationKind::Gelu, ActivationKind::SwiGlu];

    fn reference(kind: ActivationKind, cols: usize, u: &[f64]) -> Vec<f64> {
        let gelu = |u: f64| 0.5 * u * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u.powi(3))).tanh());
        match kind {
            ActivationKind::Gelu => u.iter().map(|&u| gelu(u)).collect(),
            ActivationKind::SwiGlu => u
                .chunks(2 * cols)
                .flat_map(|row| (0..cols).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[cols + i]))
                .collect(),
        }
    }

    #[test]
    fn forward_agrees_with_f64_also_far_from_zero() {
        on_teams(|team| {
            for kind in KINDS {
                let (rows, cols) = (301, 77);
                let mut u = random(1, rows * cols * kind.width());
                u.iter_mut().enumerate().for_each(|(i, u)| *u *= [0.01, 1.0, 10.0, 150.0][i % 4]);
                let mut out = vec![f32::NAN; rows * cols];
                activation(team, kind, rows, cols, &u, &mut out);
                assert_close(&out, &reference(kind, cols, &wide(&u)), 1e-6);
            }
        });
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        on_teams(|team| {
            for kind in KINDS {
                let (rows, cols) = (3, 19);
                let u: Vec<f32> = random(1, rows * cols * kind.width()).iter().map(|u| 4.0 * u).collect();
                let dout = random(2, rows * cols);
                let mut du = vec![f32::NAN; u.len()];
                activation_grad(team, kind, rows, cols, &u, &dout, &mut du);
                let loss = |u: &[f64]| reference(kind, cols, u).iter().zip(&dout).map(|(y, &d)| y * f64::from(d)).sum();
                assert_close(&du, &finite_differences(&wide(&u), loss), 1e-5);
            }
        });
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let mut out = [0.0; 2];
        activation(&Team::new(1), ActivationKind::Gelu, 1, 2, &[f32::NAN, 1.0], &mut out);
        assert!(out[0].is_nan() && !out[1].is_nan());
    }
}
