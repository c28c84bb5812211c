//! Collectives: what ranks of an axis do together.
//!
//! In: nothing. Out: [`Collective`], and its names.
//!
//! Invariant: names stand in the order in which kinds and axes are declared.

use serde::{Deserialize, Serialize};

use crate::mesh::Axis;

/// A collective's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collective {
    /// Every rank ends with the sum.
    AllReduce,
    /// Every rank ends with its shard of the sum, in place in the whole vector.
    ReduceScatter,
    /// Every rank ends with all shards; each brings its own, in place in the whole vector.
    AllGather,
    /// Every rank sends a shard to every other.
    AllToAll,
    /// Every rank ends with the whole vector of the one before it, the first with the last's.
    Rotate,
}

impl Collective {
    /// Whether each rank has a shard of the vector, so that they must be equal.
    pub fn shares(self) -> bool {
        match self {
            Collective::ReduceScatter | Collective::AllGather | Collective::AllToAll => true,
            Collective::AllReduce | Collective::Rotate => false,
        }
    }

    /// Whether it adds; else it only moves elements.
    pub fn sums(self) -> bool {
        match self {
            Collective::AllReduce | Collective::ReduceScatter => true,
            Collective::AllGather | Collective::AllToAll | Collective::Rotate => false,
        }
    }

    /// The class under which a profile's measured curve prices it.
    pub fn class(self) -> &'static str {
        match self {
            Collective::AllReduce => "all-reduce",
            Collective::ReduceScatter => "reduce-scatter",
            Collective::AllGather => "all-gather",
            Collective::AllToAll => "all-to-all",
            Collective::Rotate => "rotate",
        }
    }

    /// Its name over an axis.
    pub(super) fn over(self, axis: Axis) -> &'static str {
        COLLECTIVES[self as usize][axis as usize]
    }
}

/// Names of every collective on every axis, both in their order of declaration.
const COLLECTIVES: [[&str; Axis::ALL.len()]; 5] = [
    [
        "all-reduce tp",
        "all-reduce etp",
        "all-reduce cp",
        "all-reduce dp",
        "all-reduce data",
        "all-reduce ep",
        "all-reduce edp",
        "all-reduce shard",
        "all-reduce eshard",
        "all-reduce replica",
        "all-reduce pp",
    ],
    [
        "reduce-scatter tp",
        "reduce-scatter etp",
        "reduce-scatter cp",
        "reduce-scatter dp",
        "reduce-scatter data",
        "reduce-scatter ep",
        "reduce-scatter edp",
        "reduce-scatter shard",
        "reduce-scatter eshard",
        "reduce-scatter replica",
        "reduce-scatter pp",
    ],
    [
        "all-gather tp",
        "all-gather etp",
        "all-gather cp",
        "all-gather dp",
        "all-gather data",
        "all-gather ep",
        "all-gather edp",
        "all-gather shard",
        "all-gather eshard",
        "all-gather replica",
        "all-gather pp",
    ],
    [
        "all-to-all tp",
        "all-to-all etp",
        "all-to-all cp",
        "all-to-all dp",
        "all-to-all data",
        "all-to-all ep",
        "all-to-all edp",
        "all-to-all shard",
        "all-to-all eshard",
        "all-to-all replica",
        "all-to-all pp",
    ],
    [
        "rotate tp",
        "rotate etp",
        "rotate cp",
        "rotate dp",
        "rotate data",
        "rotate ep",
        "rotate edp",
        "rotate shard",
        "rotate eshard",
        "rotate replica",
        "rotate pp",
    ],
];
