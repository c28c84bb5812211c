//! Parts of steps that many combinations have in common, as a search knows them.
//!
//! In: what they follow from. Out: their costs.
//!
//! Invariant: equal keys, equal costs.

use meshwright_hardware::mesh::Order;
use meshwright_hardware::price::AxisGroup;

use super::bound::Whole;
use super::space::KernelShape;
use super::times::Costs;
use crate::lower::PieceSizes;

/// A shape but for its microbatch, replicas and stages, ZeRO stage.
pub(super) type StateKey = (KernelShape, [usize; 2], u8);
/// The same with an order of axes; with none they are as near as can be.
pub(super) type RestKey = (StateKey, Option<Order>);
/// A shape, and where the groups of its passes' axes lie.
pub(super) type PassesKey = (usize, [AxisGroup; 3]);

/// Banks of a mesh's ranks.
pub(super) struct StateSizes {
    pub(super) sizes: PieceSizes,
    /// Whether they cannot fit.
    pub(super) hopeless: bool,
}

/// Costs of a part of a step, by piece and in all.
pub(super) struct PartCosts {
    pub(super) costs: Costs,
    pub(super) whole: Whole,
}
