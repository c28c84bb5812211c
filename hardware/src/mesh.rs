//! Ranks and the axes they are laid out on: the only place that turns ranks into coordinates and groups.
//!
//! Invariant: `rank_of(coord_of(r)) == r` for every rank. Usually tensor parallelism varies fastest (its ranks sit on the
//! fastest links), then context, data, pipeline; an [`Order`] says otherwise. Expert parallelism takes neighbours among
//! context and data, and where `etp` is below `tp` among groups of tensor ranks first (as the folding of Liu et al. 2025 does).

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rank's number, `0..mesh.ranks()`.
pub type Rank = usize;

/// A parallel axis of the mesh, or two of them taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Tensor parallelism: ranks hold slices of each weight matrix.
    Tp,
    /// Neighbours among [`Axis::Tp`] that share each expert: all of them, one, or a part.
    Etp,
    /// Context parallelism: ranks hold parts of each sequence.
    Cp,
    /// Data parallelism: ranks hold different sequences.
    Dp,
    /// Data and context together: the ranks that hold the same dense weights.
    Data,
    /// Expert parallelism: neighbours among [`Axis::Data`], or among tensor and data ranks, hold different experts.
    Ep,
    /// The rest of them: the ranks that hold the same experts.
    Edp,
    /// Neighbours among [`Axis::Data`] over which ZeRO shards dense weights: all of them, but in hybrid sharding.
    Shard,
    /// The same among [`Axis::Edp`], for experts.
    Eshard,
    /// Ranks that hold the same shards, of dense weights and of experts: one from each group of [`Axis::Shard`].
    Replica,
    /// Pipeline parallelism: ranks hold different layers.
    Pp,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Axis; 11] = [
        Axis::Tp,
        Axis::Etp,
        Axis::Cp,
        Axis::Dp,
        Axis::Data,
        Axis::Ep,
        Axis::Edp,
        Axis::Shard,
        Axis::Eshard,
        Axis::Replica,
        Axis::Pp,
    ];

    /// The axis's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Tp => "tp",
            Axis::Etp => "etp",
            Axis::Cp => "cp",
            Axis::Dp => "dp",
            Axis::Data => "data",
            Axis::Ep => "ep",
            Axis::Edp => "edp",
            Axis::Shard => "shard",
            Axis::Eshard => "eshard",
            Axis::Replica => "replica",
            Axis::Pp => "pp",
        }
    }
}

/// How the axes are laid over ranks: fastest varying first, so which of them ride the fastest links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Tensor parallelism inside, pipeline stages far apart.
    #[default]
    TpDataPp,
    /// Pipeline stages near each other, replicas far apart.
    TpPpData,
    /// Replicas inside.
    DataTpPp,
    /// Replicas inside, then stages.
    DataPpTp,
    /// Stages inside.
    PpTpData,
    /// Stages inside, then replicas.
    PpDataTp,
}

impl Order {
    /// Every order.
    pub const ALL: [Order; 6] =
        [Order::TpDataPp, Order::TpPpData, Order::DataTpPp, Order::DataPpTp, Order::PpTpData, Order::PpDataTp];

    /// The three kinds of axes, fastest varying first.
    pub fn axes(self) -> [Axis; 3] {
        use Axis::{Data, Pp, Tp};
        match self {
            Order::TpDataPp => [Tp, Data, Pp],
            Order::TpPpData => [Tp, Pp, Data],
            Order::DataTpPp => [Data, Tp, Pp],
            Order::DataPpTp => [Data, Pp, Tp],
            Order::PpTpData => [Pp, Tp, Data],
            Order::PpDataTp => [Pp, Data, Tp],
        }
    }

    /// Its name in files: `tp-data-pp`.
    pub fn name(self) -> String {
        self.axes().map(Axis::name).join("-")
    }

    /// Whether tensor ranks lie directly inside data, so that experts can be spread over both.
    pub fn spreads(self) -> bool {
        self.axes().windows(2).any(|pair| pair == [Axis::Tp, Axis::Data])
    }

    /// Whether it is the usual one.
    pub fn is_usual(&self) -> bool {
        *self == Order::TpDataPp
    }
}

/// The sizes of the mesh's axes. `dp · cp · pp · tp` is the number of ranks; experts are spread over `ep` of the `dp · cp`
/// ranks that hold the same dense weights, or, where `etp` tensor ranks share one, over `ep` of `dp · cp · tp / etp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Data-parallel replicas.
    pub dp: usize,
    /// Pipeline stages.
    pub pp: usize,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Context-parallel ranks.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cp: usize,
    /// Expert-parallel ranks; they divide `dp · cp`, and where `etp` says less than `tp` `dp · cp · tp / etp`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ep: usize,
    /// Tensor-parallel ranks that share one expert: `tp` unless it says less. At 1 an expert is whole, and ranks of tensor
    /// parallelism hold different ones, or the same for different tokens; so do groups of them between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etp: Option<usize>,
    /// Ranks over which ZeRO shards, neighbours among the `dp · cp` that hold the same dense weights: all of them unless it says
    /// fewer. Then it is hybrid sharding (HSDP; Zhao et al. 2023, §3.2.2): the others hold the same shards, and sum gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<usize>,
    /// How the axes are laid over ranks.
    #[serde(default, skip_serializing_if = "Order::is_usual")]
    pub order: Order,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// A rank's position on each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Coord {
    /// Position on the data axis.
    pub dp: usize,
    /// Position on the pipeline axis: the stage.
    pub pp: usize,
    /// Position on the tensor axis.
    pub tp: usize,
    /// Position on the context axis.
    pub cp: usize,
    /// Position among the ranks that share an expert; follows from `tp`.
    etp: usize,
    /// Position among the ranks with the same dense weights; follows from `dp` and `cp`.
    data: usize,
    /// Position on the expert axis; follows from `data`, and from `tp` where a part of its ranks share one.
    ep: usize,
    /// Position among the ranks with the same experts; likewise.
    edp: usize,
    /// Position among the ranks over which ZeRO shards dense weights; follows from `data`.
    shard: usize,
    /// The same of experts; follows from `edp`.
    eshard: usize,
    /// Position among the ranks with the same shards; follows from `data`.
    replica: usize,
}

impl Coord {
    /// The first rank's.
    pub const FIRST: Coord =
        Coord { dp: 0, pp: 0, tp: 0, cp: 0, etp: 0, data: 0, ep: 0, edp: 0, shard: 0, eshard: 0, replica: 0 };

    /// The position on one axis.
    pub fn on(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp => self.tp,
            Axis::Etp => self.etp,
            Axis::Cp => self.cp,
            Axis::Dp => self.dp,
            Axis::Data => self.data,
            Axis::Ep => self.ep,
            Axis::Edp => self.edp,
            Axis::Shard => self.shard,
            Axis::Eshard => self.eshard,
            Axis::Replica => self.replica,
            Axis::Pp => self.pp,
        }
    }
}

impl Mesh {
    /// A mesh of one rank.
    pub const ONE: Mesh = Mesh { dp: 1, pp: 1, tp: 1, cp: 1, ep: 1, etp: None, shard: None, order: Order::TpDataPp };

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.dp * self.cp * self.pp * self.tp
    }

    /// Ranks that hold the same dense weights.
    pub fn data(&self) -> usize {
        self.dp * self.cp
    }

    /// Ranks over which ZeRO shards dense weights.
    fn shards(&self) -> usize {
        self.shard.unwrap_or(self.data()).max(1)
    }

    /// Whether ZeRO shards over a part of the ranks that hold the same weights.
    pub fn is_hybrid(&self) -> bool {
        self.size(Axis::Replica) > 1
    }

    /// Tensor-parallel ranks that share one expert.
    pub fn etp(&self) -> usize {
        self.etp.unwrap_or(self.tp).max(1)
    }

    /// Groups of tensor-parallel ranks among which experts are spread as among data: of one rank where experts are whole.
    pub fn spread(&self) -> usize {
        (self.tp / self.etp()).max(1)
    }

    /// The replicas with which a replica shares experts, itself among them.
    pub fn sharing(&self, dp: usize) -> Range<usize> {
        let (each, ep) = (self.cp * self.spread(), self.ep);
        dp * each / ep * ep / each..(((dp + 1) * each - 1) / ep * ep + ep).div_ceil(each)
    }

    /// The rank of a stage that holds the `e`-th share of the experts first, and of each expert the `tp`-th part.
    pub fn expert_rank(&self, pp: usize, e: usize, tp: usize) -> Rank {
        let (spread, etp) = (self.spread(), self.etp());
        let (data, tp) = (e / spread, e % spread * etp + tp % etp);
        self.rank(pp, data / self.cp, data % self.cp, tp)
    }

    /// The size of one axis.
    pub fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp => self.tp,
            Axis::Etp => self.etp(),
            Axis::Cp => self.cp,
            Axis::Dp => self.dp,
            Axis::Data => self.data(),
            Axis::Ep => self.ep,
            Axis::Edp => self.spread() * self.data() / self.ep,
            Axis::Shard => self.shards(),
            Axis::Eshard => (self.spread() * self.shards() / self.ep).max(1),
            Axis::Replica => self.data() / self.shards(),
            Axis::Pp => self.pp,
        }
    }

    /// Distance in ranks between neighbours on an axis.
    pub fn stride(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tp | Axis::Pp | Axis::Data => self.below(axis),
            Axis::Etp => self.below(Axis::Tp),
            Axis::Cp => self.below(Axis::Data),
            Axis::Dp => self.below(Axis::Data) * self.cp,
            Axis::Ep => self.below(Axis::Data) / self.spread(),
            Axis::Edp | Axis::Eshard => self.below(Axis::Data) / self.spread() * self.ep,
            Axis::Shard => self.below(Axis::Data),
            Axis::Replica => self.below(Axis::Data) * self.shards(),
        }
    }

    /// Ranks that the faster axes span together.
    fn below(&self, axis: Axis) -> usize {
        self.order.axes().into_iter().take_while(|faster| *faster != axis).map(|faster| self.size(faster)).product()
    }

    /// Where a rank sits.
    pub fn coord_of(&self, rank: Rank) -> Coord {
        let on = |axis| rank / self.below(axis) % self.size(axis);
        let (data, tp) = (on(Axis::Data), on(Axis::Tp));
        // Tensor ranks lie directly inside data where experts are spread over both.
        let place = data * self.spread() + tp / self.etp();
        Coord {
            tp,
            etp: tp % self.etp(),
            cp: data % self.cp,
            dp: data / self.cp,
            pp: on(Axis::Pp),
            data,
            ep: place % self.ep,
            edp: place / self.ep,
            shard: data % self.shards(),
            eshard: place / self.ep % self.size(Axis::Eshard),
            replica: data / self.shards(),
        }
    }

    /// The rank at a coordinate.
    pub fn rank_of(&self, at: Coord) -> Rank {
        self.rank(at.pp, at.dp, at.cp, at.tp)
    }

    /// The rank at a position on each axis of its own.
    pub fn rank(&self, pp: usize, dp: usize, cp: usize, tp: usize) -> Rank {
        pp * self.below(Axis::Pp) + (dp * self.cp + cp) * self.below(Axis::Data) + tp * self.below(Axis::Tp)
    }

    /// The rank of another stage with the same other coordinates.
    pub fn peer(&self, at: Coord, stage: usize) -> Rank {
        self.rank(stage, at.dp, at.cp, at.tp)
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
        fn coordinates_round_trip_and_groups_partition(
            dp in 1usize..4, pp in 1usize..4, tp in 1usize..5, cp in 1usize..3, pick in 0usize..8,
            order in 0usize..6, whole in 0usize..4, part in 0usize..8,
        ) {
            let order = Order::ALL[order];
            let etp = [1, 2, 3].get(whole).copied().filter(|etp| order.spreads() && tp.is_multiple_of(*etp));
            let among = dp * cp * tp / etp.unwrap_or(tp);
            let shares: Vec<usize> = (1..=among).filter(|ep| among.is_multiple_of(*ep)).collect();
            let ep = shares[pick % shares.len()];
            // Experts are spread within a group of shards.
            let holds = |shard: &usize| (dp * cp).is_multiple_of(*shard) && (shard * among / (dp * cp)).is_multiple_of(ep);
            let groups: Vec<usize> = (1..=dp * cp).filter(holds).collect();
            let shard = groups.get(part % (groups.len() + 1)).copied();
            let mesh = Mesh { dp, pp, tp, cp, ep, etp, shard, order };
            prop_assert_eq!(mesh.size(Axis::Shard) * mesh.size(Axis::Replica), mesh.data());
            prop_assert_eq!(mesh.size(Axis::Eshard) * mesh.size(Axis::Replica), mesh.size(Axis::Edp));
            for (e, t) in (0..mesh.ep).flat_map(|e| (0..tp).map(move |t| (e, t))) {
                let at = mesh.coord_of(mesh.expert_rank(pp - 1, e, t));
                prop_assert_eq!((at.pp, at.on(Axis::Ep), at.on(Axis::Edp)), (pp - 1, e, 0));
                prop_assert_eq!(at.on(Axis::Etp), t % mesh.etp());
            }
            for rank in 0..mesh.ranks() {
                prop_assert_eq!(mesh.rank_of(mesh.coord_of(rank)), rank);
                for peer in mesh.group(rank, Axis::Ep) {
                    let (dp, peer) = (mesh.coord_of(rank).dp, mesh.coord_of(peer).dp);
                    prop_assert!(mesh.sharing(dp).contains(&peer) && mesh.sharing(dp).end <= mesh.dp);
                }
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
