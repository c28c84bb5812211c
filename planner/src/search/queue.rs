//! The queue: parts of the space, the most promising first.
//!
//! In: parts by the least their steps can take. Out: the part of least seconds, of equals the first enumerated.
//!
//! A heap moves what it sorts again and again, so it sorts places alone; parts stay where they were put.
//!
//! Invariant: equal pushes and pops, equal answers.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A part of the space with the least its steps can take.
pub(super) struct Node<T> {
    pub(super) seconds: f64,
    pub(super) known: T,
}

/// A part's place, and what it is sorted by.
struct QueueEntry {
    seconds: f64,
    /// Place in the enumeration, which breaks ties.
    order: u32,
    place: u32,
}

impl PartialEq for QueueEntry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for QueueEntry {}
impl PartialOrd for QueueEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for QueueEntry {
    /// The heap's greatest is the one of least seconds, then the first enumerated.
    fn cmp(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then(other.order.cmp(&self.order))
    }
}

/// Parts of the space that wait.
pub(super) struct Queue<T> {
    heap: BinaryHeap<QueueEntry>,
    parts: Vec<Option<T>>,
    /// Places that are free again.
    free: Vec<u32>,
    pushed: u32,
}

impl<T> Queue<T> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Queue { heap: BinaryHeap::new(), parts: Vec::new(), free: Vec::new(), pushed: 0 }
    }

    pub(super) fn push(&mut self, seconds: f64, known: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.parts.push(None);
            self.parts.len() as u32 - 1
        });
        self.parts[place as usize] = Some(known);
        self.pushed += 1;
        self.heap.push(QueueEntry { seconds, order: self.pushed, place });
    }

    /// The least seconds that any part can take, and the part.
    pub(super) fn peek(&self) -> Option<(f64, &T)> {
        let first = self.heap.peek()?;
        Some((first.seconds, self.parts[first.place as usize].as_ref().expect("it waits")))
    }

    pub(super) fn pop(&mut self) -> Option<Node<T>> {
        let QueueEntry { seconds, place, .. } = self.heap.pop()?;
        self.free.push(place);
        let known = self.parts[place as usize].take().expect("it waits");
        Some(Node { seconds, known })
    }

    /// All that wait and are wanted, the most promising first, which are gone then.
    pub(super) fn take(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<Node<T>> {
        let all = std::mem::take(&mut self.heap).into_vec().into_iter();
        let (mut taken, rest): (Vec<QueueEntry>, Vec<QueueEntry>) =
            all.partition(|waiting| self.parts[waiting.place as usize].as_ref().is_some_and(&wanted));
        self.heap = rest.into();
        taken.sort_by(|a, b| b.cmp(a));
        self.free.extend(taken.iter().map(|waiting| waiting.place));
        let node = |QueueEntry { seconds, place, .. }| Node {
            seconds,
            known: self.parts[place as usize].take().expect("it waits"),
        };
        taken.into_iter().map(node).collect()
    }

    /// All that wait, in no order, which are gone then.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Node<T>> + use<T> {
        let Queue { heap, mut parts, .. } = std::mem::replace(self, Queue::new());
        heap.into_vec().into_iter().map(move |QueueEntry { seconds, place, .. }| Node {
            seconds,
            known: parts[place as usize].take().expect("it waits"),
        })
    }
}
