//! Where the groups of a mesh's axis lie: one for each way in which they sit on nodes.
//!
//! In: devices a node, ranks of the mesh, distance and number of a group's ranks. Out: first ranks.
//!
//! Groups of an axis of 3 on nodes of 8 lie inside a node or across its border. All ranks of a step wait for the slowest, so
//! that each pays what that takes.
//!
//! Invariant: where every group sits on its nodes as the first does, there is the first alone.

use super::{PriceError, Prices};
use crate::mesh::Rank;
use crate::topology::GroupLinks;

/// One group of an axis of a mesh: ranks a distance apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AxisGroup {
    /// Its first rank.
    pub first: Rank,
    /// From one of its ranks to the next.
    pub stride: usize,
    /// Its ranks.
    pub size: usize,
    /// Ranks of the mesh.
    pub of: usize,
}

/// Places in a node that are looked at: more than any node of switches has; of a larger torus the first.
const MOST: usize = 256;

impl AxisGroup {
    /// First ranks of the groups that sit otherwise on nodes of so many devices, if ranks fill them from the first on.
    pub(super) fn places(&self, per_node: usize) -> Vec<Rank> {
        let AxisGroup { stride, size, of, .. } = *self;
        let span = stride * size;
        let even = |a: usize, b: usize| a.is_multiple_of(b) || b.is_multiple_of(a);
        if of <= per_node || per_node.is_multiple_of(span) || (span.is_multiple_of(per_node) && even(stride, per_node))
        {
            return vec![0];
        }
        // Ranks of one block of neighbours sit on nodes alike unless a border cuts it.
        let beside = if per_node.is_multiple_of(stride) { 1 } else { stride.min(per_node) };
        let mut seen = vec![false; per_node];
        let starts = (0..of / span).flat_map(|block| (0..beside).map(move |at| block * span + at));
        let new = |start: &Rank| !std::mem::replace(&mut seen[start % per_node], true);
        starts.take(per_node * per_node).filter(new).take(MOST).collect()
    }
}

impl Prices<'_> {
    /// Looks up the links of a group that lies on some pools, and of others of its axis that lie otherwise.
    pub(super) fn survey(&mut self, group: AxisGroup, (from, to): (usize, usize)) -> Result<(), PriceError> {
        if self.spans.contains_key(&group) {
            return Ok(());
        }
        let places = match (&self.cluster.pools[..], from == to) {
            ([pool], _) => group.places(pool.system.count),
            (_, true) => vec![self.cluster.ranks().nth(from).map_or(group.first, |pool| pool.start)],
            (_, false) => vec![group.first],
        };
        let mut spans: Vec<GroupLinks> = Vec::new();
        for first in places {
            let mut span = self.topology.span_strided(first, group.stride, group.size)?;
            if let Some(out) = &mut span.out {
                out.bandwidth = out.bandwidth * self.stack().overheads.scale_out;
            }
            if !spans.contains(&span) {
                spans.push(span);
            }
        }
        self.spans.insert(group, spans);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(of: usize, (stride, size): (usize, usize), per_node: usize) -> Vec<Rank> {
        AxisGroup { first: 0, stride, size, of }.places(per_node)
    }

    #[test]
    fn only_groups_that_sit_otherwise_have_places_of_their_own() {
        for aligned in
            [(64, (1, 8)), (64, (2, 4)), (64, (8, 8)), (64, (4, 4)), (64, (16, 4)), (6, (2, 3)), (64, (1, 16))]
        {
            assert_eq!(places(aligned.0, aligned.1, 8), [0], "{aligned:?}");
        }
        // Six ranks a block: blocks begin at 0, 6, 4 and 2 of a node.
        assert_eq!(places(48, (2, 3), 8), [0, 6, 12, 18]);
        assert_eq!(places(12, (2, 3), 8), [0, 6]);
        // A distance of three: of one block's groups the last goes over the border.
        assert_eq!(places(24, (3, 8), 8), [0, 1, 2]);
        assert_eq!(places(9, (3, 3), 8), [0, 1, 2]);
    }
}
