//! A two-layer model, an embedding and a head, written by hand for any mesh.

use std::sync::Arc;

use meshwright_hardware::classes::Classes;
use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::{Layout, Op, Param};
use meshwright_hardware::params::{Init, ParamSpec, Params, Shard};
use meshwright_hardware::program::{
    ArgView, Block, BlockParam, Buffer, Call, Collective, Elem, Input, Instr, Kind, Lifetime, Phase, Program,
    RankProgram, Stream, View,
};
use meshwright_hardware::verify::{Verified, verify};

pub(super) const VOCAB: usize = 8;
const COLS: usize = 4;
pub(super) const SEQ: usize = 6;
pub(super) const GLOBAL_BATCH: usize = 8;

const WEIGHTS: u32 = 0;
const GRADS: u32 = 1;
const FIRST: u32 = 2;
const SECOND: u32 = 3;
const LOSS: u32 = 4;
const NORM: u32 = 5;
const IDS: u32 = 6;
const TARGETS: u32 = 7;
const X: u32 = 8;
const LOGITS: u32 = 9;
const STATS: u32 = 10;
const DX: u32 = 11;

/// Builds the tiny model for a mesh.
pub(super) struct Tiny {
    mesh: Mesh,
    zero1: bool,
    microbatches: usize,
    blocks: Vec<Block>,
}

impl Tiny {
    pub fn new(mesh: Mesh, zero1: bool, microbatches: usize) -> Self {
        assert!(mesh.pp <= 2);
        Tiny { mesh, zero1, microbatches, blocks: Vec::new() }
    }

    fn rows(&self) -> usize {
        GLOBAL_BATCH / self.mesh.dp / self.microbatches * SEQ
    }

    fn matrix(&self) -> usize {
        VOCAB / self.mesh.tp * COLS
    }

    /// Elements of a stage's flat weights: one matrix on each of two stages, both on one.
    fn weights(&self) -> usize {
        self.matrix() * 2 / self.mesh.pp
    }

    fn head_offset(&self) -> usize {
        if self.mesh.pp == 1 { self.matrix() } else { 0 }
    }

    /// A block of one op whose formals are the op's arguments.
    fn run(&mut self, op: Op, phase: Phase, args: Vec<View>) -> Instr {
        let formal = |p: Param| BlockParam { name: p.name.to_owned(), elems: p.elems };
        let params: Vec<_> = op.signature().into_iter().map(formal).collect();
        let args_of_op = (0..params.len()).map(|i| ArgView { param: i as u32, offset: 0 }).collect();
        self.blocks.push(Block { name: op.class().to_owned(), params, calls: vec![Call { op, args: args_of_op }] });
        instr(Kind::Run { block: self.blocks.len() as u32 - 1, phase, args })
    }

    fn reduce(&self, axis: Axis, buffer: u32, elems: usize) -> Instr {
        instr(Kind::Collective { op: Collective::AllReduce, axis, view: view(buffer, 0, elems) })
    }

    /// Elements of the flat buffers that this rank's optimizer works on.
    fn owned(&self, buffer: u32) -> View {
        if self.zero1 {
            View { shard: Some(Axis::Dp), ..view(buffer, 0, self.weights() / self.mesh.dp) }
        } else {
            view(buffer, 0, self.weights())
        }
    }

    fn zeros(&mut self) -> Vec<Instr> {
        [(GRADS, self.weights()), (LOSS, 1), (NORM, 1)]
            .map(|(buffer, n)| self.run(Op::Zero { n }, Phase::Optimizer, vec![view(buffer, 0, n)]))
            .to_vec()
    }

    fn embed(&mut self, microbatch: usize) -> Vec<Instr> {
        let (rows, shards) = (self.rows(), self.mesh.tp);
        let op = Op::Embed { rows, cols: COLS, vocab: VOCAB / shards, shards };
        let args = vec![view(IDS, 0, rows), view(WEIGHTS, 0, self.matrix()), view(X, 0, rows * COLS)];
        let load = instr(Kind::Load { input: Input::Tokens, into: view(IDS, 0, rows) });
        let load = Instr { microbatch: Some(microbatch as u32), ..load };
        vec![load, self.run(op, Phase::Forward, args), self.reduce(Axis::Tp, X, rows * COLS)]
    }

    fn head(&mut self, microbatch: usize) -> Vec<Instr> {
        let (rows, shards) = (self.rows(), self.mesh.tp);
        let vocab = VOCAB / shards;
        let w = view(WEIGHTS, self.head_offset(), self.matrix());
        let dw = view(GRADS, self.head_offset(), self.matrix());
        let (x, dx) = (view(X, 0, rows * COLS), view(DX, 0, rows * COLS));
        let (logits, targets) = (view(LOGITS, 0, rows * vocab), view(TARGETS, 0, rows));
        let all_stats = view(STATS, 0, shards * 3 * rows);
        let my_stats = View { shard: Some(Axis::Tp), ..view(STATS, 0, 3 * rows) };
        let matmul = |layout, m, n, k| Op::Matmul { layout, m, n, k, bias: false, accumulate: layout == Layout::Tn };
        let scale = 1.0 / (GLOBAL_BATCH * SEQ) as f32;
        let load = instr(Kind::Load { input: Input::Targets, into: targets });
        let gather = Kind::Collective { op: Collective::AllGather, axis: Axis::Tp, view: all_stats };
        vec![
            Instr { microbatch: Some(microbatch as u32), ..load },
            self.run(matmul(Layout::Nt, rows, vocab, COLS), Phase::Forward, vec![x, w, logits]),
            self.run(
                Op::LossStats { rows, vocab, words: VOCAB, shards },
                Phase::Forward,
                vec![logits, targets, my_stats],
            ),
            instr(gather),
            self.run(
                Op::Loss { rows, vocab, words: VOCAB, shards, scale },
                Phase::Forward,
                vec![targets, all_stats, logits, view(LOSS, 0, 1)],
            ),
            self.run(matmul(Layout::Nn, rows, COLS, vocab), Phase::Backward, vec![logits, w, dx]),
            self.run(matmul(Layout::Tn, vocab, COLS, rows), Phase::Backward, vec![logits, x, dw]),
            self.reduce(Axis::Tp, DX, rows * COLS),
        ]
    }

    fn embed_grad(&mut self) -> Instr {
        let (rows, shards) = (self.rows(), self.mesh.tp);
        let op = Op::EmbedGrad { rows, cols: COLS, vocab: VOCAB / shards, shards };
        let args = vec![view(IDS, 0, rows), view(DX, 0, rows * COLS), view(GRADS, 0, self.matrix())];
        self.run(op, Phase::Backward, args)
    }

    fn update(&mut self) -> Vec<Instr> {
        let (n, shards) = (self.owned(GRADS).elems, if self.zero1 { self.mesh.dp } else { 1 });
        let reduce = if self.zero1 { Collective::ReduceScatter } else { Collective::AllReduce };
        let collective = |op, buffer, n| instr(Kind::Collective { op, axis: Axis::Dp, view: view(buffer, 0, n) });
        let norm = Op::SquaredNorm { n, whole: usize::MAX, copies: 1, replicas: 1, shards, axis: Axis::Dp };
        let mut all = vec![
            collective(reduce, GRADS, self.weights()),
            self.run(norm, Phase::Optimizer, vec![self.owned(GRADS), view(NORM, 0, 1)]),
            self.reduce(Axis::Tp, NORM, 1),
            self.reduce(Axis::Pp, NORM, 1),
        ];
        if self.zero1 {
            all.push(self.reduce(Axis::Dp, NORM, 1));
        }
        let mut args = vec![view(NORM, 0, 1)];
        args.extend([GRADS, WEIGHTS, FIRST, SECOND].map(|buffer| self.owned(buffer)));
        let decayed = self.weights();
        all.push(self.run(Op::AdamW { n, decayed, shards, axis: Axis::Dp, master: false }, Phase::Optimizer, args));
        if self.zero1 {
            all.push(collective(Collective::AllGather, WEIGHTS, self.weights()));
        }
        all
    }

    fn buffers(&self) -> Vec<Buffer> {
        use Lifetime::{Persistent, Scratch};
        let (rows, n, vocab) = (self.rows(), self.weights(), VOCAB / self.mesh.tp);
        let declare = |name: &str, elems, lifetime| {
            let elem = if matches!(name, "ids" | "targets") { Elem::U32 } else { Elem::F32 };
            Buffer { name: name.to_owned(), elems, lifetime, elem }
        };
        vec![
            declare("weights", n, Persistent),
            declare("grads", n, Persistent),
            declare("first", n, Persistent),
            declare("second", n, Persistent),
            declare("loss", 1, Scratch),
            declare("norm", 1, Scratch),
            declare("ids", rows, Scratch),
            declare("targets", rows, Scratch),
            declare("x", rows * COLS, Scratch),
            declare("logits", rows * vocab, Scratch),
            declare("stats", 3 * rows * self.mesh.tp, Scratch),
            declare("dx", rows * COLS, Scratch),
        ]
    }

    pub fn build(mut self) -> (Arc<Verified>, Params) {
        let (elems, last) = (self.rows() * COLS, self.mesh.pp - 1);
        let mut roles = vec![self.zeros(); self.mesh.pp];
        for microbatch in 0..self.microbatches {
            roles[0].extend(self.embed(microbatch));
            if last == 1 {
                roles[0].push(instr(Kind::Send { to: 1, tag: 0, view: view(X, 0, elems) }));
                roles[1].push(instr(Kind::Recv { from: 0, tag: 0, view: view(X, 0, elems) }));
            }
            roles[last].extend(self.head(microbatch));
            if last == 1 {
                roles[1].push(instr(Kind::Send { to: 0, tag: 0, view: view(DX, 0, elems) }));
                roles[0].push(instr(Kind::Recv { from: 1, tag: 0, view: view(DX, 0, elems) }));
            }
            roles[0].push(self.embed_grad());
        }
        let update = self.update();
        let roles = roles.into_iter().map(|mut instrs| {
            instrs.extend(update.clone());
            RankProgram { buffers: self.buffers(), instrs }
        });
        let spec = |name: &str, offset| ParamSpec {
            name: name.to_owned(),
            weights: WEIGHTS,
            grads: Some(GRADS),
            offset,
            rows: VOCAB,
            cols: COLS,
            shard: Shard::Rows { sections: vec![VOCAB] },
            init: Init::Normal { std: 0.5 },
            experts: None,
            weights_over: None,
            grads_over: None,
            master: None,
            master_over: None,
        };
        let (embed, head) = (spec("embed", 0), spec("head", self.head_offset()));
        let params = if last == 1 { vec![vec![embed], vec![head]] } else { vec![vec![embed, head]] };
        let program = Program { mesh: self.mesh, classes: Classes::ONE, roles: roles.collect(), blocks: self.blocks };
        (Arc::new(verify(program).unwrap()), Params { roles: params })
    }
}

fn view(buffer: u32, offset: usize, elems: usize) -> View {
    View { buffer, offset, elems, shard: None }
}

fn instr(kind: Kind) -> Instr {
    Instr { kind, stream: Stream::Compute, waits: Vec::new(), microbatch: None, layer: None }
}
