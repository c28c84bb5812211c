//! Training a two-layer model, an embedding and a head, written by hand for any mesh.

use super::*;
use crate::device::Backend;
use meshwright_hardware::classes::Classes;
use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::{Layout, Op, Param};
use meshwright_hardware::params::{Init, ParamSpec, Shard};
use meshwright_hardware::program::{
    ArgView, Block, BlockParam, Buffer, Call, Collective, Elem, Instr, Kind, Lifetime, Phase, RankProgram, Stream, View,
};
use meshwright_hardware::verify::verify;
use std::path::PathBuf;

const VOCAB: usize = 8;
const COLS: usize = 4;
const SEQ: usize = 6;
const GLOBAL_BATCH: usize = 8;

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
struct Tiny {
    mesh: Mesh,
    zero1: bool,
    microbatches: usize,
    blocks: Vec<Block>,
}

impl Tiny {
    fn new(mesh: Mesh, zero1: bool, microbatches: usize) -> Self {
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
            self.run(Op::LossStats { rows, vocab, shards }, Phase::Forward, vec![logits, targets, my_stats]),
            instr(gather),
            self.run(
                Op::Loss { rows, vocab, shards, scale },
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

    fn build(mut self) -> (Arc<Verified>, Params) {
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
            grads: GRADS,
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

fn config(mesh: Mesh, microbatches: usize) -> TrainConfig {
    TrainConfig {
        steps: 12,
        seed: 3,
        lr_peak: 0.1,
        lr_min: 0.01,
        warmup_steps: 2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 0.3,
        loss_scaling: Default::default(),
        microbatch_size: GLOBAL_BATCH / mesh.dp / microbatches,
        num_microbatches: microbatches,
        shares: Vec::new(),
        seq: SEQ,
        global_batch: GLOBAL_BATCH,
        device: Backend::CPU,
        threads_per_rank: 1,
        traced: true,
        checkpoints: None,
        text: None,
    }
}

/// Tokens all over the vocabulary; each has one successor.
fn source() -> Arc<Source> {
    Arc::new(|step, index| {
        let token = |i: usize| ((step * 31 + index * 17 + i * 5) % 13 % VOCAB) as u32;
        let tokens: Vec<u32> = (0..SEQ).map(token).collect();
        let targets = tokens.iter().map(|t| (t * 3 + 1) % VOCAB as u32).collect();
        (tokens, targets)
    })
}

fn trainer(mesh: Mesh, zero1: bool, microbatches: usize) -> Trainer {
    let (program, params) = Tiny::new(mesh, zero1, microbatches).build();
    Trainer::new(program, params, config(mesh, microbatches), source()).unwrap()
}

fn go_on(_: &StepMetrics) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{what}: {a:?} against {b:?}");
}

#[test]
fn every_mesh_trains_to_the_same_numbers() {
    let mut single = trainer(Mesh::ONE, false, 1);
    let want = single.train(go_on).unwrap();
    assert!(want.losses[11] < 0.6 * want.losses[0], "{:?}", want.losses);
    let (want_params, want_grads) = (single.gather_params().unwrap(), single.gather_grads().unwrap());
    for (dp, pp, tp, zero1, microbatches) in [
        (1, 1, 1, false, 4),
        (2, 1, 1, false, 1),
        (4, 1, 1, true, 2),
        (1, 2, 1, false, 2),
        (1, 1, 4, false, 1),
        (2, 2, 2, false, 2),
        (2, 2, 2, true, 1),
    ] {
        let what = format!("dp {dp}, pp {pp}, tp {tp}, zero1 {zero1}, {microbatches} microbatches");
        let mut trainer = trainer(Mesh { dp, pp, tp, ..Mesh::ONE }, zero1, microbatches);
        let got = trainer.train(go_on).unwrap();
        for (got, want) in got.losses.iter().zip(&want.losses) {
            assert!((got / want - 1.0).abs() < 1e-4, "{what}: {got} against {want}");
        }
        let (params, grads) = (trainer.gather_params().unwrap(), trainer.gather_grads().unwrap());
        for name in ["embed", "head"] {
            close(&params[name], &want_params[name], &what);
            close(&grads[name], &want_grads[name], &what);
        }
    }
}

#[test]
fn gradients_are_those_of_the_loss() {
    let mut trainer = trainer(Mesh { dp: 2, pp: 1, tp: 2, ..Mesh::ONE }, true, 1);
    let start = trainer.gather_params().unwrap();
    let mut outcome_at = |values: &std::collections::BTreeMap<String, Vec<f32>>| {
        trainer.set_params(values).unwrap();
        trainer.next_step = 0;
        (trainer.step().unwrap(), trainer.gather_grads().unwrap())
    };
    let (outcome, grads) = outcome_at(&start);
    let squares: f64 = grads.values().flatten().map(|&g| f64::from(g).powi(2)).sum();
    assert!((outcome.grad_norm / squares.sqrt() - 1.0).abs() < 1e-5);
    for (name, index) in [("embed", 0), ("embed", 17), ("head", 5), ("head", 31)] {
        let mut loss_at = |offset: f32| {
            let mut moved = start.clone();
            moved.get_mut(name).unwrap()[index] += offset;
            outcome_at(&moved).0.loss
        };
        let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
        let got = f64::from(grads[name][index]);
        assert!((slope - got).abs() < 1e-3, "{name}[{index}]: {got}, by differences {slope}");
    }
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("meshwright-train-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

#[test]
fn a_resumed_run_gives_the_same_bits() {
    let mesh = Mesh { dp: 2, pp: 1, tp: 1, ..Mesh::ONE };
    let whole = trainer(mesh, true, 2).train(go_on).unwrap();
    let dir = folder("resume");
    let with_checkpoints = |seed| {
        let (program, params) = Tiny::new(mesh, true, 2).build();
        let checkpoints = Some(CheckpointConfig { dir: dir.clone(), every: 4, keep: 2 });
        Trainer::new(program, params, TrainConfig { seed, checkpoints, ..config(mesh, 2) }, source()).unwrap()
    };
    let mut first = with_checkpoints(3);
    assert_eq!(first.resume().unwrap(), 0);
    let stop_after_six = |m: &StepMetrics| if m.step == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let begun = first.train(stop_after_six).unwrap();
    let mut second = with_checkpoints(3);
    assert_eq!(second.resume().unwrap(), 6);
    let ended = second.train(go_on).unwrap();
    assert_eq!(ended.first_step, 6);
    assert_eq!([begun.losses, ended.losses].concat(), whole.losses);
    let error = with_checkpoints(4).resume().unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_rank_that_fails_ends_the_run_with_its_own_error() {
    let mesh = Mesh { dp: 2, pp: 2, tp: 1, ..Mesh::ONE };
    let (program, params) = Tiny::new(mesh, false, 1).build();
    let short: Arc<Source> = Arc::new(|_, index| if index < 4 { source()(0, index) } else { (vec![0], vec![0]) });
    let error = Trainer::new(program, params, config(mesh, 1), short).unwrap().train(go_on).unwrap_err();
    assert!(error.to_string().contains("1 tokens where the program takes 6"), "{error}");
    let (program, params) = Tiny::new(mesh, false, 1).build();
    let panics: Arc<Source> = Arc::new(|_, _| panic!("no data"));
    let error = Trainer::new(program, params, config(mesh, 1), panics).unwrap().train(go_on).unwrap_err();
    assert!(error.to_string().contains("no data") && error.exit_code() == 4, "{error}");
}

#[test]
fn a_batch_that_does_not_fit_the_mesh_is_refused() {
    let (program, params) = Tiny::new(Mesh::ONE, false, 1).build();
    let config = TrainConfig { global_batch: 9, ..config(Mesh::ONE, 1) };
    let error = Trainer::new(program, params, config, source()).err().unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("global_batch = 9"), "{error}");
}

#[test]
fn the_trace_and_the_memory_are_those_of_every_rank() {
    let mesh = Mesh { dp: 1, pp: 2, tp: 2, ..Mesh::ONE };
    let mut trainer = trainer(mesh, false, 2);
    let report = trainer.train(go_on).unwrap();
    assert_eq!(report.step_times.len(), 12);
    assert_eq!(report.trace.lanes.len(), 4);
    for lane in &report.trace.lanes {
        assert_eq!(lane.spans.len(), trainer.program.roles[lane.role].instrs.len());
        assert!(lane.spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    let declared = trainer.program.roles[0].bytes();
    assert!(report.rank_memory.iter().all(|rank| rank.buffers >= declared && rank.staging > 0));
    assert_eq!(report.peak_memory_bytes, report.rank_memory.iter().map(RankMemory::total).max().unwrap());
}

#[test]
fn the_learning_rate_warms_up_and_falls_to_its_least() {
    let config = TrainConfig { steps: 10, warmup_steps: 4, ..config(Mesh::ONE, 1) };
    assert_eq!([0, 3, 4].map(|step| config.lr(step)), [0.025, 0.1, 0.1]);
    assert!((config.lr(7) - 0.055).abs() < 1e-12 && (config.lr(10) - 0.01).abs() < 1e-12);
}
