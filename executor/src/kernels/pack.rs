//! Operands of matrix products, packed into panels for the register tile.
//!
//! In: a matrix in either order, floats or halves. Out: panels `[depth, width]`, with zeros behind.
//!
//! Invariant: halves become the same floats wherever they lie, or stay pairs.

use super::lanes::{Lanes, vectorised};
use super::narrow::{Floats, widen};
use super::transpose::transpose;

/// Floats that are widened at a time before they are transposed.
const WIDENED: usize = 2048;

/// A matrix operand seen as `[outer, k]`: element (i, p) lies at `i·outer + p·inner`, and one of the two strides is 1.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: Floats<'a>,
    pub outer: usize,
    pub inner: usize,
    /// Where pairs of bf16 stand for floats: how many elements `k` has, each pair counting as one.
    pub paired: Option<usize>,
}

impl Operand<'_> {
    /// Packs `count ≤ width` of the outer index from `at`, for `depth` from `k0`, as `[depth, width]` with zeros behind.
    pub fn pack(self, at: usize, count: usize, k0: usize, depth: usize, width: usize, to: &mut [f32]) {
        let first = at * self.outer + k0 * self.inner;
        match (self.data, self.paired) {
            (Floats::Half(_, data), Some(k)) => self.pack_pairs(data, k, [at, count, k0, depth], width, to),
            (Floats::Full(data), _) if self.inner == 1 => {
                transpose(&data[first..], self.outer, count, depth, to, width);
            }
            (Floats::Full(data), _) => {
                let from = &data[first..];
                for (p, to) in to.chunks_exact_mut(width).take(depth).enumerate() {
                    to[..count].copy_from_slice(&from[p * self.inner..p * self.inner + count]);
                }
            }
            (Floats::Half(half, data), None) if self.inner == 1 => {
                let mut rows = [0.0; WIDENED];
                let most = WIDENED / count;
                for p in (0..depth).step_by(most) {
                    let some = (depth - p).min(most);
                    for (i, row) in rows.chunks_exact_mut(some).take(count).enumerate() {
                        let from = first + i * self.outer + p;
                        widen(half, &data[from..from + some], row);
                    }
                    transpose(&rows, some, count, some, &mut to[p * width..], width);
                }
            }
            (Floats::Half(half, data), None) => {
                let from = &data[first..];
                for (p, to) in to.chunks_exact_mut(width).take(depth).enumerate() {
                    widen(half, &from[p * self.inner..p * self.inner + count], &mut to[..count]);
                }
            }
        }
        if count < width {
            to.chunks_exact_mut(width).take(depth).for_each(|to| to[count..].fill(0.0));
        }
    }

    /// As [`Operand::pack`], of pairs: the last one has a zero if `k` is odd.
    fn pack_pairs(self, data: &[u16], k: usize, [at, count, k0, depth]: [usize; 4], width: usize, to: &mut [f32]) {
        if self.inner == 1 {
            let mut rows = [0.0; WIDENED];
            let most = WIDENED / count;
            for p in (0..depth).step_by(most) {
                let some = (depth - p).min(most);
                let from = 2 * (k0 + p);
                for (i, row) in rows.chunks_exact_mut(some).take(count).enumerate() {
                    let start = (at + i) * self.outer;
                    pairs_along(&data[start + from..start + k.min(from + 2 * some)], row);
                }
                transpose(&rows, some, count, some, &mut to[p * width..], width);
            }
        } else {
            for (p, to) in to.chunks_exact_mut(width).take(depth).enumerate() {
                let row = |k: usize| &data[k * self.inner + at..][..count];
                let low = 2 * (k0 + p);
                if low + 1 < k {
                    pairs_across(row(low), row(low + 1), &mut to[..count]);
                } else {
                    to.iter_mut().zip(row(low)).for_each(|(to, &low)| *to = f32::from_bits(u32::from(low)));
                }
            }
        }
    }
}

vectorised! {
    fn pairs_along(from: &[u16], to: &mut [f32]) = pairs_along_body;
    fn pairs_across(low: &[u16], high: &[u16], to: &mut [f32]) = pairs_across_body;
}

/// Neighbours as pairs.
#[inline(always)]
fn pairs_along_body<L: Lanes>(from: &[u16], to: &mut [f32]) {
    let (pairs, rest) = from.as_chunks::<2>();
    let pair = |low: u16, high: u16| f32::from_bits(u32::from(low) | u32::from(high) << 16);
    to.iter_mut().zip(pairs).for_each(|(to, &[low, high])| *to = pair(low, high));
    if let (Some(to), &[last]) = (to.get_mut(pairs.len()), rest) {
        *to = pair(last, 0);
    }
}

/// What stands in two rows at the same place as pairs.
#[inline(always)]
fn pairs_across_body<L: Lanes>(low: &[u16], high: &[u16], to: &mut [f32]) {
    for ((to, &low), &high) in to.iter_mut().zip(low).zip(high) {
        *to = f32::from_bits(u32::from(low) | u32::from(high) << 16);
    }
}
