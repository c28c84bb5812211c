//! Rotary positions.
//!
//! In: packed rows, their width and how many heads of them turn. Out: the same rows, turned in place.
//!
//! Invariant: `inverse` undoes the forward turn, and so is also its gradient.

use super::team::{Split, Team};

/// Turns each pair `(i, i + head_dim/2)` of the first `heads` heads of every row by `position · theta^(-2i/head_dim)`
/// (Su et al. 2021, in the rotate-half order of LLaMA checkpoints), where a row's position is `place(row % seq)`. `x` is `[rows, stride]`;
/// columns from `heads · head_dim` on are left alone.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn rope(
    team: &Team,
    rows: usize,
    seq: usize,
    stride: usize,
    heads: usize,
    head_dim: usize,
    theta: f32,
    inverse: bool,
    place: impl Fn(usize) -> usize + Sync,
    x: &mut [f32],
) {
    assert!(x.len() == rows * stride && heads * head_dim <= stride && head_dim.is_multiple_of(2) && seq > 0);
    let half = head_dim / 2;
    let direction = if inverse { -1.0 } else { 1.0 };
    let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let x = Split::new(x);
    // A task takes a position of every sequence, so that its sines are computed once.
    team.run_with(seq.min(rows), head_dim, |position, turn| {
        let (cos, sin) = turn.split_at_mut(half);
        for (i, frequency) in frequencies.iter().enumerate() {
            let (s, c) = (place(position) as f32 * frequency).sin_cos();
            (cos[i], sin[i]) = (c, direction * s);
        }
        for row in (position..rows).step_by(seq) {
            // SAFETY: a row has one position, and a position one task.
            let row = unsafe { x.part(row * stride..row * stride + heads * head_dim) };
            for head in row.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                for ((a, b), (c, s)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin.iter())) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, on_teams, random, wide};
    use super::*;

    #[test]
    fn turns_pairs_by_their_position_and_leaves_the_rest() {
        on_teams(|team| {
            let (seq, stride, heads, head_dim) = (5, 29, 3, 6);
            let rows = 2 * seq;
            let x = random(1, rows * stride);
            let mut turned = x.clone();
            rope(team, rows, seq, stride, heads, head_dim, 100.0, false, |at| at, &mut turned);
            let mut want = wide(&x);
            for row in 0..rows {
                for (head, i) in (0..heads).flat_map(|head| (0..3).map(move |i| (head, i))) {
                    let at = row * stride + head * head_dim + i;
                    let angle = (row % seq) as f64 * 100f64.powf(-2.0 * i as f64 / 6.0);
                    let (a, b) = (f64::from(x[at]), f64::from(x[at + 3]));
                    want[at] = a * angle.cos() - b * angle.sin();
                    want[at + 3] = b * angle.cos() + a * angle.sin();
                }
            }
            assert_close(&turned, &want, 1e-6);
            rope(team, rows, seq, stride, heads, head_dim, 100.0, true, |at| at, &mut turned);
            assert_close(&turned, &wide(&x), 1e-6);
        });
    }
}
