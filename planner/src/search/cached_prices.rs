//! Prices that remember: a search asks for the same collectives and vectors again and again.
//!
//! In: collectives over a mesh, ops. Out: seconds.
//!
//! Invariant: the figures of the prices beneath.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::price::{AxisGroup, PriceError, Prices};
use meshwright_hardware::program::{Collective, Elem};
use meshwright_hardware::units::Bytes;
use rustc_hash::FxHashMap;

use super::times::Times;

/// Prices with a memory for what travels.
pub struct CachedPrices<'a> {
    /// The prices; their mesh is not used.
    pub prices: Prices<'a>,
    /// Whether all axes count as near as can be.
    pub nearest: bool,
    known: FxHashMap<(Collective, Axis, u64, AxisGroup), f64>,
    /// By name, elements and formats.
    ops: FxHashMap<(&'static str, usize, [Elem; 2]), f64>,
    /// Of linear layers by rows, outputs and inputs.
    pub linears: FxHashMap<(usize, usize, usize), Times>,
}

impl<'a> CachedPrices<'a> {
    /// An empty memory.
    pub fn new(prices: Prices<'a>) -> Self {
        CachedPrices {
            prices,
            nearest: false,
            known: FxHashMap::default(),
            ops: FxHashMap::default(),
            linears: FxHashMap::default(),
        }
    }

    /// Where the group of an axis lies.
    pub fn group(&self, mesh: &Mesh, axis: Axis) -> AxisGroup {
        let group = self.prices.group(mesh, axis);
        // As if it were alone, so that no border cuts it that need not.
        if self.nearest { AxisGroup { stride: 1, of: group.size, ..group } } else { group }
    }

    /// Seconds of a collective over an axis on a vector of so many bytes.
    pub fn collective(&mut self, mesh: &Mesh, op: Collective, axis: Axis, bytes: u64) -> Result<f64, PriceError> {
        if mesh.size(axis) == 1 {
            return Ok(0.0);
        }
        let group = self.group(mesh, axis);
        if let Some(&seconds) = self.known.get(&(op, axis, bytes, group)) {
            return Ok(seconds);
        }
        let seconds = self.prices.among((op, axis), Bytes(bytes), group)?.0;
        self.known.insert((op, axis, bytes, group), seconds);
        Ok(seconds)
    }

    /// Seconds of an op whose floats are `elem` unless it takes fp32 alone.
    pub fn op(&mut self, op: &Op, elem: Elem) -> Result<f64, PriceError> {
        Ok(self.prices.op(op, op.signature().iter().map(|param| param.takes.elem(elem)))?.0)
    }

    /// Seconds of an op over `n` elements whose first arguments, two at most, are of these formats, from memory: its name, size and
    /// formats tell its price.
    pub fn vector(
        &mut self,
        name: &'static str,
        n: usize,
        elems: [Elem; 2],
        op: impl Fn() -> Op,
    ) -> Result<f64, PriceError> {
        if n == 0 {
            return Ok(0.0);
        }
        if let Some(&seconds) = self.ops.get(&(name, n, elems)) {
            return Ok(seconds);
        }
        let op = op();
        let seconds = self.prices.op(&op, elems[..op.signature().len()].iter().copied())?.0;
        self.ops.insert((name, n, elems), seconds);
        Ok(seconds)
    }
}
