//! Ranks and the axes they are laid out on: the only place that turns ranks into coordinates and groups.
//!
//! Invariant: `rank_of(coord_of(r)) == r` for every rank, with tensor parallelism varying fastest (its ranks sit on the
//! fastest links), then data, then pipeline.

use serde::{Deserialize, Serialize};

/// A rank's number, `0..mesh.ranks()`.
pub type Rank = usize;

/// A parallel axis of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Tensor parallelism: ranks hold slices of each weight matrix.
    Tp,
    /// Data parallelism: ranks hold different sequences.
    Dp,
    /// Pipeline parallelism: ranks hold different layers.
    Pp,
}

impl Axis {
    /// Every axis, fastest varying first.
    pub const ALL: [Axis; 3] = [Axis::Tp, Axis::Dp, Axis::Pp];

    /// The axis's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Tp => "tp",
            Axis::Dp => "dp",
            Axis::Pp => "pp",
        }
    }
}

/// The sizes of the mesh's axes; their product is the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Data-parallel replicas.
    pub dp: usize,
    /// Pipeline stages.
    pub pp: usize,
    /// Tensor-parallel ranks.
    pub tp: usize,
}

/// A rank's position on each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coord {
    /// Position on the data axis.
    pub dp: usize,
    /// Position on the pipeline axis: the stage.
    pub pp: usize,
    /// Position on the tensor axis.
    pub tp: usize,
}

impl Coord {
    /// The position on one axis.
    pub fn on(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp => self.tp,
            Axis::Dp => self.dp,
            Axis::Pp => self.pp,
        }
    }
}

impl Mesh {
    /// A mesh of one rank.
    pub const ONE: Mesh = Mesh { dp: 1, pp: 1, tp: 1 };

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.dp * self.pp * self.tp
    }

    /// The size of one axis.
    pub fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp => self.tp,
            Axis::Dp => self.dp,
            Axis::Pp => self.pp,
        }
    }

    /// Distance in ranks between neighbours on an axis.
    pub fn stride(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp => 1,
            Axis::Dp => self.tp,
            Axis::Pp => self.tp * self.dp,
        }
    }

    /// Where a rank sits.
    pub fn coord_of(&self, rank: Rank) -> Coord {
        Coord { tp: rank % self.tp, dp: rank / self.tp % self.dp, pp: rank / (self.tp * self.dp) }
    }

    /// The rank at a coordinate.
    pub fn rank_of(&self, at: Coord) -> Rank {
        (at.pp * self.dp + at.dp) * self.tp + at.tp
    }

    /// The ranks that differ from `rank` on `axis` alone, itself included, in order.
    pub fn group(&self, rank: Rank, axis: Axis) -> Vec<Rank> {
        let first = rank - self.coord_of(rank).on(axis) * self.stride(axis);
        (0..self.size(axis)).map(|i| first + i * self.stride(axis)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coordinates_round_trip_and_groups_partition(dp in 1usize..5, pp in 1usize..5, tp in 1usize..5) {
            let mesh = Mesh { dp, pp, tp };
            for rank in 0..mesh.ranks() {
                prop_assert_eq!(mesh.rank_of(mesh.coord_of(rank)), rank);
                for axis in Axis::ALL {
                    let group = mesh.group(rank, axis);
                    prop_assert_eq!(group.len(), mesh.size(axis));
                    prop_assert_eq!(group[mesh.coord_of(rank).on(axis)], rank);
                    for &peer in &group {
                        prop_assert_eq!(mesh.group(peer, axis), group.clone());
                    }
                }
            }
        }
    }
}
