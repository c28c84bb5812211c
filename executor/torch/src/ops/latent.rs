//! Queries, keys and values of latent attention as packed rows, and back.

use meshwright_hardware::op::LatentDims;
use tch::{Device, Kind, Tensor};

use super::copy;
use super::rotary::{Turns, turned};
use crate::cache::TensorCache;
use crate::view::{Outcome, TensorArgs};

/// Parts of arguments that stand for each other: in packed rows, and where they come from.
struct Parts {
    /// `[rows, heads, nope]` and `[rows, heads, value]`, which are copied.
    plain: [(Tensor, Tensor); 3],
    /// `[rows, heads, rope]`, which turn.
    query: (Tensor, Tensor),
    /// Of the packed keys `[rows, heads, rope]`, of what all heads share `[rows, 1, rope]`.
    key: (Tensor, Tensor),
    /// What lies behind packed values: nothing.
    rest: Tensor,
}

/// Of arguments `packed`, `q`, `kv` and `k_rope`, by number.
fn parts(x: &TensorArgs, [packed, q, kv, k]: [usize; 4], d: &LatentDims) -> Outcome<Parts> {
    let LatentDims { rows, heads, nope, rope, value, .. } = *d;
    let width = d.width();
    let row = 3 * heads * width;
    let inside = |kind: usize, first: usize, cols: usize| {
        x.strided(packed, [rows, heads, cols], [row, width, 1], kind * heads * width + first)
    };
    let of_q = |first: usize, cols: usize| x.strided(q, [rows, heads, cols], [heads * width, width, 1], first);
    let pair = nope + value;
    let of_kv = |first: usize, cols: usize| x.strided(kv, [rows, heads, cols], [heads * pair, pair, 1], first);
    Ok(Parts {
        plain: [
            (inside(0, 0, nope)?, of_q(0, nope)?),
            (inside(1, 0, nope)?, of_kv(0, nope)?),
            (inside(2, 0, value)?, of_kv(nope, value)?),
        ],
        query: (inside(0, nope, rope)?, of_q(nope, rope)?),
        key: (inside(1, nope, rope)?, x.of(k, [rows, 1, rope])?),
        rest: inside(2, value.min(width - 1), width - value)?,
    })
}

/// By what angles tokens turn on the rank that is the `rank`-th of those that share a sequence.
fn turns(d: &LatentDims, rank: usize) -> Turns {
    Turns { rows: d.rows, seq: d.seq, width: d.rope, theta: d.theta, cp: d.cp, rank }
}

pub fn forward(x: &TensorArgs, d: &LatentDims, rank: usize, device: Device, cache: &mut TensorCache) -> Outcome {
    let table = turns(d, rank).table(device, cache)?;
    let Parts { plain, query, key, mut rest } = parts(x, [3, 0, 1, 2], d)?;
    drop(rest.f_zero_()?);
    plain.iter().try_for_each(|(packed, from)| copy(packed, from))?;
    turned(&query.0, &query.1, &table, false)?;
    // Once for all heads.
    let once = key.1.f_empty_like()?;
    turned(&once, &key.1, &table, false)?;
    copy(&key.0, &once)
}

pub fn backward(x: &TensorArgs, d: &LatentDims, rank: usize, device: Device, cache: &mut TensorCache) -> Outcome {
    let table = turns(d, rank).table(device, cache)?;
    let Parts { plain, query, key, .. } = parts(x, [0, 1, 2, 3], d)?;
    plain.iter().try_for_each(|(packed, to)| copy(to, packed))?;
    turned(&query.1, &query.0, &table, true)?;
    let sum = key.0.f_sum_dim_intlist(1, true, Kind::Float)?;
    turned(&key.1, &sum, &table, true)
}
