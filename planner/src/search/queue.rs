//! The queue: parts of the space, the most promising first.
//!
//! In: parts by the least their steps can take. Out: the part of least seconds, of equals the first enumerated.
//!
//! A heap moves what it sorts again and again, so it sorts places alone; parts stay where they were put.
//!
//! Invariant: equal pushes and pops, equal answers.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::state::Known;
use crate::plan::Plan;

/// A part of the space with the least its steps can take.
pub(super) struct Node {
    pub(super) seconds: f64,
    pub(super) known: Known,
}

/// A part's place, and what it is sorted by.
struct Waiting {
    seconds: f64,
    /// Place in the enumeration, which breaks ties.
    order: u32,
    place: u32,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    /// The heap's greatest is the one of least seconds, then the first enumerated.
    fn cmp(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then(other.order.cmp(&self.order))
    }
}

/// Parts of the space that wait.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Waiting>,
    parts: Vec<Option<Known>>,
    /// Places that are free again.
    free: Vec<u32>,
    pushed: u32,
}

impl Queue {
    pub(super) fn push(&mut self, seconds: f64, known: Known) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.parts.push(None);
            self.parts.len() as u32 - 1
        });
        self.parts[place as usize] = Some(known);
        self.pushed += 1;
        self.heap.push(Waiting { seconds, order: self.pushed, place });
    }

    /// The least seconds that any part can take, and the part.
    pub(super) fn peek(&self) -> Option<(f64, &Known)> {
        let first = self.heap.peek()?;
        Some((first.seconds, self.parts[first.place as usize].as_ref().expect("it waits")))
    }

    pub(super) fn pop(&mut self) -> Option<Node> {
        let Waiting { seconds, place, .. } = self.heap.pop()?;
        self.free.push(place);
        let known = self.parts[place as usize].take().expect("it waits");
        Some(Node { seconds, known })
    }

    /// All plans that wait, the most promising first, which are gone then.
    pub(super) fn take_plans(&mut self) -> Vec<(f64, Box<Plan>)> {
        let all = std::mem::take(&mut self.heap).into_vec().into_iter();
        let (mut plans, rest): (Vec<Waiting>, Vec<Waiting>) =
            all.partition(|waiting| matches!(self.parts[waiting.place as usize], Some(Known::Plan(_))));
        self.heap = rest.into();
        plans.sort_by(|a, b| b.cmp(a));
        let plan = |Waiting { seconds, place, .. }| match self.parts[place as usize].take() {
            Some(Known::Plan(plan)) => Some((seconds, plan)),
            _ => None,
        };
        plans.into_iter().filter_map(plan).collect()
    }

    /// All that wait, in no order, which are gone then.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Node> + use<> {
        let Queue { heap, mut parts, .. } = std::mem::take(self);
        heap.into_vec().into_iter().map(move |Waiting { seconds, place, .. }| Node {
            seconds,
            known: parts[place as usize].take().expect("it waits"),
        })
    }
}
