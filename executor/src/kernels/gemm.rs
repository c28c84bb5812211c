//! Matrix products: packed and blocked as in BLIS (Van Zee & van de Geijn 2015), with a register tile per instruction set.
//!
//! In: two row-major matrices, a [`Layout`], perhaps a bias. Out: `C`, written or added to. Elements of two bytes are widened as
//! they are packed; a `C` of them is summed in fp32 and rounded once. Where the processor multiplies pairs of bf16 (AVX-512
//! BF16), pairs along `k` are packed as they are, one in the place of a float.
//!
//! A round packs a slice of `B` into panels as wide as the register tile, for all threads; then each task packs blocks of
//! `A`'s rows and multiplies. Rounds and blocks along `k` depend on the shape alone.
//!
//! Invariant: an element of `C` is summed over `k` in the same order whatever the number of threads.

use super::lanes::{Lanes, vectorised};
use super::narrow::{Floats, FloatsMut, Half, narrow, widen};
use super::pack::Operand;
use super::team::{Split, Team};
use super::tile::{Start, multiply, store_tile};
use meshwright_hardware::op::Layout;
use std::ops::Range;

/// Depth of a block: a panel of `A` and one of `B` of this depth share the first-level cache.
const DEPTH: usize = 384;
/// Greatest depth of a round.
const ROUND_DEPTH: usize = 4096;
/// Packed floats of `B` in a round (4 MiB), as long as a round is at least `ROUND_LEAST` columns wide.
const ROUND_FLOATS: usize = 1 << 20;
const ROUND_LEAST: usize = 384;
/// Rows of `A` that a task packs at most: `ROWS · DEPTH` floats fit half the second-level cache.
const ROWS: usize = 192;
/// Columns of a round where C is of two bytes: its sums of so many rows and columns stay in the second-level cache.
const NARROW_COLS: usize = 768;
/// `C (+)= A · B (+ bias)`. `c` is `[m, n]`, `bias` `[n]`. `a` is `[m, k]` or, in `Tn`, `[k, m]`; `b` is `[k, n]` or, in
/// `Nt`, `[n, k]`; no dim is zero.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn matmul(
    team: &Team,
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    a: Floats,
    b: Floats,
    bias: Option<Floats>,
    accumulate: bool,
    c: FloatsMut,
) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n && m * n * k > 0);
    assert!(bias.is_none_or(|bias| bias.len() == n));
    let mut widened = Vec::new();
    let bias = bias.map(|bias| {
        widened.resize(n, 0.0);
        bias.part(0..n, &mut widened)
    });
    let pairs = matches!((a, b), (Floats::Half(Half::Bf16, _), Floats::Half(Half::Bf16, _))) && multiplies_pairs();
    let paired = pairs.then_some(k);
    let by_row = |data, outer| Operand { data, outer, inner: 1, paired };
    let by_depth = |data, inner| Operand { data, outer: 1, inner, paired };
    let (a, b) = match layout {
        Layout::Nt => (by_row(a, k), by_row(b, k)),
        Layout::Nn => (by_row(a, k), by_depth(b, n)),
        Layout::Tn => (by_depth(a, m), by_depth(b, n)),
    };
    let k = if pairs { k.div_ceil(2) } else { k };
    match c {
        FloatsMut::Full(c) => {
            let c = Split::new(c);
            for k0 in (0..k).step_by(ROUND_DEPTH) {
                let depth = (k - k0).min(ROUND_DEPTH);
                let width = round_width(depth);
                for n0 in (0..n).step_by(width) {
                    let cols = (n - n0).min(width);
                    let bias = bias.filter(|_| k0 == 0).map(|bias| &bias[n0..n0 + cols]);
                    let to = Target { sums: &c, stride: n, first: n0, end: None };
                    team.with_common(packed_floats(depth, cols), |packed| {
                        pack_b(team, b, [n0, cols, k0, depth], packed);
                        Round { a, m, cols, k0, depth, packed, bias, add: accumulate || k0 > 0, to }.multiply(team);
                    });
                }
            }
        }
        FloatsMut::Half(half, c) => {
            let c = Split::new(c);
            let deepest = k.min(ROUND_DEPTH);
            let width = round_width(deepest).min(NARROW_COLS);
            for n0 in (0..n).step_by(width) {
                let cols = (n - n0).min(width);
                let floats = packed_floats(deepest, cols);
                team.with_common(floats + m * cols, |common| {
                    let (packed, sums) = common.split_at_mut(floats);
                    let sums = Split::new(sums);
                    for k0 in (0..k).step_by(ROUND_DEPTH) {
                        let depth = (k - k0).min(ROUND_DEPTH);
                        let packed = &mut packed[..packed_floats(depth, cols)];
                        pack_b(team, b, [n0, cols, k0, depth], packed);
                        let bias = bias.filter(|_| k0 == 0).map(|bias| &bias[n0..n0 + cols]);
                        let end = (k0 + depth == k).then_some(Narrow { half, c: &c, n, n0, accumulate });
                        let to = Target { sums: &sums, stride: cols, first: 0, end };
                        Round { a, m, cols, k0, depth, packed, bias, add: k0 > 0, to }.multiply(team);
                    }
                });
            }
        }
    }
}

/// Columns of a round of this depth.
fn round_width(depth: usize) -> usize {
    let [_, tile_cols] = tile_shape();
    (ROUND_FLOATS / depth).max(ROUND_LEAST) / tile_cols * tile_cols
}

/// Floats that so many packed columns take.
fn packed_floats(depth: usize, cols: usize) -> usize {
    let [_, tile_cols] = tile_shape();
    cols.div_ceil(tile_cols) * depth * tile_cols
}

/// Packs `cols` columns from `n0` and `depth` of k from `k0` of `B`, panel by panel.
fn pack_b(team: &Team, b: Operand, [n0, cols, k0, depth]: [usize; 4], packed: &mut [f32]) {
    let [_, tile_cols] = tile_shape();
    let panel_floats = depth * tile_cols;
    let split = Split::new(packed);
    team.ranges(cols.div_ceil(tile_cols), (super::elementwise::GRAIN / panel_floats).max(1), |range| {
        for panel in range {
            let at = panel * tile_cols;
            // SAFETY: panels are disjoint.
            let to = unsafe { split.part(panel * panel_floats..(panel + 1) * panel_floats) };
            b.pack(n0 + at, (cols - at).min(tile_cols), k0, depth, tile_cols, to);
        }
    });
}

/// Where a round's sums go: fp32 rows of `stride`, from column `first` on; and, at last, where they are rounded to.
#[derive(Clone, Copy)]
struct Target<'a> {
    sums: &'a Split<'a, f32>,
    stride: usize,
    first: usize,
    end: Option<Narrow<'a>>,
}

/// A `C` of two bytes, rows of `n`, from column `n0` on.
#[derive(Clone, Copy)]
struct Narrow<'a> {
    half: Half,
    c: &'a Split<'a, u16>,
    n: usize,
    n0: usize,
    /// Whether to add what it holds.
    accumulate: bool,
}

/// `C[.., n0 .. n0+cols] (+)= A[.., k0 .. k0+depth] · packed B`.
struct Round<'a> {
    a: Operand<'a>,
    m: usize,
    cols: usize,
    k0: usize,
    depth: usize,
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    add: bool,
    to: Target<'a>,
}

impl Round<'_> {
    /// Splits rows (and, where they are few, columns) evenly among tasks.
    fn multiply(&self, team: &Team) {
        let [tile_rows, tile_cols] = tile_shape();
        let (row_panels, col_panels) = (self.m.div_ceil(tile_rows), self.cols.div_ceil(tile_cols));
        let threads = team.threads();
        let few_rows = row_panels < 4 * threads;
        let col_tasks = if few_rows { threads.min(col_panels) } else { 1 };
        let least = if few_rows { 1 } else { threads };
        let row_tasks = self.m.div_ceil(ROWS).next_multiple_of(least).min(row_panels);
        let share = |panels: usize, tasks: usize, task: usize| panels * task / tasks..panels * (task + 1) / tasks;
        let floats = row_panels.div_ceil(row_tasks) * tile_rows * DEPTH;
        team.run_with(row_tasks * col_tasks, floats, |task, scratch| {
            let rows = share(row_panels, row_tasks, task / col_tasks);
            let cols = share(col_panels, col_tasks, task % col_tasks);
            let blocks = self.depth.div_ceil(DEPTH);
            for block in 0..blocks {
                let depths = share(self.depth, blocks, block);
                let panel_floats = tile_rows * depths.len();
                for (panel, to) in rows.clone().zip(scratch.chunks_exact_mut(panel_floats)) {
                    let at = panel * tile_rows;
                    let count = (self.m - at).min(tile_rows);
                    self.a.pack(at, count, self.k0 + depths.start, depths.len(), tile_rows, to);
                }
                for col in cols.clone() {
                    if self.a.paired.is_some() {
                        multiply_panel_of_pairs(self, rows.clone(), col, depths.clone(), scratch);
                    } else {
                        multiply_panel(self, rows.clone(), col, depths.clone(), scratch);
                    }
                }
            }
            if let Some(end) = self.to.end {
                let rows = rows.start * tile_rows..(rows.end * tile_rows).min(self.m);
                self.narrow(end, rows, cols.start * tile_cols..(cols.end * tile_cols).min(self.cols));
            }
        });
    }

    /// Rounds a task's sums.
    fn narrow(&self, Narrow { half, c, n, n0, accumulate }: Narrow, rows: Range<usize>, cols: Range<usize>) {
        let mut before = [0.0; NARROW_COLS];
        for row in rows {
            let at = row * self.to.stride;
            // SAFETY: rows and columns are this task's own.
            let (sums, c) = unsafe {
                let c = c.part(row * n + n0 + cols.start..row * n + n0 + cols.end);
                (self.to.sums.part(at + cols.start..at + cols.end), c)
            };
            if accumulate {
                let before = &mut before[..cols.len()];
                widen(half, c, before);
                sums.iter_mut().zip(before).for_each(|(sum, x)| *sum += *x);
            }
            narrow(half, sums, c);
        }
    }
}

/// Whether the processor multiplies pairs of bf16.
fn multiplies_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::lanes::level() == super::lanes::Level::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// As [`multiply_panel`], where panels hold pairs.
fn multiply_panel_of_pairs(round: &Round, rows: Range<usize>, col: usize, depths: Range<usize>, packed_a: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512bf16,avx2,fma")]
        fn avx512(round: &Round, rows: Range<usize>, col: usize, depths: Range<usize>, packed_a: &[f32]) {
            multiply_tiles::<std::arch::x86_64::__m512, 12, 2, true>(round, rows, col, depths, packed_a);
        }
        // SAFETY: operands are paired only where `multiplies_pairs`.
        unsafe { avx512(round, rows, col, depths, packed_a) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("{:?} {col} {depths:?} {}: pairs without the instruction", rows, packed_a.len() + round.m)
}

vectorised! {
    fn tile_shape() -> [usize; 2] = tile_shape_body;
    fn multiply_panel(
        round: &Round, rows: Range<usize>, col: usize, depths: Range<usize>, packed_a: &[f32],
    ) = multiply_panel_body;
}

/// Rows and columns of the register tile: accumulators, a row of `B` and a broadcast fill the registers.
#[inline(always)]
fn tile_shape_body<L: Lanes>() -> [usize; 2] {
    if L::REGISTERS == 32 { [12, 2 * L::WIDTH] } else { [4, 3 * L::WIDTH] }
}

/// All of a task's row panels against one panel of `B`, which stays in the first-level cache.
#[inline(always)]
fn multiply_panel_body<L: Lanes>(
    round: &Round,
    rows: Range<usize>,
    col: usize,
    depths: Range<usize>,
    packed_a: &[f32],
) {
    if L::REGISTERS == 32 {
        multiply_tiles::<L, 12, 2, false>(round, rows, col, depths, packed_a);
    } else {
        multiply_tiles::<L, 4, 3, false>(round, rows, col, depths, packed_a);
    }
}

#[inline(always)]
fn multiply_tiles<L: Lanes, const R: usize, const V: usize, const PAIRS: bool>(
    round: &Round,
    rows: Range<usize>,
    col: usize,
    depths: Range<usize>,
    packed_a: &[f32],
) {
    let wide = V * L::WIDTH;
    let cols = (round.cols - col * wide).min(wide);
    let at_col = col * wide;
    let b = &round.packed[(col * round.depth + depths.start) * wide..][..depths.len() * wide];
    let first = depths.start == 0;
    let bias = round.bias.filter(|_| first).map(|bias| &bias[at_col..at_col + cols]);
    let start = Start { bias, add: round.add || !first };
    for (panel, a) in rows.zip(packed_a.chunks_exact(R * depths.len())) {
        let count = (round.m - panel * R).min(R);
        let Target { sums, stride, first, .. } = round.to;
        let at = panel * R * stride + first + at_col;
        assert!(at + (count - 1) * stride + cols <= sums.len());
        // SAFETY: the panels hold depths.len() rows of R and `wide` floats; C's tile is in bounds, and no other task's.
        unsafe {
            let tile = multiply::<L, R, V, PAIRS>(depths.len(), a.as_ptr(), 1, R, b.as_ptr(), wide, wide);
            store_tile(tile, count, cols, start, sums.pointer().add(at), stride);
        }
    }
}

#[cfg(test)]
mod tests;
