//! Closed forms: what a stage costs a microbatch, and a lower bound of the step.
//!
//! In: pieces and prices. Out: [`Costs`]; bounds that the simulator never undercuts.
//!
//! Invariant: only sums of the same prices that the simulator uses; bound ≤ simulated step.

use std::collections::HashMap;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::Op;
use meshwright_hardware::price::{PriceError, Prices};
use meshwright_hardware::units::Bytes;

use crate::lower::{Blocks, Code, Pieces, Segment, bank_elems};
use crate::model::Value;
use crate::plan::{Plan, Recompute};

/// Seconds of each piece a microbatch, forward and backward together.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Token ids to activations, and back.
    pub embed: f64,
    /// A layer, by recompute mode.
    pub layer: [f64; 3],
    /// Head and loss.
    pub head: f64,
}

impl Costs {
    /// Prices the pieces of every plan with this microbatch and tensor parallelism.
    pub fn of(pieces: &Pieces, blocks: &Blocks, prices: &mut Prices) -> Result<Costs, PriceError> {
        let mut pass = |code: &Code, elems: &dyn Fn(Value) -> usize| -> Result<f64, PriceError> {
            let mut total = 0.0;
            for segment in &code.segments {
                total += match segment {
                    Segment::Run { block, .. } => prices.block(blocks.get(*block))?.0,
                    Segment::Collective(op, axis, value) => {
                        prices.collective(*op, *axis, Bytes(elems(*value) as u64 * 4))?.0
                    }
                };
            }
            Ok(total)
        };
        let mut both = |piece: &crate::lower::Piece| -> Result<f64, PriceError> {
            let elems = |value| piece.elems(value);
            Ok(pass(&piece.forward, &elems)? + pass(&piece.backward, &elems)?)
        };
        let [none, selective, full] = pieces.layers.values().next().expect("a model has layers");
        Ok(Costs {
            embed: both(&pieces.embed)?,
            layer: [both(none)?, both(selective)?, both(full)?],
            head: both(&pieces.head)?,
        })
    }

    /// Seconds of a stage a microbatch.
    pub fn stage(&self, plan: &Plan, stage: usize) -> f64 {
        let decided = plan.stages[stage];
        let mode = |i| self.layer[decided.mode(i) as usize];
        self.fixed(plan, stage) + (0..decided.layers).map(mode).sum::<f64>()
    }

    /// Seconds of a stage a microbatch without its layers.
    pub fn fixed(&self, plan: &Plan, stage: usize) -> f64 {
        let embed = if stage == 0 { self.embed } else { 0.0 };
        embed + if stage + 1 == plan.mesh.pp { self.head } else { 0.0 }
    }

    /// What no partition can undercut: all work spread evenly, nothing made again.
    pub fn floor(&self, plan: &Plan) -> f64 {
        let layers = plan.job.model.depth() as f64 * self.layer[Recompute::None as usize];
        let work = (self.embed + layers + self.head) * plan.microbatches() as f64;
        work / plan.mesh.pp as f64
    }
}

/// A step cannot be shorter: stage s begins after the forward of those before it, works through all microbatches, and
/// those before it still have the last one's backward; updates wait for the norm over all stages.
pub fn step_seconds(plan: &Plan, costs: &Costs, update: f64) -> f64 {
    let (mut before, mut most) = (0.0, 0.0f64);
    for stage in 0..plan.mesh.pp {
        let own = costs.stage(plan, stage);
        most = most.max(before + own * plan.microbatches() as f64);
        before += own;
    }
    most + update
}

/// Seconds of the longest stage's AdamW.
pub fn update_seconds(plan: &Plan, pieces: &Pieces, prices: &mut Prices) -> Result<f64, PriceError> {
    let mut known: HashMap<usize, f64> = HashMap::new();
    let mut most = 0.0f64;
    for stage in 0..plan.mesh.pp {
        let mut total = 0.0;
        for elems in bank_elems(plan, pieces, stage) {
            let seconds = match known.get(&elems) {
                Some(&seconds) => seconds,
                None => {
                    let op = Op::AdamW { n: elems, decayed: elems, shards: 1, axis: Axis::Dp, master: false };
                    *known.entry(elems).or_insert(prices.op(&op)?.0)
                }
            };
            total += seconds;
        }
        most = most.max(total);
    }
    Ok(most)
}
