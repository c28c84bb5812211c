//! Embeddings: rows of tables by token, and by position.

use super::Op;
use super::dims::{Embed, EmbedGrad, Positions, PositionsGrad};
use super::position;
use super::reference::{Args, StepSettings, first, grid, local};
use super::sizes::Sizes;
use super::spec::{Dims, Mode, Rows, Signature, Spec, Values, float, ids, state};
use crate::mesh::Coord;

/// Words of the tables that are timed: few, as bytes of text are.
const VOCAB: usize = 256;

/// Tables of these shapes: rows, columns, words, ranks that share them.
fn tables(sizes: &Sizes) -> impl Iterator<Item = [usize; 4]> {
    sizes.rows.iter().enumerate().map(|(i, &[rows, cols])| {
        let [vocab, shards] = if sizes.edges { [[1, 7, 300][i % 3], [1, 2, 4][i % 3]] } else { [VOCAB, 1] };
        [rows, cols, vocab, shards]
    })
}

impl Spec for Embed {
    fn class(&self) -> &'static str {
        "embed"
    }

    fn params(&self) -> Signature {
        let Embed { rows, cols, vocab, shards } = *self;
        [
            ids("ids", Mode::In, rows, Values::Below(vocab * shards)),
            float("table", Mode::In, vocab * cols).moving(rows * cols),
            float("out", Mode::Out, rows * cols),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        0.0
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        tables(sizes).map(|[rows, cols, vocab, shards]| Op::Embed { rows, cols, vocab, shards }).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let cols = self.cols;
        for (r, c) in grid(self.rows, cols) {
            let id = local(x[0][r], self.vocab, self.shards, at.tp);
            x[2][r * cols + c] = id.map_or(0.0, |id| x[1][id * cols + c]);
        }
    }

    fn shards(&self) -> usize {
        self.shards
    }
}

impl Spec for EmbedGrad {
    fn class(&self) -> &'static str {
        "embed-grad"
    }

    fn params(&self) -> Signature {
        let EmbedGrad { rows, cols, vocab, shards } = *self;
        [
            ids("ids", Mode::In, rows, Values::Below(vocab * shards)),
            float("dy", Mode::In, rows * cols).fresh(),
            state("dtable", Mode::InOut, vocab * cols).whole().moving(2 * rows * cols),
        ]
        .into()
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        tables(sizes).map(|[rows, cols, vocab, shards]| Op::EmbedGrad { rows, cols, vocab, shards }).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let cols = self.cols;
        for (r, c) in grid(self.rows, cols) {
            if let Some(id) = local(x[0][r], self.vocab, self.shards, at.tp) {
                x[2][id * cols + c] += x[1][r * cols + c];
            }
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, 1)
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(EmbedGrad { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.shards
    }
}

/// Tokens a sequence of positions that are timed.
const SEQ: usize = 128;

/// Rows, tokens a sequence, columns, ranks of tensor and of context parallelism.
fn positions(sizes: &Sizes) -> Vec<[usize; 5]> {
    let all = sizes.rows.iter().enumerate().flat_map(|(i, &[rows, cols])| {
        let shared = if sizes.edges { &[[1, 1], [2, 1], [1, 2], [3, 4]][..] } else { &[[1, 1]] };
        let seq = if sizes.edges { (rows / (1 + i % 3)).max(1).next_multiple_of(2) } else { SEQ };
        shared.iter().map(move |&[sp, cp]| [rows, seq, cols, sp, cp])
    });
    all.collect()
}

/// The place in its sequence of each row that a rank holds.
fn place(row: usize, [rows, seq, sp, cp]: [usize; 4], at: Coord) -> usize {
    position((first(sp, at.tp, rows) + row) % seq, seq, cp, at.cp)
}

impl Spec for Positions {
    fn class(&self) -> &'static str {
        "positions"
    }

    fn params(&self) -> Signature {
        let Positions { rows, seq, cols, cp, .. } = *self;
        [float("table", Mode::In, cp * seq * cols).whole(), float("x", Mode::InOut, rows * cols).fresh()].into()
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        positions(sizes)
            .into_iter()
            .map(|[rows, seq, cols, sp, cp]| Op::Positions { rows, seq, cols, sp, cp })
            .collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let Positions { rows, seq, cols, sp, cp } = *self;
        for (r, c) in grid(rows, cols) {
            x[1][r * cols + c] += x[0][place(r, [rows, seq, sp, cp], at) * cols + c];
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, if self.sp == 1 { self.seq } else { self.rows })
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(Positions { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.sp.max(self.cp)
    }
}

impl Spec for PositionsGrad {
    fn class(&self) -> &'static str {
        "positions-grad"
    }

    fn params(&self) -> Signature {
        let PositionsGrad { rows, seq, cols, cp, .. } = *self;
        [float("dy", Mode::In, rows * cols).fresh(), state("dtable", Mode::InOut, cp * seq * cols).whole()].into()
    }

    fn flops(&self) -> f64 {
        (self.rows * self.cols) as f64
    }

    fn dims(&self) -> Dims {
        [self.rows, self.cols].into()
    }

    fn samples(sizes: &Sizes) -> Vec<Op> {
        let all = positions(sizes).into_iter();
        all.map(|[rows, seq, cols, sp, cp]| Op::PositionsGrad { rows, seq, cols, sp, cp }).collect()
    }

    fn reference(&self, x: &mut Args, at: Coord, _: &StepSettings) {
        let PositionsGrad { rows, seq, cols, sp, cp } = *self;
        for (r, c) in grid(rows, cols) {
            x[1][place(r, [rows, seq, sp, cp], at) * cols + c] += x[0][r * cols + c];
        }
    }

    fn rows(&self) -> Option<Rows> {
        Rows::of(self.rows, if self.sp == 1 { self.seq } else { self.rows })
    }

    fn over(&self, rows: usize) -> Option<Op> {
        Some(PositionsGrad { rows, ..*self }.into())
    }

    fn shards(&self) -> usize {
        self.sp.max(self.cp)
    }
}
