//! Cross-entropy over a vocabulary that ranks may share.

use super::Op;
use super::dims::{Loss, LossStats};
use super::reference::{Args, StepSettings, local, results, words};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, NONE, Signature, Spec, Values, float, full, ids};
use crate::mesh::Coord;

/// Rows, columns a rank, words, ranks: of several, the second has padding too.
fn logits(sizes: &Sizes) -> impl Iterator<Item = [usize; 4]> {
    let shards = |i: usize| if sizes.edges { [1, 2, 4][i % 3] } else { 1 };
    let words = |vocab: usize, shards: usize| if shards > 1 { 2 * vocab - vocab / 3 } else { vocab };
    sizes.logits.iter().enumerate().map(move |(i, &[rows, vocab])| [rows, vocab, words(vocab, shards(i)), shards(i)])
}

/// Logits are drawn narrower than they come.
const SPREAD: f64 = 10.0;

impl Spec for LossStats {
    fn class(&self) -> &'static str {
        "loss-stats"
    }

    fn params(&self) -> Signature {
        let LossStats { rows, vocab, words, .. } = *self;
        [
            float("logits", Mode::In, rows * vocab).fresh(),
            ids("targets", Mode::In, rows, Values::Below(words)),
            full("stats", Mode::Out, 3 * rows),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.vocab) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.vocab].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        logits(sizes).map(|[rows, vocab, words, shards]| Op::LossStats { rows, vocab, words, shards }).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let LossStats { rows, vocab, shards, .. } = *self;
        let own = words(self.words, vocab, shards, at.tp);
        for r in 0..rows {
            let row = &x[0][r * vocab..r * vocab + own];
            let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum = row.iter().map(|x| (x - greatest).exp()).sum();
            let target = local(x[1][r], vocab, shards, at.tp).map_or(0.0, |id| row[id]);
            (x[2][r], x[2][rows + r], x[2][2 * rows + r]) = (greatest, sum, target);
        }
    }

    fn settle(&self, x: &mut Args) {
        x[0].iter_mut().for_each(|logit| *logit *= SPREAD);
    }

    fn shards(&self) -> usize {
        self.shards
    }
}

impl Spec for Loss {
    fn class(&self) -> &'static str {
        "loss"
    }

    fn params(&self) -> Signature {
        let Loss { rows, vocab, words, shards, .. } = *self;
        [
            ids("targets", Mode::In, rows, Values::Below(words)),
            full("stats", Mode::In, shards * 3 * rows),
            float("logits", Mode::InOut, rows * vocab).fresh(),
            full("loss", Mode::InOut, 1),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        6.0 * (self.rows * self.vocab) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.vocab].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let scale = |rows: usize| if sizes.edges && rows.is_multiple_of(2) { 1.0 / rows as f32 } else { 1.0 };
        let of = |[rows, vocab, words, shards]: [usize; 4]| Op::Loss { rows, vocab, words, shards, scale: scale(rows) };
        logits(sizes).map(of).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, step: &StepSettings) {
        let Loss { rows, vocab, shards, scale, .. } = *self;
        let (own, scale) = (words(self.words, vocab, shards, at.tp), f64::from(scale));
        for r in 0..rows {
            let stat = |kind: usize, shard: usize| x[1][(shard * 3 + kind) * rows + r];
            let row = r * vocab..(r + 1) * vocab;
            if x[0][r] == f64::from(NONE) {
                x[2][row].fill(0.0);
                continue;
            }
            let sum: f64 = (0..shards).map(|shard| stat(1, shard) * stat(0, shard).exp()).sum();
            let target: f64 = (0..shards).map(|shard| stat(2, shard)).sum();
            let mine = local(x[0][r], vocab, shards, at.tp);
            x[2][row.clone()].iter_mut().for_each(|logit| *logit = logit.exp() / sum * scale * step.loss_scale);
            x[2][row.start + own..row.end].fill(0.0);
            if let Some(id) = mine {
                x[2][row.start + id] -= scale * step.loss_scale;
            }
            x[3][0] += scale * (sum.ln() - target);
        }
    }

    fn settle(&self, x: &mut Args) {
        let Loss { rows, vocab, words, shards, .. } = *self;
        // Some targets do not count.
        x[0].iter_mut().skip(3).step_by(5).for_each(|id| *id = f64::from(NONE));
        x[2].iter_mut().for_each(|logit| *logit *= SPREAD);
        let mine = results(Op::LossStats { rows, vocab, words, shards }, &[&x[2], &x[0]]);
        x[1] = mine[2].repeat(shards);
    }

    fn shards(&self) -> usize {
        self.shards
    }
}
