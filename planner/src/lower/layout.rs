//! Layout: the buffers that a stage declares, and where parameters, kept tensors and gradients lie in them.
//!
//! In: a plan and its pieces. Out: [`StageLayout`] of one stage.
//!
//! Invariant: the sum of the declared buffers is the stage's peak memory.

use std::ops::Range;

use meshwright_hardware::params::ParamSpec;
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

use super::at::At;
use super::bank::{Bank, BankExtent, BankGroup, BankState, Bucket, bank_of, kept_in, sharing, tied_apart, tied_elems};
use super::code::Pieces;
use super::flat::FlatBuffers;
use super::format::{ALIGN, ByClass, Class, Formats};
use super::turns::turns;
use super::update::BankRule;
use crate::model::{ParamDecl, Store};
use crate::plan::Plan;
use crate::schedule::Action;

mod brief;
mod saved;
mod views;

use brief::Brief;

/// Where a bank's weights or gradients stand at the moment: a buffer and a first element.
pub type BufferOffset = (u32, usize);

/// What a stage keeps of a piece for one microbatch: a buffer for each class that the piece has something of.
pub type Slot = ByClass<Option<u32>>;

/// One stage's buffers.
#[derive(Clone, Debug)]
pub struct StageLayout {
    /// Which stage.
    stage: usize,
    /// All, by number.
    pub buffers: Vec<Buffer>,
    /// The stage's pieces, chunk after chunk.
    pub pieces: Vec<At>,
    /// The pieces of each chunk.
    pub chunks: Vec<Range<usize>>,
    /// Banks of parameters.
    pub banks: Vec<Bank>,
    /// By piece: its banks, but for a tied table.
    pub banks_of: Vec<Vec<usize>>,
    /// The bank of a tied table, where this stage has one.
    pub tied: Option<usize>,
    /// By piece and microbatch: saved buffers.
    pub slots: Vec<Vec<Slot>>,
    /// By piece: the same of what is kept until the gradients of inputs are made, where backward is split.
    pub brief: Vec<Brief>,
    /// By piece whose activations go to the host: where they are then.
    pub hosted: Vec<Option<Hosted>>,
    /// Whether a backward pass is being written: it finds offloaded activations elsewhere.
    pub backward: bool,
    /// By piece and microbatch: what backward leaves for the pass of weights.
    pub held: Vec<Vec<u32>>,
    /// By chunk: gradients that flow from piece to piece, in turns.
    pub flow: Vec<Vec<u32>>,
    /// By chunk: activations for the next, in turns; none for the model's last.
    pub out: Vec<Vec<u32>>,
    /// Where weights are gathered in turns, in ZeRO-3.
    pub gathered: Vec<u32>,
    /// The same of packed ones.
    pub gathered_packed: Vec<u32>,
    /// Where gradients are made in turns, from ZeRO-2 on.
    pub made: Vec<u32>,
    /// By bank: where weights stand.
    pub weights_at: Vec<BufferOffset>,
    /// By bank: where gradients stand.
    pub grads_at: Vec<BufferOffset>,
    /// Where the second of two streams starts in what pieces exchange.
    second: usize,
    /// Working memory.
    pub work: Slot,
    /// Targets of a microbatch, on the stage of the head.
    pub targets: Option<u32>,
    /// The loss's sum, on the stage of the head.
    pub loss: Option<u32>,
    /// The sum of squared gradients.
    pub norm: u32,
    /// Where a tied embedding's gradient arrives from its other stage.
    pub peer: Option<u32>,
}

/// Where a piece's activations are that go to the host, by microbatch in turns.
#[derive(Clone, Debug)]
pub struct Hosted {
    /// On the host.
    pub between: Vec<Slot>,
    /// Where backward finds them again.
    pub back: Vec<Slot>,
}

impl StageLayout {
    /// The layout of a stage that runs `actions`.
    pub fn of(plan: &Plan, pieces: &Pieces, stage: usize, actions: &[Action]) -> StageLayout {
        let mut layout = StageLayout {
            stage,
            buffers: Vec::new(),
            pieces: Vec::new(),
            chunks: Vec::new(),
            banks: Vec::new(),
            banks_of: Vec::new(),
            tied: None,
            slots: Vec::new(),
            brief: Vec::new(),
            hosted: Vec::new(),
            backward: false,
            held: Vec::new(),
            flow: Vec::new(),
            out: Vec::new(),
            gathered: Vec::new(),
            gathered_packed: Vec::new(),
            made: Vec::new(),
            weights_at: Vec::new(),
            grads_at: Vec::new(),
            second: plan.second_stream(),
            work: [None; 4],
            targets: None,
            loss: None,
            norm: 0,
            peer: None,
        };
        for chunk in 0..plan.chunks {
            let first = layout.pieces.len();
            layout.pieces.extend(At::of_virtual_stage(plan, plan.virtual_stage(stage, chunk)));
            layout.chunks.push(first..layout.pieces.len());
        }
        let width = Formats::of(&plan.job);
        layout.add_banks(plan, pieces, width);
        layout.add_buckets(width);
        let flat = FlatBuffers::of(plan);
        for turn in 0..flat.count {
            layout.declare(&format!("flat.{turn}"), flat.elems, Lifetime::Scratch, width.model);
        }
        layout.add_slots(plan, pieces, actions, width);
        for chunk in 0..plan.chunks {
            layout.add_streams(plan, (stage, chunk), actions, width);
        }
        let work = Pieces::work_elems(layout.pieces.iter().map(|at| at.piece(plan, pieces)));
        layout.work =
            layout.declare_classes(Class::SUFFIX.map(|of| format!("work{of}")), work, Lifetime::Scratch, width);
        layout.norm = layout.declare("norm", 1, Lifetime::Scratch, Elem::F32);
        if layout.pieces.contains(&At::Head) {
            layout.targets = Some(layout.declare("targets", plan.target_rows(), Lifetime::Scratch, Elem::U32));
            layout.loss = Some(layout.declare("loss", 1, Lifetime::Scratch, Elem::F32));
        }
        if tied_apart(plan) && layout.tied.is_some() {
            layout.peer = Some(layout.declare("peer", tied_elems(plan), Lifetime::Scratch, width.gradients));
        }
        layout
    }

    fn declare(&mut self, name: &str, elems: usize, lifetime: Lifetime, elem: Elem) -> u32 {
        self.buffers.push(Buffer { name: name.to_owned(), elems, lifetime, elem });
        (self.buffers.len() - 1) as u32
    }

    /// A buffer for each class that has elements.
    fn declare_classes<S: AsRef<str>>(
        &mut self,
        names: ByClass<S>,
        elems: ByClass<usize>,
        lifetime: Lifetime,
        width: Formats,
    ) -> Slot {
        Class::ALL.map(|class| {
            let (name, elems) = (names[class as usize].as_ref(), elems[class as usize]);
            (elems > 0).then(|| self.declare(name, elems, lifetime, class.elem(width.model)))
        })
    }

    /// Buffers for what a chunk takes from others and gives to them.
    fn add_streams(&mut self, plan: &Plan, (stage, chunk): (usize, usize), actions: &[Action], width: Formats) {
        let activation = plan.stream_elems();
        let (out, flow) = turns(&plan.pipeline(), (stage, chunk), actions);
        let last = plan.virtual_stage(stage, chunk) + 1 == plan.mesh.pp * plan.chunks;
        let mut declare = |what: &str, turns: usize| -> Vec<u32> {
            let name = |turn| if plan.chunks > 1 { format!("{what}.{chunk}.{turn}") } else { format!("{what}.{turn}") };
            (0..turns).map(|turn| self.declare(&name(turn), activation, Lifetime::Scratch, width.model)).collect()
        };
        let (flow, out) = (declare("flow", flow), declare("out", if last { 0 } else { out }));
        self.flow.push(flow);
        self.out.push(out);
    }

    fn add_banks(&mut self, plan: &Plan, pieces: &Pieces, width: Formats) {
        for at in self.pieces.clone() {
            let embeds = at == At::Embed && plan.job.model.tied;
            let groups = BankGroup::all(&at.piece(plan, pieces).tape.params);
            let mine: Vec<usize> = groups.iter().map(|group| self.add_bank(plan, at, group, width, embeds)).collect();
            if embeds {
                self.tied = Some(mine[0]);
            }
            self.banks_of.push(mine);
        }
        let tied = pieces.head.tape.params.iter().filter(|decl| decl.tied);
        if self.tied.is_none() && self.pieces.contains(&At::Head) && tied.clone().next().is_some() {
            let params: Vec<&ParamDecl> = tied.collect();
            let store = params[0].store;
            let bank = self.add_bank(plan, At::Head, &BankGroup { params, experts: false, store }, width, true);
            self.banks[bank].twin = true;
            self.tied = Some(bank);
        }
    }

    fn add_bank(&mut self, plan: &Plan, at: At, group: &BankGroup, width: Formats, tied: bool) -> usize {
        let &BankGroup { ref params, experts, store } = group;
        let (axis, zero) = sharing(plan, experts, tied, store);
        let shards = if zero > 0 { plan.mesh.size(axis) } else { 1 };
        let (BankExtent { elems, decayed, whole, parts, .. }, starts) =
            bank_of(params.iter().copied(), &plan.mesh, shards * ALIGN);
        let kept = |from: u8| if zero >= from { elems / shards } else { elems };
        let name = if tied && at == At::Head { "tied".to_owned() } else { at.name() } + &group.name();
        let mut declare_as =
            |what: &str, elems, elem, lifetime| self.declare(&format!("{what}.{name}"), elems, lifetime, elem);
        let (own, offload) = (elems / shards, plan.job.optimizer.offload);
        let states = if offload { Lifetime::HostPersistent } else { Lifetime::Persistent };
        let kept_as = kept_in(store, zero, width);
        let weights = declare_as("weights", kept(3), kept_as, Lifetime::Persistent);
        let rule = BankRule::of(plan.job.optimizer.name, params, &plan.mesh);
        let state = (store == Store::Trained).then(|| BankState {
            grads: declare_as("grads", kept(2), width.gradients, Lifetime::Persistent),
            host: offload.then(|| {
                [("host.grads", width.gradients), ("host.weights", kept_as)]
                    .map(|(what, elem)| declare_as(what, own, elem, states))
            }),
            states: rule
                .states(elems, shards, width)
                .iter()
                .map(|&(name, elems, elem)| declare_as(name, elems, elem, states))
                .collect(),
            rule,
            master: width.master(zero).then(|| declare_as("master", own, width.state, states)),
        });
        let mut declare = |what: &str, elems, elem| declare_as(what, elems, elem, Lifetime::Persistent);
        if let Some(beside) = width.beside.filter(|_| state.is_some()) {
            declare("grads.made", kept(2), beside);
        }
        let offsets = starts.into_iter().map(|(decl, start)| (at.param_name(decl), decl.clone(), start)).collect();
        let twin = false;
        let bank = Bank { elems, decayed, whole, parts, twin, axis, zero, shards, weights, store, state, offsets };
        if plan.sites.is_some() && bank.state.is_some() {
            // Where all sites were when they last met, and the outer optimizer's momentum (Douillard et al. 2023).
            for what in ["outer.weights", "outer.momentum"] {
                self.declare(&format!("{what}.{name}"), elems / shards, Lifetime::Persistent, width.state);
            }
        }
        self.weights_at.push((bank.weights, 0));
        // Of frozen weights nobody asks for a gradient.
        self.grads_at.push((bank.state.as_ref().map_or(u32::MAX, |state| state.grads), 0));
        self.banks.push(bank);
        self.banks.len() - 1
    }

    /// Two places as large as the largest piece needs, for weights that are gathered and gradients that are scattered: one is
    /// in use while the other is under way.
    fn add_buckets(&mut self, width: Formats) {
        let all = [
            (Bucket::Weights, "gathered", width.model),
            (Bucket::Packed, "gathered.packed", Elem::U32),
            (Bucket::Grads, "made", width.gradients),
        ];
        let [gathered, packed, made] = all.map(|(bucket, what, width)| {
            let most = (0..self.pieces.len()).map(|index| self.bucket(index, bucket).1).max().unwrap_or(0);
            let name = |turn| format!("{what}.{turn}");
            let several = if most > 0 { 2 } else { 0 };
            (0..several).map(|turn| self.declare(&name(turn), most, Lifetime::Scratch, width)).collect()
        });
        (self.gathered, self.gathered_packed, self.made) = (gathered, packed, made);
    }

    /// Where each named parameter lives.
    pub fn params(&self) -> Vec<ParamSpec> {
        let specs = self.banks.iter().flat_map(|bank| {
            bank.offsets.iter().map(|(name, decl, offset)| ParamSpec {
                name: name.clone(),
                weights: bank.weights,
                grads: bank.state.as_ref().map(|state| state.grads),
                offset: *offset,
                rows: decl.rows,
                cols: decl.cols,
                shard: decl.shard.clone(),
                init: decl.init,
                experts: decl.experts,
                master: bank.state.as_ref().and_then(|state| state.master),
                weights_over: (bank.zero >= 3).then_some(bank.axis),
                grads_over: (bank.zero >= 2).then_some(bank.axis),
                master_over: bank
                    .state
                    .as_ref()
                    .filter(|state| state.master.is_some() && bank.shards > 1)
                    .map(|_| bank.axis),
            })
        });
        specs.collect()
    }
}
