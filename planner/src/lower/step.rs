//! The step: one stage's instruction list.
//!
//! In: a plan, its pieces, the stage's layout. Out: [`RankProgram`].
//!
//! Order: zero; forward and backward of microbatches by the schedule; gradients over replicas, piece by piece beside the
//! backward that still runs; the global norm; updates.
//!
//! Invariant: tensor-parallel collectives and receives stand where kernels need them (compute stream); sends and
//! data-parallel collectives may run beside kernels (comm stream).

use std::collections::HashMap;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Input, Instr, Kind, Phase, RankProgram, Stream, View};

use super::code::{Blocks, Code, Pieces, Segment};
use super::layout::{At, Bank, Layout, state_shards, tied_elems};
use crate::model::{Use, Value};
use crate::plan::Plan;
use crate::schedule::{Action, actions};

/// What a stage does in a step.
pub fn role(plan: &Plan, pieces: &Pieces, layout: Layout, stage: usize, blocks: &mut Blocks) -> RankProgram {
    let mut writer = Writer { plan, pieces, layout, stage, blocks, instrs: Vec::new(), mb: None };
    writer.begin();
    let last = plan.microbatches() - 1;
    for action in actions(plan.schedule, stage, plan.mesh.pp, plan.microbatches()) {
        match action {
            Action::Forward(mb) => writer.forward(mb),
            Action::Backward(mb) => writer.backward(mb, mb == last),
        }
    }
    writer.mb = None;
    writer.update();
    RankProgram { buffers: writer.layout.buffers, instrs: writer.instrs }
}

struct Writer<'a> {
    plan: &'a Plan,
    pieces: &'a Pieces,
    layout: Layout,
    stage: usize,
    blocks: &'a mut Blocks,
    instrs: Vec<Instr>,
    /// The microbatch that instructions serve.
    mb: Option<usize>,
}

impl Writer<'_> {
    fn push(&mut self, kind: Kind, stream: Stream, layer: Option<u32>) {
        let microbatch = self.mb.map(|mb| mb as u32);
        self.instrs.push(Instr { kind, stream, waits: Vec::new(), microbatch, layer });
    }

    /// One op on whole views.
    fn single(&mut self, name: &str, op: Op, args: Vec<View>, layer: Option<u32>) {
        let block = self.blocks.single(name, op);
        self.push(Kind::Run { block, phase: Phase::Optimizer, args }, Stream::Compute, layer);
    }

    fn all(&self, buffer: u32) -> View {
        View { buffer, offset: 0, elems: self.layout.buffers[buffer as usize].elems, shard: None }
    }

    fn activation(&self) -> usize {
        self.plan.microbatch * self.plan.job.seq * self.plan.job.model.hidden
    }

    fn is_last(&self) -> bool {
        self.stage + 1 == self.plan.mesh.pp
    }

    fn flow(&self, mb: usize) -> View {
        self.all(self.layout.flow[mb % self.layout.flow.len()])
    }

    fn begin(&mut self) {
        let cleared: Vec<u32> = self.layout.banks.iter().map(|bank| bank.grads).collect();
        for buffer in cleared.into_iter().chain([self.layout.norm]).chain(self.layout.loss) {
            let view = self.all(buffer);
            self.single("zero", Op::Zero { n: view.elems }, vec![view], None);
        }
    }

    fn code(&mut self, index: usize, code: &Code, mb: usize) {
        let at = self.layout.pieces[index];
        let piece = at.piece(self.pieces);
        for segment in &code.segments {
            let kind = match segment {
                Segment::Run { block, phase, args } => {
                    let formals = &self.blocks.get(*block).params;
                    let view = |(at, elems): (&Use, usize)| self.bind(index, &code.work, *at, mb, elems);
                    let args = args.iter().zip(formals.iter().map(|f| f.elems)).map(view).collect();
                    Kind::Run { block: *block, phase: *phase, args }
                }
                Segment::Collective(op, value) => {
                    let whole = Use::whole(*value);
                    let view = self.bind(index, &code.work, whole, mb, piece.elems(*value));
                    Kind::Collective { op: *op, axis: Axis::Tp, view }
                }
            };
            self.push(kind, Stream::Compute, at.layer());
        }
    }

    fn bind(&self, index: usize, work: &HashMap<Value, usize>, at: Use, mb: usize, elems: usize) -> View {
        let piece = self.layout.pieces[index].piece(self.pieces);
        let view = self.layout.view(index, piece, work, at.value, mb, elems);
        View { shard: at.part.then_some(Axis::Tp), ..view }
    }

    fn forward(&mut self, mb: usize) {
        self.mb = Some(mb);
        let entry = self.layout.entry(0, mb, self.activation());
        if self.stage == 0 {
            let into = View { elems: self.plan.microbatch * self.plan.job.seq, ..entry };
            self.push(Kind::Load { input: Input::Tokens, into }, Stream::Compute, None);
        } else {
            self.push(Kind::Recv { from: self.stage - 1, tag: 0, view: entry }, Stream::Compute, None);
        }
        for index in 0..self.layout.pieces.len() {
            let piece = self.layout.pieces[index].piece(self.pieces);
            self.code(index, &piece.forward, mb);
        }
        if !self.is_last() {
            let view = self.layout.entry(self.layout.pieces.len(), mb, self.activation());
            self.push(Kind::Send { to: self.stage + 1, tag: 0, view }, Stream::Comm, None);
        }
    }

    /// Backward of a microbatch; with the last one's, gradients leave for the other replicas as they become final.
    fn backward(&mut self, mb: usize, last: bool) {
        self.mb = Some(mb);
        if let Some(targets) = self.layout.targets {
            let into = self.all(targets);
            self.push(Kind::Load { input: Input::Targets, into }, Stream::Compute, None);
        } else {
            let view = self.flow(mb);
            self.push(Kind::Recv { from: self.stage + 1, tag: 0, view }, Stream::Compute, None);
        }
        for index in (0..self.layout.pieces.len()).rev() {
            let at = self.layout.pieces[index];
            self.code(index, &at.piece(self.pieces).backward, mb);
            let slot = mb % self.layout.slots.len();
            let buffers = vec![self.layout.slots[slot][index]];
            self.push(Kind::Free { buffers }, Stream::Compute, at.layer());
            if last && !self.is_tied(index) {
                self.reduce(index, at.layer());
            }
        }
        if self.stage > 0 {
            let view = self.flow(mb);
            self.push(Kind::Send { to: self.stage - 1, tag: 0, view }, Stream::Comm, None);
        }
    }

    /// Whether a bank's gradients wait for those of another stage.
    fn is_tied(&self, bank: usize) -> bool {
        self.layout.peer.is_some() && (self.layout.banks[bank].twin || self.layout.pieces.get(bank) == Some(&At::Embed))
    }

    /// Sums a bank's gradients over replicas: whole, or each rank its shard.
    fn reduce(&mut self, bank: usize, layer: Option<u32>) {
        if self.plan.mesh.dp == 1 {
            return;
        }
        let op = if state_shards(self.plan) > 1 { Collective::ReduceScatter } else { Collective::AllReduce };
        let view = self.all(self.layout.banks[bank].grads);
        self.push(Kind::Collective { op, axis: Axis::Dp, view }, Stream::Comm, layer);
    }

    /// Sums the gradients of a tied embedding, which first and last stage both use.
    fn exchange_tied(&mut self) {
        let Some(peer) = self.layout.peer else { return };
        let bank = (0..self.layout.banks.len()).find(|&bank| self.is_tied(bank)).expect("a peer has a tied bank");
        let other = if self.stage == 0 { self.plan.mesh.pp - 1 } else { 0 };
        let (n, arrived) = (tied_elems(self.plan), self.all(peer));
        let view = View { buffer: self.layout.banks[bank].grads, offset: 0, elems: n, shard: None };
        self.push(Kind::Send { to: other, tag: 0, view }, Stream::Comm, None);
        self.push(Kind::Recv { from: other, tag: 0, view: arrived }, Stream::Compute, None);
        self.single("accumulate", Op::Accumulate { n }, vec![arrived, view], None);
        self.reduce(bank, None);
    }

    fn update(&mut self) {
        self.exchange_tied();
        let banks = self.layout.banks.clone();
        let norm = self.all(self.layout.norm);
        for bank in banks.iter().filter(|bank| !bank.twin) {
            let (shards, copies) = (state_shards(self.plan), self.plan.mesh.tp);
            let op = Op::SquaredNorm { n: bank.elems / shards, whole: bank.whole, copies, shards };
            self.single("squared-norm", op, vec![self.shard_of(bank.grads, shards), norm], None);
        }
        let mesh = self.plan.mesh;
        let replicas = if state_shards(self.plan) > 1 { mesh.dp } else { 1 };
        for (axis, ranks) in [(Axis::Tp, mesh.tp), (Axis::Dp, replicas), (Axis::Pp, mesh.pp)] {
            if ranks > 1 {
                let kind = Kind::Collective { op: Collective::AllReduce, axis, view: norm };
                self.push(kind, Stream::Compute, None);
            }
        }
        for bank in &banks {
            self.adamw(bank, norm);
        }
    }

    /// This rank's shard of a buffer of weights or gradients.
    fn shard_of(&self, buffer: u32, shards: usize) -> View {
        let whole = self.all(buffer);
        if shards == 1 { whole } else { View { elems: whole.elems / shards, shard: Some(Axis::Dp), ..whole } }
    }

    fn adamw(&mut self, bank: &Bank, norm: View) {
        let shards = state_shards(self.plan);
        let master = bank.master.map(|buffer| self.all(buffer));
        let op = Op::AdamW { n: bank.elems / shards, decayed: bank.decayed, shards, master: master.is_some() };
        let mut args = vec![norm, self.shard_of(bank.grads, shards), self.shard_of(bank.weights, shards)];
        args.extend([self.all(bank.m), self.all(bank.v)]);
        args.extend(master);
        self.single("adamw", op, args, None);
        if shards > 1 {
            let view = self.all(bank.weights);
            self.push(Kind::Collective { op: Collective::AllGather, axis: Axis::Dp, view }, Stream::Comm, None);
        }
    }
}
