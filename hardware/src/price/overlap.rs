//! Overlap inside a pass: what its kernels hide of the collectives that stand between them.
//!
//! In: a role with the time of each instruction alone. Out: the same, of such collectives what shows.
//!
//! Software cuts products and collectives of tensor parallelism into pieces that run beside each other (Wang et al. 2023,
//! "Overlap Communication with Dependent Computation via Decomposition"), or runs the exchange of experts beside another part of
//! the batch (DeepSeek-AI 2024, DualPipe). Which share it can hide is the stack's ([`Prices::hidden`]); a link is busy all
//! the same, so a pass hides no more than its kernels last.
//!
//! Invariant: a pass takes its kernels, and of what it may hide what is longer than they.

use super::Prices;
use crate::program::{Call, Kind, Phase, Program, RankProgram, Stream};

/// Of what a pass could hide, the share that kernels of this length do hide.
pub fn hiding(kernels: f64, hideable: f64) -> f64 {
    if hideable > kernels { kernels / hideable } else { 1.0 }
}

/// A pass so far: nanoseconds of its kernels, and where collectives stand that they can hide a share of.
#[derive(Default)]
struct PassOverlap {
    of: (Option<u32>, Option<u32>, bool),
    kernels: u64,
    collectives: Vec<(usize, f64)>,
}

impl PassOverlap {
    /// Leaves of its collectives what shows, and begins anew.
    fn end(&mut self, nanos: &mut [u64]) {
        let hideable: f64 = self.collectives.iter().map(|&(at, share)| nanos[at] as f64 * share).sum();
        let hiding = hiding(self.kernels as f64, hideable);
        for &(at, share) in &self.collectives {
            nanos[at] = (nanos[at] as f64 * (1.0 - share * hiding)).ceil() as u64;
        }
        *self = PassOverlap::default();
    }
}

impl Prices<'_> {
    /// Leaves of the collectives that kernels of a pass wait for what shows.
    pub(super) fn overlap(&self, program: &Program, list: &RankProgram, nanos: &mut [u64]) {
        let mut pass = PassOverlap::default();
        for (at, instr) in list.instrs.iter().enumerate() {
            let weights = matches!(instr.kind, Kind::Run { phase: Phase::Weights, .. });
            let of = (instr.microbatch, instr.layer, weights);
            match &instr.kind {
                Kind::Run { block, phase, .. } if *phase != Phase::Optimizer && !keeps(program, *block) => {
                    if of != pass.of {
                        pass.end(nanos);
                    }
                    (pass.of, pass.kernels) = (of, pass.kernels.saturating_add(nanos[at]));
                }
                Kind::Collective { axis, .. } if instr.stream == Stream::Compute && self.hidden(*axis) > 0.0 => {
                    if of != pass.of {
                        pass.end(nanos);
                    }
                    pass.of = of;
                    pass.collectives.push((at, self.hidden(*axis)));
                }
                // Another action begins.
                Kind::Load { .. } | Kind::Recv { .. } => pass.end(nanos),
                Kind::Run { .. }
                | Kind::Collective { .. }
                | Kind::Send { .. }
                | Kind::Move { .. }
                | Kind::Free { .. } => {}
            }
        }
        pass.end(nanos);
    }
}

/// Whether a block only keeps buffers in order: it is no part of a pass that prices know.
fn keeps(program: &Program, block: u32) -> bool {
    let only = |call: &Call| matches!(call.op.class(), "zero" | "copy" | "accumulate");
    program.blocks[block as usize].calls.iter().all(only)
}
