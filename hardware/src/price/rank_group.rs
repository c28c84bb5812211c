//! Rank groups: ranks that do the same on the same devices, of which one stands for all in prices and simulation.
//!
//! In: a cluster, a mesh, its classes of replicas. Out: [`RankGroup`]s.
//!
//! Ranks fill pools in order. A replica's part of a stage (its ranks of tensor and context parallelism, with those it shares
//! experts with) usually sits in one pool; where it sits in several, the slowest of them sets its pace, since its ranks wait
//! for each other in every layer.
//!
//! Invariant: every rank is in one group; with one pool there is one group a role.

use super::PriceError;
use crate::classes::Classes;
use crate::mesh::{Mesh, Rank};
use crate::profile::{Cluster, DeviceProfile};
use crate::units::Bytes;

/// Ranks that do the same on the same devices, and the first of them, which stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankGroup {
    /// The first of the ranks.
    pub rank: Rank,
    /// The class of its replicas.
    pub class: usize,
    /// Its stage.
    pub stage: usize,
    /// Its replicas, of the class's, in order.
    pub replicas: Vec<usize>,
    /// The pools on which a replica's part of the stage sits, in order.
    pub pools: Vec<usize>,
}

impl RankGroup {
    /// The devices it sits on, one a pool.
    pub fn devices<'a>(&self, cluster: &'a Cluster) -> Vec<&'a DeviceProfile> {
        self.pools.iter().map(|&pool| &cluster.pools[pool].device).collect()
    }

    /// What a rank of it may hold: the memory of the smallest of its devices.
    pub fn capacity(&self, cluster: &Cluster) -> Bytes {
        self.devices(cluster).into_iter().map(|device| device.memory.value).min().unwrap_or(Bytes(0))
    }
}

/// Replicas of a class whose stages sit on the same pools.
struct ReplicaKind {
    class: usize,
    /// By stage.
    pools: Vec<Vec<usize>>,
    replicas: Vec<usize>,
}

/// The rank groups of a mesh on a cluster: the stages of one kind of replica, then of the next, in the order of their first.
///
/// Replicas of a class are of one kind if each of their stages sits on the same pools.
///
/// # Errors
/// [`PriceError::TooFew`] if the cluster has fewer devices than the mesh ranks.
pub fn rank_groups(cluster: &Cluster, mesh: Mesh, classes: &Classes) -> Result<Vec<RankGroup>, PriceError> {
    let (ranks, devices) = (mesh.ranks(), cluster.devices());
    if ranks > devices {
        return Err(PriceError::TooFew { ranks, devices });
    }
    let mut kinds: Vec<ReplicaKind> = Vec::new();
    if ranks <= cluster.pools[0].devices() {
        for class in 0..classes.count() {
            let size = classes.sizes().get(class).copied().unwrap_or(mesh.dp);
            let first = classes.first(class);
            kinds.push(ReplicaKind { class, pools: vec![vec![0]; mesh.pp], replicas: (first..first + size).collect() });
        }
    } else {
        let mut pools = Vec::new();
        for dp in 0..mesh.dp {
            // Those that share experts sit on the same pools.
            if dp == 0 || mesh.sharing(dp) != mesh.sharing(dp - 1) {
                pools = (0..mesh.pp).map(|stage| pools_of(cluster, mesh, stage, dp)).collect();
            }
            let class = classes.of_replica(dp);
            match kinds.iter_mut().find(|kind| kind.class == class && kind.pools == pools) {
                Some(kind) => kind.replicas.push(dp),
                None => kinds.push(ReplicaKind { class, pools: pools.clone(), replicas: vec![dp] }),
            }
        }
    }
    let of_kind = |ReplicaKind { class, pools, replicas }: ReplicaKind| {
        pools.into_iter().enumerate().map(move |(stage, pools)| RankGroup {
            rank: mesh.rank(stage, replicas[0], 0, 0),
            class,
            stage,
            replicas: replicas.clone(),
            pools,
        })
    };
    Ok(kinds.into_iter().flat_map(of_kind).collect())
}

/// The pools that hold a replica's part of a stage, and the replicas with which it shares experts.
fn pools_of(cluster: &Cluster, mesh: Mesh, stage: usize, dp: usize) -> Vec<usize> {
    let ranks = || (0..mesh.cp).flat_map(|cp| (0..mesh.tp).map(move |tp| (cp, tp)));
    let near = mesh.sharing(dp).flat_map(|dp| ranks().map(move |(cp, tp)| (dp, cp, tp)));
    let pool = |(dp, cp, tp)| cluster.pool_of(mesh.rank(stage, dp, cp, tp));
    let mut pools: Vec<usize> = near.filter_map(pool).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mesh: Mesh, classes: &Classes) -> Vec<(usize, usize, usize, usize, Vec<usize>)> {
        let cluster = Cluster::parse("1x dgx-h100 + 2x dgx-a100-80gb").unwrap();
        let all = rank_groups(&cluster, mesh, classes).unwrap();
        all.into_iter().map(|p| (p.rank, p.class, p.stage, p.replicas.len(), p.pools)).collect()
    }

    #[test]
    fn stages_and_replicas_sit_where_their_ranks_do() {
        let mesh = |dp, pp, tp| Mesh { dp, pp, tp, ..Mesh::ONE };
        // With the pipeline outermost a pool holds whole stages.
        let whole = of(mesh(2, 3, 4), &Classes::ONE);
        assert_eq!(whole, [(0, 0, 0, 2, vec![0]), (8, 0, 1, 2, vec![1]), (16, 0, 2, 2, vec![1])]);
        // A stage whose replicas sit on two pools: each kind of replica has all stages.
        let cut = of(mesh(3, 2, 4), &Classes::ONE);
        let kinds = [(0, 0, 0, 2, vec![0]), (12, 0, 1, 2, vec![1]), (8, 0, 0, 1, vec![1]), (20, 0, 1, 1, vec![1])];
        assert_eq!(cut, kinds);
        // A replica on both.
        assert_eq!(of(mesh(1, 2, 12), &Classes::ONE), [(0, 0, 0, 1, vec![0, 1]), (12, 0, 1, 1, vec![1])]);
        // Replicas that share experts wait for each other.
        let experts = of(Mesh { ep: 2, ..mesh(4, 1, 4) }, &Classes::ONE);
        assert_eq!(experts, [(0, 0, 0, 2, vec![0]), (8, 0, 0, 2, vec![1])]);
        let mixed = of(Mesh { ep: 3, ..mesh(3, 1, 4) }, &Classes::ONE);
        assert_eq!(mixed, [(0, 0, 0, 3, vec![0, 1])]);
        // Classes are apart though their devices are the same.
        let shares = of(mesh(3, 1, 8), &Classes::of_sizes(vec![1, 1, 1]));
        assert_eq!(shares, [(0, 0, 0, 1, vec![0]), (8, 1, 0, 1, vec![1]), (16, 2, 0, 1, vec![1])]);
    }
}
