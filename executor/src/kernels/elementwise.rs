//! The residual addition, and what moves or sums whole buffers.
//!
//! In: slices of equal length. Out: one of them, written element by element.
//!
//! Invariant: every element depends on its own operands alone.

use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};

/// Elements a task handles: enough to outweigh waking a thread, few enough to stay in the second-level cache.
pub(super) const GRAIN: usize = 1 << 14;

/// `out[r] = a[r] + b[r] (+ bias)`; `a`, `b` and `out` are `[rows, cols]`, `bias` is `[cols]`.
pub fn add(team: &Team, rows: usize, cols: usize, a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    assert!(a.len() == rows * cols && b.len() == a.len() && out.len() == a.len());
    assert!(bias.is_none_or(|bias| bias.len() == cols));
    let out = Split::new(out);
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            let at = row * cols..(row + 1) * cols;
            // SAFETY: rows are disjoint.
            add_row(&a[at.clone()], &b[at.clone()], bias, unsafe { out.part(at) });
        }
    });
}

/// `x = 0`.
pub fn zero(team: &Team, x: &mut [f32]) {
    let (n, x) = (x.len(), Split::new(x));
    // SAFETY: ranges are disjoint.
    team.ranges(n, GRAIN, |range| unsafe { x.part(range) }.fill(0.0));
}

/// `dst += src`, of equal length.
pub fn accumulate(team: &Team, src: &[f32], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    let dst = Split::new(dst);
    // SAFETY: ranges are disjoint.
    team.ranges(src.len(), GRAIN, |range| accumulate_row(&src[range.clone()], unsafe { dst.part(range) }));
}

/// `dst = src`, of equal length.
pub fn copy(team: &Team, src: &[f32], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    let dst = Split::new(dst);
    // SAFETY: ranges are disjoint.
    team.ranges(src.len(), GRAIN, |range| unsafe { dst.part(range.clone()) }.copy_from_slice(&src[range]));
}

vectorised! {
    fn add_row(a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) = add_row_body;
    pub(super) fn accumulate_row(src: &[f32], dst: &mut [f32]) = accumulate_body;
}

#[inline(always)]
fn add_row_body<L: Lanes>(a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    for i in (0..out.len()).step_by(L::WIDTH) {
        let mut sum = L::read(&a[i..]).add(L::read(&b[i..]));
        if let Some(bias) = bias {
            sum = sum.add(L::read(&bias[i..]));
        }
        sum.write(&mut out[i..]);
    }
}

#[inline(always)]
fn accumulate_body<L: Lanes>(src: &[f32], dst: &mut [f32]) {
    for i in (0..dst.len()).step_by(L::WIDTH) {
        L::read(&dst[i..]).add(L::read(&src[i..])).write(&mut dst[i..]);
    }
}

/// Columns `first .. first + cols` of `whole`, `[rows, stride]`, to `part`, `[rows, cols]`.
pub fn columns(team: &Team, stride: usize, first: usize, cols: usize, whole: &[f32], part: &mut [f32]) {
    assert!(first + cols <= stride && whole.len() / stride * cols == part.len());
    let (rows, part) = (part.len() / cols, Split::new(part));
    team.ranges(rows, (GRAIN / cols).max(1), |range| {
        for row in range {
            let from = row * stride + first;
            // SAFETY: rows are disjoint.
            unsafe { part.part(row * cols..(row + 1) * cols) }.copy_from_slice(&whole[from..from + cols]);
        }
    });
}

/// The other way round.
pub fn into_columns(team: &Team, stride: usize, first: usize, cols: usize, part: &[f32], whole: &mut [f32]) {
    assert!(first + cols <= stride && whole.len() / stride * cols == part.len());
    let (rows, whole) = (part.len() / cols, Split::new(whole));
    team.ranges(rows, (GRAIN / cols).max(1), |range| {
        for row in range {
            let to = row * stride + first;
            // SAFETY: rows are disjoint.
            unsafe { whole.part(to..to + cols) }.copy_from_slice(&part[row * cols..(row + 1) * cols]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{on_teams, random};
    use super::*;

    #[test]
    fn adds_rows_with_and_without_bias() {
        on_teams(|team| {
            let (rows, cols) = (700, 37);
            let (a, b, bias) = (random(1, rows * cols), random(2, rows * cols), random(3, cols));
            let mut out = vec![f32::NAN; rows * cols];
            add(team, rows, cols, &a, &b, None, &mut out);
            assert!((0..rows * cols).all(|i| out[i] == a[i] + b[i]));
            add(team, rows, cols, &a, &b, Some(&bias), &mut out);
            assert!((0..rows * cols).all(|i| out[i] == a[i] + b[i] + bias[i % cols]));
        });
    }

    #[test]
    fn moves_and_sums_every_element() {
        on_teams(|team| {
            let src = random(1, 3 * GRAIN + 5);
            let mut dst = random(2, src.len());
            let before = dst.clone();
            accumulate(team, &src, &mut dst);
            assert!((0..src.len()).all(|i| dst[i] == before[i] + src[i]));
            copy(team, &src, &mut dst);
            assert_eq!(src, dst);
            zero(team, &mut dst);
            assert!(dst.iter().all(|&x| x == 0.0));
        });
    }
}
