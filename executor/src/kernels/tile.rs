//! Register tiles: sums of products that stay in registers until they are whole.
//!
//! In: rows of `A` and `B` by pointers and strides. Out: a tile of `C`.
//!
//! Invariant: an element is summed over `k` in order.

use super::lanes::Lanes;

/// What a tile is added to.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    /// A bias for the tile's columns.
    pub bias: Option<&'a [f32]>,
    /// Whether to add what C holds.
    pub add: bool,
}

/// `Σ_p a[r·a_row + p·a_k] · b[p·b_k ..]` over `k` for `R` rows and the first `cols ≤ V · WIDTH` columns.
///
/// # Safety
/// All named elements must be readable.
#[inline(always)]
pub(super) unsafe fn multiply_tile<L: Lanes, const R: usize, const V: usize>(
    k: usize,
    a: *const f32,
    a_row: usize,
    a_k: usize,
    b: *const f32,
    b_k: usize,
    cols: usize,
) -> [[L; V]; R] {
    // SAFETY: by contract.
    unsafe { multiply::<L, R, V, false>(k, a, a_row, a_k, b, b_k, cols) }
}

/// As [`multiply_tile`]; with `PAIRS` each float is a pair of bf16, and pairs are multiplied and added.
///
/// # Safety
/// As [`multiply_tile`]; with `PAIRS`, the processor must have AVX-512 BF16.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // constant bounds over arrays unroll into registers
pub(super) unsafe fn multiply<L: Lanes, const R: usize, const V: usize, const PAIRS: bool>(
    k: usize,
    a: *const f32,
    a_row: usize,
    a_k: usize,
    b: *const f32,
    b_k: usize,
    cols: usize,
) -> [[L; V]; R] {
    let mut sums = [[L::splat(0.0); V]; R];
    let full = cols == V * L::WIDTH;
    for p in 0..k {
        // SAFETY: by contract; columns beyond `cols` are not touched.
        unsafe {
            let (a, b) = (a.add(p * a_k), b.add(p * b_k));
            let mut row = [L::splat(0.0); V];
            for v in 0..V {
                row[v] = if full { L::load(b.add(v * L::WIDTH)) } else { load_some(b, v * L::WIDTH, cols) };
            }
            for r in 0..R {
                let x = L::splat(*a.add(r * a_row));
                for v in 0..V {
                    sums[r][v] = if PAIRS { x.dot_pairs(row[v], sums[r][v]) } else { x.mul_add(row[v], sums[r][v]) };
                }
            }
        }
    }
    sums
}

/// Writes the first `rows` and `cols` of a tile to `c`, whose rows are `stride` apart.
///
/// # Safety
/// These elements must be writable, and readable if they are added to.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // constant bounds over arrays unroll into registers
pub(super) unsafe fn store_tile<L: Lanes, const R: usize, const V: usize>(
    tile: [[L; V]; R],
    rows: usize,
    cols: usize,
    start: Start,
    c: *mut f32,
    stride: usize,
) {
    for r in 0..R {
        for v in 0..V {
            let at = v * L::WIDTH;
            if r < rows && at < cols {
                let mut sum = tile[r][v];
                // SAFETY: by contract; the bias has `cols` elements.
                unsafe {
                    let c = c.add(r * stride);
                    if start.add {
                        sum = load_some::<L>(c, at, cols).add(sum);
                    }
                    if let Some(bias) = start.bias {
                        sum = load_some::<L>(bias.as_ptr(), at, cols).add(sum);
                    }
                    if cols - at >= L::WIDTH { sum.store(c.add(at)) } else { sum.store_first(c.add(at), cols - at) }
                }
            }
        }
    }
}

/// Up to `WIDTH` floats from `at`, with zeros from `end` on.
///
/// # Safety
/// The floats of `at .. end` must be readable.
#[inline(always)]
unsafe fn load_some<L: Lanes>(from: *const f32, at: usize, end: usize) -> L {
    // SAFETY: by contract.
    unsafe {
        match end.saturating_sub(at) {
            0 => L::splat(0.0),
            n if n >= L::WIDTH => L::load(from.add(at)),
            n => L::load_first(from.add(at), n),
        }
    }
}
