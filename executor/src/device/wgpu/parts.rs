//! Ops of several calls: sums that are cut into parts, which are added in order.
//!
//! In: an op's dims and arguments, checked. Out: recorded calls.
//!
//! Invariant: how a sum is cut depends on the dims alone.

use meshwright_hardware::op::{AttentionDims, Layout, NormKind};

use super::Wgpu;
use super::dispatch::KernelCall;
use super::memory::Slice;
use super::ops::{CHUNK, WIDTH, call, each};
use super::pipeline as kernels;

/// Rows and columns of a matmul's tile, and the larger ones that a matmul of so many of them takes.
const TILE: usize = 64;
const WIDE_TILE: (usize, usize) = (128, 128);
/// A matmul of fewer tiles is cut along k, into parts of so many columns at least.
const FEW_TILES: usize = 64;
const PART: usize = 256;
/// Threads of attention's workgroups.
pub(super) const FEW: usize = 64;
/// At most so many partial sums over rows, of so many rows at least.
const BLOCKS: (usize, usize) = (64, 16);
/// At most so many partial sums over a vector, of so many elements at least.
const PARTS: (usize, usize) = (1024, 4096);

impl Wgpu {
    /// `[rows, columns, vocabulary]`; ids of this shard begin at `first`.
    pub(super) fn embed_grad(
        &mut self,
        [rows, cols, vocab]: [usize; 3],
        first: usize,
        x: &[Slice],
    ) -> Result<(), String> {
        let links = self.scratch(2 * rows)?;
        self.record(each(kernels::CHAIN, &[&x[0], &links], &[rows]))?;
        let dims = [rows * cols, cols, vocab, first, rows];
        self.record(each(kernels::EMBEDDING_GRAD, &[&x[0], &links, &x[1], &x[2]], &dims))
    }

    #[allow(clippy::too_many_arguments)] // the op's own arguments
    pub(super) fn matmul(
        &mut self,
        layout: Layout,
        [m, n, k]: [usize; 3],
        a: &Slice,
        b: &Slice,
        bias: Option<&Slice>,
        accumulate: bool,
        c: &Slice,
    ) -> Result<(), String> {
        let layout = match layout {
            Layout::Nt => 0,
            Layout::Nn => 1,
            Layout::Tn => 2,
        };
        let tiles = |side: usize| (m.div_ceil(side), n.div_ceil(side));
        let (down, across) = tiles(WIDE_TILE.0);
        let side = if down * across >= WIDE_TILE.1 { WIDE_TILE.0 } else { TILE };
        let (down, across) = tiles(side);
        let constants = vec![("SIDE", side), ("THREADS", (side / 8).pow(2))];
        let tiles = down * across;
        let parts = if bias.is_none() && tiles < FEW_TILES { (k / PART).clamp(1, FEW_TILES / tiles) } else { 1 };
        let part = k.div_ceil(parts);
        let dims = |bias, add| [m, n, k, layout, bias, add, across, tiles, parts, part];
        if parts == 1 {
            let dims = dims(usize::from(bias.is_some()), usize::from(accumulate));
            let whole = call(kernels::MATMUL, &[a, b, c, bias.unwrap_or(c)], &dims, tiles);
            return self.record(KernelCall { constants, ..whole });
        }
        let sums = self.scratch(parts * m * n)?;
        let cut = call(kernels::MATMUL, &[a, b, &sums, &sums], &dims(0, 0), tiles * parts);
        self.record(KernelCall { constants, ..cut })?;
        if !accumulate {
            self.record(each(kernels::ZERO, &[c], &[m * n]))?;
        }
        self.record(each(kernels::FOLD, &[&sums, c], &[m * n, parts, m * n, 0]))
    }

    pub(super) fn bias_grad(&mut self, rows: usize, cols: usize, x: &[Slice]) -> Result<(), String> {
        let (block, blocks) = blocks(rows);
        let (partial, wide) = (self.scratch(blocks * cols)?, cols.div_ceil(WIDTH));
        let dims = [rows, cols, block, blocks, wide];
        self.record(call(kernels::ROW_SUMS, &[&x[0], &partial], &dims, blocks * wide))?;
        self.record(each(kernels::FOLD, &[&partial, &x[1]], &[cols, blocks, cols, 0]))
    }

    pub(super) fn norm_grad(
        &mut self,
        kind: NormKind,
        rows: usize,
        cols: usize,
        accumulate: bool,
        x: &[Slice],
    ) -> Result<(), String> {
        let layer = usize::from(kind == NormKind::Layer);
        let dims = [rows, cols, layer, usize::from(accumulate)];
        self.record(call(kernels::NORM_GRAD, &[&x[0], &x[1], &x[2], &x[3], &x[4]], &dims, rows))?;
        let (block, blocks) = blocks(rows);
        let (partial, wide) = (self.scratch(blocks * 2 * cols)?, cols.div_ceil(WIDTH));
        let dims = [rows, cols, block, blocks, wide];
        self.record(call(kernels::NORM_SUMS, &[&x[0], &x[2], &x[3], &partial], &dims, blocks * wide))?;
        for (part, sum) in x[5..].iter().enumerate() {
            self.record(each(kernels::FOLD, &[&partial, sum], &[cols, blocks, 2 * cols, part * cols]))?;
        }
        Ok(())
    }

    pub(super) fn attention_grad(&mut self, dims: &AttentionDims, x: &[Slice]) -> Result<(), String> {
        let [qkv, out, lse, dout, dqkv] = [0, 1, 2, 3, 4].map(|i| &x[i]);
        let (lines, tiles) = (dims.rows() * dims.heads, dims.batch * dims.seq.div_ceil(CHUNK));
        let deltas = self.scratch(lines)?;
        self.attend(kernels::DELTAS, &[out, dout, &deltas], dims, lines.div_ceil(FEW))?;
        let args = [qkv, lse, dout, &deltas, dqkv];
        self.attend(kernels::ATTENTION_DQ, &args, dims, tiles * dims.heads)?;
        self.attend(kernels::ATTENTION_DKV, &args, dims, tiles * dims.kv_heads)
    }

    /// `[rows, columns, first id, shards, columns that are words]`; the loss's scale and that of its gradient.
    pub(super) fn loss(
        &mut self,
        dims: [usize; 5],
        [scale, gradient_scale]: [f32; 2],
        x: &[Slice],
    ) -> Result<(), String> {
        let rows = dims[0];
        let losses = self.scratch(rows)?;
        let by_rows = call(kernels::LOSS_ROWS, &[&x[0], &x[1], &x[2], &losses], &dims, rows);
        self.record(KernelCall { numbers: vec![gradient_scale], ..by_rows })?;
        self.record(KernelCall { numbers: vec![scale], ..call(kernels::TOTAL, &[&losses, &x[3]], &[rows], 1) })
    }

    /// Elements before `whole` count once, the others `share` times.
    pub(super) fn squared_norm(
        &mut self,
        n: usize,
        whole: usize,
        [copies, replicas]: [usize; 2],
        x: &[Slice],
    ) -> Result<(), String> {
        let part = n.div_ceil(PARTS.0).max(PARTS.1);
        let parts = n.div_ceil(part);
        let sums = self.scratch(parts)?;
        let squares = call(kernels::SQUARES, &[&x[0], &sums], &[n, whole, part], parts);
        self.record(KernelCall { numbers: vec![1.0 / copies as f32], ..squares })?;
        self.record(KernelCall {
            numbers: vec![1.0 / replicas as f32],
            ..call(kernels::TOTAL, &[&sums, &x[1]], &[parts], 1)
        })
    }
}

/// Rows of a partial sum over rows, and how many there are.
fn blocks(rows: usize) -> (usize, usize) {
    let block = rows.div_ceil(BLOCKS.0).max(BLOCKS.1);
    (block, rows.div_ceil(block))
}
