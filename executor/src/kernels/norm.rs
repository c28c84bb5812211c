//! LayerNorm and RMSNorm, forward and backward, and the gradient of a bias.
//!
//! In: rows of `cols` features. Out: normalised rows and their statistics; backward, gradients of all inputs.
//!
//! Invariant: sums over rows go by blocks that depend on the shape alone, and blocks are added in order.

use super::elementwise::{GRAIN, accumulate_row};
use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};
use meshwright_hardware::op::NormKind;

/// Added to the variance or mean square, as in GPT-2 and LLaMA.
const EPS: f32 = 1e-5;

/// At most so many partial sums of a gradient over rows.
const MOST_BLOCKS: usize = 64;

/// `y = (x − mean)·rstd·gain + bias` (Layer; Ba et al. 2016) or `x·rstd·gain` (RMS; Zhang & Sennrich 2019), with
/// `rstd = 1/√(variance or mean square + 1e-5)` of the row. `x` and `y` are `[rows, cols]`, `gain` and `bias` `[cols]`;
/// `stats` is `[rows, 2]`: mean (zero for RMS) and rstd.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn norm(
    team: &Team,
    kind: NormKind,
    rows: usize,
    cols: usize,
    x: &[f32],
    gain: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    stats: &mut [f32],
) {
    assert!(x.len() == rows * cols && y.len() == x.len() && stats.len() == 2 * rows && gain.len() == cols);
    assert!(bias.is_none_or(|bias| bias.len() == cols));
    let (y, stats) = (Split::new(y), Split::new(stats));
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            let at = row * cols..(row + 1) * cols;
            // SAFETY: rows are disjoint.
            let (y, stats) = unsafe { (y.part(at.clone()), stats.part(2 * row..2 * row + 2)) };
            norm_row(kind, &x[at], gain, bias, y, stats);
        }
    });
}

/// Gradients of [`norm`]: `dx` is written, or added to with `accumulate`; `dgain` and `dbias` are always added to.
/// With x̂ the normalised row and g = dy·gain: `dx = rstd·(g − mean(g) − x̂·mean(g·x̂))`, without `mean(g)` for RMS;
/// `dgain += Σ dy·x̂`, `dbias += Σ dy`.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn norm_grad(
    team: &Team,
    kind: NormKind,
    rows: usize,
    cols: usize,
    accumulate: bool,
    x: &[f32],
    gain: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dgain: &mut [f32],
    dbias: Option<&mut [f32]>,
) {
    assert!(x.len() == rows * cols && dy.len() == x.len() && dx.len() == x.len() && stats.len() == 2 * rows);
    assert!(gain.len() == cols && dgain.len() == cols && dbias.as_ref().is_none_or(|dbias| dbias.len() == cols));
    let block = rows.div_ceil(MOST_BLOCKS).max((GRAIN / cols.max(1)).max(1));
    let blocks = rows.div_ceil(block);
    team.with_common(blocks * 2 * cols, |partials| {
        let (dx, split) = (Split::new(dx), Split::new(partials));
        team.run(blocks, |task| {
            // SAFETY: blocks are disjoint.
            let sums = unsafe { split.part(task * 2 * cols..(task + 1) * 2 * cols) };
            sums.fill(0.0);
            let (dgain, dbias) = sums.split_at_mut(cols);
            for row in task * block..rows.min((task + 1) * block) {
                let at = row * cols..(row + 1) * cols;
                let stats = [stats[2 * row], stats[2 * row + 1]];
                // SAFETY: rows are disjoint.
                let dx = unsafe { dx.part(at.clone()) };
                norm_grad_row(kind, accumulate, &x[at.clone()], gain, stats, &dy[at], dx, dgain, dbias);
            }
        });
        for sums in partials.chunks_exact(2 * cols) {
            accumulate_row(&sums[..cols], dgain);
        }
        if let Some(dbias) = dbias {
            for sums in partials.chunks_exact(2 * cols) {
                accumulate_row(&sums[cols..], dbias);
            }
        }
    });
}

/// `db += Σ_r dy[r]`; `dy` is `[rows, cols]`, `db` `[cols]`.
pub fn bias_grad(team: &Team, rows: usize, cols: usize, dy: &[f32], db: &mut [f32]) {
    assert!(dy.len() == rows * cols && db.len() == cols);
    let block = rows.div_ceil(MOST_BLOCKS).max((GRAIN / cols.max(1)).max(1));
    let blocks = rows.div_ceil(block);
    team.with_common(blocks * cols, |partials| {
        let split = Split::new(partials);
        team.run(blocks, |task| {
            // SAFETY: blocks are disjoint.
            let sum = unsafe { split.part(task * cols..(task + 1) * cols) };
            sum.fill(0.0);
            dy[task * block * cols..rows.min((task + 1) * block) * cols]
                .chunks_exact(cols)
                .for_each(|row| accumulate_row(row, sum));
        });
        partials.chunks_exact(cols).for_each(|sum| accumulate_row(sum, db));
    });
}

vectorised! {
    fn norm_row(kind: NormKind, x: &[f32], gain: &[f32], bias: Option<&[f32]>, y: &mut [f32], stats: &mut [f32])
        = norm_row_body;
    fn norm_grad_row(
        kind: NormKind, accumulate: bool, x: &[f32], gain: &[f32], stats: [f32; 2], dy: &[f32],
        dx: &mut [f32], dgain: &mut [f32], dbias: &mut [f32],
    ) = norm_grad_row_body;
}

#[inline(always)]
fn norm_row_body<L: Lanes>(
    kind: NormKind,
    x: &[f32],
    gain: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    stats: &mut [f32],
) {
    let cols = x.len();
    let mut mean = 0.0;
    if kind == NormKind::Layer {
        let mut sum = L::splat(0.0);
        for i in (0..cols).step_by(L::WIDTH) {
            sum = sum.add(L::read(&x[i..]));
        }
        mean = sum.sum() / cols as f32;
    }
    let center = L::splat(mean);
    let mut squares = L::splat(0.0);
    let whole = cols - cols % L::WIDTH;
    for i in (0..whole).step_by(L::WIDTH) {
        let d = L::read(&x[i..]).sub(center);
        squares = d.mul_add(d, squares);
    }
    // Lanes beyond the row would count (0 − mean)².
    let rest: f32 = x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum();
    let rstd = 1.0 / ((squares.sum() + rest) / cols as f32 + EPS).sqrt();
    stats.copy_from_slice(&[mean, rstd]);
    for i in (0..cols).step_by(L::WIDTH) {
        let scaled = L::read(&x[i..]).sub(center).mul(L::splat(rstd));
        let gain = L::read(&gain[i..]);
        let y_i = match bias {
            Some(bias) => scaled.mul_add(gain, L::read(&bias[i..])),
            None => scaled.mul(gain),
        };
        y_i.write(&mut y[i..]);
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn norm_grad_row_body<L: Lanes>(
    kind: NormKind,
    accumulate: bool,
    x: &[f32],
    gain: &[f32],
    [mean, rstd]: [f32; 2],
    dy: &[f32],
    dx: &mut [f32],
    dgain: &mut [f32],
    dbias: &mut [f32],
) {
    let (center, rstd) = (L::splat(mean), L::splat(rstd));
    let (mut sum, mut sum_x) = (L::splat(0.0), L::splat(0.0));
    for i in (0..x.len()).step_by(L::WIDTH) {
        let xhat = L::read(&x[i..]).sub(center).mul(rstd);
        let dy = L::read(&dy[i..]);
        let g = dy.mul(L::read(&gain[i..]));
        sum = sum.add(g);
        sum_x = g.mul_add(xhat, sum_x);
        dy.mul_add(xhat, L::read(&dgain[i..])).write(&mut dgain[i..]);
        dy.add(L::read(&dbias[i..])).write(&mut dbias[i..]);
    }
    let n = x.len() as f32;
    let mean_g = L::splat(if kind == NormKind::Layer { sum.sum() / n } else { 0.0 });
    let mean_gx = L::splat(sum_x.sum() / n);
    for i in (0..x.len()).step_by(L::WIDTH) {
        let xhat = L::read(&x[i..]).sub(center).mul(rstd);
        let g = L::read(&dy[i..]).mul(L::read(&gain[i..]));
        let inner = g.sub(mean_g).sub(xhat.mul(mean_gx));
        let before = if accumulate { L::read(&dx[i..]) } else { L::splat(0.0) };
        inner.mul_add(rstd, before).write(&mut dx[i..]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, finite_differences, on_teams, random, wide};
    use super::*;

    /// `y` for parameters packed `[x | gain | bias]`.
    fn reference(kind: NormKind, cols: usize, packed: &[f64]) -> Vec<f64> {
        let (x, parameters) = packed.split_at(packed.len() - 2 * cols);
        let row = |x: &[f64]| -> Vec<f64> {
            let n = cols as f64;
            let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
            let rstd = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
            let bias = |i: usize| if kind == NormKind::Layer { parameters[cols + i] } else { 0.0 };
            (0..cols).map(|i| (x[i] - mean) * rstd * parameters[i] + bias(i)).collect()
        };
        x.chunks(cols).flat_map(row).collect()
    }

    #[test]
    fn forward_agrees_with_f64_and_keeps_the_statistics() {
        on_teams(|team| {
            for kind in [NormKind::Layer, NormKind::Rms] {
                let (rows, cols) = (501, 85);
                let x: Vec<f32> = random(1, rows * cols).iter().map(|x| 3.0 * x + 5.0).collect();
                let (gain, bias) = (random(2, cols), random(3, cols));
                let (mut y, mut stats) = (vec![f32::NAN; x.len()], vec![f32::NAN; 2 * rows]);
                let used = (kind == NormKind::Layer).then_some(&bias[..]);
                norm(team, kind, rows, cols, &x, &gain, used, &mut y, &mut stats);
                let packed = wide(&[&x[..], &gain, &bias].concat());
                assert_close(&y, &reference(kind, cols, &packed), 5e-6);
                let mean = x[..cols].iter().sum::<f32>() / cols as f32;
                assert!((stats[0] - if kind == NormKind::Layer { mean } else { 0.0 }).abs() < 1e-5);
            }
        });
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        on_teams(|team| {
            for (kind, accumulate) in [(NormKind::Layer, true), (NormKind::Rms, false)] {
                let (rows, cols) = (5, 21);
                let (x, gain, bias) = (random(1, rows * cols), random(2, cols), random(3, cols));
                let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
                norm(team, kind, rows, cols, &x, &gain, Some(&bias), &mut y, &mut stats);
                let dy = random(4, x.len());
                let before = random(5, x.len() + 2 * cols);
                let mut got = before.clone();
                let (dx, parameters) = got.split_at_mut(x.len());
                let (dgain, dbias) = parameters.split_at_mut(cols);
                let dbias = (kind == NormKind::Layer).then_some(dbias);
                norm_grad(team, kind, rows, cols, accumulate, &x, &gain, &stats, &dy, dx, dgain, dbias);
                let loss =
                    |all: &[f64]| reference(kind, cols, all).iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum();
                let mut want = finite_differences(&wide(&[&x[..], &gain, &bias].concat()), loss);
                for (i, want) in want.iter_mut().enumerate() {
                    *want += if i >= x.len() || accumulate { f64::from(before[i]) } else { 0.0 };
                }
                assert_close(&got, &want, 2e-5);
            }
        });
    }

    #[test]
    fn sums_over_rows_do_not_depend_on_the_number_of_threads() {
        let (rows, cols) = (3001, 130);
        let (x, gain, dy) = (random(1, rows * cols), random(2, cols), random(3, rows * cols));
        let sums = |threads| {
            let team = Team::new(threads);
            let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
            norm(&team, NormKind::Layer, rows, cols, &x, &gain, Some(&gain), &mut y, &mut stats);
            let (mut dgain, mut dbias, mut db) = (vec![0.0; cols], vec![0.0; cols], vec![0.0; cols]);
            let (kind, dbias_) = (NormKind::Layer, Some(&mut dbias[..]));
            norm_grad(&team, kind, rows, cols, false, &x, &gain, &stats, &dy, &mut y, &mut dgain, dbias_);
            bias_grad(&team, rows, cols, &dy, &mut db);
            (dgain, dbias, db)
        };
        let (dgain, dbias, db) = sums(1);
        let mut want = vec![0.0; cols];
        (0..dy.len()).for_each(|i| want[i % cols] += f64::from(dy[i]));
        assert_close(&db, &want, 1e-4);
        assert_close(&dbias, &want, 1e-4);
        assert_eq!(sums(3), (dgain, dbias, db));
    }
}
