//! Layout: the buffers that a stage declares, and where parameters, kept tensors and gradients lie in them.
//!
//! In: a plan and its pieces. Out: [`Layout`] of one stage.
//!
//! A piece's parameters lie in one flat bank, so that one collective and one AdamW serve all: first those that tensor
//! parallelism shards and that decay, then sharded ones that do not, then replicated ones.
//!
//! Invariant: the sum of the declared buffers is the stage's peak memory.

use std::collections::HashMap;

use meshwright_hardware::params::{ParamSpec, Shard};
use meshwright_hardware::program::{Buffer, Lifetime, View};
use meshwright_hardware::units::Precision;

use super::code::{ALIGN, Piece, Pieces};
use crate::model::{Home, ParamDecl, Value};
use crate::plan::{Plan, Recompute};

/// A piece's place in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The embedding.
    Embed,
    /// A layer by its number in the model.
    Layer(usize, Recompute),
    /// Final norm, head and loss.
    Head,
}

impl At {
    /// The pieces of a stage, in order.
    pub fn of_stage(plan: &Plan, stage: usize) -> Vec<At> {
        let first = plan.first_layer(stage);
        let decided = plan.stages[stage];
        let layers = (0..decided.layers).map(|i| At::Layer(first + i, decided.mode(i)));
        let embed = (stage == 0).then_some(At::Embed);
        let head = (stage + 1 == plan.mesh.pp).then_some(At::Head);
        embed.into_iter().chain(layers).chain(head).collect()
    }

    /// What it computes.
    pub fn piece(self, pieces: &Pieces) -> &Piece {
        match self {
            At::Embed => &pieces.embed,
            At::Layer(_, mode) => pieces.layer(mode),
            At::Head => &pieces.head,
        }
    }

    /// Its layer's number, if it is one.
    pub fn layer(self) -> Option<u32> {
        match self {
            At::Layer(layer, _) => Some(layer as u32),
            At::Embed | At::Head => None,
        }
    }

    fn name(self) -> String {
        match self {
            At::Embed => "embed".to_owned(),
            At::Layer(layer, _) => format!("layers.{layer}"),
            At::Head => "head".to_owned(),
        }
    }

    fn param_name(self, decl: &ParamDecl) -> String {
        match self {
            At::Layer(layer, _) => format!("layers.{layer}.{}", decl.name),
            At::Embed | At::Head => decl.name.to_owned(),
        }
    }
}

/// A flat bank of parameters with gradients and optimizer state.
#[derive(Clone, Debug)]
pub struct Bank {
    /// Elements of weights and gradients, padded.
    pub elems: usize,
    /// Elements before this decay.
    pub decayed: usize,
    /// Elements from here on are replicated over tensor parallelism.
    pub whole: usize,
    /// Whether its gradients are also those of another stage's bank, where they are counted.
    pub twin: bool,
    /// Weights.
    pub weights: u32,
    /// Gradients.
    pub grads: u32,
    /// AdamW's first moment.
    pub m: u32,
    /// AdamW's second moment.
    pub v: u32,
    /// Fp32 weights, where training is in a narrower format.
    pub master: Option<u32>,
    /// Where each parameter starts.
    offsets: Vec<(String, ParamDecl, usize)>,
}

/// One stage's buffers.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All, by number.
    pub buffers: Vec<Buffer>,
    /// The stage's pieces, in order.
    pub pieces: Vec<At>,
    /// Parameters of the pieces in order, then those of a tied head on its own stage.
    pub banks: Vec<Bank>,
    /// Saved buffers by slot, then by piece.
    pub slots: Vec<Vec<u32>>,
    /// Gradients that flow from piece to piece, taken in turns.
    pub flow: Vec<u32>,
    /// Activations for the next stage, taken in turns.
    pub out: Vec<u32>,
    /// Working memory.
    pub work: u32,
    /// Targets of a microbatch, on the last stage.
    pub targets: Option<u32>,
    /// The loss's sum, on the last stage.
    pub loss: Option<u32>,
    /// The sum of squared gradients.
    pub norm: u32,
    /// Where a tied embedding's gradient arrives from its other stage.
    pub peer: Option<u32>,
}

/// Widths of elements in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Widths {
    /// Weights and activations.
    pub model: u8,
    /// Gradients' sums, moments and fp32 weights.
    pub state: u8,
}

impl Widths {
    /// Of a format: mixed precision keeps sums and state in fp32 (Micikevicius et al. 2018).
    pub fn of(precision: Precision) -> Widths {
        Widths { model: precision.bytes() as u8, state: 4 }
    }

    /// Whether fp32 weights are kept beside narrower ones.
    pub fn master(self) -> bool {
        self.model < self.state
    }
}

/// Elements of a piece's bank: (padded, decayed, whole), and each parameter's start.
fn bank_of<'a>(
    params: impl Iterator<Item = &'a ParamDecl>,
    tp: usize,
    pad: usize,
) -> ([usize; 3], Vec<(&'a ParamDecl, usize)>) {
    let mut order: Vec<&ParamDecl> = params.collect();
    order.sort_by_key(|decl| (decl.shard == Shard::Whole, !decl.decay));
    let (mut at, mut decayed, mut whole, mut starts) = (0, 0, None, Vec::new());
    for decl in order {
        if decl.shard == Shard::Whole {
            whole.get_or_insert(at);
        }
        starts.push((decl, at));
        at += decl.elems(tp).next_multiple_of(ALIGN);
        if decl.decay {
            decayed = at;
        }
    }
    let elems = at.next_multiple_of(pad);
    ([elems, decayed, whole.unwrap_or(elems)], starts)
}

/// Over how many ranks a plan shards optimizer state.
pub fn state_shards(plan: &Plan) -> usize {
    if plan.zero > 0 { plan.mesh.dp } else { 1 }
}

impl Layout {
    /// The layout of a stage.
    pub fn of(plan: &Plan, pieces: &Pieces, stage: usize) -> Layout {
        let mut layout = Layout {
            buffers: Vec::new(),
            pieces: At::of_stage(plan, stage),
            banks: Vec::new(),
            slots: Vec::new(),
            flow: Vec::new(),
            out: Vec::new(),
            work: 0,
            targets: None,
            loss: None,
            norm: 0,
            peer: None,
        };
        let width = Widths::of(plan.job.precision);
        layout.add_banks(plan, pieces, width);
        for slot in 0..plan.in_flight(stage) {
            let all = layout.pieces.clone().into_iter();
            let saved = all.map(|at| {
                let name = format!("slot.{slot}.{}", at.name());
                let elem = if at == At::Embed { 4 } else { width.model };
                layout.declare(&name, at.piece(pieces).slot_elems, Lifetime::Saved, elem)
            });
            let saved = saved.collect();
            layout.slots.push(saved);
        }
        let rows = plan.microbatch * plan.job.seq;
        let activation = rows * plan.job.model.hidden;
        let last = stage + 1 == plan.mesh.pp;
        for turn in 0..turns(plan) {
            let flow = layout.declare(&format!("flow.{turn}"), activation, Lifetime::Scratch, width.model);
            layout.flow.push(flow);
            if !last {
                let out = layout.declare(&format!("out.{turn}"), activation, Lifetime::Scratch, width.model);
                layout.out.push(out);
            }
        }
        let work = Pieces::work_elems(layout.pieces.iter().map(|at| at.piece(pieces)));
        layout.work = layout.declare("work", work, Lifetime::Scratch, width.model);
        layout.norm = layout.declare("norm", 1, Lifetime::Scratch, 4);
        if last {
            layout.targets = Some(layout.declare("targets", rows, Lifetime::Scratch, 4));
            layout.loss = Some(layout.declare("loss", 1, Lifetime::Scratch, 4));
        }
        if plan.mesh.pp > 1 && plan.job.model.tied && (stage == 0 || last) {
            layout.peer = Some(layout.declare("peer", tied_elems(plan), Lifetime::Scratch, width.state));
        }
        layout
    }

    fn declare(&mut self, name: &str, elems: usize, lifetime: Lifetime, width: u8) -> u32 {
        self.buffers.push(Buffer { name: name.to_owned(), elems, lifetime, width });
        (self.buffers.len() - 1) as u32
    }

    fn add_banks(&mut self, plan: &Plan, pieces: &Pieces, width: Widths) {
        for at in self.pieces.clone() {
            let own = at.piece(pieces).tape.params.iter().filter(|decl| !decl.tied);
            self.add_bank(plan, at, &at.name(), own, width);
        }
        let tied = pieces.head.tape.params.iter().filter(|decl| decl.tied);
        if plan.mesh.pp > 1 && self.pieces.contains(&At::Head) && tied.clone().next().is_some() {
            self.add_bank(plan, At::Head, "tied", tied, width);
            self.banks.last_mut().expect("just added").twin = true;
        }
    }

    fn add_bank<'a>(
        &mut self,
        plan: &Plan,
        at: At,
        name: &str,
        params: impl Iterator<Item = &'a ParamDecl>,
        width: Widths,
    ) {
        let shards = state_shards(plan);
        let ([elems, decayed, whole], starts) = bank_of(params, plan.mesh.tp, shards * ALIGN);
        let mut declare =
            |what: &str, elems, width| self.declare(&format!("{what}.{name}"), elems, Lifetime::Persistent, width);
        let bank = Bank {
            elems,
            decayed,
            whole,
            twin: false,
            weights: declare("weights", elems, width.model),
            grads: declare("grads", elems, width.state),
            m: declare("m", elems / shards, width.state),
            v: declare("v", elems / shards, width.state),
            master: width.master().then(|| declare("master", elems / shards, width.state)),
            offsets: starts.into_iter().map(|(decl, start)| (at.param_name(decl), decl.clone(), start)).collect(),
        };
        self.banks.push(bank);
    }

    /// Where a piece's parameter lies: its bank and first element.
    fn param(&self, index: usize, decl: &ParamDecl) -> (&Bank, usize) {
        let bank = match (decl.tied, self.banks.last()) {
            (true, Some(tied)) if tied.twin => tied,
            (true, _) => &self.banks[0],
            (false, _) => &self.banks[index],
        };
        let start = bank.offsets.iter().find(|(_, other, _)| other.name == decl.name).expect("its bank has it").2;
        (bank, start)
    }

    /// The view of a value of the stage's `index`-th piece, for a microbatch; `elems` of it.
    pub fn view(
        &self,
        index: usize,
        piece: &Piece,
        work: &HashMap<Value, usize>,
        value: Value,
        mb: usize,
        elems: usize,
    ) -> View {
        let whole = |buffer, offset| View { buffer, offset, elems, shard: None };
        let slot = &self.slots[mb % self.slots.len()];
        match value {
            Value::Weight(p) => {
                let (bank, start) = self.param(index, &piece.tape.params[p]);
                whole(bank.weights, start)
            }
            Value::WeightGrad(p) => {
                let (bank, start) = self.param(index, &piece.tape.params[p]);
                whole(bank.grads, start)
            }
            Value::Flow => whole(self.flow[mb % self.flow.len()], 0),
            Value::Grad(_) => whole(self.work, work[&value]),
            Value::Tensor(t) => match piece.tape.tensors[t].home {
                Home::Input | Home::Ids => whole(slot[index], piece.kept[&t]),
                Home::Output => self.entry(index + 1, mb, elems),
                Home::Targets => whole(self.targets.expect("the last stage has targets"), 0),
                Home::Loss => whole(self.loss.expect("the last stage has a loss"), 0),
                Home::Inner { .. } => match piece.kept.get(&t) {
                    Some(&start) => whole(slot[index], start),
                    None => whole(self.work, work[&value]),
                },
            },
        }
    }

    /// Where the activation lies that enters the stage's `index`-th piece, or the next stage.
    pub fn entry(&self, index: usize, mb: usize, elems: usize) -> View {
        let buffer = match self.slots[mb % self.slots.len()].get(index) {
            Some(&saved) => saved,
            None => self.out[mb % self.out.len()],
        };
        View { buffer, offset: 0, elems, shard: None }
    }

    /// Where each named parameter lives.
    pub fn params(&self) -> Vec<ParamSpec> {
        let specs = self.banks.iter().flat_map(|bank| {
            bank.offsets.iter().map(|(name, decl, offset)| ParamSpec {
                name: name.clone(),
                weights: bank.weights,
                grads: bank.grads,
                offset: *offset,
                rows: decl.rows,
                cols: decl.cols,
                shard: decl.shard.clone(),
                init: decl.init,
            })
        });
        specs.collect()
    }
}

/// Buffers that stages exchange are taken in turns, so that a message may be under way while the next is made.
fn turns(plan: &Plan) -> usize {
    if plan.mesh.pp > 1 { plan.microbatches().min(2) } else { 1 }
}

/// Elements of a tied embedding on one rank, as its bank begins.
pub fn tied_elems(plan: &Plan) -> usize {
    plan.job.model.vocab / plan.mesh.tp * plan.job.model.hidden
}

/// What a stage's memory is made of: what its layers add one by one, and all the rest.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Bytes of a layer's weights, gradients and optimizer state.
    pub state: u64,
    /// Bytes of a layer's slot for one microbatch, by recompute mode.
    pub slot: [u64; 3],
    /// Bytes of all else, without working memory.
    pub fixed: u64,
    /// Bytes of working memory if a layer of each recompute mode is there.
    pub work: [u64; 3],
}

impl Footprint {
    /// The footprint of a stage, without laying it out.
    pub fn of(plan: &Plan, pieces: &Pieces, stage: usize) -> Footprint {
        let width = Widths::of(plan.job.precision);
        let (first, last) = (stage == 0, stage + 1 == plan.mesh.pp);
        let bytes = |elems: usize, width: u8| (elems * width as usize) as u64;
        let rows = plan.microbatch * plan.job.seq;
        let exchanged = turns(plan) * if last { 1 } else { 2 };
        let mut fixed = bytes(exchanged * rows * plan.job.model.hidden, width.model) + 4;
        let mut work = 0;
        let slots = plan.in_flight(stage);
        let apart = plan.mesh.pp > 1 && plan.job.model.tied;
        if first {
            let params = pieces.embed.tape.params.iter();
            fixed += state_bytes(plan, params) + bytes(slots * pieces.embed.slot_elems, 4);
            work = work.max(Pieces::work_elems([&pieces.embed]));
        }
        if last {
            let (tied, own): (Vec<_>, Vec<_>) = pieces.head.tape.params.iter().partition(|decl| decl.tied);
            fixed += state_bytes(plan, own.into_iter()) + bytes(slots * pieces.head.slot_elems, width.model);
            fixed += if apart { state_bytes(plan, tied.into_iter()) } else { 0 };
            fixed += 4 * (rows as u64 + 1);
            work = work.max(Pieces::work_elems([&pieces.head]));
        }
        if apart && (first || last) {
            fixed += bytes(tied_elems(plan), width.state);
        }
        let layers = &pieces.layers;
        Footprint {
            state: state_bytes(plan, layers[0].tape.params.iter()),
            slot: [0, 1, 2].map(|mode| bytes(layers[mode].slot_elems, width.model)),
            fixed,
            work: [0, 1, 2].map(|mode| bytes(work.max(Pieces::work_elems([&layers[mode]])), width.model)),
        }
    }
}

/// Bytes of a bank.
fn state_bytes<'a>(plan: &Plan, params: impl Iterator<Item = &'a ParamDecl>) -> u64 {
    let (width, shards) = (Widths::of(plan.job.precision), state_shards(plan));
    let ([elems, ..], _) = bank_of(params, plan.mesh.tp, shards * ALIGN);
    let moments = if width.master() { 3 } else { 2 };
    (elems * (width.model + width.state) as usize + moments * (elems / shards) * width.state as usize) as u64
}

/// Elements of optimizer state of each piece of a stage on one rank, padding included.
pub fn bank_elems(plan: &Plan, pieces: &Pieces, stage: usize) -> Vec<usize> {
    let shards = state_shards(plan);
    let of = |at: At| bank_of(at.piece(pieces).tape.params.iter(), plan.mesh.tp, shards * ALIGN).0[0] / shards;
    At::of_stage(plan, stage).into_iter().filter(|at| *at != At::Head).map(of).collect()
}

/// Bytes that a stage declares, without laying it out.
pub fn stage_bytes(plan: &Plan, pieces: &Pieces, stage: usize) -> u64 {
    let footprint = Footprint::of(plan, pieces, stage);
    let modes = (0..plan.stages[stage].layers).map(|i| plan.stages[stage].mode(i) as usize);
    let slots = plan.in_flight(stage) as u64;
    let layers: u64 = modes.clone().map(|mode| footprint.state + slots * footprint.slot[mode]).sum();
    footprint.fixed + layers + modes.map(|mode| footprint.work[mode]).max().unwrap_or(0)
}
