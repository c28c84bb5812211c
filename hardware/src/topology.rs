//! Which links a group of ranks has: nodes of devices, joined in a node by one tier and between nodes by another.
//!
//! In: a [`Machine`] or [`Cluster`], then groups or pairs of ranks. Out: a [`GroupLinks`] or a [`Path`] for the prices.
//!
//! Invariant: ranks fill devices in order, node by node; bandwidths have their efficiency taken off already; a group
//! that no link joins is an error, never a zero or an infinity.

mod tier;

pub use tier::{Path, Ring};

use tier::Tier;

use crate::mesh::Rank;
use crate::profile::{Cluster, Machine};
use crate::units::{ByteRate, Seconds};

/// The links of a group of ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLinks {
    /// Ranks in the group.
    pub ranks: usize,
    /// Nodes they sit on.
    pub nodes: usize,
    /// Ranks on the node that has most of them.
    pub per_node: usize,
    /// Ranks on the node that has fewest: each brings its own scale-out links.
    pub rails: usize,
    /// Between ranks of a node. In a torus: one hop's latency, the bandwidth of all rings together.
    pub up: Path,
    /// The torus dims that the group goes along; empty unless the node is a torus.
    pub rings: Vec<Ring>,
    /// Between nodes, for each rank; there if the group spans nodes.
    pub out: Option<Path>,
}

/// A group or pair of ranks that has no links.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A system without scale-out links in a group that spans nodes.
    #[error("ranks {from} and {to} sit on different nodes, and `{system}` has no scale_out to join them")]
    NotJoined {
        /// A rank of the group.
        from: Rank,
        /// A rank on another node.
        to: Rank,
        /// The system.
        system: String,
    },
    /// A rank without a device.
    #[error("rank {rank} has no device: the cluster has {devices}")]
    OutOfRange {
        /// The rank.
        rank: Rank,
        /// Devices in the cluster.
        devices: usize,
    },
    /// A group names a rank twice.
    #[error("rank {rank} is in the group twice")]
    Repeated {
        /// The rank.
        rank: Rank,
    },
    /// A group of no ranks.
    #[error("the group is empty")]
    Empty,
}

/// Nodes, tiers and tori of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pools: Vec<Pool>,
    devices: usize,
}

/// Equal nodes.
#[derive(Clone, Debug, PartialEq)]
struct Pool {
    /// The rank on its first device.
    first: Rank,
    devices: usize,
    per_node: usize,
    system: String,
    up: Tier,
    out: Option<Path>,
}

impl From<&Machine> for Topology {
    fn from(machine: &Machine) -> Topology {
        Topology::of_pools(std::slice::from_ref(machine))
    }
}

impl From<&Cluster> for Topology {
    fn from(cluster: &Cluster) -> Topology {
        Topology::of_pools(&cluster.pools)
    }
}

impl Topology {
    /// The topology of a machine or a cluster.
    pub fn of(machines: impl Into<Topology>) -> Self {
        machines.into()
    }

    fn of_pools(machines: &[Machine]) -> Self {
        let mut first = 0;
        let pool = |machine: &Machine| {
            let system = &machine.system;
            let up = Tier::from(&system.scale_up);
            let (devices, out) = (machine.devices(), system.scale_out.as_ref().map(Path::from));
            let pool = Pool { first, devices, per_node: system.count, system: system.name.clone(), up, out };
            first += devices;
            pool
        };
        let pools = machines.iter().map(pool).collect();
        Topology { pools, devices: first }
    }

    /// Devices of the cluster: ranks are below this.
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// The links of any group of ranks, in any order. Groups that are no arithmetic progression in their node use one
    /// link of a torus.
    pub fn span(&self, group: &[Rank]) -> Result<GroupLinks, TopologyError> {
        let mut ranks = group.to_vec();
        ranks.sort_unstable();
        if let Some(pair) = ranks.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TopologyError::Repeated { rank: pair[0] });
        }
        self.survey(ranks.into_iter())
    }

    /// The links of `first, first + stride, …`, `size` ranks in all, as [`Topology::span`] of that list; in constant time
    /// where every node of one pool holds the same part of the group, as in a mesh that fits its nodes.
    pub fn span_strided(&self, first: Rank, stride: usize, size: usize) -> Result<GroupLinks, TopologyError> {
        if size == 0 {
            return Err(TopologyError::Empty);
        }
        if size > 1 && stride == 0 {
            return Err(TopologyError::Repeated { rank: first });
        }
        let (pool, last) = (self.pool(first)?, first + stride * (size - 1));
        let (per_node, local) = (pool.per_node, (first - pool.first) % pool.per_node);
        let held = if stride >= per_node { 1 } else { size.min((per_node - local).div_ceil(stride.max(1))) };
        let repeats = held == size
            || stride.is_multiple_of(per_node)
            || (per_node.is_multiple_of(stride) && held == per_node / stride);
        if !(repeats && size.is_multiple_of(held) && last < pool.first + pool.devices) {
            return self.survey((0..size).map(|i| first + i * stride));
        }
        let (up, rings) = pool.up.group(held, Some((local, stride)), per_node);
        let out = if size > held { Some(pool.leave(first, last)?) } else { None };
        Ok(GroupLinks { ranks: size, nodes: size / held, per_node: held, rails: held, up, rings, out })
    }

    /// What a message from `a` to `b` goes over. Between devices of a torus: one link, latency over all hops. A rank's
    /// path to itself takes no time.
    pub fn link(&self, a: Rank, b: Rank) -> Result<Path, TopologyError> {
        let (from, to) = (self.pool(a)?, self.pool(b)?);
        if a == b {
            return Ok(Path { latency: Seconds(0.0), bandwidth: ByteRate(f64::INFINITY) });
        }
        if from.node(a) == to.node(b) {
            return Ok(from.up.pair(from.local(a), from.local(b), from.per_node));
        }
        Ok(from.leave(a, b)?.slower(to.leave(b, a)?))
    }

    fn pool(&self, rank: Rank) -> Result<&Pool, TopologyError> {
        let found = self.pools.iter().find(|pool| (pool.first..pool.first + pool.devices).contains(&rank));
        found.ok_or(TopologyError::OutOfRange { rank, devices: self.devices })
    }

    /// The span of ascending ranks, one look at each.
    fn survey(&self, ranks: impl Iterator<Item = Rank>) -> Result<GroupLinks, TopologyError> {
        let mut parts: Vec<GroupOnNode> = Vec::new();
        for rank in ranks {
            let pool = match parts.last() {
                Some(part) if rank < part.pool.first + part.pool.devices => part.pool,
                _ => self.pool(rank)?,
            };
            match parts.last_mut() {
                Some(part) if part.pool.node(part.last) == pool.node(rank) => part.add(rank),
                _ => parts.push(GroupOnNode { pool, first: rank, last: rank, size: 1, stride: Some(0) }),
            }
        }
        let (Some(head), Some(tail)) = (parts.first(), parts.last()) else { return Err(TopologyError::Empty) };
        let sizes = parts.iter().map(|part| part.size);
        let mut span = GroupLinks {
            ranks: sizes.clone().sum(),
            nodes: parts.len(),
            per_node: sizes.clone().max().unwrap_or(0),
            rails: sizes.min().unwrap_or(0),
            up: head.pool.up.path,
            rings: Vec::new(),
            out: None,
        };
        // The slowest node of the fullest sets the pace of the whole group.
        let groups = parts.iter().filter(|part| part.size == span.per_node).map(|part| {
            let shape = part.stride.map(|stride| (part.pool.local(part.first), stride));
            part.pool.up.group(part.size, shape, part.pool.per_node)
        });
        let slowest = groups.min_by(|a, b| a.0.bandwidth.0.total_cmp(&b.0.bandwidth.0));
        (span.up, span.rings) = slowest.unwrap_or((span.up, Vec::new()));
        for part in parts.iter().filter(|_| parts.len() > 1) {
            let other = if part.first == head.first { tail.first } else { head.first };
            let out = part.pool.leave(part.first, other)?;
            span.out = Some(span.out.map_or(out, |so_far| so_far.slower(out)));
        }
        Ok(span)
    }
}

/// What one node holds of a group.
struct GroupOnNode<'a> {
    pool: &'a Pool,
    first: Rank,
    last: Rank,
    size: usize,
    /// Distance between neighbours where all are equal.
    stride: Option<usize>,
}

impl GroupOnNode<'_> {
    fn add(&mut self, rank: Rank) {
        let step = rank - self.last;
        self.stride = self.stride.filter(|stride| self.size == 1 || *stride == step).map(|_| step);
        (self.last, self.size) = (rank, self.size + 1);
    }
}

impl Pool {
    /// The node's first rank, which no other node of the cluster has.
    fn node(&self, rank: Rank) -> Rank {
        rank - self.local(rank)
    }

    fn local(&self, rank: Rank) -> usize {
        (rank - self.first) % self.per_node
    }

    fn leave(&self, from: Rank, to: Rank) -> Result<Path, TopologyError> {
        self.out.ok_or_else(|| TopologyError::NotJoined { from, to, system: self.system.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topology(text: &str) -> Topology {
        Topology::of(&Cluster::parse(text).unwrap())
    }

    #[test]
    fn a_group_knows_its_nodes_and_links() {
        let dgx = topology("4x dgx-a100-80gb");
        let node = dgx.span_strided(8, 1, 8).unwrap();
        assert_eq!((node.ranks, node.nodes, node.per_node, node.out), (8, 1, 8, None));
        assert!((node.up.bandwidth.0 - 300e9 * 0.78).abs() < 1.0);
        let rail = dgx.span(&[3, 27, 11, 19]).unwrap();
        assert_eq!((rail.nodes, rail.per_node, rail.rails), (4, 1, 1));
        assert_eq!(rail, dgx.span_strided(3, 8, 4).unwrap());
        let uneven = dgx.span(&[0, 1, 2, 8]).unwrap();
        assert_eq!((uneven.nodes, uneven.per_node, uneven.rails), (2, 3, 1));
    }

    #[test]
    fn a_mesh_has_only_the_links_between_its_members() {
        let mesh = topology("mi300x-8");
        let whole = mesh.span_strided(0, 1, 8).unwrap().up.bandwidth;
        assert_eq!(mesh.span(&[2, 5]).unwrap().up.bandwidth, whole / 7.0);
        assert_eq!(mesh.link(2, 5).unwrap().bandwidth, whole / 7.0);
    }

    #[test]
    fn a_torus_group_goes_along_dims() {
        let pod = topology("tpu-v4-pod");
        let link = 50e9 * 0.9;
        let near = |span: &GroupLinks, links: f64| (span.up.bandwidth.0 / (link * links) - 1.0).abs() < 1e-9;
        let row = pod.span_strided(0, 1, 16).unwrap();
        assert!(row.rings.len() == 1 && row.rings[0].closed && near(&row, 2.0));
        // Part of a row does not close.
        let part = pod.span_strided(0, 1, 4).unwrap();
        assert!(!part.rings[0].closed && near(&part, 1.0));
        let plane = pod.span_strided(256, 1, 256).unwrap();
        assert_eq!(plane.rings.iter().map(|ring| ring.size).collect::<Vec<_>>(), [16, 16]);
        assert!(near(&plane, 4.0));
        let column = pod.span_strided(5, 256, 16).unwrap();
        assert!(near(&column, 2.0) && column.rings[0].path.latency == pod.link(0, 1).unwrap().latency);
        // Four interleaved groups of a row share its links, four hops a step.
        let sparse = pod.span_strided(1, 4, 4).unwrap();
        assert!(near(&sparse, 0.5) && sparse.rings[0].closed);
        assert_eq!(sparse.rings[0].path.latency, row.rings[0].path.latency * 4.0);
        // Four of each row over all rows: a plane whose rows are sparse.
        let mixed = pod.span_strided(1, 4, 64).unwrap();
        assert_eq!(mixed.rings.iter().map(|ring| ring.size).collect::<Vec<_>>(), [4, 16]);
        // No box: one link.
        assert!(near(&pod.span(&[0, 1, 5]).unwrap(), 1.0));
        // Round the ring it is one hop.
        assert_eq!(pod.link(0, 15), pod.link(0, 1));
        // A slice that is shorter than the rings' wrap does not close.
        assert!(!topology("16x tpu-v5e").span_strided(0, 1, 4).unwrap().rings[0].closed);
    }

    #[test]
    fn what_no_link_joins_is_an_error() {
        let hosts = topology("2x cpu-host");
        let apart = hosts.span_strided(0, 8, 2).unwrap_err();
        assert!(apart.to_string().contains("`cpu-host` has no scale_out"), "{apart}");
        assert_eq!(hosts.link(0, 8).unwrap_err(), apart);
        assert_eq!(hosts.span(&[8, 0]).unwrap_err(), apart);
        assert_eq!(hosts.span(&[0, 99]).unwrap_err(), TopologyError::OutOfRange { rank: 99, devices: 16 });
        assert_eq!(hosts.span(&[1, 1]).unwrap_err(), TopologyError::Repeated { rank: 1 });
        assert_eq!(hosts.span(&[]).unwrap_err(), TopologyError::Empty);
        assert!(hosts.span_strided(0, 1, 8).is_ok());
    }

    #[test]
    fn pools_are_as_fast_as_their_slower() {
        let both = topology("1x dgx-a100-80gb + 1x dgx-1v");
        let across = both.span_strided(0, 1, 16).unwrap();
        assert_eq!((across.nodes, across.per_node), (2, 8));
        assert_eq!(across.up, both.span_strided(8, 1, 8).unwrap().up);
        assert_eq!(across.out, Some(both.link(0, 8).unwrap()));
        assert_eq!(both.link(0, 8).unwrap().bandwidth, topology("2x dgx-1v").link(0, 8).unwrap().bandwidth);
    }

    proptest! {
        #[test]
        fn strides_and_lists_agree_and_order_does_not_matter(
            which in 0usize..5, first in 0usize..64, stride in 1usize..40, size in 1usize..40,
        ) {
            let text = ["6x dgx-1v", "3x dgx-2", "1x tpu-v5e-pod", "4x trn1-32xl", "2x dgx-h100 + 4x dgx-2"][which];
            let topology = topology(text);
            let list: Vec<_> = (0..size).map(|i| first + i * stride).collect();
            let turned: Vec<_> = list.iter().rev().copied().collect();
            let span = topology.span(&list);
            if span.is_ok() {
                prop_assert_eq!(&span, &topology.span_strided(first, stride, size));
            }
            prop_assert_eq!(&span, &topology.span(&turned));
            prop_assert_eq!(span.is_ok(), topology.span_strided(first, stride, size).is_ok());
        }

        #[test]
        fn links_are_the_same_both_ways(which in 0usize..4, a in 0usize..64, b in 0usize..64) {
            let topology = topology(["8x dgx-1v", "1x tpu-v5p-pod", "4x trn1-32xl", "4x dgx-h100 + 2x dgx-2"][which]);
            prop_assert_eq!(topology.link(a, b), topology.link(b, a));
        }
    }
}
