//! Batches of ops on CUDA: those between two looks of the host. A batch that comes again is captured as one CUDA graph,
//! and from then on starts with one call.
//!
//! In: calls. Out: the same kernels in the same order.
//!
//! Invariant: a graph holds nothing that changes from step to step: regions are fixed, and settings lie on the device.

use std::collections::HashMap;

use meshwright_executor::device::{Region, StepArgs};
use meshwright_hardware::mesh::Coord;

use crate::cuda::{Graph, Rank};
use crate::torch::Torch;
use crate::view::Outcome;

/// An op with what it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub op: usize,
    pub regions: Vec<Region>,
    pub at: Coord,
}

/// Calls that wait, and batches that were seen.
#[derive(Default)]
pub struct Batches {
    pub waiting: Vec<Call>,
    /// What the optimizer was last told.
    pub settings: Option<StepArgs>,
    seen: HashMap<Vec<Call>, Seen>,
}

/// What is known of a batch.
enum Seen {
    /// It ran so often, kernel by kernel.
    Ran,
    /// Its graph.
    Captured(Graph),
}

impl Batches {
    /// Runs what waits on this thread's stream.
    pub fn run(&mut self, torch: &mut Torch, rank: Rank) -> Outcome {
        let (calls, Some(step)) = (std::mem::take(&mut self.waiting), self.settings) else { return Ok(()) };
        if calls.is_empty() {
            return Ok(());
        }
        // Outside of any graph: a graph reads what it finds there.
        crate::ops::settle(&step, torch.device, &mut torch.kept)?;
        match self.seen.get(&calls) {
            Some(Seen::Captured(graph)) => graph.replay(),
            // The first time warms up: libraries choose kernels, tables are made.
            None => {
                calls.iter().try_for_each(|call| torch.now(call, &step))?;
                self.seen.insert(calls, Seen::Ran);
                Ok(())
            }
            Some(Seen::Ran) => {
                let graph = Graph::capture(rank, || calls.iter().try_for_each(|call| torch.now(call, &step)))?;
                graph.replay()?;
                self.seen.insert(calls, Seen::Captured(graph));
                Ok(())
            }
        }
    }
}
