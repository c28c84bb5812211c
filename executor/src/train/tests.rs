//! Training a model of two layers on every mesh.

use super::testing::{GLOBAL_BATCH, SEQ, Tiny, VOCAB};
use super::*;
use crate::device::Backend;
use meshwright_hardware::mesh::Mesh;
use std::path::PathBuf;

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
