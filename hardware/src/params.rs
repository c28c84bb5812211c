//! Named parameters: where each tensor of the model lies in the ranks' flat weight buffers, and how it is sharded.
//!
//! In: a parameter's spec and a tensor. Out: the slice a tensor-parallel rank holds, or the tensor from all slices.
//!
//! Invariant: the shards of a split tensor cover every element exactly once; gathering what was scattered gives it back.

use std::ops::Range;

use serde::{Deserialize, Serialize};

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
    /// Each rank holds as many consecutive columns.
    Cols,
}

/// A named tensor of a stage: `[rows, cols]`, row-major; a vector has one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    /// Name, the same in every stage that holds the tensor.
    pub name: String,
    /// Index of the buffer of weights in [`crate::program::RankProgram::buffers`].
    pub weights: u32,
    /// Index of the buffer of gradients, laid out alike.
    pub grads: u32,
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
}

/// The named tensors of every stage.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// One list a role of the program.
    pub roles: Vec<Vec<ParamSpec>>,
}

impl ParamSpec {
    /// Elements of the whole tensor.
    pub fn elems(&self) -> usize {
        self.rows * self.cols
    }

    /// Elements that each of `tp` ranks holds.
    pub fn local_elems(&self, tp: usize) -> usize {
        match self.shard {
            Shard::Whole => self.elems(),
            Shard::Rows { .. } | Shard::Cols => self.elems() / tp,
        }
    }

    /// The local tensor's elements in the flat buffers.
    pub fn range(&self, tp: usize) -> Range<usize> {
        self.offset..self.offset + self.local_elems(tp)
    }

    /// Whether the shard divides evenly over `tp` ranks and its sections add up.
    pub fn splits_over(&self, tp: usize) -> bool {
        match &self.shard {
            Shard::Whole => true,
            Shard::Rows { sections } => {
                sections.iter().sum::<usize>() == self.rows && sections.iter().all(|rows| rows.is_multiple_of(tp))
            }
            Shard::Cols => self.cols.is_multiple_of(tp),
        }
    }

    /// The stretches of the whole tensor that rank `t` of `tp` holds, in the order in which it holds them.
    pub fn stretches(&self, tp: usize, t: usize) -> Vec<Range<usize>> {
        match &self.shard {
            Shard::Whole => std::iter::once(0..self.elems()).collect(),
            Shard::Rows { sections } => {
                let mut from = 0;
                let stretch = |&rows: &usize| {
                    let (first, share) = (from, rows / tp);
                    from += rows;
                    (first + t * share) * self.cols..(first + (t + 1) * share) * self.cols
                };
                sections.iter().map(stretch).collect()
            }
            Shard::Cols => {
                let share = self.cols / tp;
                (0..self.rows).map(|row| row * self.cols + t * share..row * self.cols + (t + 1) * share).collect()
            }
        }
    }

    /// What rank `t` of `tp` holds of the whole tensor `global`, `[rows, cols]`.
    pub fn scatter(&self, tp: usize, t: usize, global: &[f32]) -> Vec<f32> {
        self.stretches(tp, t).into_iter().flat_map(|stretch| &global[stretch]).copied().collect()
    }

    /// The whole tensor, `[rows, cols]`, from what every tensor-parallel rank holds of it, in rank order.
    pub fn gather(&self, locals: &[Vec<f32>]) -> Vec<f32> {
        let mut global = vec![0.0; self.elems()];
        for (t, local) in locals.iter().enumerate() {
            let mut at = 0;
            for stretch in self.stretches(locals.len(), t) {
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
        ParamSpec { name: "w".to_owned(), weights: 0, grads: 1, offset: 3, rows, cols, shard, init }
    }

    fn counted(n: usize) -> Vec<f32> {
        (0..n).map(|i| i as f32).collect()
    }

    #[test]
    fn rows_are_sliced_section_by_section() {
        let spec = spec(Shard::Rows { sections: vec![4, 2] }, 6, 2);
        assert_eq!(spec.scatter(2, 1, &counted(12)), [4.0, 5.0, 6.0, 7.0, 10.0, 11.0]);
        assert_eq!(spec.range(2), 3..9);
    }

    #[test]
    fn columns_are_sliced_in_every_row() {
        let spec = spec(Shard::Cols, 2, 4);
        assert_eq!(spec.scatter(2, 0, &counted(8)), [0.0, 1.0, 4.0, 5.0]);
        assert!(!spec.splits_over(3));
    }

    proptest! {
        #[test]
        fn gather_undoes_scatter(
            tp in 1usize..5,
            shares in prop::collection::vec(1usize..4, 1..4),
            cols in 1usize..5,
            kind in 0..3,
        ) {
            let sections: Vec<usize> = shares.iter().map(|share| share * tp).collect();
            let rows = sections.iter().sum();
            let spec = match kind {
                0 => spec(Shard::Whole, rows, cols),
                1 => spec(Shard::Rows { sections }, rows, cols),
                _ => spec(Shard::Cols, rows, cols * tp),
            };
            prop_assert!(spec.splits_over(tp));
            let global = counted(spec.elems());
            let locals: Vec<Vec<f32>> = (0..tp).map(|t| spec.scatter(tp, t, &global)).collect();
            prop_assert!(locals.iter().all(|local| local.len() == spec.local_elems(tp)));
            prop_assert_eq!(spec.gather(&locals), global);
            let text = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<ParamSpec>(&text).unwrap(), spec);
        }
    }
}
