//! Fused attention, forward and backward, that never stores the scores (Dao et al. 2022).
//!
//! In: packed rows `[q heads | k heads | v heads]`. Out: the heads' outputs and the logarithm of each softmax's
//! denominator; backward, the gradient of the packed rows.
//!
//! Scores are computed transposed, `[keys, queries]`, so that a softmax runs down the vector lanes and its block is at
//! once an operand of the next product. A task owns a key/value head of a sequence with the query heads that share it.
//!
//! Invariant: blocks depend on the dims alone, so the number of threads changes no bit.

use super::lanes::{Lanes, vectorised};
use super::team::{Split, Team};
use super::tile::{Start, multiply_tile, store_tile};
use super::transpose::transpose;
use meshwright_hardware::op::AttentionDims;
use std::ops::Range;

/// Queries a block: two of the widest vectors.
const QUERIES: usize = 32;
/// Keys a block: its scores take 16 KiB.
const KEYS: usize = 128;

/// Where a task's head lies in the packed rows.
#[derive(Clone, Copy)]
struct Head {
    dims: AttentionDims,
    /// First row of the sequence.
    row: usize,
    kv_head: usize,
}

impl Head {
    fn new(dims: AttentionDims, task: usize) -> Head {
        Head { dims, row: task / dims.kv_heads * dims.seq, kv_head: task % dims.kv_heads }
    }

    fn queries(&self) -> Range<usize> {
        let group = self.dims.heads / self.dims.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// From where query head `head` of the sequence's token lies in packed rows.
    fn q(&self, head: usize, token: usize) -> usize {
        (self.row + token) * self.dims.qkv_cols() + head * self.dims.head_dim
    }

    fn k(&self, token: usize) -> usize {
        self.q(self.dims.heads + self.kv_head, token)
    }

    fn v(&self, token: usize) -> usize {
        self.q(self.dims.heads + self.dims.kv_heads + self.kv_head, token)
    }

    /// From where a head's token lies in rows of outputs.
    fn out(&self, head: usize, token: usize) -> usize {
        ((self.row + token) * self.dims.heads + head) * self.dims.head_dim
    }

    /// Keys that a block of queries up to `end` sees.
    fn visible(&self, end: usize) -> usize {
        if self.dims.causal { end } else { self.dims.seq }
    }
}

/// `out = softmax(q·kᵀ/√head_dim)·v` for every query head, `lse[row, head] = log Σ exp(score)`. `qkv` is
/// `[rows, qkv_cols]`, `out` `[rows, heads · head_dim]`, `lse` `[rows, heads]`; query head h uses key/value head
/// `h / (heads / kv_heads)`.
pub fn attention(team: &Team, dims: AttentionDims, qkv: &[f32], out: &mut [f32], lse: &mut [f32]) {
    check(&dims, qkv, out, lse);
    let (out, lse) = (Split::new(out), Split::new(lse));
    let floats = QUERIES * (2 * dims.head_dim + KEYS);
    team.run_with(dims.batch * dims.kv_heads, floats, |task, scratch| {
        let head = Head::new(dims, task);
        for (query, start) in blocks(&head) {
            forward_block(&head, query, start, qkv, scratch, &out, &lse);
        }
    });
}

/// The gradient of [`attention`]: `dqkv` is written whole; `out` and `lse` are what it gave.
pub fn attention_grad(
    team: &Team,
    dims: AttentionDims,
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
) {
    check(&dims, qkv, out, lse);
    assert!(dout.len() == out.len() && dqkv.len() == qkv.len());
    let d = dims.head_dim;
    let dqkv = Split::new(dqkv);
    let floats = 2 * dims.seq * d + QUERIES * (3 * d + 2 * KEYS);
    team.run_with(dims.batch * dims.kv_heads, floats, |task, scratch| {
        let head = Head::new(dims, task);
        let (sums, scratch) = scratch.split_at_mut(2 * dims.seq * d);
        sums.fill(0.0);
        let (dk, dv) = sums.split_at_mut(dims.seq * d);
        for (query, start) in blocks(&head) {
            let given = BackwardInputs { qkv, out, lse, dout };
            backward_block(&head, query, start, given, [&mut *dk, &mut *dv], scratch, &dqkv);
        }
        for (token, (dk, dv)) in dk.chunks_exact(d).zip(dv.chunks_exact(d)).enumerate() {
            // SAFETY: a task owns its head's columns.
            unsafe {
                dqkv.part(head.k(token)..head.k(token) + d).copy_from_slice(dk);
                dqkv.part(head.v(token)..head.v(token) + d).copy_from_slice(dv);
            }
        }
    });
}

fn check(dims: &AttentionDims, qkv: &[f32], out: &[f32], lse: &[f32]) {
    assert!(dims.kv_heads > 0 && dims.heads.is_multiple_of(dims.kv_heads));
    assert!(qkv.len() == dims.rows() * dims.qkv_cols() && lse.len() == dims.rows() * dims.heads);
    assert_eq!(out.len(), lse.len() * dims.head_dim);
}

/// A task's blocks of queries: the head and the first query.
fn blocks(head: &Head) -> impl Iterator<Item = (usize, usize)> {
    let seq = head.dims.seq;
    head.queries().flat_map(move |query| (0..seq).step_by(QUERIES).map(move |start| (query, start)))
}

fn forward_block(
    head: &Head,
    query: usize,
    start: usize,
    qkv: &[f32],
    scratch: &mut [f32],
    out: &Split<f32>,
    lse: &Split<f32>,
) {
    let (d, stride) = (head.dims.head_dim, head.dims.qkv_cols());
    let count = (head.dims.seq - start).min(QUERIES);
    let (q, rest) = scratch.split_at_mut(QUERIES * d);
    let (sum, scores) = rest.split_at_mut(QUERIES * d);
    pack(&qkv[head.q(query, start)..], stride, count, d, 1.0 / (d as f32).sqrt(), q);
    let (mut greatest, mut total) = ([f32::NEG_INFINITY; QUERIES], [0.0; QUERIES]);
    let visible = head.visible(start + count);
    for key in (0..visible).step_by(KEYS) {
        let keys = (visible - key).min(KEYS);
        let scores = &mut scores[..keys * QUERIES];
        score(head, start, key, &qkv[head.k(key)..], stride, q, scores);
        let mut kept = [0.0; QUERIES];
        softmax_block(scores, &mut greatest, &mut total, &mut kept);
        if key > 0 {
            for (row, kept) in sum.chunks_exact_mut(d).zip(kept) {
                row.iter_mut().for_each(|x| *x *= kept);
            }
        }
        let v = RightOperand { data: &qkv[head.v(key)..], stride };
        product(count, d, keys, Cells { data: scores, row: 1, k: QUERIES }, v, key > 0, sum, d);
    }
    for (token, row) in sum.chunks_exact(d).take(count).enumerate() {
        let (at, at_lse) = (head.out(query, start + token), (head.row + start + token) * head.dims.heads + query);
        // SAFETY: a task owns its heads' outputs.
        let (out, lse) = unsafe { (out.part(at..at + d), lse.part(at_lse..at_lse + 1)) };
        let scale = 1.0 / total[token];
        out.iter_mut().zip(row).for_each(|(out, x)| *out = x * scale);
        lse[0] = greatest[token] + total[token].ln();
    }
}

/// What the backward reads.
#[derive(Clone, Copy)]
struct BackwardInputs<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    dout: &'a [f32],
}

fn backward_block(
    head: &Head,
    query: usize,
    start: usize,
    BackwardInputs { qkv, out, lse, dout }: BackwardInputs,
    [dk, dv]: [&mut [f32]; 2],
    scratch: &mut [f32],
    dqkv: &Split<f32>,
) {
    let (d, stride, wide) = (head.dims.head_dim, head.dims.qkv_cols(), head.dims.heads * head.dims.head_dim);
    let count = (head.dims.seq - start).min(QUERIES);
    let scale = 1.0 / (d as f32).sqrt();
    let (q, rest) = scratch.split_at_mut(QUERIES * d);
    let (grad, rest) = rest.split_at_mut(QUERIES * d);
    let (dq, rest) = rest.split_at_mut(QUERIES * d);
    let (scores, dscores) = rest.split_at_mut(QUERIES * KEYS);
    let (queries, douts) = (&qkv[head.q(query, start)..], &dout[head.out(query, start)..]);
    pack(queries, stride, count, d, scale, q);
    pack(douts, wide, count, d, 1.0, grad);
    // Lanes without a query get probability zero.
    let (mut row_lse, mut row_dot) = ([f32::INFINITY; QUERIES], [0.0; QUERIES]);
    for token in 0..count {
        let at = head.out(query, start + token);
        row_lse[token] = lse[(head.row + start + token) * head.dims.heads + query];
        row_dot[token] = dot(&out[at..at + d], &dout[at..at + d]);
    }
    let visible = head.visible(start + count);
    for key in (0..visible).step_by(KEYS) {
        let keys = (visible - key).min(KEYS);
        let (scores, dscores) = (&mut scores[..keys * QUERIES], &mut dscores[..keys * QUERIES]);
        let (k, v) = (&qkv[head.k(key)..], &qkv[head.v(key)..]);
        score(head, start, key, k, stride, q, scores);
        let packed = RightOperand { data: grad, stride: QUERIES };
        product(keys, QUERIES, d, Cells { data: v, row: stride, k: 1 }, packed, false, dscores, QUERIES);
        softmax_grad_block(scores, dscores, &row_lse, &row_dot, scale);
        let by_key = |data| Cells { data, row: QUERIES, k: 1 };
        let rows = RightOperand { data: douts, stride: wide };
        product(keys, d, count, by_key(scores), rows, true, &mut dv[key * d..], d);
        product(keys, d, count, by_key(dscores), RightOperand { data: queries, stride }, true, &mut dk[key * d..], d);
        let by_query = Cells { data: dscores, row: 1, k: QUERIES };
        product(count, d, keys, by_query, RightOperand { data: k, stride }, key > 0, dq, d);
    }
    for (token, dq) in dq.chunks_exact(d).take(count).enumerate() {
        let at = head.q(query, start + token);
        // SAFETY: a task owns its heads' columns.
        unsafe { dqkv.part(at..at + d) }.copy_from_slice(dq);
    }
}

/// `count` rows of `d` as `[d, QUERIES]`, times `scale`, with zeros for the lanes that have no row.
fn pack(from: &[f32], stride: usize, count: usize, d: usize, scale: f32, to: &mut [f32]) {
    if count < QUERIES {
        to.fill(0.0);
    }
    transpose(from, stride, count, d, to, QUERIES);
    to.iter_mut().for_each(|x| *x *= scale);
}

/// Scores of a block, `[keys, QUERIES]`; those of keys that a query does not see are -∞.
fn score(head: &Head, start: usize, key: usize, k: &[f32], stride: usize, q: &[f32], scores: &mut [f32]) {
    let keys = scores.len() / QUERIES;
    let (cells, packed) = (Cells { data: k, row: stride, k: 1 }, RightOperand { data: q, stride: QUERIES });
    product(keys, QUERIES, head.dims.head_dim, cells, packed, false, scores, QUERIES);
    if head.dims.causal {
        for (later, row) in scores.chunks_exact_mut(QUERIES).enumerate().skip((start + 1).saturating_sub(key)) {
            row[..(key + later - start).min(QUERIES)].fill(f32::NEG_INFINITY);
        }
    }
}

/// A left operand: element (i, p) at `i·row + p·k`.
#[derive(Clone, Copy)]
struct Cells<'a> {
    data: &'a [f32],
    row: usize,
    k: usize,
}

/// A right operand: rows along k.
#[derive(Clone, Copy)]
struct RightOperand<'a> {
    data: &'a [f32],
    stride: usize,
}

vectorised! {
    /// `C[m, n] (+)= A[m, k] · B[k, n]` without packing: operands lie in the first-level cache.
    fn product(m: usize, n: usize, k: usize, a: Cells, b: RightOperand, add: bool, c: &mut [f32], c_row: usize) = product_body;
    fn softmax_block(scores: &mut [f32], greatest: &mut [f32; QUERIES], total: &mut [f32; QUERIES], kept: &mut [f32; QUERIES])
        = softmax_block_body;
    fn softmax_grad_block(
        scores: &mut [f32], dscores: &mut [f32], lse: &[f32; QUERIES], dot: &[f32; QUERIES], scale: f32,
    ) = softmax_grad_block_body;
    fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn product_body<L: Lanes>(
    m: usize,
    n: usize,
    k: usize,
    a: Cells,
    b: RightOperand,
    add: bool,
    c: &mut [f32],
    c_row: usize,
) {
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.k && b.data.len() >= (k - 1) * b.stride + n);
    assert!(c.len() >= (m - 1) * c_row + n);
    // SAFETY: all tiles are in bounds, as just asserted.
    unsafe {
        for j in (0..n).step_by(2 * L::WIDTH) {
            let cols = (n - j).min(2 * L::WIDTH);
            let (b_at, c_at) = (b.data.as_ptr().add(j), c.as_mut_ptr().add(j));
            let mut i = 0;
            if L::REGISTERS == 32 {
                i = product_rows::<L, 8>(i, m, k, a, b_at, b.stride, cols, add, c_at, c_row);
            }
            i = product_rows::<L, 4>(i, m, k, a, b_at, b.stride, cols, add, c_at, c_row);
            product_rows::<L, 1>(i, m, k, a, b_at, b.stride, cols, add, c_at, c_row);
        }
    }
}

/// As many tiles of `R` rows as fit from row `i`; gives the first row left.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn product_rows<L: Lanes, const R: usize>(
    mut i: usize,
    m: usize,
    k: usize,
    a: Cells,
    b: *const f32,
    b_k: usize,
    cols: usize,
    add: bool,
    c: *mut f32,
    c_row: usize,
) -> usize {
    while i + R <= m {
        // SAFETY: the caller checked the operands.
        unsafe {
            let tile = multiply_tile::<L, R, 2>(k, a.data.as_ptr().add(i * a.row), a.row, a.k, b, b_k, cols);
            store_tile(tile, R, cols, Start { bias: None, add }, c.add(i * c_row), c_row);
        }
        i += R;
    }
    i
}

/// Scores become `exp(score − greatest so far)`; `kept` is what earlier sums shrink by.
#[inline(always)]
fn softmax_block_body<L: Lanes>(
    scores: &mut [f32],
    greatest: &mut [f32; QUERIES],
    total: &mut [f32; QUERIES],
    kept: &mut [f32; QUERIES],
) {
    for i in (0..QUERIES).step_by(L::WIDTH) {
        let before = L::read(&greatest[i..]);
        let mut now = before;
        for row in scores.chunks_exact(QUERIES) {
            now = now.max(L::read(&row[i..]));
        }
        let keep = before.sub(now).exp();
        let mut sum = L::read(&total[i..]).mul(keep);
        for row in scores.chunks_exact_mut(QUERIES) {
            let p = L::read(&row[i..]).sub(now).exp();
            sum = sum.add(p);
            p.write(&mut row[i..]);
        }
        now.write(&mut greatest[i..]);
        keep.write(&mut kept[i..]);
        sum.write(&mut total[i..]);
    }
}

/// Scores become probabilities P, and their gradients `P·(dP − Σ out·dout)·scale`.
#[inline(always)]
fn softmax_grad_block_body<L: Lanes>(
    scores: &mut [f32],
    dscores: &mut [f32],
    lse: &[f32; QUERIES],
    dot: &[f32; QUERIES],
    scale: f32,
) {
    for i in (0..QUERIES).step_by(L::WIDTH) {
        let (lse, dot, scale) = (L::read(&lse[i..]), L::read(&dot[i..]), L::splat(scale));
        for (row, drow) in scores.chunks_exact_mut(QUERIES).zip(dscores.chunks_exact_mut(QUERIES)) {
            let p = L::read(&row[i..]).sub(lse).exp();
            p.write(&mut row[i..]);
            L::read(&drow[i..]).sub(dot).mul(scale).mul(p).write(&mut drow[i..]);
        }
    }
}

#[inline(always)]
fn dot_body<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = L::splat(0.0);
    for i in (0..a.len()).step_by(L::WIDTH) {
        sum = L::read(&a[i..]).mul_add(L::read(&b[i..]), sum);
    }
    sum.sum()
}

#[cfg(test)]
mod tests;
