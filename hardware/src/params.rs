//! Named parameters: where each tensor of the model lies in the ranks' flat weight buffers, and how it is sharded.
//!
//! In: a parameter's spec and a tensor. Out: the slice a tensor-parallel rank holds, or the tensor from all slices.
//!
//! Invariant: the shards of a split tensor cover every element exactly once; gathering what was scattered gives it back.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::mesh::{Axis, Coord, Mesh};

/// What a parameter starts as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Init {
    /// Independent draws from a normal distribution around zero.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// All ones: gains.
    Ones,
    /// All zeros: biases.
    Zeros,
}

/// How a tensor is split among tensor-parallel ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shard {
    /// Every rank holds all of it.
    Whole,
    /// Rows come in sections (q, k and v; gate and up); each rank holds its slice of every section, one after another.
    Rows {
        /// Rows of each section; they add up to the tensor's, and each is a multiple of the number of ranks.
        sections: Vec<usize>,
    },
    /// Each rank holds `each` consecutive rows. Those beyond the tensor's last are padding: they begin as zeros, and a
    /// program gives them no gradient.
    Padded {
        /// Rows a rank, padding included.
        each: usize,
    },
    /// Heads of queries, then sections of fewer heads of keys and values than there are ranks: each rank holds its slice of
    /// the queries, and of every section the slice that `copies` neighbours share.
    Heads {
        /// Rows of queries.
        queries: usize,
        /// Rows of each section.
        sections: Vec<usize>,
        /// Ranks that hold the same slice.
        copies: usize,
    },
    /// Each rank holds as many consecutive columns.
    Cols,
}

impl Shard {
    /// Elements on one of `tp` ranks of a tensor of these sizes.
    pub fn local_elems(&self, rows: usize, cols: usize, tp: usize) -> usize {
        match self {
            Shard::Whole => rows * cols,
            Shard::Rows { .. } | Shard::Cols => rows * cols / tp,
            Shard::Padded { each } => each * cols,
            Shard::Heads { queries, copies, .. } => (queries + (rows - queries) * copies) / tp * cols,
        }
    }

    /// Of these, the elements from here on are copies that other ranks hold too.
    pub fn copied_from(&self, cols: usize, tp: usize) -> Option<usize> {
        match self {
            Shard::Heads { queries, .. } => Some(queries / tp * cols),
            Shard::Whole | Shard::Rows { .. } | Shard::Cols | Shard::Padded { .. } => None,
        }
    }
}

/// A named tensor of a stage: `[rows, cols]`, row-major; a vector has one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    /// Name, the same in every stage that holds the tensor.
    pub name: String,
    /// Index of the buffer of weights in [`crate::program::RankProgram::buffers`].
    pub weights: u32,
    /// Index of the buffer of gradients, laid out alike, if it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grads: Option<u32>,
    /// First element of the local tensor in both buffers.
    pub offset: usize,
    /// Rows of the whole tensor.
    pub rows: usize,
    /// Columns of the whole tensor.
    pub cols: usize,
    /// How it is split.
    pub shard: Shard,
    /// What it starts as.
    pub init: Init,
    /// Experts of which each has such a tensor; expert parallelism shares them out in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<usize>,
    /// Index of the buffer of fp32 weights beside narrower ones, laid out alike, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// The axis over which the buffer of weights is sharded, if it is: a rank holds so many elements of the flat whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_over: Option<Axis>,
    /// The axis over which the buffer of gradients is sharded, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grads_over: Option<Axis>,
    /// The axis over which the buffer of fp32 weights is sharded, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_over: Option<Axis>,
}

/// The ranks that a tensor is split over, and one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Ranks of tensor parallelism.
    pub tp: usize,
    /// Position among them.
    pub t: usize,
    /// Ranks of expert parallelism.
    pub ep: usize,
    /// Position among them.
    pub e: usize,
}

impl Part {
    /// The part of a rank.
    pub fn of(mesh: &Mesh, at: Coord) -> Part {
        Part { tp: mesh.tp, t: at.tp, ep: mesh.ep, e: at.on(Axis::Ep) }
    }
}

/// The named tensors of every stage.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// One list a role of the program.
    pub roles: Vec<Vec<ParamSpec>>,
}

impl Part {
    /// All of a tensor.
    pub const ALL: Part = Part { tp: 1, t: 0, ep: 1, e: 0 };

    /// The parts of all ranks that together hold a tensor once: expert by expert, then tensor-parallel ranks.
    pub fn each(tp: usize, ep: usize) -> impl Iterator<Item = Part> {
        (0..ep).flat_map(move |e| (0..tp).map(move |t| Part { tp, t, ep, e }))
    }
}

impl ParamSpec {
    /// Elements of the whole tensor, all experts' together.
    pub fn elems(&self) -> usize {
        self.rows * self.cols * self.experts.unwrap_or(1)
    }

    /// Elements that a rank holds.
    pub fn local_elems(&self, part: Part) -> usize {
        let each = self.shard.local_elems(self.rows, self.cols, part.tp);
        each * self.experts.map_or(1, |experts| experts / part.ep)
    }

    /// The local tensor's elements in the flat buffers (in all their shards together).
    pub fn range(&self, part: Part) -> Range<usize> {
        self.offset..self.offset + self.local_elems(part)
    }

    /// Whether the shard divides evenly over the ranks and its sections add up.
    pub fn splits_over(&self, part: Part) -> bool {
        let shard = match &self.shard {
            Shard::Whole => true,
            Shard::Rows { sections } => {
                sections.iter().sum::<usize>() == self.rows && sections.iter().all(|rows| rows.is_multiple_of(part.tp))
            }
            Shard::Padded { each } => each * part.tp >= self.rows,
            Shard::Heads { queries, sections, copies } => {
                let evenly = |rows: &usize| (rows * copies).is_multiple_of(part.tp);
                queries + sections.iter().sum::<usize>() == self.rows
                    && queries.is_multiple_of(part.tp)
                    && part.tp.is_multiple_of(*copies)
                    && sections.iter().all(evenly)
            }
            Shard::Cols => self.cols.is_multiple_of(part.tp),
        };
        shard && self.experts.is_none_or(|experts| experts.is_multiple_of(part.ep))
    }

    /// The stretches of the whole tensor that a rank holds, in the order in which it holds them; what it holds more is padding
    /// behind them.
    pub fn stretches(&self, part: Part) -> Vec<Range<usize>> {
        let Some(experts) = self.experts else { return self.stretches_of_one(part, 0) };
        let own = experts / part.ep;
        let first = part.e * own;
        (first..first + own).flat_map(|expert| self.stretches_of_one(part, expert * self.rows * self.cols)).collect()
    }

    /// The stretches of one matrix that starts at `base`.
    fn stretches_of_one(&self, Part { tp, t, .. }: Part, base: usize) -> Vec<Range<usize>> {
        match &self.shard {
            Shard::Whole => std::iter::once(base..base + self.rows * self.cols).collect(),
            Shard::Rows { sections } => self.slices(base, sections.iter().map(|&rows| (rows, tp, t))),
            Shard::Heads { queries, sections, copies } => {
                let shared = sections.iter().map(|&rows| (rows, tp / copies, t / copies));
                self.slices(base, std::iter::once((*queries, tp, t)).chain(shared))
            }
            Shard::Padded { each } => {
                let row = |rank: usize| base + (rank * each).min(self.rows) * self.cols;
                std::iter::once(row(t)..row(t + 1)).collect()
            }
            Shard::Cols => {
                let share = self.cols / tp;
                let row = |row: usize| base + row * self.cols + t * share..base + row * self.cols + (t + 1) * share;
                (0..self.rows).map(row).collect()
            }
        }
    }

    /// Of sections of rows that follow each other from `base` on, each cut into so many slices, one of them.
    fn slices(&self, base: usize, sections: impl Iterator<Item = (usize, usize, usize)>) -> Vec<Range<usize>> {
        let mut from = 0;
        let slice = |(rows, count, at): (usize, usize, usize)| {
            let (first, share) = (from, rows / count);
            from += rows;
            base + (first + at * share) * self.cols..base + (first + (at + 1) * share) * self.cols
        };
        sections.map(slice).collect()
    }

    /// What a rank holds of the whole tensor `global`, `[experts, rows, cols]`.
    pub fn scatter(&self, part: Part, global: &[f32]) -> Vec<f32> {
        let mut local: Vec<f32> =
            self.stretches(part).into_iter().flat_map(|stretch| &global[stretch]).copied().collect();
        local.resize(self.local_elems(part), 0.0);
        local
    }

    /// The whole tensor from what ranks hold of it.
    pub fn gather(&self, locals: &[(Part, Vec<f32>)]) -> Vec<f32> {
        let mut global = vec![0.0; self.elems()];
        for (part, local) in locals {
            let mut at = 0;
            for stretch in self.stretches(*part) {
                let n = stretch.len();
                global[stretch].copy_from_slice(&local[at..at + n]);
                at += n;
            }
        }
        global
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(shard: Shard, rows: usize, cols: usize) -> ParamSpec {
        let init = Init::Normal { std: 0.02 };
        ParamSpec {
            name: "w".to_owned(),
            weights: 0,
            grads: Some(1),
            offset: 3,
            rows,
            cols,
            shard,
            init,
            experts: None,
            master: None,
            weights_over: None,
            grads_over: None,
            master_over: None,
        }
    }

    const SECOND: Part = Part { tp: 2, t: 1, ep: 1, e: 0 };

    fn counted(n: usize) -> Vec<f32> {
        (0..n).map(|i| i as f32).collect()
    }

    #[test]
    fn rows_are_sliced_section_by_section() {
        let spec = spec(Shard::Rows { sections: vec![4, 2] }, 6, 2);
        assert_eq!(spec.scatter(SECOND, &counted(12)), [4.0, 5.0, 6.0, 7.0, 10.0, 11.0]);
        assert_eq!(spec.range(SECOND), 3..9);
    }

    #[test]
    fn neighbours_hold_the_same_keys_and_values() {
        let spec = spec(Shard::Heads { queries: 4, sections: vec![2, 2], copies: 2 }, 8, 1);
        let of = |t| spec.scatter(Part { tp: 4, t, ep: 1, e: 0 }, &counted(8));
        assert_eq!([of(0), of(1), of(3)], [[0.0, 4.0, 6.0], [1.0, 4.0, 6.0], [3.0, 5.0, 7.0]]);
        assert_eq!(spec.shard.copied_from(1, 4), Some(1));
        assert!(!spec.splits_over(Part { tp: 8, ..SECOND }));
    }

    #[test]
    fn columns_are_sliced_in_every_row() {
        let spec = spec(Shard::Cols, 2, 4);
        assert_eq!(spec.scatter(Part { t: 0, ..SECOND }, &counted(8)), [0.0, 1.0, 4.0, 5.0]);
        assert!(!spec.splits_over(Part { tp: 3, ..SECOND }));
    }

    proptest! {
        #[test]
        fn gather_undoes_scatter(
            tp in 1usize..5,
            ep in 1usize..4,
            own in 0usize..3,
            shares in prop::collection::vec(1usize..4, 1..4),
            cols in 1usize..5,
            kind in 0..4,
            padding in 0usize..20,
        ) {
            let sections: Vec<usize> = shares.iter().map(|share| share * tp).collect();
            let rows = sections.iter().sum();
            let spec = match kind {
                0 => spec(Shard::Whole, rows, cols),
                1 => spec(Shard::Rows { sections }, rows, cols),
                2 if own == 0 => spec(Shard::Padded { each: (rows + padding).div_ceil(tp) }, rows, cols),
                _ => spec(Shard::Cols, rows, cols * tp),
            };
            let spec = ParamSpec { experts: (own > 0).then_some(own * ep), ..spec };
            let global = counted(spec.elems());
            let parts = Part::each(tp, ep).inspect(|&part| assert!(spec.splits_over(part)));
            let locals: Vec<(Part, Vec<f32>)> = parts.map(|part| (part, spec.scatter(part, &global))).collect();
            prop_assert!(locals.iter().all(|(part, local)| local.len() == spec.local_elems(*part)));
            prop_assert_eq!(spec.gather(&locals), global);
            let text = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<ParamSpec>(&text).unwrap(), spec);
        }
    }
}
