//! Footprint: the bytes that a stage declares, from sizes alone.
//!
//! In: a plan, its pieces, how many microbatches are under way. Out: [`PieceSizes`] of pieces, bytes of a stage.
//!
//! Invariant: the same bytes as [`super::StageLayout`] declares, without laying anything out.

use std::collections::BTreeMap;
use std::ops::Range;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::program::Elem;

use super::bank::{BankExtent, BankGroup, Bucket, bank_of, kept_in, sharing, tied_apart, tied_elems, twin_apart};
use super::code::{Piece, Pieces, Tapes};
use super::flat::FlatBuffers;
use super::format::{ALIGN, ByClass, Class, Formats};
use super::turns::{offload_slots, turns};
use super::update::BankRule;
use crate::job::LayerKind;
use crate::model::{ParamDecl, Store, Tape};
use crate::plan::{Plan, Recompute};
use crate::schedule::{Action, Peaks, Pipeline, SlotSpan};

/// Sizes of a bank on one rank.
#[derive(Clone, Debug)]
pub struct BankSize {
    /// Elements of weights and gradients, padded.
    pub elems: usize,
    /// Elements, stretch by stretch, of whose gradients ranks of tensor parallelism make parts.
    pub parts: Vec<usize>,
    /// How many of these are whole before a pass ends: those of copied keys and values.
    pub copies: usize,
    /// Ranks that share optimizer state.
    pub shards: usize,
    /// ZeRO stage that makes a difference.
    pub zero: u8,
    /// The ranks that hold the same.
    pub axis: Axis,
    /// How its weights are kept.
    pub store: Store,
    /// How it is updated.
    pub rule: BankRule,
    /// Whether the host updates it, in its own memory.
    pub hosted: bool,
    /// Vectors like a moment that sites need to meet.
    outer: usize,
}

impl BankSize {
    fn of(plan: &Plan, group: &BankGroup, tied: bool) -> BankSize {
        let (axis, zero) = sharing(plan, group.experts, tied, group.store);
        let shards = if zero > 0 { plan.mesh.size(axis) } else { 1 };
        let (BankExtent { elems, parts, copies, .. }, _) =
            bank_of(group.params.iter().copied(), &plan.mesh, shards * ALIGN);
        let parts = parts.iter().map(Range::len).collect();
        let rule = BankRule::of(plan.job.optimizer.name, &group.params, &plan.mesh);
        let outer = if plan.sites.is_some() { 2 } else { 0 };
        let (store, hosted) = (group.store, plan.job.optimizer.offload);
        BankSize { elems, parts, copies, shards, zero, axis, store, rule, hosted, outer }
    }

    /// Whether training changes it.
    pub fn trains(&self) -> bool {
        self.store == Store::Trained
    }

    /// What its weights are of where they are whole.
    pub fn elem(&self, width: Formats) -> Elem {
        kept_in(self.store, 0, width)
    }

    /// Bytes of weights, gradients, moments and fp32 weights, and of what sites need to meet.
    fn state(&self, width: Formats) -> u64 {
        let kept = |from: u8| if self.zero >= from { self.elems / self.shards } else { self.elems };
        let weights = kept(3) as u64 * kept_in(self.store, self.zero, width).bytes();
        if !self.trains() {
            return weights;
        }
        let full = usize::from(width.master(self.zero) && !self.hosted) + self.outer;
        let states = self.rule.states(self.elems, self.shards, width);
        let here = states.iter().filter(|_| !self.hosted);
        let states: u64 = here.map(|(_, elems, elem)| *elems as u64 * elem.bytes()).sum();
        let state = full * (self.elems / self.shards);
        let gradients = width.gradients.bytes() + width.beside.map_or(0, Elem::bytes);
        weights + kept(2) as u64 * gradients + states + state as u64 * width.state.bytes()
    }
}

/// Bytes of a piece in one recompute mode, and its banks.
#[derive(Clone, Debug)]
pub struct PieceSize {
    /// Its banks of parameters, but for a tied table's twin.
    pub banks: Vec<BankSize>,
    /// Weights, gradients and optimizer state.
    pub state: u64,
    /// Kept of one microbatch until its end.
    pub slot: u64,
    /// What is kept until its end by class of memory.
    pub slots: ByClass<u64>,
    /// Kept of one microbatch until gradients of inputs are made, where backward is split, by class of memory.
    pub briefs: ByClass<u64>,
    /// Left of one microbatch for the pass of weights.
    pub held: u64,
    /// What stages need once, as much as their largest piece.
    pub once: Once,
}

/// Bytes that a stage needs once, as much as its largest piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Once {
    /// Working memory, by class.
    pub work: ByClass<u64>,
    /// Gathered weights.
    pub gathered: u64,
    /// The same of packed ones.
    pub packed: u64,
    /// Gradients before they are scattered.
    pub made: u64,
}

impl Once {
    /// As much as either.
    pub fn max(self, other: Once) -> Once {
        Once {
            work: std::array::from_fn(|class| self.work[class].max(other.work[class])),
            gathered: self.gathered.max(other.gathered),
            packed: self.packed.max(other.packed),
            made: self.made.max(other.made),
        }
    }

    /// In all: buckets stand in pairs.
    pub fn bytes(self) -> u64 {
        self.work.iter().sum::<u64>() + 2 * (self.gathered + self.packed + self.made)
    }
}

/// What is needed of a piece to know its sizes: its parameters, and elements by recompute mode.
#[derive(Clone, Debug)]
pub struct Frame {
    params: Vec<ParamDecl>,
    modes: Vec<Elems>,
    /// Elements of each move to the host where everything is kept.
    moves: ByClass<Vec<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Elems {
    slot: ByClass<usize>,
    brief: ByClass<usize>,
    held: usize,
    work: ByClass<usize>,
}

impl Frame {
    /// Of one piece in each of its modes.
    pub fn of<'a>(modes: impl IntoIterator<Item = &'a Piece>) -> Frame {
        let (mut params, mut moves) = (Vec::new(), None);
        let elems = |piece: &Piece| {
            if params.is_empty() {
                params.clone_from(&piece.tape.params);
            }
            moves.get_or_insert_with(|| piece.kept_ranges().map(|ranges| ranges.iter().map(Range::len).collect()));
            let (slot, brief, held) = (piece.slot_elems, piece.brief_elems, piece.held_elems);
            Elems { slot, brief, held, work: Pieces::work_elems([piece]) }
        };
        let modes = modes.into_iter().map(elems).collect();
        Frame { params, modes, moves: moves.unwrap_or_default() }
    }

    /// Of a tape whose activations are not counted.
    fn bare(tape: &Tape, modes: usize) -> Frame {
        let none = Elems { slot: [0; 4], brief: [0; 4], held: 0, work: [0; 4] };
        Frame { params: tape.params.clone(), modes: vec![none; modes], moves: Default::default() }
    }
}

/// The same of all pieces.
#[derive(Clone, Debug)]
pub struct Frames {
    embed: Frame,
    layers: BTreeMap<LayerKind, Frame>,
    head: Frame,
}

impl Frames {
    /// Of a plan's pieces.
    pub fn of(pieces: &Pieces) -> Frames {
        let layers = pieces.layers.iter().map(|(&kind, modes)| (kind, Frame::of(modes))).collect();
        Frames { embed: Frame::of([&pieces.embed]), layers, head: Frame::of([&pieces.head]) }
    }

    /// Of tapes whose activations are not counted.
    pub fn bare(tapes: &Tapes) -> Frames {
        let layers = tapes.layers.iter().map(|(&kind, tape)| (kind, Frame::bare(tape, Recompute::ALL.len())));
        Frames { embed: Frame::bare(&tapes.embed, 1), layers: layers.collect(), head: Frame::bare(&tapes.head, 1) }
    }

    /// Elements of each move to the host of a layer of a kind that keeps everything.
    pub fn moves(&self, kind: LayerKind) -> &ByClass<Vec<usize>> {
        &self.layers[&kind].moves
    }
}

/// Sizes of all pieces of a plan.
#[derive(Clone, Debug)]
pub struct PieceSizes {
    /// The embedding.
    pub embed: PieceSize,
    /// Layers of each kind, by recompute mode.
    pub layers: BTreeMap<LayerKind, [PieceSize; 3]>,
    /// The head.
    pub head: PieceSize,
    /// The tied table's bank at the head, where it stands apart from the embedding's.
    pub twin: Option<BankSize>,
    /// Bytes of what stages pass on, one buffer.
    stream: u64,
    /// Bytes of targets and loss.
    scored: u64,
    /// Bytes in which a tied table's gradient arrives.
    peer: u64,
}

impl PieceSizes {
    /// Sizes under a plan's mesh, ZeRO stage and format; its stages do not count.
    pub fn of(plan: &Plan, frames: &Frames) -> PieceSizes {
        let width = Formats::of(&plan.job);
        let one = |frame: &Frame, tied: bool| sizes(plan, frame, width, tied)[0].clone();
        let layers = frames.layers.iter().map(|(&kind, frame)| {
            let modes = sizes(plan, frame, width, false);
            (kind, modes.try_into().expect("a layer has three modes"))
        });
        let tied: Vec<&ParamDecl> = frames.head.params.iter().filter(|decl| decl.tied).collect();
        let twin = tied.first().filter(|_| twin_apart(plan)).map(|decl| {
            BankSize::of(plan, &BankGroup { store: decl.store, params: tied.clone(), experts: false }, true)
        });
        PieceSizes {
            embed: one(&frames.embed, plan.job.model.tied),
            layers: layers.collect(),
            head: one(&frames.head, false),
            twin,
            stream: plan.stream_elems() as u64 * width.model.bytes(),
            scored: 4 * (plan.target_rows() as u64 + 1),
            peer: if tied_apart(plan) { tied_elems(plan) as u64 * width.gradients.bytes() } else { 0 },
        }
    }

    /// Bytes of a stage without its layers and without what is needed once; and that, of embedding and head.
    pub fn fixed(&self, plan: &Plan, flight: &InFlight, stage: usize) -> (u64, Once) {
        let (mut bytes, mut once) =
            (4 + FlatBuffers::bytes(plan) + flight.streams as u64 * self.stream, Once::default());
        let depth = plan.mesh.pp * plan.chunks;
        let width = Formats::of(&plan.job);
        let (mut first, mut last) = (false, false);
        for chunk in 0..plan.chunks {
            let place = plan.virtual_stage(stage, chunk);
            let mut add = |piece: &PieceSize| {
                bytes += piece.state + flight.saved(piece, |other| usize::from(other == chunk));
                once = once.max(piece.once);
            };
            if place == 0 {
                add(&self.embed);
                first = true;
            }
            if place + 1 == depth {
                add(&self.head);
                bytes += self.scored;
                last = true;
            }
        }
        if let Some(twin) = self.twin.as_ref().filter(|_| first || last) {
            bytes += self.peer + if last { twin.state(width) } else { 0 };
        }
        (bytes, once)
    }

    /// Bytes that a stage declares, exactly.
    pub fn stage(&self, plan: &Plan, flight: &InFlight, stage: usize) -> u64 {
        let (mut bytes, mut once) = self.fixed(plan, flight, stage);
        let mut here = Alike::default();
        for chunk in 0..plan.chunks {
            let place = plan.virtual_stage(stage, chunk);
            let (first, decided) = (plan.first_layer(place), plan.stages[place]);
            let mut most_away: ByClass<u64> = [0; 4];
            for i in 0..decided.layers {
                let piece = &self.layers[&plan.job.model.kind(first + i)][decided.mode(i) as usize];
                bytes += piece.state;
                once = once.max(piece.once);
                if i < decided.offload {
                    most_away = std::array::from_fn(|class| most_away[class].max(piece.slots[class]));
                } else {
                    here.add(piece, chunk);
                }
            }
            let places = offload_slots(decided.offload, plan.microbatches()).iter().sum::<usize>() as u64;
            bytes += places * most_away.iter().sum::<u64>();
        }
        bytes + here.bytes(flight) + once.bytes()
    }
}

/// Layers that keep as much and so share what they keep it in: how many, by chunk.
#[derive(Default)]
struct Alike<'a>(Vec<(&'a PieceSize, Vec<usize>)>);

impl<'a> Alike<'a> {
    fn add(&mut self, piece: &'a PieceSize, chunk: usize) {
        let kept = |of: &PieceSize| (of.slots, of.briefs, of.held);
        let at = self.0.iter().position(|(other, _)| kept(other) == kept(piece)).unwrap_or_else(|| {
            self.0.push((piece, Vec::new()));
            self.0.len() - 1
        });
        let counts = &mut self.0[at].1;
        counts.resize(counts.len().max(chunk + 1), 0);
        counts[chunk] += 1;
    }

    fn bytes(&self, flight: &InFlight) -> u64 {
        self.0.iter().map(|(piece, counts)| flight.saved(piece, |chunk| counts.get(chunk).copied().unwrap_or(0))).sum()
    }
}

/// Sizes of a piece in each of its modes.
fn sizes(plan: &Plan, frame: &Frame, width: Formats, tied: bool) -> Vec<PieceSize> {
    let banks: Vec<BankSize> =
        BankGroup::all(&frame.params).iter().map(|group| BankSize::of(plan, group, tied)).collect();
    let bytes = |elems: usize, elem: Elem| elems as u64 * elem.bytes();
    let bucket = |of: Bucket, elem: Elem| {
        bytes(banks.iter().filter(|bank| of.holds(bank.zero, bank.store)).map(|bank| bank.elems).sum(), elem)
    };
    let state = banks.iter().map(|bank| bank.state(width)).sum();
    let (gathered, made) = (bucket(Bucket::Weights, width.model), bucket(Bucket::Grads, width.gradients));
    let packed = bucket(Bucket::Packed, Elem::U32);
    let of = |elems: &Elems| PieceSize {
        state,
        slot: width.bytes(elems.slot).iter().sum(),
        slots: width.bytes(elems.slot),
        briefs: width.bytes(elems.brief),
        held: bytes(elems.held, width.model),
        once: Once { work: width.bytes(elems.work), gathered, packed, made },
        banks: banks.clone(),
    };
    frame.modes.iter().map(of).collect()
}

/// Microbatches that a stage has under way, and the buffers in which it passes things on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Microbatches between forward and their end.
    pub slots: Peaks,
    /// Microbatches between forward and backward, which makes gradients of inputs alone where it is split.
    pub brief: Peaks,
    /// Microbatches between backward and the pass of weights.
    pub held: Peaks,
    /// Both of these together, where backward is split.
    pub either: Option<Peaks>,
    /// Buffers for what goes to other chunks and comes from them.
    pub streams: usize,
}

impl InFlight {
    /// Of a stage that runs `actions`.
    pub fn of(pipeline: &Pipeline, stage: usize, actions: &[Action]) -> InFlight {
        let depth = pipeline.stages * pipeline.chunks;
        let splits = pipeline.schedule.splits();
        let peaks = |span| Peaks::of(actions, pipeline.chunks, span, splits);
        let (slots, held) = (peaks(SlotSpan::Whole), peaks(SlotSpan::PutOff));
        // Where backward is whole, both end with it.
        let brief = if splits { peaks(SlotSpan::Brief) } else { slots.clone() };
        let either = splits.then(|| peaks(SlotSpan::Either));
        let streams = (0..pipeline.chunks).map(|chunk| {
            let (out, flow) = turns(pipeline, (stage, chunk), actions);
            flow + if pipeline.virtual_stage(stage, chunk) + 1 == depth { 0 } else { out }
        });
        InFlight { slots, brief, held, either, streams: streams.sum() }
    }

    /// Bytes that are kept for all microbatches of pieces like one, of which each chunk has so many.
    pub fn saved(&self, piece: &PieceSize, count: impl Fn(usize) -> usize) -> u64 {
        let slots = self.slots.together(&count) as u64;
        slots * piece.slot + self.split(&piece.briefs, piece.held, count).0
    }

    /// Bytes of what is kept until the gradients of inputs and of what they leave, of which each chunk has so many; and whether both
    /// lie in places of the larger's size, where that is less: as one ends, the other begins.
    pub fn split(&self, brief: &ByClass<u64>, held: u64, count: impl Fn(usize) -> usize) -> (u64, bool) {
        let together = |peaks: &Peaks| peaks.together(&count) as u64;
        let each = brief.iter().sum::<u64>();
        let apart = together(&self.brief) * each + together(&self.held) * held;
        let place = each + held.saturating_sub(brief[Class::Model as usize]);
        let shared = self.either.as_ref().filter(|_| held > 0).map(|either| together(either) * place);
        shared.filter(|shared| *shared < apart).map_or((apart, false), |shared| (shared, true))
    }

    /// Of every stage of a pipeline. How many are under way does not grow after a few rounds, so no more are looked at.
    pub fn all(pipeline: &Pipeline) -> Vec<InFlight> {
        let capped = Pipeline { microbatches: pipeline.settled(), ..*pipeline };
        capped.orders().iter().enumerate().map(|(stage, actions)| InFlight::of(&capped, stage, actions)).collect()
    }
}
