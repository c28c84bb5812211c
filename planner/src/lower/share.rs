//! What ranks that hold the same parameters do for each other: gather weights, sum gradients, update.
//!
//! In: a stage's [`StepWriter`]. Out: its instructions.
//!
//! Invariant: before any update, every gradient is the sum over all ranks that made a part of it.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Kind, Phase, Stream, View};

use super::bank::{Bank, BankState, Bucket, has_replicas, tied_elems};
use super::layout::BufferOffset;
use super::pass::Pass;
use super::step::StepWriter;
use super::update::Updated;

impl StepWriter<'_> {
    /// In ZeRO-3: a pass's weights, gathered before or now, and the next ones, gathered beside it.
    pub(super) fn weights_for(&mut self, pass: &Pass, after: &[Pass]) {
        let all = self.layout.gathered.iter().chain(&self.layout.gathered_packed);
        if all.count() == 0 || !self.runs(pass) {
            return;
        }
        let turn = self.gather(pass.index, None);
        for (bank, place) in self.gathered(pass.index, turn) {
            self.layout.weights_at[bank] = place;
        }
        let next = after.iter().find(|next| self.runs(next)).map(|next| next.index);
        if let Some(next) = next.filter(|&next| next != pass.index) {
            self.gather(next, Some(turn));
        }
    }

    /// A piece's banks that are gathered in a turn, each with its place there.
    fn gathered(&self, index: usize, turn: usize) -> Vec<(usize, BufferOffset)> {
        let layout = &self.layout;
        let buckets = [(Bucket::Weights, &layout.gathered), (Bucket::Packed, &layout.gathered_packed)];
        let of = |(bucket, buffers): (Bucket, &Vec<u32>)| {
            let place = |(bank, start)| (bank, (buffers[turn], start));
            layout.bucket(index, bucket).0.into_iter().map(place).collect::<Vec<_>>()
        };
        buckets.into_iter().flat_map(of).collect()
    }

    /// Gathers a piece's weights, unless a bucket has them, into one that is not `busy`.
    fn gather(&mut self, index: usize, busy: Option<usize>) -> usize {
        if let Some(turn) = self.loaded.iter().position(|loaded| *loaded == Some(index)) {
            return turn;
        }
        let turn = busy.map_or(0, |busy| 1 - busy);
        self.loaded[turn] = Some(index);
        let layer = self.layout.pieces[index].layer();
        for (bank, (buffer, start)) in self.gathered(index, turn) {
            let Bank { elems, shards, axis, weights, .. } = self.layout.banks[bank];
            let own = View { buffer, offset: start, elems: elems / shards, shard: Some(axis) };
            let shard = self.all(weights);
            self.single("copy", Op::Copy { n: elems / shards }, Phase::Forward, vec![shard, own], layer);
            let whole = View { elems, shard: None, ..own };
            self.beside(Collective::AllGather, axis, whole, layer);
        }
        turn
    }

    /// From ZeRO-2 on: a cleared bucket for a piece's gradients.
    pub(super) fn clear_grads(&mut self, index: usize, layer: Option<u32>) {
        let (banks, elems) = self.layout.bucket(index, Bucket::Grads);
        if elems == 0 || self.layout.made.is_empty() {
            return;
        }
        let buffer = self.layout.made[self.turn];
        let view = View { buffer, offset: 0, elems, shard: None };
        self.single("zero", Op::Zero { n: elems }, Phase::Backward, vec![view], layer);
        for (bank, start) in banks {
            self.layout.grads_at[bank] = (buffer, start);
        }
    }

    /// From ZeRO-2 on: sends a piece's gradients to those that add them up; adds up those of the piece before.
    pub(super) fn scatter_grads(&mut self, pass: &Pass, layer: Option<u32>) {
        let index = pass.index;
        let (banks, elems) = self.layout.bucket(index, Bucket::Grads);
        if elems == 0 || self.layout.made.is_empty() {
            return;
        }
        let buffer = self.layout.made[self.turn];
        for (bank, start) in banks {
            let Bank { elems, axis, .. } = self.layout.banks[bank];
            self.sum_parts(bank, (buffer, start), layer);
            self.beside(Collective::ReduceScatter, axis, View { buffer, offset: start, elems, shard: None }, layer);
        }
        self.settle();
        self.late = Some((index, buffer, pass.done));
        self.turn = 1 - self.turn;
    }

    /// Adds up the shards of the latest scattered gradients; where they are the last, sums them over replicas.
    pub(super) fn settle(&mut self) {
        let Some((index, buffer, done)) = self.late.take() else { return };
        let layer = self.layout.pieces[index].layer();
        for (bank, start) in self.layout.bucket(index, Bucket::Grads).0 {
            let Bank { elems, shards, axis, .. } = self.layout.banks[bank];
            let own = View { buffer, offset: start, elems: elems / shards, shard: Some(axis) };
            let sum = self.all(self.layout.grads_of(bank).expect("it is trained"));
            self.single("accumulate", Op::Accumulate { n: elems / shards }, Phase::Backward, vec![own, sum], layer);
            if done {
                self.sum_replicas(bank, layer);
            }
        }
    }

    /// In hybrid sharding: sums this rank's shard of a bank's gradients over those that hold the same shard.
    fn sum_replicas(&mut self, bank: usize, layer: Option<u32>) {
        let bank = &self.layout.banks[bank];
        if let (true, Some(state)) = (has_replicas(bank.axis), &bank.state) {
            let own = self.own_grads(bank, state);
            self.beside(Collective::AllReduce, Axis::Replica, own, layer);
        }
    }

    /// Sums gradients of which ranks of tensor parallelism have parts, in a bank whose gradients stand here.
    fn sum_parts(&mut self, bank: usize, (buffer, start): BufferOffset, layer: Option<u32>) {
        if self.plan.mesh.tp == 1 {
            return;
        }
        for part in self.layout.banks[bank].parts.clone() {
            let view = View { buffer, offset: start + part.start, elems: part.len(), shard: None };
            self.beside(Collective::AllReduce, Axis::Tp, view, layer);
        }
    }

    /// Up to ZeRO-1: sums a bank's gradients over those that hold the same parameters: whole, or each rank its shard.
    pub(super) fn reduce(&mut self, bank: usize, layer: Option<u32>) {
        let Bank { axis, zero, .. } = self.layout.banks[bank];
        let Some(grads) = self.layout.grads_of(bank).filter(|_| zero < 2) else { return };
        self.sum_parts(bank, (grads, 0), layer);
        if self.plan.mesh.size(axis) > 1 {
            let op = if zero > 0 { Collective::ReduceScatter } else { Collective::AllReduce };
            let view = self.all(grads);
            self.beside(op, axis, view, layer);
        }
        self.sum_replicas(bank, layer);
    }

    /// Sums the gradients of a tied embedding, which two stages, or two chunks, both use.
    fn finish_tied(&mut self) {
        let Some(bank) = self.layout.tied.filter(|&bank| !self.is_early(bank)) else { return };
        let Some(grads) = self.layout.grads_of(bank) else { return };
        if let Some(peer) = self.layout.peer {
            let last = self.plan.chunk_at(self.plan.mesh.pp * self.plan.chunks - 1).0;
            let other = if self.stage == 0 { last } else { 0 };
            let (n, arrived) = (tied_elems(self.plan), self.all(peer));
            let view = View { buffer: grads, offset: 0, elems: n, shard: None };
            let tag = 2 * (self.plan.mesh.pp * self.plan.chunks) as u32;
            self.push(Kind::Send { to: other, tag, view }, Stream::Message, None);
            self.push(Kind::Recv { from: other, tag, view: arrived }, Stream::Compute, None);
            self.single("accumulate", Op::Accumulate { n }, Phase::Optimizer, vec![arrived, view], None);
        }
        self.reduce(bank, None);
    }

    /// Norm and updates.
    pub(super) fn update(&mut self) {
        self.finish_tied();
        let trained = |bank: &Bank| Some((bank.clone(), bank.state.clone()?));
        let banks: Vec<(Bank, BankState)> = self.layout.banks.iter().filter_map(trained).collect();
        let norm = self.all(self.layout.norm);
        let mesh = self.plan.mesh;
        // Where ranks of one stage's replicas hold different sums, the norm is over all of them.
        let over_data = self.plan.zero > 0 || mesh.ep > 1 || mesh.spread() > 1;
        for (bank, state) in banks.iter().filter(|(bank, _)| !bank.twin) {
            let &Bank { elems, whole, shards, axis, zero, .. } = bank;
            let replicas = match zero {
                0 if over_data => mesh.size(axis),
                1.. if has_replicas(axis) => mesh.size(Axis::Replica),
                _ => 1,
            };
            let op = Op::SquaredNorm { n: elems / shards, whole, copies: mesh.tp, replicas, shards, axis };
            let grads = self.own_grads(bank, state);
            self.single("squared-norm", op, Phase::Optimizer, vec![grads, norm], None);
        }
        let data = if mesh.cp > 1 { Axis::Data } else { Axis::Dp };
        for (axis, wanted) in [(Axis::Tp, true), (data, over_data), (Axis::Pp, true)] {
            if wanted && mesh.size(axis) > 1 {
                let kind = Kind::Collective { op: Collective::AllReduce, axis, view: norm };
                self.push(kind, Stream::Compute, None);
            }
        }
        for (bank, state) in &banks {
            self.send_down(bank, state);
        }
        for (bank, state) in &banks {
            self.optimize(bank, state, norm);
        }
    }

    /// What comes before a bank's update, and its gradients to the host where that updates it.
    fn send_down(&mut self, bank: &Bank, state: &BankState) {
        let grads = self.own_grads(bank, state);
        for op in state.rule.before(&updated(bank, state)) {
            self.single(op.class(), op, Phase::Optimizer, vec![grads], None);
        }
        if let Some([to, _]) = state.host {
            self.push(Kind::Move { from: grads, to: self.all(to) }, Stream::Host, None);
        }
    }

    /// This rank's shard of a bank's gradients.
    fn own_grads(&self, bank: &Bank, state: &BankState) -> View {
        self.own(bank, state.grads, bank.zero >= 2)
    }

    /// This rank's shard of a buffer of weights or gradients, which may be all that the buffer holds.
    fn own(&self, bank: &Bank, buffer: u32, alone: bool) -> View {
        let whole = self.all(buffer);
        if bank.shards == 1 || alone {
            return whole;
        }
        View { elems: whole.elems / bank.shards, shard: Some(bank.axis), ..whole }
    }

    /// A bank's update, on the device or on the host, whose weights then come up.
    fn optimize(&mut self, bank: &Bank, state: &BankState, norm: View) {
        let &Bank { shards, axis, zero, weights, .. } = bank;
        let own = self.own(bank, weights, zero >= 3);
        let [grads, updates] = match state.host {
            Some(host) => host.map(|buffer| self.all(buffer)),
            None => [self.own_grads(bank, state), own],
        };
        let op = state.rule.update(&updated(bank, state));
        let kept = state.states.iter().chain(&state.master).map(|&buffer| self.all(buffer));
        let args = [norm, grads, updates].into_iter().chain(kept).collect();
        self.single(op.class(), op, Phase::Optimizer, args, None);
        if state.host.is_some() {
            self.push(Kind::Move { from: updates, to: own }, Stream::Host, None);
        }
        if shards > 1 && zero < 3 {
            let view = self.all(weights);
            self.beside(Collective::AllGather, axis, view, None);
        }
    }
}

/// What of a bank is updated.
fn updated(bank: &Bank, state: &BankState) -> Updated {
    let &Bank { elems, decayed, shards, axis, .. } = bank;
    Updated { elems, decayed, shards, axis, master: state.master.is_some() }
}
