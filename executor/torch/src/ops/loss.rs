//! Cross-entropy over a vocabulary that may be split, in parts of rows that stay in caches.

use meshwright_executor::kernels::VocabShard;
use tch::{Kind, Tensor};

use super::{copy, rows_at_once, rows_of};
use crate::cache::{Settings, TensorCache};
use crate::kernels;
use crate::view::{Outcome, TensorArgs, n};

/// Columns of this shard that targets are, and which targets it has.
fn columns(targets: &Tensor, VocabShard { first, own, .. }: VocabShard) -> Outcome<(Tensor, Tensor)> {
    let local = targets.f_to_kind(Kind::Int64)?.f_sub_scalar_(n(first))?;
    let mine = local.f_ge(0)?.f_logical_and(&local.f_lt(n(own))?)?;
    Ok((local.f_clamp(0, n(own) - 1)?.f_unsqueeze(1)?, mine))
}

/// Per row: the greatest logit, Σ exp(x − greatest), the target's logit or zero; −∞, 0 and 0 of padding alone.
pub fn stats(x: &TensorArgs, rows: usize, shard: VocabShard) -> Outcome {
    let logits = x.of(0, [rows, shard.vocab])?;
    let [greatest, sums, targets] = [0, 1, 2].map(|i| x.strided(2, [rows], [1], i * rows));
    let (greatest, sums, targets) = (greatest?, sums?, targets?);
    if x.is_cuda() {
        return kernels::loss_stats(&logits, &x.numbers(1)?, shard, &greatest);
    }
    if shard.own == 0 {
        drop((sums.f_zero_()?, targets.f_zero_()?));
        return greatest.f_fill_(f64::NEG_INFINITY).map(drop);
    }
    let logits = logits.f_narrow(1, 0, n(shard.own))?;
    let (columns, mine) = columns(&x.numbers(1)?, shard)?;
    copy(&greatest, &logits.f_amax(1, false)?)?;
    let at_once = rows_at_once(shard.own, logits.device());
    for first in (0..rows).step_by(at_once) {
        let part = |tensor: &Tensor| rows_of(tensor, first, at_once.min(rows - first));
        // In fp32, as the greatest is, whatever logits are.
        let mut weights = part(&logits)?.f_sub(&part(&greatest)?.f_unsqueeze(1)?)?;
        let weights = weights.f_exp_()?;
        copy(&part(&sums)?, &weights.f_sum_dim_intlist(1, false, Kind::Float)?)?;
    }
    let mut of_target = logits.f_gather(1, &columns, false)?.f_squeeze_dim(1)?;
    copy(&targets, &of_target.f_masked_fill_(&mine.f_logical_not()?, 0.0)?)
}

/// Logits become `(softmax − onehot) · scale · loss scale`, zeros where there is no target and in padding; the loss adds up,
/// times `scale`.
pub fn gradient(
    x: &TensorArgs,
    [rows, shards]: [usize; 2],
    shard: VocabShard,
    scale: f64,
    cache: &TensorCache,
) -> Outcome {
    let VocabShard { vocab, own, .. } = shard;
    let (targets, logits) = (x.numbers(0)?, x.of(2, [rows, vocab])?);
    let stats = x.of(1, [shards, 3, rows])?;
    if x.is_cuda() {
        let of_step = &cache.settings().scale;
        return kernels::loss([&targets, &stats, &logits, &x.flat(3)?], shards, shard, scale, of_step);
    }
    let [greatest, sums, target] = [0, 1, 2].map(|i| stats.f_select(1, i));
    let none = targets.f_eq(-1)?;
    // log Σ exp over all shards, and the target's logit, which one of them has.
    let mut lse = greatest?.f_add(&sums?.f_log()?)?.f_logsumexp(0, false)?;
    let loss = lse.f_sub(&target?.f_sum_dim_intlist(0, false, Kind::Float)?)?.f_masked_fill_(&none, 0.0)?;
    drop(x.flat(3)?.f_add_(&loss.f_sum(Kind::Float)?.f_mul_scalar_(scale)?)?);
    // exp(x − lse) · scale in one exponential; of a row without a target, exp(−∞).
    let Settings { scale: loss_scale, log_scale, .. } = cache.settings();
    let less =
        lse.f_sub_scalar_(scale.ln())?.f_sub_(log_scale)?.f_masked_fill_(&none, f64::INFINITY)?.f_unsqueeze(1)?;
    if own < vocab {
        drop(logits.f_narrow(1, n(own), n(vocab - own))?.f_zero_()?);
    }
    if own == 0 {
        return Ok(());
    }
    let logits = logits.f_narrow(1, 0, n(own))?;
    let (columns, mine) = columns(&targets, shard)?;
    let taken = mine.f_to_kind(Kind::Float)?.f_mul_(loss_scale)?.f_mul_scalar_(-scale)?.f_unsqueeze(1)?;
    let at_once = rows_at_once(own, logits.device());
    for first in (0..rows).step_by(at_once) {
        let part = |tensor: &Tensor| rows_of(tensor, first, at_once.min(rows - first));
        let mut there = part(&logits)?;
        // Where they lie, if they are in fp32; else in a copy, so that they are rounded once.
        let mut shifted = if x.is_half(2) { there.f_sub(&part(&less)?)? } else { there.f_sub_(&part(&less)?)? };
        let made = shifted.f_exp_()?.f_scatter_add_(1, &part(&columns)?, &part(&taken)?)?;
        if x.is_half(2) {
            copy(&there, &made)?;
        }
    }
    Ok(())
}
