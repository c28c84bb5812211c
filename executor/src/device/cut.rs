//! How ops are cut along their rows, for devices that run them on widened copies of some rows at a time.
//!
//! In: an op. Out: what its rows are, and the op over some of them.
//!
//! Invariant: how an op is cut depends on its dims alone, so the number of threads changes no bit.

use meshwright_hardware::op::{NormKind, Op};

/// How an op is cut along its rows.
pub struct Cut {
    /// What it is cut along.
    pub rows: usize,
    /// Rows that stay together.
    unit: usize,
    /// Arguments that are not cut.
    pub whole: Vec<usize>,
}

impl Cut {
    fn new(rows: usize, unit: usize, whole: impl IntoIterator<Item = usize>) -> Cut {
        // Rows that begin in the middle of a unit cannot be cut.
        let unit = if unit > 0 && rows.is_multiple_of(unit) { unit } else { rows };
        Cut { rows, unit, whole: whole.into_iter().collect() }
    }

    /// An op that is run as it is: all of it is one row.
    fn none() -> Cut {
        Cut::new(1, 1, [])
    }

    /// How rows of so many floats are cut into parts of about `most` floats: rows a part.
    pub fn at_once(&self, floats: usize, most: usize) -> usize {
        let units = most / (floats * self.unit).max(1);
        (units.max(1) * self.unit).min(self.rows)
    }

    /// Of an op.
    pub fn of(op: &Op) -> Cut {
        match *op {
            Op::EmbedGrad { rows, .. } => Cut::new(rows, 1, [2]),
            Op::Positions { rows, seq, sp, .. } => Cut::new(rows, if sp == 1 { seq } else { rows }, [0]),
            Op::PositionsGrad { rows, seq, sp, .. } => Cut::new(rows, if sp == 1 { seq } else { rows }, [1]),
            Op::Norm { kind: NormKind::Layer, rows, .. } => Cut::new(rows, 1, [1, 2]),
            Op::Norm { kind: NormKind::Rms, rows, .. } => Cut::new(rows, 1, [1]),
            Op::NormGrad { rows, .. } => Cut::new(rows, 1, [1, 5, 6]),
            Op::BiasGrad { rows, .. } => Cut::new(rows, 1, [1]),
            Op::Rope { rows, seq, .. } => Cut::new(rows, seq, []),
            Op::LatentPack { rows, seq, .. } | Op::LatentPackGrad { rows, seq, .. } => Cut::new(rows, seq, []),
            Op::Attention(dims) | Op::AttentionGrad(dims) => Cut::new(dims.batch, 1, []),
            Op::Activation { rows, .. } | Op::ActivationGrad { rows, .. } | Op::Columns { rows, .. } => {
                Cut::new(rows, 1, [])
            }
            Op::Add { rows, bias, .. } => Cut::new(rows, 1, bias.then_some(2)),
            Op::Copy { n } | Op::Accumulate { n } | Op::Zero { n } => Cut::new(n, 1, []),
            Op::Embed { .. }
            | Op::Matmul { .. }
            | Op::ExpertMatmul { .. }
            | Op::Route { .. }
            | Op::RouteGrad { .. }
            | Op::Dispatch { .. }
            | Op::DispatchGrad { .. }
            | Op::Combine { .. }
            | Op::CombineGrad { .. }
            | Op::ContextAttention(_)
            | Op::ContextAttentionGrad(_)
            | Op::LossStats { .. }
            | Op::Loss { .. }
            | Op::SquaredNorm { .. }
            | Op::AdamW { .. } => Cut::none(),
        }
    }
}

/// The op over `count` of the rows that [`Cut::of`] counts.
pub fn sliced(op: &Op, count: usize) -> Op {
    let mut op = *op;
    match &mut op {
        Op::EmbedGrad { rows, .. }
        | Op::Positions { rows, .. }
        | Op::PositionsGrad { rows, .. }
        | Op::Norm { rows, .. }
        | Op::NormGrad { rows, .. }
        | Op::BiasGrad { rows, .. }
        | Op::Rope { rows, .. }
        | Op::LatentPack { rows, .. }
        | Op::LatentPackGrad { rows, .. }
        | Op::Activation { rows, .. }
        | Op::ActivationGrad { rows, .. }
        | Op::Columns { rows, .. }
        | Op::Add { rows, .. }
        | Op::Copy { n: rows }
        | Op::Accumulate { n: rows }
        | Op::Zero { n: rows } => *rows = count,
        Op::Attention(dims) | Op::AttentionGrad(dims) => dims.batch = count,
        Op::Embed { .. }
        | Op::Matmul { .. }
        | Op::ExpertMatmul { .. }
        | Op::Route { .. }
        | Op::RouteGrad { .. }
        | Op::Dispatch { .. }
        | Op::DispatchGrad { .. }
        | Op::Combine { .. }
        | Op::CombineGrad { .. }
        | Op::ContextAttention(_)
        | Op::ContextAttentionGrad(_)
        | Op::LossStats { .. }
        | Op::Loss { .. }
        | Op::SquaredNorm { .. }
        | Op::AdamW { .. } => {}
    }
    op
}
