//! The step: one stage's instruction list.
//!
//! In: a plan, its pieces, the stage's actions and layout. Out: [`RankProgram`].
//!
//! Order: zero; passes over pieces by the schedule; gradients over replicas, piece by piece beside the passes that still
//! run; the global norm; updates. In ZeRO-3 a piece's weights are gathered while the piece before it runs.
//!
//! Invariant: collectives that kernels wait for and receives stand where kernels need them (compute stream); collectives that
//! something can run beside are on the comm stream, what goes to one other rank (sends, rings) and moves to the host on their own.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Input, Instr, Kind, Phase, RankProgram, Stream, View};
use rustc_hash::FxHashMap;

use super::blocks::Blocks;
use super::code::{Code, Piece, Pieces, Segment};
use super::layout::StageLayout;
use super::pass::{Pass, What, passes};
use crate::model::{Use, Value};
use crate::plan::{ALIGN, Plan};
use crate::schedule::Action;

/// What a stage does in a step.
pub fn role(
    plan: &Plan,
    pieces: &Pieces,
    layout: StageLayout,
    (stage, actions): (usize, &[Action]),
    blocks: &mut Blocks,
) -> RankProgram {
    let list = passes(plan, pieces, &layout, actions);
    let mut writer = StepWriter {
        fetched: None,
        plan,
        pieces,
        layout,
        stage,
        blocks,
        instrs: Vec::new(),
        mb: None,
        loaded: [None; 2],
        late: None,
        turn: 0,
    };
    writer.begin();
    for (at, pass) in list.iter().enumerate() {
        writer.pass(pass, &list[at + 1..]);
    }
    writer.mb = None;
    writer.settle();
    writer.update();
    RankProgram { buffers: writer.layout.buffers, instrs: writer.instrs }
}

pub(super) struct StepWriter<'a> {
    pub(super) plan: &'a Plan,
    pieces: &'a Pieces,
    pub(super) layout: StageLayout,
    pub(super) stage: usize,
    blocks: &'a mut Blocks,
    instrs: Vec<Instr>,
    /// The microbatch that instructions serve.
    pub(super) mb: Option<usize>,
    /// The piece whose activations were fetched from the host beforehand.
    pub(super) fetched: Option<usize>,
    /// The piece whose weights each gathering bucket holds.
    pub(super) loaded: [Option<usize>; 2],
    /// The piece whose scattered gradients are still to be added up, their bucket, and whether they are the last.
    pub(super) late: Option<(usize, u32, bool)>,
    /// The bucket for the next gradients.
    pub(super) turn: usize,
}

impl StepWriter<'_> {
    pub(super) fn push(&mut self, kind: Kind, stream: Stream, layer: Option<u32>) {
        let microbatch = self.mb.map(|mb| mb as u32);
        self.instrs.push(Instr { kind, stream, waits: Vec::new(), microbatch, layer });
    }

    /// One op on whole views.
    pub(super) fn single(&mut self, name: &'static str, op: Op, phase: Phase, args: Vec<View>, layer: Option<u32>) {
        let block = self.blocks.single(name, op);
        self.push(Kind::Run { block, phase, args }, Stream::Compute, layer);
    }

    /// A collective that other things may run beside.
    pub(super) fn beside(&mut self, op: Collective, axis: Axis, view: View, layer: Option<u32>) {
        self.push(Kind::Collective { op, axis, view }, Stream::Comm, layer);
    }

    pub(super) fn all(&self, buffer: u32) -> View {
        View { buffer, offset: 0, elems: self.layout.buffers[buffer as usize].elems, shard: None }
    }

    fn activation(&self) -> usize {
        self.plan.stream_elems()
    }

    fn flow(&self, chunk: usize, mb: usize) -> View {
        let turns = &self.layout.flow[chunk];
        self.all(turns[mb % turns.len()])
    }

    fn begin(&mut self) {
        let cleared: Vec<u32> = self.layout.banks.iter().filter_map(|bank| Some(bank.state.as_ref()?.grads)).collect();
        for buffer in cleared.into_iter().chain([self.layout.norm]).chain(self.layout.loss) {
            let view = self.all(buffer);
            self.single("zero", Op::Zero { n: view.elems }, Phase::Optimizer, vec![view], None);
        }
    }

    pub(super) fn piece(&self, index: usize) -> &Piece {
        self.layout.pieces[index].piece(self.plan, self.pieces)
    }

    fn code(&mut self, index: usize, code: &Code, mb: usize) {
        let at = self.layout.pieces[index];
        let pieces = self.pieces;
        let piece = at.piece(self.plan, pieces);
        for segment in &code.segments {
            match segment {
                Segment::Run { block, phase, args } => {
                    let formals = &self.blocks.get(*block).params;
                    let view = |(at, elems): (&Use, usize)| self.bind(index, piece, &code.work, *at, mb, elems);
                    let args = args.iter().zip(formals.iter().map(|f| f.elems)).map(view).collect();
                    self.push(Kind::Run { block: *block, phase: *phase, args }, Stream::Compute, at.layer());
                }
                Segment::Collective(op, axis, value) => {
                    let view = self.bind(index, piece, &code.work, Use::whole(*value), mb, piece.elems(*value));
                    // What goes round a ring is for the next hop; the rest is needed at once.
                    let stream = if *op == Collective::Rotate { Stream::Message } else { Stream::Compute };
                    self.push(Kind::Collective { op: *op, axis: *axis, view }, stream, at.layer());
                }
            }
        }
    }

    fn bind(
        &self,
        index: usize,
        piece: &Piece,
        work: &FxHashMap<Value, usize>,
        at: Use,
        mb: usize,
        elems: usize,
    ) -> View {
        let view = self.layout.view(index, piece, work, at.value, mb, elems);
        View { shard: at.part, offset: view.offset + at.first, ..view }
    }

    fn pass(&mut self, pass: &Pass, after: &[Pass]) {
        self.mb = Some(pass.mb);
        if pass.first {
            self.arrive(pass);
        }
        if pass.what != What::Weights {
            self.weights_for(pass, after);
        }
        let (index, mb) = (pass.index, pass.mb);
        let layer = self.layout.pieces[index].layer();
        let pieces = self.pieces;
        let piece = self.layout.pieces[index].piece(self.plan, pieces);
        match pass.what {
            What::Forward => {
                self.code(index, &piece.forward, mb);
                self.send_to_host(index, mb, layer);
            }
            What::Backward => {
                self.fetch(pass, after);
                self.layout.backward = true;
                self.clear_grads(index, layer);
                self.code(index, &piece.backward, mb);
                self.scatter_grads(pass, layer);
                self.layout.backward = false;
            }
            What::Weights => self.code(index, &piece.weights, mb),
        }
        let spent: Vec<u32> = match pass.what {
            What::Backward => self.layout.brief[index].held(mb).collect(),
            What::Forward | What::Weights => Vec::new(),
        };
        if !spent.is_empty() {
            self.push(Kind::Free { buffers: spent }, Stream::Compute, layer);
        }
        if pass.ends {
            let held = &self.layout.held[index];
            let held = (!held.is_empty()).then(|| held[mb % held.len()]);
            let slots = &self.layout.slots[index];
            let slot = self.layout.hosted[index].as_ref().map_or(slots, |hosted| &hosted.back);
            let slot = slot[mb % slot.len()];
            let buffers: Vec<u32> = slot.into_iter().flatten().chain(held).collect();
            if !buffers.is_empty() {
                self.push(Kind::Free { buffers }, Stream::Compute, layer);
            }
        }
        if pass.done {
            for bank in self.layout.banks_of[index].clone() {
                if Some(bank) != self.layout.tied || self.is_early(bank) {
                    self.reduce(bank, layer);
                }
            }
        }
        if pass.last {
            self.depart(pass);
        }
    }

    /// Whether a tied table's gradient is whole when its embedding's is: head and embedding are one chunk.
    pub(super) fn is_early(&self, bank: usize) -> bool {
        Some(bank) == self.layout.tied && self.layout.peer.is_none() && self.plan.chunks == 1
    }

    /// What an action begins with: data, or what another stage or chunk made.
    fn arrive(&mut self, pass: &Pass) {
        let (chunk, mb) = (pass.chunk, pass.mb);
        let place = self.plan.virtual_stage(self.stage, chunk);
        let depth = self.plan.mesh.pp * self.plan.chunks;
        match pass.what {
            What::Forward if place == 0 => {
                let into = self.layout.entry(0, 0, mb, self.plan.rows());
                self.push(Kind::Load { input: Input::Tokens, into }, Stream::Compute, None);
                if self.plan.job.target() > 0 {
                    let into =
                        View { offset: into.elems.next_multiple_of(ALIGN), elems: self.plan.target_rows(), ..into };
                    self.push(Kind::Load { input: Input::Shifted, into }, Stream::Compute, None);
                }
            }
            What::Forward => {
                let into = self.layout.entry(chunk, self.layout.chunks[chunk].start, mb, self.activation());
                let (from, other) = self.plan.chunk_at(place - 1);
                let made = |writer: &StepWriter| writer.layout.entry(other, usize::MAX, mb, writer.activation());
                self.take(from, 2 * place as u32, into, made);
            }
            What::Backward if place + 1 == depth => {
                let into = self.all(self.layout.targets.expect("the head's stage has targets"));
                self.push(Kind::Load { input: Input::Targets, into }, Stream::Compute, None);
            }
            What::Backward => {
                let into = self.flow(chunk, mb);
                let (from, other) = self.plan.chunk_at(place + 1);
                self.take(from, 2 * place as u32 + 1, into, |writer| writer.flow(other, mb));
            }
            What::Weights => {}
        }
    }

    /// Receives from another stage, or copies from another chunk of this one.
    fn take(&mut self, from: usize, tag: u32, into: View, made: impl Fn(&StepWriter) -> View) {
        if from == self.stage {
            let source = made(self);
            self.single("copy", Op::Copy { n: into.elems }, Phase::Forward, vec![source, into], None);
        } else {
            self.push(Kind::Recv { from, tag, view: into }, Stream::Compute, None);
        }
    }

    /// What an action ends with.
    fn depart(&mut self, pass: &Pass) {
        let (chunk, mb) = (pass.chunk, pass.mb);
        let place = self.plan.virtual_stage(self.stage, chunk);
        let depth = self.plan.mesh.pp * self.plan.chunks;
        let (next, view) = match pass.what {
            What::Forward if place + 1 < depth => {
                (place + 1, self.layout.entry(chunk, usize::MAX, mb, self.activation()))
            }
            What::Backward if place > 0 => (place - 1, self.flow(chunk, mb)),
            What::Forward | What::Backward | What::Weights => return,
        };
        let (to, _) = self.plan.chunk_at(next);
        if to != self.stage {
            let tag = 2 * next as u32 + u32::from(pass.what == What::Backward);
            self.push(Kind::Send { to, tag, view }, Stream::Message, None);
        }
    }

    /// Whether a piece has anything to run in a pass.
    pub(super) fn runs(&self, pass: &Pass) -> bool {
        let piece = self.piece(pass.index);
        match pass.what {
            What::Forward => !piece.forward.segments.is_empty(),
            What::Backward => !piece.backward.segments.is_empty(),
            What::Weights => !piece.weights.segments.is_empty(),
        }
    }
}
