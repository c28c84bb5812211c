//! Pool assignment: which pool holds each stage, or each replica, of a mesh.
//!
//! In: a cluster, a mesh. Out: [`PoolAssignment`], or none where a stage or a replica would straddle two pools.
//!
//! Invariant: of one pool, it holds every stage.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::price::{PriceError, Prices, RankGroup};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Precision;

/// The pools of a mesh's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolAssignment {
    /// By stage, where every replica of it sits in one pool.
    Stages(Vec<usize>),
    /// By replica, where all its stages sit in one pool.
    Replicas(Vec<usize>),
}

/// Which parts of a mesh sit whole in pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolUnit {
    /// Stages.
    Stages,
    /// Replicas.
    Replicas,
}

impl PoolUnit {
    /// Whichever is outermost in a mesh; none where neither is.
    pub fn of(mesh: &Mesh) -> Option<PoolUnit> {
        match mesh.order.axes().into_iter().rfind(|&axis| mesh.size(axis) > 1) {
            Some(Axis::Data) => Some(PoolUnit::Replicas),
            Some(Axis::Pp) | None => Some(PoolUnit::Stages),
            Some(_) => None,
        }
    }
}

impl PoolAssignment {
    /// What sits whole in pools.
    pub fn unit(&self) -> PoolUnit {
        match self {
            PoolAssignment::Stages(_) => PoolUnit::Stages,
            PoolAssignment::Replicas(_) => PoolUnit::Replicas,
        }
    }

    /// Where a mesh's parts sit on all devices of a cluster.
    pub fn of(cluster: &Cluster, mesh: &Mesh) -> Option<PoolAssignment> {
        if cluster.pools.len() == 1 {
            return Some(PoolAssignment::Stages(vec![0; mesh.pp]));
        }
        let parts = |count: usize| -> Option<Vec<usize>> {
            let each = mesh.ranks() / count;
            let pool = |part: usize| {
                let [first, last] = [part * each, (part + 1) * each - 1].map(|rank| cluster.pool_of(rank));
                first.filter(|_| first == last)
            };
            (0..count).map(pool).collect()
        };
        match PoolUnit::of(mesh)? {
            PoolUnit::Stages => parts(mesh.pp).map(PoolAssignment::Stages),
            PoolUnit::Replicas => parts(mesh.dp).map(PoolAssignment::Replicas),
        }
    }

    /// The pool of every stage; where pools hold replicas, the given one of all.
    pub fn stages(&self, stages: usize, replicas_in: usize) -> Vec<usize> {
        match self {
            PoolAssignment::Stages(pools) => pools.clone(),
            PoolAssignment::Replicas(_) => vec![replicas_in; stages],
        }
    }

    /// How many parts sit in each of so many pools.
    pub fn counts(&self, pools: usize) -> Vec<usize> {
        let (PoolAssignment::Stages(assignment) | PoolAssignment::Replicas(assignment)) = self;
        (0..pools).map(|pool| assignment.iter().filter(|&&seat| seat == pool).count()).collect()
    }
}

/// Prices as the first rank of each pool pays them.
pub fn prices(cluster: &Cluster, precision: Precision) -> Result<Vec<Prices<'_>>, PriceError> {
    let of = |(pool, ranks): (usize, std::ops::Range<usize>)| {
        let place = RankGroup { rank: ranks.start, class: 0, stage: 0, replicas: vec![0], pools: vec![pool] };
        Prices::at(cluster, Mesh::ONE, precision, &place)
    };
    cluster.ranks().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwright_hardware::mesh::Order;

    #[test]
    fn stages_or_replicas_sit_whole_in_pools() {
        let cluster = Cluster::parse("1x dgx-h100 + 2x dgx-a100-80gb").unwrap();
        let mesh = |dp, pp, tp, order| Mesh { dp, pp, tp, order, ..Mesh::ONE };
        let (usual, other) = (Order::TpDataPp, Order::TpPpData);
        assert_eq!(PoolAssignment::of(&cluster, &mesh(2, 3, 4, usual)), Some(PoolAssignment::Stages(vec![0, 1, 1])));
        assert_eq!(PoolAssignment::of(&cluster, &mesh(2, 3, 4, other)), None);
        assert_eq!(PoolAssignment::of(&cluster, &mesh(3, 2, 4, other)), Some(PoolAssignment::Replicas(vec![0, 1, 1])));
        assert_eq!(
            PoolAssignment::of(&cluster, &mesh(6, 1, 4, usual)),
            Some(PoolAssignment::Replicas(vec![0, 0, 1, 1, 1, 1]))
        );
        let one = Cluster::parse("2x dgx-h100").unwrap();
        assert_eq!(PoolAssignment::of(&one, &mesh(2, 2, 4, usual)), Some(PoolAssignment::Stages(vec![0, 0])));
    }
}
