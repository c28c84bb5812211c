//! The search itself: parts of the space in a queue, the most promising first.
//!
//! In: a search begun. Out: the best plans, what was left out and its least bound.
//!
//! Invariant: every combination is in the queue, kept, or counted with its reason; what is left out has a bound in `proved`.

use crate::error::PlanError;

use super::decide::Wanted;
use super::queue::Node;
use super::state::{FloorOf, Known, Search};

impl Search<'_> {
    /// Finds the best plans, and what no other undercuts.
    pub(super) fn run(&mut self) -> Result<(), PlanError> {
        self.begin()?;
        let reached = self.look()?;
        self.fill()?;
        let cut = self.cut();
        for node in self.queue.drain() {
            let held = self.combinations_of(&node.known);
            if node.seconds < cut {
                self.reject("not looked at: within the gap", held);
                self.proved = self.proved.min(node.seconds);
            } else {
                self.leave(node.seconds, held);
            }
        }
        self.prove()?;
        self.tell(reached);
        Ok(())
    }

    /// Takes the most promising part until what is left cannot be better; the bound of the last.
    pub(super) fn look(&mut self) -> Result<f64, PlanError> {
        let (mut effort, mut reached) = (0, 0.0);
        loop {
            if self.idle_waits() && self.queue.peek().is_none_or(|(first, _)| first >= self.cut()) {
                self.begin_idle()?;
                effort = 0;
            }
            let Some(node) = self.queue.pop() else { break };
            reached = node.seconds;
            self.tell(reached);
            effort += usize::from(matches!(node.known, Known::Priced(_)));
            let tired = effort > self.options.effort && self.near() < self.options.below;
            let enough = self.options.enough(self.best_step()) || (self.options.unsimulated && self.fits);
            if tired || node.seconds >= self.cut() || enough {
                self.push(node.seconds, node.known);
                if tired && self.idle_waits() && !enough {
                    effort = 0;
                    self.begin_idle()?;
                    continue;
                }
                break;
            }
            match node.known {
                Known::Bare(index) => self.look_into(index, node.seconds)?,
                Known::Shape(index) => self.price(index, node.seconds)?,
                Known::Priced(index) => self.open(index, node.seconds)?,
                Known::Orders(index) => self.open_orders(index, node.seconds)?,
                Known::AnyOrder(index, of, floor_of) => self.order(index, (of, floor_of), node.seconds)?,
                Known::Combination(index, of, FloorOf::Partitions) => {
                    self.decide(Wanted { index, of, floor: node.seconds })?;
                }
                Known::Combination(index, of, floor_of) => self.refine(index, (of, floor_of), node.seconds)?,
                Known::Plan(plan, part) => self.simulate(*plan, part)?,
            }
        }
        Ok(reached)
    }

    /// Combinations in a part of the space.
    pub(super) fn combinations_of(&mut self, known: &Known) -> usize {
        match known {
            Known::Bare(index) | Known::Shape(index) | Known::Priced(index) => {
                let (usual, others) = self.count(*index);
                usual + others
            }
            Known::Orders(index) => self.count(*index).1,
            Known::AnyOrder(index, of, _) => self.orders(*index, of).len(),
            Known::Combination(..) | Known::Plan(..) => 1,
        }
    }

    /// Simulates the most promising plans that are known beside the best, until there are as many as wanted.
    pub(super) fn fill(&mut self) -> Result<(), PlanError> {
        for Node { seconds, known } in self.queue.take(|known| matches!(known, Known::Plan(..))) {
            match known {
                Known::Plan(plan, part) if self.best.len() < self.top && seconds < self.options.below => {
                    self.simulate(*plan, part)?
                }
                other => self.push(seconds, other),
            }
        }
        Ok(())
    }
}
