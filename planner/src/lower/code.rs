//! Pieces to code: step lists split into blocks at collectives, with planned working memory.
//!
//! In: tapes. Out: [`Code`] for each piece, pass and recompute mode; the program's deduplicated blocks.
//!
//! Invariant: two values alive at the same time never share working memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::program::{ArgView, Block, BlockParam, Call, Collective, Phase};
use rustc_hash::FxHashMap;

use super::blocks::Blocks;
use super::format::{ALIGN, ByClass, Class, Formats, ValueFormats};
use super::runs::runs;
use super::saved_beside::saved_beside;
use super::unread::brief;
use crate::job::{LayerKind, Software};
use crate::model::{self, Backward, Home, Local, SplitBackward, Step, Tape, Use, Value};
use crate::plan::{Plan, Recompute};

/// A part of a piece's pass that is one instruction.
#[derive(Clone, Debug)]
pub enum Segment {
    /// A block with its actual arguments.
    Run {
        /// Number of the block.
        block: u32,
        /// What for.
        phase: Phase,
        /// One a formal.
        args: Vec<Use>,
    },
    /// A collective over an axis.
    Collective(Collective, Axis, Value),
}

/// One pass over a piece.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// Its instructions.
    pub segments: Vec<Segment>,
    /// Where its working values start in the memory of their class, in elements.
    pub work: FxHashMap<Value, usize>,
    /// Working memory it needs, in elements.
    pub work_elems: ByClass<usize>,
}

/// A piece's passes under one recompute mode.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What it computes.
    pub tape: Tape,
    /// Where each kept tensor starts in its class's part of the piece's slot, in elements; its input is at 0.
    pub kept: BTreeMap<usize, usize>,
    /// Those that lie in the slot of what is kept until the gradients of inputs are made.
    pub brief: BTreeSet<usize>,
    /// Size of a slot, in elements, without what is brief.
    pub slot_elems: ByClass<usize>,
    /// Size of the slot of what is brief, in elements.
    pub brief_elems: ByClass<usize>,
    /// Where each value starts that backward leaves for the pass of weights, in elements.
    pub held: BTreeMap<Value, usize>,
    /// Size of what it leaves, in elements.
    pub held_elems: usize,
    /// Forward pass.
    pub forward: Code,
    /// Recomputed forward ops and backward pass.
    pub backward: Code,
    /// Gradients of weights, where backward is split.
    pub weights: Code,
    /// What backward makes again first.
    pub again: Vec<Step>,
    /// What its values are of.
    pub(super) formats: ValueFormats,
    /// What is kept of it.
    pub(super) mode: Recompute,
    /// Name and elements of the gradients made inside, and elements of held copies.
    grads: Vec<(String, usize)>,
    copies: Vec<usize>,
}

/// All pieces of a plan.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Ids to activation.
    pub embed: Piece,
    /// Layers of each kind, by recompute mode in the order of [`Recompute::ALL`].
    pub layers: BTreeMap<LayerKind, [Piece; 3]>,
    /// Activation to loss and gradient: all in its backward pass.
    pub head: Piece,
}

/// What all pieces of a plan compute.
#[derive(Clone, Debug)]
pub struct Tapes {
    /// The embedding.
    pub embed: Tape,
    /// Layers of each kind.
    pub layers: BTreeMap<LayerKind, Tape>,
    /// The head.
    pub head: Tape,
}

impl Tapes {
    /// The tapes of a plan.
    pub fn of(plan: &Plan) -> Tapes {
        let local = local(plan);
        let model = &plan.job.model;
        let (scale, again) = (1.0 / plan.job.scored_tokens_per_step() as f32, &plan.recompute_modules);
        let kinds: BTreeSet<LayerKind> = (0..model.depth()).map(|layer| model.kind(layer)).collect();
        let layer = |kind: LayerKind| {
            let mut tape = model::layer(model, local, kind);
            // Every rank of tensor parallelism routes the same tokens, unless each has its own.
            tape.balance *= scale / if local.routes_own() { 1.0 } else { local.tp as f32 };
            (kind, tape)
        };
        let tuned = |tape: Tape| match &plan.job.tuning {
            Some(tuning) => tape.tuned(tuning),
            None => tape,
        };
        Tapes {
            embed: tuned(model::embed(model, local)),
            layers: kinds
                .into_iter()
                .map(layer)
                .map(|(kind, tape)| (kind, tuned(tape).making_again(again, kind)))
                .collect(),
            head: tuned(model::head(model, local, scale)),
        }
    }
}

impl Pieces {
    /// The pieces of a plan.
    pub fn of(plan: &Plan, blocks: &mut Blocks) -> Pieces {
        let Tapes { embed, layers, head } = Tapes::of(plan);
        let split = plan.schedule.splits();
        let elem = Formats::of(&plan.job);
        let modes = |tape: Tape, blocks: &mut Blocks| {
            Recompute::ALL.map(|mode| Piece::of(tape.clone(), (mode, split), elem, blocks))
        };
        Pieces {
            embed: Piece::of(embed, (Recompute::None, split), elem, blocks),
            layers: layers.into_iter().map(|(kind, tape)| (kind, modes(tape, blocks))).collect(),
            head: Piece::of_head(head, split, elem, blocks),
        }
    }

    /// A layer of a kind under a mode.
    pub fn layer(&self, kind: LayerKind, mode: Recompute) -> &Piece {
        &self.layers[&kind][mode as usize]
    }

    /// The most working memory of any pass, in elements.
    pub fn work_elems<'a>(used: impl IntoIterator<Item = &'a Piece>) -> ByClass<usize> {
        let codes = used.into_iter().flat_map(|p| [&p.forward, &p.backward, &p.weights]);
        codes.fold([0; 4], |most, code| std::array::from_fn(|class| most[class].max(code.work_elems[class])))
    }
}

/// What of a tape is kept for backward in a recompute mode, and the steps that make the rest again.
pub fn kept(tape: &Tape, backward: &Backward, mode: Recompute) -> (BTreeSet<usize>, Vec<Step>) {
    let needed = Tape::tensors_of(&backward.steps);
    let keeps = |t: &usize| match (tape.tensors[*t].home, mode) {
        (Home::Input | Home::Second | Home::Ids, _) => true,
        (Home::Inner { cheap }, Recompute::Selective) => !cheap,
        (Home::Inner { .. }, Recompute::None) => true,
        (Home::Inner { .. }, Recompute::Full) => false,
        (Home::Gathered | Home::Output | Home::SecondOut | Home::Targets | Home::Loss, _) => false,
    };
    let mut kept_set: BTreeSet<usize> = needed.iter().copied().filter(keeps).collect();
    kept_set.extend(tape.streams());
    let gone = |t: &usize| tape.tensors[*t].home.is_inside() && !kept_set.contains(t);
    // What only a ring's steps fill is filled by them again.
    let refilled = |t: &usize| tape.fills_itself(*t);
    let missing: BTreeSet<usize> = needed.into_iter().filter(|t| gone(t) && !refilled(t)).collect();
    let again = tape.recompute(missing, &kept_set);
    (kept_set, again)
}

/// Elements of what is kept, by class.
pub fn kept_elems(
    tape: &Tape,
    kept: &BTreeSet<usize>,
    backward: &Backward,
    mode: Recompute,
    formats: Formats,
) -> ByClass<usize> {
    let mut elems = slot(tape, kept, &ValueFormats::of(tape, &backward.steps, formats)).1;
    elems[Class::Model as usize] += saved_beside(tape, mode, formats.model);
    elems
}

/// What a rank of a plan holds of the model.
pub fn local(plan: &Plan) -> Local {
    let Mesh { tp, cp, ep, .. } = plan.mesh;
    let etp = plan.mesh.etp();
    let (microbatch, seq) = (plan.microbatch, plan.job.seq / cp);
    let (target, causal) = (plan.job.target(), plan.job.model.causal());
    let (sp, ring, software) = (plan.shards_tokens(), plan.ring, plan.job.software);
    let (loss, dropout) = (plan.job.loss.unwrap_or(software.loss), software.dropout && !plan.job.no_dropout);
    let software = Software { loss, dropout, ..software };
    let samples = plan.job.seq / plan.job.sample();
    Local { microbatch, seq, samples, target, causal, tp, sp, cp, ring, ep, etp, software }
}

impl Piece {
    /// Without code; `weights` are the steps of the pass of weights, where the schedule splits backward.
    fn empty(
        tape: Tape,
        (mode, weights): (Recompute, Option<&[Step]>),
        kept_set: &BTreeSet<usize>,
        backward: &Backward,
        elem: Formats,
    ) -> Piece {
        let formats = ValueFormats::of(&tape, &backward.steps, elem);
        let brief = weights.map_or_else(BTreeSet::new, |weights| brief(&tape, kept_set, weights));
        let (mut kept, mut slot_elems) = slot(&tape, &(kept_set - &brief), &formats);
        let (briefly, mut brief_elems) = slot(&tape, &brief, &formats);
        kept.extend(briefly);
        // Only backward of attention and of what is dropped has a use for it.
        let with = if weights.is_some() { &mut brief_elems } else { &mut slot_elems };
        with[Class::Model as usize] += saved_beside(&tape, mode, elem.model);
        Piece {
            formats,
            mode,
            tape,
            kept,
            brief,
            slot_elems,
            brief_elems,
            held: BTreeMap::new(),
            held_elems: 0,
            forward: Code::default(),
            backward: Code::default(),
            weights: Code::default(),
            again: Vec::new(),
            grads: backward.made.clone(),
            copies: Vec::new(),
        }
    }

    fn of(tape: Tape, (mode, split): (Recompute, bool), elem: Formats, blocks: &mut Blocks) -> Piece {
        let backward = tape.backward();
        let (kept_set, again) = kept(&tape, &backward, mode);
        let steps = backward.steps.clone();
        let split = split.then(|| backward.split());
        let weights = split.as_ref().map(|split| &split.weights[..]);
        let mut piece = Piece::empty(tape, (mode, weights), &kept_set, &backward, elem);
        piece.forward = piece.code(&[(Phase::Forward, piece.tape.forward())], blocks);
        if let Some(SplitBackward { inputs, weights, held }) = split {
            piece.copies = held;
            piece.hold(&weights);
            piece.backward = piece.code(&[(Phase::Recompute, again.clone()), (Phase::Backward, inputs)], blocks);
            piece.weights = piece.code(&[(Phase::Weights, weights)], blocks);
        } else {
            piece.backward = piece.code(&[(Phase::Recompute, again.clone()), (Phase::Backward, steps)], blocks);
        }
        piece.again = again;
        piece
    }

    /// Makes room for what the pass of weights reads and nobody else keeps.
    fn hold(&mut self, weights: &[Step]) {
        let read: BTreeSet<Value> = weights.iter().flat_map(Step::values).filter(|value| self.works(*value)).collect();
        for value in read {
            let class = self.class(value);
            debug_assert!(matches!(class, Class::Model | Class::Narrow), "weights' gradients are made of activations");
            let elems = self.elems(value).next_multiple_of(ALIGN);
            self.held.insert(value, self.held_elems);
            self.held_elems += elems;
        }
    }

    /// The head keeps only its input; forward, loss and backward are one pass.
    fn of_head(tape: Tape, split: bool, elem: Formats, blocks: &mut Blocks) -> Piece {
        let backward = tape.backward();
        let kept = tape.streams().collect();
        let none: &[Step] = &[];
        let mut piece = Piece::empty(tape, (Recompute::None, split.then_some(none)), &kept, &backward, elem);
        let lists = model::by_parts(&piece.tape, piece.tape.forward(), backward.steps);
        let phases = [Phase::Forward, Phase::Backward].into_iter().cycle();
        piece.backward = piece.code(&phases.zip(lists).collect::<Vec<_>>(), blocks);
        piece
    }

    /// The class of memory that a value lies in.
    pub fn class(&self, value: Value) -> Class {
        self.formats.class(value)
    }

    /// The elements of a slot that hold something, by class: what has padding between it is apart.
    pub fn kept_ranges(&self) -> ByClass<Vec<Range<usize>>> {
        let mut all: ByClass<Vec<Range<usize>>> = Default::default();
        for (&t, &start) in &self.kept {
            let ranges = &mut all[self.class(Value::Tensor(t)) as usize];
            let end = start + self.tape.tensors[t].elems;
            match ranges.last_mut() {
                Some(before) if before.end == start => before.end = end,
                _ => ranges.push(start..end),
            }
        }
        all
    }

    /// Name of a value in listings.
    fn name(&self, at: Use) -> String {
        let name = match at.value {
            Value::Tensor(t) => self.tape.tensors[t].name.to_owned(),
            Value::Grad(g) => self.grads[g].0.clone(),
            Value::Held(h) => format!("held.{h}"),
            Value::Flow => "d.x".to_owned(),
            Value::SecondFlow => "d.y".to_owned(),
            Value::Weight(p) => self.tape.params[p].name.to_owned(),
            Value::WeightGrad(p) => format!("d.{}", self.tape.params[p].name),
        };
        if at.part.is_some() || at.first > 0 { format!("{name}.part") } else { name }
    }

    /// Elements of a tensor, of a gradient made inside, or of a copy.
    pub fn elems(&self, value: Value) -> usize {
        match value {
            Value::Grad(g) => self.grads[g].1,
            Value::Held(h) => self.copies[h],
            Value::Tensor(_) | Value::Flow | Value::SecondFlow => self.tape.elems(value),
            Value::Weight(_) | Value::WeightGrad(_) => unreachable!("{value:?} has no size of its own"),
        }
    }

    /// Whether a value lives in working memory.
    pub(super) fn works(&self, value: Value) -> bool {
        match value {
            Value::Tensor(t) => self.tape.tensors[t].home.is_inside() && !self.kept.contains_key(&t),
            Value::Grad(_) | Value::Held(_) => true,
            Value::Flow | Value::SecondFlow | Value::Weight(_) | Value::WeightGrad(_) => false,
        }
    }

    fn code(&self, lists: &[(Phase, Vec<Step>)], blocks: &mut Blocks) -> Code {
        let mut code = Code::default();
        let steps: Vec<(Phase, &Step)> =
            lists.iter().flat_map(|(phase, list)| list.iter().map(|s| (*phase, s))).collect();
        self.lay_out(&steps, &mut code);
        for run in runs(&steps) {
            code.segments.push(match run[0].1 {
                Step::Collective(op, axis, value) => Segment::Collective(*op, *axis, *value),
                Step::Call(..) => self.block(run[0].0, run, blocks),
            });
        }
        code
    }

    fn block(&self, phase: Phase, run: &[(Phase, &Step)], blocks: &mut Blocks) -> Segment {
        let (mut params, mut args, mut calls) = (Vec::<BlockParam>::new(), Vec::<Use>::new(), Vec::new());
        for (_, step) in run {
            let Step::Call(op, uses) = step else { unreachable!("collectives stand alone") };
            let signature = op.signature();
            let views = uses.iter().zip(&signature).map(|(&at, formal)| {
                let known = args.iter().position(|&other| other == at).unwrap_or_else(|| {
                    args.push(at);
                    let name = if blocks.apart { String::new() } else { self.name(at) };
                    params.push(BlockParam { name, elems: formal.elems });
                    args.len() - 1
                });
                // Of a table, one op may use more than another.
                params[known].elems = params[known].elems.max(formal.elems);
                ArgView { param: known as u32, offset: 0 }
            });
            let views = views.collect();
            calls.push(Call { op: *op, args: views });
        }
        let name = if blocks.apart { String::new() } else { format!("{} {}", self.tape.name, phase.name()) };
        Segment::Run { block: blocks.add(Block { name, params, calls }), phase, args }
    }
}

/// Places kept tensors in a slot, the input first.
fn slot(tape: &Tape, kept: &BTreeSet<usize>, formats: &ValueFormats) -> (BTreeMap<usize, usize>, ByClass<usize>) {
    let mut at = [0; 4];
    let places = kept.iter().map(|&t| {
        let class = formats.class(Value::Tensor(t)) as usize;
        let start = at[class];
        at[class] += tape.tensors[t].elems.next_multiple_of(ALIGN);
        (t, start)
    });
    let places = places.collect();
    (places, at)
}
