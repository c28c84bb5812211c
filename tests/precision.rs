//! Training in two bytes: bf16 and fp16 learn as fp32 does; fp16's gradients are scaled, overflow and underflow handled.

mod learnable;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::device::Backend;
use meshwright_executor::metrics::StepMetrics;
use meshwright_executor::train::{CheckpointConfig, LossScaling, TrainConfig, Trainer};
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::Architecture;
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::schedule::Schedule;

const STEPS: usize = 20;
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml");

/// Losses of a run in two bytes against one in fp32, relative, over 20 steps.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 => 1e-2,
        Precision::Fp16 => 2e-3,
        other => unreachable!("{other} is not of two bytes"),
    }
}

/// None is 255.
fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    learnable::sample(128, step, index)
}

fn tiny(precision: Precision) -> Plan {
    let mut plan = Plan::read(TINY).unwrap();
    (plan.job.seq, plan.job.precision) = (16, precision);
    Plan::single(plan.job, 8)
}

/// Eight ranks: data, pipeline and tensor parallelism with ZeRO-1 and recomputation.
fn split(plan: Plan) -> Plan {
    let stage = |full| Stage { layers: 1, full, selective: 0, offload: 0 };
    let mesh = Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE };
    let (microbatch, schedule) = (2, Schedule::OneFOneB);
    Plan { mesh, microbatch, schedule, zero: 1, stages: vec![stage(1), stage(0)], ..plan }
}

fn trainer(plan: &Plan, change: impl FnOnce(TrainConfig) -> TrainConfig) -> Trainer {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    let lowered = lower(plan).unwrap();
    let config = change(train_config(plan, 1, None));
    Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(sample)).unwrap()
}

fn losses(plan: &Plan, device: Backend) -> Vec<f64> {
    let mut trainer = trainer(plan, |config| TrainConfig { device, ..config });
    (0..STEPS).map(|_| trainer.step().unwrap().loss).collect()
}

#[track_caller]
fn assert_alike(ours: &[f64], wanted: &[f64], allowed: f64) {
    for (step, (ours, wanted)) in ours.iter().zip(wanted).enumerate() {
        assert!((ours - wanted).abs() / wanted < allowed, "step {step}: {ours} for {wanted}");
    }
}

fn learns_alike(device: Backend) {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let of = |precision| {
            let mut plan = tiny(precision);
            plan.job.model.architecture = architecture;
            plan.job.model.tied = architecture == Architecture::Gpt2;
            plan.job.model.kv_heads = if architecture == Architecture::Llama { 2 } else { 4 };
            plan
        };
        let full = losses(&of(Precision::Fp32), Backend::CPU);
        assert!(full[STEPS - 1] < full[0] - 0.5, "it learns: {full:?}");
        for precision in [Precision::Bf16, Precision::Fp16] {
            let single = losses(&of(precision), device);
            assert_alike(&single, &full, tolerance(precision));
            assert_ne!(single, full, "it is not fp32");
            assert_alike(&losses(&split(of(precision)), device), &full, tolerance(precision));
        }
    }
}

#[test]
fn two_bytes_learn_as_four_do_on_the_cpu() {
    learns_alike(Backend::CPU);
}

#[cfg(feature = "wgpu")]
#[test]
fn two_bytes_learn_as_four_do_on_wgpu() {
    learns_alike("wgpu".parse().unwrap());
}

#[cfg(all(feature = "torch", unix))]
#[test]
fn two_bytes_learn_as_four_do_on_torch() {
    learns_alike("torch".parse().unwrap());
}

#[test]
fn measured_buffers_are_the_declared_ones_in_every_precision() {
    let bytes = |precision| {
        let plan = tiny(precision);
        let lowered = lower(&plan).unwrap();
        let role = &lowered.program.roles[0];
        let (declared, buffers) = (role.bytes(), role.buffers.len() as u64);
        let held = trainer(&plan, |config| config).rank_memory()[0].buffers;
        // Buffers begin on cache lines.
        assert!((declared..declared + 64 * buffers).contains(&held), "{precision}: {held} bytes for {declared}");
        declared
    };
    let [full, bf16, fp16] = [Precision::Fp32, Precision::Bf16, Precision::Fp16].map(bytes);
    assert!(bf16 == fp16 && bf16 < full, "{full} {bf16} {fp16}");
}

/// A trainer in fp16 whose scale begins at `initial` and doubles after `every` good steps.
fn scaled(plan: &Plan, initial: f32, every: usize) -> Trainer {
    trainer(plan, |config| TrainConfig { loss_scaling: LossScaling { initial, every }, ..config })
}

#[test]
fn an_overflow_skips_the_step_on_all_ranks_and_halves_the_scale() {
    for plan in [tiny(Precision::Fp16), split(tiny(Precision::Fp16))] {
        let mut trainer = scaled(&plan, 16_777_216.0, 1000);
        let first = trainer.gather_params().unwrap();
        let mut scales = Vec::new();
        loop {
            let outcome = trainer.step().unwrap();
            assert!(outcome.loss.is_finite() && scales.len() < 20, "{outcome:?}");
            scales.push(outcome.loss_scale);
            if outcome.grad_norm.is_finite() {
                break;
            }
            assert!(trainer.gather_params().unwrap() == first, "a skipped step changes nothing");
        }
        assert!(scales.len() > 2 && scales.windows(2).all(|two| two[1] == two[0] / 2.0), "{scales:?}");
        assert!(trainer.gather_params().unwrap() != first, "the next one does");
    }
}

/// A row of the embedding so large that only samples with its token overflow: in step 1, the last one, on the second replica.
#[test]
fn an_overflow_that_one_rank_sees_skips_the_step_on_all() {
    let rare = |step: usize, index: usize| {
        let (mut tokens, targets) = sample(step, index);
        if (step, index) == (1, 7) {
            tokens[3] = 255;
        }
        (tokens, targets)
    };
    let plan = split(tiny(Precision::Fp16));
    let lowered = lower(&plan).unwrap();
    let config = train_config(&plan, 1, None);
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(rare)).unwrap();
    let mut params = trainer.gather_params().unwrap();
    let (hidden, table) = (plan.job.model.hidden, params.get_mut("embed.tokens").unwrap());
    table[255 * hidden..].fill(65504.0 * 8.0);
    trainer.set_params(&params).unwrap();
    let mut all: Vec<BTreeMap<String, Vec<f32>>> = Vec::new();
    let mut finite = Vec::new();
    for _ in 0..3 {
        finite.push(trainer.step().unwrap().grad_norm.is_finite());
        all.push(trainer.gather_params().unwrap());
    }
    assert_eq!(finite, [true, false, true]);
    assert!(all[0] == all[1] && all[1] != all[2]);
}

/// With a tiny gain before the head and a learning rate of zero, what flows back is too small for fp16 until the scale has
/// grown.
#[test]
fn gradients_that_underflow_come_back_as_the_scale_grows() {
    let mut plan = tiny(Precision::Fp16);
    (plan.job.optimizer.lr, plan.job.optimizer.min_lr) = (0.0, 0.0);
    let grads = |trainer: &mut Trainer| {
        let gain = 2f32.powi(-20);
        let mut params = trainer.gather_params().unwrap();
        params.get_mut("final.norm.weight").unwrap().fill(gain);
        trainer.set_params(&params).unwrap();
        let mut most = Vec::new();
        for _ in 0..17 {
            let scale = trainer.step().unwrap().loss_scale;
            let all = trainer.gather_grads().unwrap();
            let of = &all["layers.0.mlp.down.weight"];
            most.push(of.iter().fold(0f64, |most, x| most.max(f64::from(x.abs()) / scale)));
        }
        most
    };
    let fixed = grads(&mut scaled(&plan, 1.0, 1000));
    assert!(fixed.iter().all(|&x| x == 0.0), "nothing is left of them: {fixed:?}");
    let grown = grads(&mut scaled(&plan, 1.0, 1));
    plan.job.precision = Precision::Fp32;
    let full = grads(&mut trainer(&plan, |config| config));
    assert!(grown[0] == 0.0 && (grown[16] / full[16] - 1.0).abs() < 0.05, "{grown:?} {full:?}");
}

#[test]
fn a_resumed_run_has_the_same_scale_skips_and_bits() {
    let plan = Plan { zero: 1, mesh: Mesh { dp: 2, ..Mesh::ONE }, ..Plan { microbatch: 4, ..tiny(Precision::Fp16) } };
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("precision-resume");
    let _ = std::fs::remove_dir_all(&dir);
    let make = |place: &str| {
        let checkpoints = Some(CheckpointConfig { dir: dir.join(place), every: 7, keep: 2 });
        let loss_scaling = LossScaling { initial: 8_388_608.0, every: 3 };
        trainer(&plan, |config| TrainConfig { checkpoints, loss_scaling, ..config })
    };
    let run = |trainer: &mut Trainer, until: usize| {
        let mut all = Vec::new();
        trainer
            .train(|metrics: &StepMetrics| {
                all.push((metrics.step, metrics.loss, metrics.loss_scale, metrics.skipped));
                if metrics.step + 1 == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        all
    };
    let whole = run(&mut make("whole"), STEPS);
    let mut parts = run(&mut make("parts"), 7);
    let mut again = make("parts");
    assert_eq!(again.resume().unwrap(), 7);
    parts.extend(run(&mut again, STEPS));
    assert_eq!(parts, whole);
    assert!(whole[6].3 > 0, "there were skips before: {whole:?}");
    assert!(whole.windows(2).any(|two| two[1].2 > two[0].2), "and the scale grew: {whole:?}");
}
