//! Token and position embeddings, forward and backward.
//!
//! In: ids as `u32` bits, tables `[vocab, cols]` or `[seq, cols]`. Out: rows gathered, or their gradients scattered.
//!
//! Invariant: a gradient's rows are added in the order of the tokens, whatever thread adds them.

use super::elementwise::{GRAIN, accumulate_row};
use super::team::{Split, Team};

/// Columns a scatter task owns: it walks all rows, so that rows with one id never meet.
const SCATTER_COLS: usize = 64;

/// The row of this shard's table that `id` names, if it is here.
fn local(id: f32, first: usize, vocab: usize) -> Option<usize> {
    (id.to_bits() as usize).checked_sub(first).filter(|&row| row < vocab)
}

/// `out[r] = table[ids[r] − first_id]`, zero where the id is outside `first_id .. first_id + vocab`.
/// `ids` is `[rows]`, `table` `[vocab, cols]`, `out` `[rows, cols]`.
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn embed<T: Copy + Default + Send + Sync>(
    team: &Team,
    rows: usize,
    cols: usize,
    first_id: usize,
    vocab: usize,
    ids: &[f32],
    table: &[T],
    out: &mut [T],
) {
    assert!(ids.len() == rows && table.len() == vocab * cols && out.len() == rows * cols);
    let out = Split::new(out);
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            // SAFETY: rows are disjoint.
            let out = unsafe { out.part(row * cols..(row + 1) * cols) };
            match local(ids[row], first_id, vocab) {
                Some(id) => out.copy_from_slice(&table[id * cols..(id + 1) * cols]),
                None => out.fill(T::default()),
            }
        }
    });
}

/// `dtable[ids[r] − first_id] += dy[r]`; ids of other shards are passed over. Shapes as in [`embed`].
#[allow(clippy::too_many_arguments)] // the op's own arguments
pub fn embed_grad(
    team: &Team,
    rows: usize,
    cols: usize,
    first_id: usize,
    vocab: usize,
    ids: &[f32],
    dy: &[f32],
    dtable: &mut [f32],
) {
    assert!(ids.len() == rows && dtable.len() == vocab * cols && dy.len() == rows * cols);
    let dtable = Split::new(dtable);
    team.ranges(cols, SCATTER_COLS, |range| {
        for (row, &id) in ids.iter().enumerate() {
            if let Some(id) = local(id, first_id, vocab) {
                let dy = &dy[row * cols + range.start..row * cols + range.end];
                // SAFETY: columns are disjoint.
                accumulate_row(dy, unsafe { dtable.part(id * cols + range.start..id * cols + range.end) });
            }
        }
    });
}

/// `x[r] += table[place(r)]`; `table` is `[positions, cols]`, `x` `[rows, cols]`.
pub fn add_positions(
    team: &Team,
    rows: usize,
    cols: usize,
    place: impl Fn(usize) -> usize + Sync,
    table: &[f32],
    x: &mut [f32],
) {
    assert!(x.len() == rows * cols);
    let x = Split::new(x);
    team.ranges(rows, (GRAIN / cols.max(1)).max(1), |range| {
        for row in range {
            let position = place(row);
            // SAFETY: rows are disjoint.
            let x = unsafe { x.part(row * cols..(row + 1) * cols) };
            accumulate_row(&table[position * cols..(position + 1) * cols], x);
        }
    });
}

/// `dtable[place(r)] += dy[r]`, in the order of rows; shapes as in [`add_positions`].
pub fn positions_grad(
    team: &Team,
    rows: usize,
    cols: usize,
    place: impl Fn(usize) -> usize + Sync,
    dy: &[f32],
    dtable: &mut [f32],
) {
    assert!(dy.len() == rows * cols);
    let dtable = Split::new(dtable);
    // Columns are shared out, so that rows of one position add up in one task.
    team.ranges(cols, (GRAIN / rows.max(1)).max(16), |range| {
        for row in 0..rows {
            let position = place(row);
            // SAFETY: columns are disjoint.
            let dtable = unsafe { dtable.part(position * cols + range.start..position * cols + range.end) };
            accumulate_row(&dy[row * cols + range.start..row * cols + range.end], dtable);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, on_teams, random, random_ids, wide};
    use super::*;

    const ROWS: usize = 403;
    const COLS: usize = 71;

    #[test]
    fn shards_of_a_table_gather_and_scatter_what_the_whole_does() {
        on_teams(|team| {
            let (ids, table) = (random_ids(1, ROWS, 11), random(2, 11 * COLS));
            let dy = random(3, ROWS * COLS);
            let mut sum = vec![0.0; ROWS * COLS];
            let mut grad = random(4, 11 * COLS);
            let mut want_grad = wide(&grad);
            for (first, vocab) in [(0, 4), (4, 7)] {
                let mut out = vec![f32::NAN; ROWS * COLS];
                let part = first * COLS..(first + vocab) * COLS;
                embed(team, ROWS, COLS, first, vocab, &ids, &table[part.clone()], &mut out);
                accumulate_row(&out, &mut sum);
                embed_grad(team, ROWS, COLS, first, vocab, &ids, &dy, &mut grad[part]);
            }
            for (at, &y) in sum.iter().enumerate() {
                let id = ids[at / COLS].to_bits() as usize;
                assert_eq!(y, table[id * COLS + at % COLS]);
                want_grad[id * COLS + at % COLS] += f64::from(dy[at]);
            }
            assert_close(&grad, &want_grad, 1e-5);
        });
    }

    #[test]
    fn positions_repeat_with_every_sequence() {
        on_teams(|team| {
            let seq = 13;
            let rows = 31 * seq;
            let (table, x) = (random(1, seq * COLS), random(2, rows * COLS));
            let mut y = x.clone();
            add_positions(team, rows, COLS, |row| row % seq, &table, &mut y);
            let at = |i: usize| (i / COLS % seq) * COLS + i % COLS;
            assert!((0..y.len()).all(|i| y[i] == x[i] + table[at(i)]));
            let mut grad = table.clone();
            positions_grad(team, rows, COLS, |row| row % seq, &x, &mut grad);
            let mut want = wide(&table);
            (0..x.len()).for_each(|i| want[at(i)] += f64::from(x[i]));
            assert_close(&grad, &want, 1e-5);
        });
    }
}
