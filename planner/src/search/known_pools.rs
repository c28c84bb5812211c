//! Parts of several pools that a search knows.
//!
//! In: a cluster of several pools. Out: places for its parts, and those that were asked for with their prices.
//!
//! Invariant: a part's cluster outlives the search that prices it.

use std::cell::OnceCell;

use meshwright_hardware::profile::Cluster;
use rustc_hash::FxHashMap;

use super::cached_prices::CachedPrices;

/// Parts that a search prices at the most.
const MOST: usize = 4096;

/// Places for the parts that a search asks for.
pub(super) struct PoolParts {
    pub(super) made: Vec<OnceCell<Cluster>>,
}

impl PoolParts {
    /// Of a cluster; none of one pool.
    pub(super) fn of(cluster: &Cluster) -> PoolParts {
        let count = if cluster.pools.len() > 1 { MOST } else { 0 };
        PoolParts { made: std::iter::repeat_with(OnceCell::new).take(count).collect() }
    }
}

/// A part that was asked for.
pub(super) struct PricedPart<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) links: Vec<CachedPrices<'a>>,
}

/// Parts that a search knows.
#[derive(Default)]
pub(super) struct KnownParts<'a> {
    pub(super) places: Option<&'a PoolParts>,
    pub(super) by_nodes: FxHashMap<Vec<usize>, usize>,
    /// Which was searched first.
    pub(super) first: Option<usize>,
    pub(super) priced: Vec<PricedPart<'a>>,
}

impl<'a> KnownParts<'a> {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.places.is_some()
    }
}
