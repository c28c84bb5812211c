//! Packed rows of latent attention, and their gradient.
//!
//! In: queries, keys and values by heads, the rotary key that all heads share. Out: rows `[q heads | k heads | v heads]` of
//! equal width, values with zeros behind.
//!
//! Invariant: the gradient is the transposed map: what was turned is turned back, what was shared is summed.

use meshwright_hardware::op::{LatentDims, position};

use super::team::{Split, Team};

/// Cosines and sines of a position's pairs.
fn turn(dims: &LatentDims, position: usize) -> Vec<(f32, f32)> {
    let half = dims.rope / 2;
    let frequency = |i: usize| f64::from(dims.theta).powf(-2.0 * i as f64 / dims.rope as f64) as f32;
    (0..half).map(|i| (position as f32 * frequency(i)).sin_cos()).map(|(sin, cos)| (cos, sin)).collect()
}

/// Turns pairs `(i, i + rope/2)` from `from` into `to`.
fn turned(from: &[f32], turn: &[(f32, f32)], to: &mut [f32]) {
    let half = turn.len();
    for (i, (cos, sin)) in turn.iter().enumerate() {
        (to[i], to[half + i]) = (from[i] * cos - from[half + i] * sin, from[half + i] * cos + from[i] * sin);
    }
}

/// The packed rows, on the rank that is the `rank`-th of those that share a sequence.
pub fn latent_pack(team: &Team, dims: LatentDims, rank: usize, [q, kv, k_rope]: [&[f32]; 3], qkv: &mut [f32]) {
    let LatentDims { rows, seq, heads, nope, rope, value, cp, .. } = dims;
    let (width, pair) = (dims.width(), nope + value);
    assert!(q.len() == rows * heads * width && kv.len() == rows * heads * pair && k_rope.len() == rows * rope);
    assert!(qkv.len() == 3 * q.len() && rope.is_multiple_of(2));
    let qkv = Split::new(qkv);
    team.ranges(rows, 4, |range| {
        for row in range {
            let turn = turn(&dims, position(row % seq, seq, cp, rank));
            // SAFETY: rows are disjoint.
            let out = unsafe { qkv.part(3 * row * heads * width..3 * (row + 1) * heads * width) };
            let (queries, rest) = out.split_at_mut(heads * width);
            let (keys, values) = rest.split_at_mut(heads * width);
            for head in 0..heads {
                let (at, from) = (head * width, (row * heads + head) * width);
                queries[at..at + nope].copy_from_slice(&q[from..from + nope]);
                turned(&q[from + nope..from + width], &turn, &mut queries[at + nope..at + width]);
                let from = (row * heads + head) * pair;
                keys[at..at + nope].copy_from_slice(&kv[from..from + nope]);
                turned(&k_rope[row * rope..(row + 1) * rope], &turn, &mut keys[at + nope..at + width]);
                values[at..at + value].copy_from_slice(&kv[from + nope..from + pair]);
                values[at + value..at + width].fill(0.0);
            }
        }
    });
}

/// Its gradient.
pub fn latent_pack_grad(team: &Team, dims: LatentDims, rank: usize, dqkv: &[f32], [dq, dkv, dk_rope]: [&mut [f32]; 3]) {
    let LatentDims { rows, seq, heads, nope, rope, value, cp, .. } = dims;
    let (width, pair) = (dims.width(), nope + value);
    assert!(dqkv.len() == 3 * rows * heads * width && dk_rope.len() == rows * rope);
    let (dq, dkv, dk_rope) = (Split::new(dq), Split::new(dkv), Split::new(dk_rope));
    team.ranges(rows, 4, |range| {
        let mut key = vec![0.0; rope];
        for row in range {
            // Back is the way by the opposite angle.
            let turn: Vec<_> =
                turn(&dims, position(row % seq, seq, cp, rank)).into_iter().map(|(cos, sin)| (cos, -sin)).collect();
            let given = &dqkv[3 * row * heads * width..3 * (row + 1) * heads * width];
            let (queries, rest) = given.split_at(heads * width);
            let (keys, values) = rest.split_at(heads * width);
            // SAFETY: rows are disjoint.
            let (dq, dkv, dk_rope) = unsafe {
                (
                    dq.part(row * heads * width..(row + 1) * heads * width),
                    dkv.part(row * heads * pair..(row + 1) * heads * pair),
                    dk_rope.part(row * rope..(row + 1) * rope),
                )
            };
            dk_rope.fill(0.0);
            for head in 0..heads {
                let (at, to) = (head * width, head * pair);
                dq[at..at + nope].copy_from_slice(&queries[at..at + nope]);
                turned(&queries[at + nope..at + width], &turn, &mut dq[at + nope..at + width]);
                dkv[to..to + nope].copy_from_slice(&keys[at..at + nope]);
                turned(&keys[at + nope..at + width], &turn, &mut key);
                dk_rope.iter_mut().zip(&key).for_each(|(sum, d)| *sum += d);
                dkv[to + nope..to + pair].copy_from_slice(&values[at..at + value]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{on_teams, random};
    use super::*;

    /// The gradient of a linear map is its transpose: ⟨pack(x), y⟩ = ⟨x, grad(y)⟩; and turning is as `rope` does it.
    #[test]
    fn the_gradient_is_the_transpose() {
        on_teams(|team| {
            let dims = LatentDims { rows: 10, seq: 5, heads: 3, nope: 4, rope: 6, value: 2, theta: 100.0, cp: 1 };
            let (q, kv, k) = (random(1, 10 * 3 * 10), random(2, 10 * 3 * 6), random(3, 10 * 6));
            let mut qkv = vec![f32::NAN; 3 * q.len()];
            latent_pack(team, dims, 0, [&q, &kv, &k], &mut qkv);
            let y = random(4, qkv.len());
            let (mut dq, mut dkv, mut dk) =
                (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()], vec![f32::NAN; k.len()]);
            latent_pack_grad(team, dims, 0, &y, [&mut dq, &mut dkv, &mut dk]);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let back = dot(&q, &dq) + dot(&kv, &dkv) + dot(&k, &dk);
            assert!((dot(&qkv, &y) - back).abs() < 1e-4, "{} {back}", dot(&qkv, &y));
            let mut turned = k.clone();
            super::super::rope(team, 10, 5, 6, 1, 6, 100.0, false, |at| at, &mut turned);
            for row in 0..10 {
                assert_eq!(qkv[row * 90 + 30 + 4..row * 90 + 30 + 10], turned[row * 6..(row + 1) * 6]);
            }
        });
    }
}
