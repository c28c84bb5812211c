//! Programs: what each rank of a mesh does in one training step, as instruction lists over declared buffers.
//!
//! A program is SPMD by role: all ranks of a pipeline stage run the same list, so a program holds one list a stage
//! however many ranks there are; where replicas take unlike shares of the batch, one list a class of replicas and stage.
//! What differs between them (which shard, which peer) follows from the rank's
//! coordinates when it runs: a [`View`] may be sharded over an axis, peers are named by stage, and collectives by axis.
//!
//! Invariant: no times, no hardware, no addresses; only [`crate::verify`] says whether a program is sound.

use crate::classes::Classes;
use crate::mesh::{Axis, Coord, Mesh};
use crate::op::Op;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

mod collective;

pub use crate::elem::Elem;
pub use collective::Collective;

/// What a buffer holds between instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// Across steps: weights, optimizer state, counters.
    Persistent,
    /// From a write to the `Free` that ends it: activations kept for backward.
    Saved,
    /// The same in the memory of the host, to and from which only moves lead.
    Hosted,
    /// Across steps in the memory of the host, where ops on it run too: what an offloaded optimizer keeps.
    HostPersistent,
    /// Working space: any write may replace any part.
    Scratch,
}

impl Lifetime {
    /// Whether it is in the host's memory.
    pub fn is_hosted(self) -> bool {
        matches!(self, Lifetime::Hosted | Lifetime::HostPersistent)
    }
}

/// A buffer that a rank declares; the executor allocates every one of them for the whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Name in listings and checkpoints.
    pub name: String,
    /// Number of elements.
    pub elems: usize,
    /// How long contents matter.
    pub lifetime: Lifetime,
    /// What an element is.
    pub elem: Elem,
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.elems as u64 * self.elem.bytes()
    }
}

/// A contiguous part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Index in [`RankProgram::buffers`].
    pub buffer: u32,
    /// First element (of shard 0, where sharded).
    pub offset: usize,
    /// Number of elements (of one shard).
    pub elems: usize,
    /// Where set, each rank sees its own shard: the view moves by its position on this axis times `elems`.
    pub shard: Option<Axis>,
}

impl View {
    /// The first element that the rank at `at` sees.
    pub fn start(&self, at: Coord) -> usize {
        self.offset + self.shard.map_or(0, |axis| at.on(axis) * self.elems)
    }

    /// The elements that any rank of the mesh may see: all shards.
    pub fn extent(&self, mesh: &Mesh) -> std::ops::Range<usize> {
        let shards = self.shard.map_or(1, |axis| mesh.size(axis));
        self.offset..self.offset + shards * self.elems
    }
}

/// A part of a block's formal argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArgView {
    /// Index in [`Block::params`].
    pub param: u32,
    /// First element; the count follows from the op's signature.
    pub offset: usize,
}

/// An op with its arguments, in the order of [`Op::signature`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The kernel.
    pub op: Op,
    /// Its arguments.
    pub args: Vec<ArgView>,
}

/// A formal argument of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockParam {
    /// Name in listings.
    pub name: String,
    /// Number of elements.
    pub elems: usize,
}

/// A list of ops that instructions call many times with different views.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Name in listings: what it computes.
    pub name: String,
    /// Formal arguments.
    pub params: Vec<BlockParam>,
    /// Ops in order.
    pub calls: Vec<Call>,
}

/// What part of a step a block serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Forward pass.
    Forward,
    /// Forward ops run again because their results were not kept.
    Recompute,
    /// Backward pass: gradients of inputs and, where they are not apart, of weights.
    Backward,
    /// Gradients of weights, where they are apart.
    Weights,
    /// Zeroing, norms and weight updates.
    Optimizer,
}

impl Phase {
    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Recompute => "recompute",
            Phase::Backward => "backward",
            Phase::Weights => "weights",
            Phase::Optimizer => "optimizer",
        }
    }
}

/// What a rank loads from its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Token ids of a microbatch, `[microbatch, seq]`.
    Tokens,
    /// The next token of each, same shape; what a decoder beside an encoder has to write, `[microbatch, target]`.
    Targets,
    /// Targets one place later: what such a decoder has written before.
    Shifted,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Fill a view with a microbatch of data.
    Load {
        /// Which.
        input: Input,
        /// Where to.
        into: View,
    },
    /// Run a block.
    Run {
        /// Index in [`Program::blocks`].
        block: u32,
        /// What for.
        phase: Phase,
        /// Actual arguments, one a formal.
        args: Vec<View>,
    },
    /// Send to the rank of another stage with the same other coordinates; returns when the view may be reused.
    Send {
        /// Stage.
        to: usize,
        /// Which line of messages between the two: each is in order of its own.
        tag: u32,
        /// What.
        view: View,
    },
    /// Receive the next message of a line from a stage.
    Recv {
        /// Stage.
        from: usize,
        /// Which line.
        tag: u32,
        /// Where to.
        view: View,
    },
    /// A collective over this rank's group on an axis, in place.
    Collective {
        /// Which.
        op: Collective,
        /// Over which ranks.
        axis: Axis,
        /// The whole vector.
        view: View,
    },
    /// Copy between the memory of the device and that of the host.
    Move {
        /// What.
        from: View,
        /// Where to.
        to: View,
    },
    /// The contents of saved buffers are no longer needed.
    Free {
        /// Which.
        buffers: Vec<u32>,
    },
}

/// Which queue of the device an instruction goes to; each queue runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Kernels, and communication that the next kernel needs.
    Compute,
    /// Collectives that may run beside kernels.
    Comm,
    /// What goes from one rank to another, to a stage or round a ring: it waits for no collective among several.
    Message,
    /// Moves to the host's memory and back: devices have engines of their own for them.
    Host,
}

impl Stream {
    /// All of them, in the order of their numbers.
    pub const ALL: [Stream; 4] = [Stream::Compute, Stream::Comm, Stream::Message, Stream::Host];
    /// How many there are.
    pub const COUNT: usize = Stream::ALL.len();

    /// As traces call it.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Compute => "compute",
            Stream::Comm => "collectives",
            Stream::Message => "messages",
            Stream::Host => "host moves",
        }
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instr {
    /// What it does.
    pub kind: Kind,
    /// Where it queues.
    pub stream: Stream,
    /// Earlier instructions of the same rank on other streams that must have ended.
    pub waits: Vec<u32>,
    /// Which microbatch it serves, if one.
    pub microbatch: Option<u32>,
    /// Which layer of the model it serves, if one.
    pub layer: Option<u32>,
}

impl Instr {
    /// A short name for traces and tables: what it does, without where.
    pub fn name<'a>(&self, program: &'a Program) -> &'a str {
        match &self.kind {
            Kind::Load { .. } => "load",
            Kind::Run { block, .. } => &program.blocks[*block as usize].name,
            Kind::Send { .. } => "send",
            Kind::Recv { .. } => "recv",
            Kind::Collective { op, axis, .. } => op.over(*axis),
            Kind::Move { .. } => "move",
            Kind::Free { .. } => "free",
        }
    }

    /// The phase of the step it belongs to; communication and data have none.
    pub fn phase(&self) -> Option<Phase> {
        match self.kind {
            Kind::Run { phase, .. } => Some(phase),
            Kind::Load { .. }
            | Kind::Send { .. }
            | Kind::Recv { .. }
            | Kind::Collective { .. }
            | Kind::Move { .. }
            | Kind::Free { .. } => None,
        }
    }
}

/// What every rank of one role does in a step: of a stage, in one class of replicas.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RankProgram {
    /// Declared buffers.
    pub buffers: Vec<Buffer>,
    /// Instructions in order.
    pub instrs: Vec<Instr>,
}

impl RankProgram {
    /// Bytes of all declared buffers in the device's memory.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().filter(|buffer| !buffer.lifetime.is_hosted()).map(Buffer::bytes).sum()
    }

    /// Bytes of a view: of as many of its buffer's elements.
    pub fn view_bytes(&self, view: &View) -> Bytes {
        Bytes(view.elems as u64 * self.elem(view).bytes())
    }

    /// Whether a view is of the host's memory.
    pub fn is_hosted(&self, view: &View) -> bool {
        self.buffers[view.buffer as usize].lifetime.is_hosted()
    }

    /// What a view's elements are.
    pub fn elem(&self, view: &View) -> Elem {
        self.buffers[view.buffer as usize].elem
    }

    /// Bytes of all declared buffers in the host's memory.
    pub fn hosted_bytes(&self) -> u64 {
        self.buffers.iter().filter(|buffer| buffer.lifetime.is_hosted()).map(Buffer::bytes).sum()
    }
}

/// What every rank of a mesh does in one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The ranks.
    pub mesh: Mesh,
    /// Which replicas do the same.
    pub classes: Classes,
    /// Op lists that instructions call.
    pub blocks: Vec<Block>,
    /// One instruction list a class of replicas and pipeline stage: the stages of the first class, then of the next.
    pub roles: Vec<RankProgram>,
}

impl Program {
    /// The role of the rank at a coordinate.
    pub fn role_of(&self, at: Coord) -> usize {
        self.role(self.classes.of_replica(at.dp), at.pp)
    }

    /// The role of a class's stage.
    pub fn role(&self, class: usize, stage: usize) -> usize {
        class * self.mesh.pp + stage
    }

    /// The class and the stage of a role.
    pub fn class_and_stage(&self, role: usize) -> (usize, usize) {
        (role / self.mesh.pp, role % self.mesh.pp)
    }

    /// Instructions in all roles.
    pub fn instrs(&self) -> usize {
        self.roles.iter().map(|r| r.instrs.len()).sum()
    }
}
