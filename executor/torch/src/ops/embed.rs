//! Tables of tokens and of positions.

use meshwright_hardware::op::{Op, position};
use tch::{Device, Kind, Tensor};

use super::{scatter_rows, table};
use crate::cache::TensorCache;
use crate::kernels;
use crate::view::{Outcome, TensorArgs, n};

/// Rows of this shard's table, and which tokens belong to another's.
fn local(ids: &Tensor, vocab: usize, shard: usize) -> Outcome<(Tensor, Tensor)> {
    let local = ids.f_sub_scalar(n(shard * vocab))?;
    let outside = local.f_lt(0)?.f_logical_or(&local.f_ge(n(vocab))?)?;
    Ok((local.f_clamp(0, n(vocab) - 1)?, outside))
}

pub fn forward(op: Op, x: &TensorArgs, [rows, cols, vocab]: [usize; 3], shard: usize) -> Outcome {
    if kernels::runs(&op, x)? {
        return kernels::embed(&x.numbers(0)?, &x.of(1, [vocab, cols])?, shard * vocab, &x.of(2, [rows, cols])?);
    }
    let (rows_of, outside) = local(&x.numbers(0)?, vocab, shard)?;
    let mut out = x.of(2, [rows, cols])?;
    drop(x.of(1, [vocab, cols])?.f_index_select_out(&out, 0, &rows_of)?);
    out.f_masked_fill_(&outside.f_unsqueeze(1)?, 0.0).map(drop)
}

pub fn backward(x: &TensorArgs, [rows, cols, vocab]: [usize; 3], shard: usize) -> Outcome {
    if x.is_cuda() {
        return kernels::embed_grad(&x.numbers(0)?, &x.of(1, [rows, cols])?, shard * vocab, &x.of(2, [vocab, cols])?);
    }
    let (rows_of, outside) = local(&x.numbers(0)?, vocab, shard)?;
    let dy = x.of(1, [rows, cols])?.f_masked_fill(&outside.f_unsqueeze(1)?, 0.0)?;
    scatter_rows(&x.of(2, [vocab, cols])?, &rows_of, &dy)
}

/// Which tokens of which sequences a rank holds.
#[derive(Clone, Copy, Debug)]
pub struct RankTokens {
    pub rows: usize,
    /// Tokens of a sequence on a rank.
    pub seq: usize,
    /// Tokens before the first.
    pub first: usize,
    pub cp: usize,
    pub rank: usize,
}

impl RankTokens {
    /// Whole sequences, from their start: how many.
    fn whole(self) -> Option<usize> {
        let whole = self.cp == 1 && self.first.is_multiple_of(self.seq) && self.rows.is_multiple_of(self.seq);
        whole.then_some(self.rows / self.seq)
    }

    /// Each token's position.
    fn table(self, device: Device, cache: &mut TensorCache) -> Outcome<Tensor> {
        let RankTokens { rows, seq, first, cp, rank } = self;
        let make = || {
            let places: Vec<i64> = (0..rows).map(|row| n(position((first + row) % seq, seq, cp, rank))).collect();
            Tensor::f_from_slice(&places)
        };
        table(cache, format!("{self:?}"), device, make).map(Tensor::shallow_clone)
    }
}

pub fn positions(x: &TensorArgs, places: RankTokens, cols: usize, device: Device, cache: &mut TensorCache) -> Outcome {
    let (seq, all) = (places.seq, places.cp * places.seq);
    if let Some(sequences) = places.whole() {
        let first = x.strided(0, [seq, cols], [cols, 1], 0)?;
        return x.of(1, [sequences, seq, cols])?.f_add_(&first).map(drop);
    }
    let added = x.of(0, [all, cols])?.f_index_select(0, &places.table(device, cache)?)?;
    x.of(1, [places.rows, cols])?.f_add_(&added).map(drop)
}

pub fn positions_grad(
    x: &TensorArgs,
    places: RankTokens,
    cols: usize,
    device: Device,
    cache: &mut TensorCache,
) -> Outcome {
    let (seq, all) = (places.seq, places.cp * places.seq);
    if let Some(sequences) = places.whole() {
        let sum = x.of(0, [sequences, seq, cols])?.f_sum_dim_intlist(0, false, Kind::Float)?;
        return x.strided(1, [seq, cols], [cols, 1], 0)?.f_add_(&sum).map(drop);
    }
    scatter_rows(&x.of(1, [all, cols])?, &places.table(device, cache)?, &x.of(0, [places.rows, cols])?)
}
