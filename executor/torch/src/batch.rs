//! Batches of ops on CUDA: those between two looks of the host, whatever blocks they belong to. A batch that comes again is
//! captured as one CUDA graph, and from then on starts with one call.
//!
//! In: calls, and marks between them. Out: the same kernels in the same order.
//!
//! Invariant: a graph holds nothing that changes from step to step: regions are fixed, and settings lie on the device.

use std::collections::HashMap;

use meshwright_executor::device::StepArgs;

use crate::cuda::{CudaRank, Graph};
use crate::tensors::{BoundOp, Tensors};
use crate::view::Outcome;

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    Op(BoundOp),
    /// The moment of the event of this number.
    Mark(usize),
}

/// What waits, and batches that were seen.
#[derive(Default)]
pub struct Batches {
    pub waiting: Vec<Waiting>,
    /// What the optimizer was last told.
    pub settings: Option<StepArgs>,
    seen: HashMap<Vec<Waiting>, Seen>,
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
    pub fn run(&mut self, tensors: &mut Tensors, rank: CudaRank) -> Outcome {
        let all = std::mem::take(&mut self.waiting);
        let run = |tensors: &mut Tensors, step: &StepArgs| {
            all.iter().try_for_each(|waiting| match waiting {
                Waiting::Op(call) => tensors.run(call, step),
                Waiting::Mark(number) => tensors.events[*number].record(),
            })
        };
        let Some(step) = self.settings.filter(|_| all.iter().any(|waiting| matches!(waiting, Waiting::Op(_)))) else {
            // Marks alone.
            return all.iter().try_for_each(|waiting| match waiting {
                Waiting::Op(_) => Ok(()),
                Waiting::Mark(number) => tensors.events[*number].record(),
            });
        };
        // Outside of any graph: a graph reads what it finds there.
        crate::ops::settle(&step, tensors.device, &mut tensors.cache)?;
        match self.seen.get(&all) {
            Some(Seen::Captured(graph)) => graph.replay(),
            // The first time warms up: libraries choose kernels, tables are made.
            None => {
                run(tensors, &step)?;
                self.seen.insert(all, Seen::Ran);
                Ok(())
            }
            Some(Seen::Ran) => {
                let graph = Graph::capture(rank, || run(tensors, &step))?;
                graph.replay()?;
                self.seen.insert(all, Seen::Captured(graph));
                Ok(())
            }
        }
    }
}
