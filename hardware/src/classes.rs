//! Which data-parallel replicas do the same: classes of replicas, in the order of the data axis.
//!
//! In: what each replica does. Out: [`Classes`], by which a program has one instruction list a class and stage.
//!
//! Invariant: a class is a run of neighbours on the data axis; of one class there is no list.

use serde::{Deserialize, Serialize};

/// How many replicas each class has, in order; empty where all replicas do the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Classes(Vec<usize>);

impl Classes {
    /// All replicas do the same.
    pub const ONE: Classes = Classes(Vec::new());

    /// Classes of these sizes; one size is no list.
    pub fn of_sizes(sizes: Vec<usize>) -> Classes {
        Classes(if sizes.len() > 1 { sizes } else { Vec::new() })
    }

    /// Runs of replicas whose entries are equal.
    pub fn of_equal<T: PartialEq>(each: &[T]) -> Classes {
        Classes::of_sizes(each.chunk_by(T::eq).map(<[T]>::len).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len().max(1)
    }

    /// Replicas in each; nothing where all do the same.
    pub fn sizes(&self) -> &[usize] {
        &self.0
    }

    /// The class of a replica.
    pub fn of_replica(&self, dp: usize) -> usize {
        let mut end = 0;
        let ends = self.0.iter().map(|size| {
            end += size;
            end
        });
        ends.filter(|&end| end <= dp).count()
    }

    /// The first replica of a class.
    pub fn first(&self, class: usize) -> usize {
        self.0[..class].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_equals_are_classes() {
        let classes = Classes::of_equal(&[3, 3, 1, 1, 1, 3]);
        assert_eq!((classes.count(), classes.sizes()), (3, &[2, 3, 1][..]));
        assert_eq!((0..6).map(|dp| classes.of_replica(dp)).collect::<Vec<_>>(), [0, 0, 1, 1, 1, 2]);
        assert_eq!([0, 1, 2].map(|class| classes.first(class)), [0, 2, 5]);
        assert_eq!(Classes::of_equal(&[4, 4, 4]), Classes::ONE);
        assert_eq!((Classes::ONE.count(), Classes::ONE.of_replica(7), Classes::ONE.first(0)), (1, 0, 0));
    }
}
