//! Activations that wait for backward in the host's memory.
//!
//! In: a stage's [`StepWriter`]. Out: moves away after forward, and back before backward: the next piece's beside this one's
//! kernels.
//!
//! Invariant: only what a piece wrote is moved, not the padding between; what was moved is freed where it was on the stream that moved it, so that kernels wait for it only where they
//! need the place.

use std::ops::Range;

use meshwright_hardware::program::{Kind, Stream, View};

use super::format::ByClass;
use super::layout::{Hosted, Slot};
use super::pass::{Pass, What};
use super::step::StepWriter;

impl StepWriter<'_> {
    /// After its forward pass: a piece's activations, to the host.
    pub(super) fn send_to_host(&mut self, index: usize, mb: usize, layer: Option<u32>) {
        let Some(Hosted { between, .. }) = &self.layout.hosted[index] else { return };
        let (slots, there) = (&self.layout.slots[index], between[mb % between.len()]);
        let mut kept = self.piece(index).kept_ranges();
        // What is written last goes first, so that moves begin together, as one that needs all.
        kept.iter_mut().for_each(|ranges| ranges.reverse());
        self.carry(&kept, slots[mb % slots.len()], there, layer);
    }

    /// Before its backward pass: a piece's activations, fetched now or before, and those of the next piece, beside it.
    pub(super) fn fetch(&mut self, pass: &Pass, after: &[Pass]) {
        if self.fetched.take() != Some(pass.index) {
            self.fetch_one(pass.index, pass.mb);
        }
        let next =
            after.first().filter(|next| next.what == What::Backward && (next.chunk, next.mb) == (pass.chunk, pass.mb));
        if let Some(next) = next.filter(|next| self.layout.hosted[next.index].is_some()) {
            self.fetch_one(next.index, next.mb);
            self.fetched = Some(next.index);
        }
    }

    fn fetch_one(&mut self, index: usize, mb: usize) {
        let Some(Hosted { between, back }) = &self.layout.hosted[index] else { return };
        let (there, here) = (between[mb % between.len()], back[mb % back.len()]);
        let layer = self.layout.pieces[index].layer();
        // What is written last is needed first, so that kernels begin when all is there.
        self.carry(&self.piece(index).kept_ranges(), there, here, layer);
    }

    /// Moves what a piece keeps of each class, and frees where it was.
    fn carry(&mut self, kept: &ByClass<Vec<Range<usize>>>, from: Slot, to: Slot, layer: Option<u32>) {
        for ((from, to), ranges) in from.into_iter().zip(to).zip(kept) {
            let Some((from, to)) = from.zip(to) else { continue };
            for range in ranges {
                let view = |buffer| View { buffer, offset: range.start, elems: range.len(), shard: None };
                self.push(Kind::Move { from: view(from), to: view(to) }, Stream::Host, layer);
            }
            self.push(Kind::Free { buffers: vec![from] }, Stream::Host, layer);
        }
    }
}
