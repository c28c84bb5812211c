//! Attention against plain `f64` loops and finite differences.

use super::super::testing::{assert_close, finite_differences, on_teams, random, wide};
use super::*;

fn dims(batch: usize, seq: usize, [heads, kv_heads]: [usize; 2], head_dim: usize, causal: bool) -> AttentionDims {
    AttentionDims { batch, seq, heads, kv_heads, head_dim, causal }
}

/// Outputs and lse, in `f64`.
fn reference(dims: &AttentionDims, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let d = dims.head_dim;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for (row, h) in (0..dims.rows()).flat_map(|row| (0..dims.heads).map(move |h| (row, h))) {
        let kv = h / (dims.heads / dims.kv_heads);
        let part = |row: usize, head: usize| &qkv[row * dims.qkv_cols() + head * d..][..d];
        let first = row - row % dims.seq;
        let seen = first..if dims.causal { row + 1 } else { first + dims.seq };
        let score = |key: usize| -> f64 {
            let k = part(key, dims.heads + kv);
            part(row, h).iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
        };
        let weights: Vec<f64> = seen.clone().map(|key| score(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        let v = |key: usize, i: usize| part(key, dims.heads + dims.kv_heads + kv)[i];
        out.extend((0..d).map(|i| seen.clone().zip(&weights).map(|(key, w)| w / total * v(key, i)).sum::<f64>()));
        lse.push(total.ln());
    }
    (out, lse)
}

#[test]
fn forward_agrees_with_f64_over_several_blocks() {
    on_teams(|team| {
        for dims in [
            dims(2, 37, [4, 2], 6, true),
            dims(1, 301, [2, 1], 40, true),
            dims(2, 150, [3, 3], 64, false),
            dims(3, 1, [1, 1], 8, true),
        ] {
            let qkv: Vec<f32> = random(1, dims.rows() * dims.qkv_cols()).iter().map(|x| 2.0 * x).collect();
            let mut lse = vec![f32::NAN; dims.rows() * dims.heads];
            let mut out = vec![f32::NAN; lse.len() * dims.head_dim];
            attention(team, dims, &qkv, &mut out, &mut lse);
            let want = reference(&dims, &wide(&qkv));
            assert_close(&out, &want.0, 1e-5);
            assert_close(&lse, &want.1, 1e-5);
        }
    });
}

#[test]
fn backward_agrees_with_finite_differences() {
    on_teams(|team| {
        for dims in [dims(2, 9, [4, 2], 3, true), dims(1, 35, [2, 1], 2, false), dims(1, 139, [1, 1], 2, true)] {
            let qkv: Vec<f32> = random(1, dims.rows() * dims.qkv_cols()).iter().map(|x| 2.0 * x).collect();
            let mut lse = vec![0.0; dims.rows() * dims.heads];
            let mut out = vec![0.0; lse.len() * dims.head_dim];
            attention(team, dims, &qkv, &mut out, &mut lse);
            let dout = random(2, out.len());
            let mut dqkv = vec![f32::NAN; qkv.len()];
            attention_grad(team, dims, &qkv, &out, &lse, &dout, &mut dqkv);
            let loss = |qkv: &[f64]| reference(&dims, qkv).0.iter().zip(&dout).map(|(y, &d)| y * f64::from(d)).sum();
            assert_close(&dqkv, &finite_differences(&wide(&qkv), loss), 2e-5);
        }
    });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dims = dims(2, 70, [4, 2], 16, true);
    let qkv = random(1, dims.rows() * dims.qkv_cols());
    let run = |threads| {
        let team = Team::new(threads);
        let mut lse = vec![0.0; dims.rows() * dims.heads];
        let (mut out, mut dqkv) = (vec![0.0; lse.len() * dims.head_dim], vec![0.0; qkv.len()]);
        attention(&team, dims, &qkv, &mut out, &mut lse);
        attention_grad(&team, dims, &qkv, &out, &lse, &out, &mut dqkv);
        (out, lse, dqkv)
    };
    assert_eq!(run(1), run(3));
}
