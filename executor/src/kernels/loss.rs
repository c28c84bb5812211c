//! Softmax cross-entropy over a vocabulary that may be split among ranks.
//!
//! In: logits `[rows, vocab]` and targets as `u32` bits. Out: the statistics that shards exchange; then the loss, and the
//! logits replaced by their gradient.
//!
//! Invariant: a loss from shards equals the loss of the whole up to rounding, and no exponent is positive.

use super::lanes::{Lanes, vectorised};
use super::narrow::{Floats, FloatsMut, narrow, widen};
use super::team::{Split, Team};

/// Rows of a task.
const TASK_ROWS: usize = 8;

fn rows_of(task: usize, rows: usize) -> std::ops::Range<usize> {
    task * TASK_ROWS..rows.min((task + 1) * TASK_ROWS)
}

/// A shard's columns of a vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct VocabShard {
    /// How many it has.
    pub vocab: usize,
    /// The id of the first.
    pub first: usize,
    /// Those before this one are words; the others pad the vocabulary.
    pub own: usize,
}

impl VocabShard {
    /// Of the shard of a number, where `words` of all shards' columns are words.
    pub fn of(vocab: usize, words: usize, shard: usize) -> VocabShard {
        let first = shard * vocab;
        VocabShard { vocab, first, own: words.saturating_sub(first).min(vocab) }
    }

    /// The column of the target in this shard, if it is here; `u32::MAX` (no target) never is.
    fn local(self, target: f32) -> Option<usize> {
        let id = target.to_bits();
        if id == u32::MAX { None } else { (id as usize).checked_sub(self.first).filter(|&column| column < self.own) }
    }
}

/// Statistics of this shard: `stats` is `[3, rows]`: each row's greatest logit, `Σ exp(logit − greatest)`, and the target's
/// logit (zero where the target is another shard's or `u32::MAX`). A shard of padding alone has −∞, 0 and 0.
pub fn loss_stats(team: &Team, rows: usize, columns: VocabShard, logits: Floats, targets: &[f32], stats: &mut [f32]) {
    let VocabShard { vocab, own, .. } = columns;
    assert!(logits.len() == rows * vocab && targets.len() == rows && stats.len() == 3 * rows);
    let stats = Split::new(stats);
    let space = if let Floats::Half(..) = logits { vocab } else { 0 };
    team.run_with(rows.div_ceil(TASK_ROWS), space, |task, space| {
        for row in rows_of(task, rows) {
            let logits = logits.part(row * vocab..row * vocab + own, space);
            let (greatest, sum) = row_stats(logits);
            let target = columns.local(targets[row]).map_or(0.0, |column| logits[column]);
            for (kind, value) in [greatest, sum, target].into_iter().enumerate() {
                // SAFETY: rows are disjoint.
                unsafe { stats.part(kind * rows + row..kind * rows + row + 1)[0] = value };
            }
        }
    });
}

/// Adds `scale · Σ_rows (log Σ exp(logit) − target's logit)` to `loss[0]` and turns `logits` into its gradient,
/// `(softmax − onehot) · gradient_scale`, zero in padding. `stats` is `[shards, 3, rows]`, gathered from [`loss_stats`]. A row with the target
/// `u32::MAX` counts nothing.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn loss(
    team: &Team,
    rows: usize,
    columns: VocabShard,
    shards: usize,
    [scale, gradient_scale]: [f32; 2],
    targets: &[f32],
    stats: &[f32],
    logits: FloatsMut,
    loss: &mut [f32],
) {
    let VocabShard { vocab, own, .. } = columns;
    assert!(logits.len() == rows * vocab && targets.len() == rows && stats.len() == shards * 3 * rows);
    let ignored = |row: usize| targets[row].to_bits() == u32::MAX;
    let stat = |kind: usize, row: usize| stats[kind * rows + row..].iter().step_by(3 * rows).copied().take(shards);
    // The greatest logit and Σ exp(logit − greatest) of all shards.
    let whole = |row: usize| {
        let greatest = stat(0, row).fold(f32::NEG_INFINITY, f32::max);
        let part = |(max, sum): (f32, f32)| f64::from(sum) * f64::from(max - greatest).exp();
        (greatest, stat(0, row).zip(stat(1, row)).map(part).sum::<f64>())
    };
    let gradient = |row: usize, logits: &mut [f32]| {
        if ignored(row) {
            return logits.fill(0.0);
        }
        let (greatest, sum) = whole(row);
        let (logits, padding) = logits.split_at_mut(own);
        padding.fill(0.0);
        scaled_exp(greatest, (f64::from(gradient_scale) / sum) as f32, logits);
        if let Some(column) = columns.local(targets[row]) {
            logits[column] -= gradient_scale;
        }
    };
    let (tasks, of) = (rows.div_ceil(TASK_ROWS), |task| rows_of(task, rows));
    match logits {
        FloatsMut::Full(logits) => {
            let split = Split::new(logits);
            // SAFETY: rows are disjoint.
            let part = |row: usize| unsafe { split.part(row * vocab..(row + 1) * vocab) };
            team.run(tasks, |task| of(task).for_each(|row| gradient(row, part(row))));
        }
        FloatsMut::Half(half, logits) => {
            let split = Split::new(logits);
            team.run_with(tasks, vocab, |task, space| {
                for row in of(task) {
                    // SAFETY: rows are disjoint.
                    let logits = unsafe { split.part(row * vocab..(row + 1) * vocab) };
                    widen(half, logits, space);
                    gradient(row, space);
                    narrow(half, space, logits);
                }
            });
        }
    }
    let row_loss = |row: usize| {
        let (greatest, sum) = whole(row);
        sum.ln() + f64::from(greatest) - stat(2, row).map(f64::from).sum::<f64>()
    };
    let total: f64 = (0..rows).filter(|&row| !ignored(row)).map(row_loss).sum();
    loss[0] += (total * f64::from(scale)) as f32;
}

vectorised! {
    fn row_stats(logits: &[f32]) -> (f32, f32) = row_stats_body;
    fn scaled_exp(greatest: f32, scale: f32, x: &mut [f32]) = scaled_exp_body;
}

/// The greatest of a row and `Σ exp(x − greatest)`.
#[inline(always)]
fn row_stats_body<L: Lanes>(logits: &[f32]) -> (f32, f32) {
    let whole = logits.len() - logits.len() % L::WIDTH;
    let mut greatest = L::splat(f32::NEG_INFINITY);
    for i in (0..whole).step_by(L::WIDTH) {
        greatest = greatest.max(L::read(&logits[i..]));
    }
    let greatest = logits[whole..].iter().fold(greatest.greatest(), |a, &b| a.max(b));
    let mut sum = L::splat(0.0);
    for i in (0..whole).step_by(L::WIDTH) {
        sum = sum.add(L::read(&logits[i..]).sub(L::splat(greatest)).exp());
    }
    let rest: f32 = logits[whole..].iter().map(|x| (x - greatest).exp()).sum();
    (greatest, sum.sum() + rest)
}

/// `x = exp(x − greatest) · scale`.
#[inline(always)]
fn scaled_exp_body<L: Lanes>(greatest: f32, scale: f32, x: &mut [f32]) {
    for i in (0..x.len()).step_by(L::WIDTH) {
        L::read(&x[i..]).sub(L::splat(greatest)).exp().mul(L::splat(scale)).write(&mut x[i..]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, finite_differences, on_teams, random, random_ids, wide};
    use super::*;

    const ROWS: usize = 21;
    const VOCAB: usize = 43;
    const SCALE: f32 = 0.125;

    fn reference(targets: &[f32], logits: &[f64]) -> f64 {
        let row = |(logits, target): (&[f64], &f32)| match target.to_bits() {
            u32::MAX => 0.0,
            id => logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[id as usize],
        };
        logits.chunks(VOCAB).zip(targets).map(row).sum::<f64>() * f64::from(SCALE)
    }

    #[test]
    fn shards_give_the_loss_and_gradient_of_the_whole() {
        on_teams(|team| {
            let logits: Vec<f32> = random(1, ROWS * VOCAB).iter().map(|x| 6.0 * x).collect();
            let mut targets = random_ids(2, ROWS, VOCAB as u32);
            targets[5] = f32::from_bits(u32::MAX);
            let want = reference(&targets, &wide(&logits));
            let gradient = finite_differences(&wide(&logits), |x| reference(&targets, x));
            // The last of three has padding alone, the one before some.
            for (count, vocab) in [(1, VOCAB), (3, 22)] {
                let shards: Vec<VocabShard> = (0..count).map(|shard| VocabShard::of(vocab, VOCAB, shard)).collect();
                let part = |of: &VocabShard| -> Vec<f32> {
                    let row =
                        |row: &[f32]| [&row[of.first.min(VOCAB)..][..of.own], &vec![9.0; vocab - of.own]].concat();
                    logits.chunks(VOCAB).flat_map(row).collect()
                };
                let mut stats = vec![f32::NAN; count * 3 * ROWS];
                for (shard, stats) in shards.iter().zip(stats.chunks_mut(3 * ROWS)) {
                    loss_stats(team, ROWS, *shard, Floats::Full(&part(shard)), &targets, stats);
                }
                for shard in &shards {
                    let (mut x, mut total) = (part(shard), [1.0]);
                    let (scales, to) = ([SCALE, 2.0 * SCALE], FloatsMut::Full(&mut x));
                    loss(team, ROWS, *shard, count, scales, &targets, &stats, to, &mut total);
                    assert_close(&total, &[1.0 + want], 1e-6);
                    let row = |row: &[f64]| {
                        [&row[shard.first.min(VOCAB)..][..shard.own], &vec![0.0; vocab - shard.own]].concat()
                    };
                    let of_shard = gradient.chunks(VOCAB).flat_map(row);
                    assert_close(&x, &of_shard.map(|x| 2.0 * x).collect::<Vec<_>>(), 1e-6);
                }
            }
        });
    }

    #[test]
    fn great_logits_do_not_overflow() {
        let team = Team::new(1);
        let (mut logits, targets) = ([3e4, -3e4, 3e4], [f32::from_bits(1)]);
        let (mut stats, mut total) = ([0.0; 3], [0.0]);
        let columns = VocabShard::of(3, 3, 0);
        loss_stats(&team, 1, columns, Floats::Full(&logits), &targets, &mut stats);
        loss(&team, 1, columns, 1, [1.0; 2], &targets, &stats, FloatsMut::Full(&mut logits), &mut total);
        assert_close(&total, &[6e4 + 2f64.ln()], 1e-6);
        assert_close(&logits, &[0.5, -1.0, 0.5], 1e-6);
    }
}
