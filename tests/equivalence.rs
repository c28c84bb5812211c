//! The same numbers whatever the plan: ranks as threads reproduce the single-rank loss curve.

use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::train::Trainer;
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Dress, Job, Model, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Schedule, Stage};

const STEPS: usize = 20;

fn job(dress: Dress) -> Job {
    let model = Model {
        name: "tiny".to_owned(),
        dress,
        layers: 4,
        hidden: 32,
        heads: 4,
        kv_heads: if dress == Dress::Llama { 2 } else { 4 },
        ffn: 64,
        vocab: 64,
        tied: dress == Dress::Gpt2,
        family: None,
        rope_theta: 1e4,
    };
    let optimizer = Optimizer { lr: 3e-3, min_lr: 3e-4, warmup_steps: 3, ..Optimizer::default() };
    Job { seq: 16, global_batch: 8, precision: Precision::Fp32, steps: STEPS, seed: 3, model, optimizer }
}

/// Tokens that a model can learn: each follows from the one before.
fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    let mut state = (step * 8 + index) as u32 * 7 + 1;
    let mut next = || {
        state = (state * 5 + 3) % 64;
        state
    };
    let all: Vec<u32> = (0..17).map(|_| next()).collect();
    (all[..16].to_vec(), all[1..].to_vec())
}

fn losses(plan: &Plan) -> Vec<f64> {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    let lowered = lower(plan).unwrap();
    let config = train_config(plan, 1, None);
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(sample)).unwrap();
    (0..STEPS).map(|_| trainer.step().unwrap().loss).collect()
}

/// DP, PP, TP, microbatch, schedule, ZeRO, and what each stage recomputes of its layers (full, selective).
type Case = (usize, usize, usize, usize, Schedule, u8, (usize, usize));

fn plan(dress: Dress, (dp, pp, tp, microbatch, schedule, zero, (full, selective)): Case) -> Plan {
    let layers = [vec![4], vec![3, 1], vec![], vec![1; 4]][pp - 1].clone();
    let stage = |layers: usize| {
        let full = full.min(layers);
        Stage { layers, full, selective: selective.min(layers - full) }
    };
    let stages = layers.into_iter().map(stage).collect();
    Plan { microbatch, schedule, zero, mesh: Mesh { dp, pp, tp, ..Mesh::ONE }, stages, job: job(dress) }
}

const CASES: [Case; 14] = [
    (1, 1, 1, 2, Schedule::OneFOneB, 0, (0, 0)),
    (1, 1, 1, 4, Schedule::OneFOneB, 0, (2, 1)),
    (2, 1, 1, 2, Schedule::OneFOneB, 0, (0, 0)),
    (2, 1, 1, 1, Schedule::OneFOneB, 1, (0, 4)),
    (4, 1, 1, 1, Schedule::OneFOneB, 1, (0, 0)),
    (1, 2, 1, 2, Schedule::OneFOneB, 0, (0, 0)),
    (1, 2, 1, 1, Schedule::GPipe, 0, (1, 1)),
    (1, 4, 1, 1, Schedule::OneFOneB, 0, (0, 0)),
    (1, 4, 1, 2, Schedule::GPipe, 0, (1, 0)),
    (1, 1, 2, 8, Schedule::OneFOneB, 0, (0, 0)),
    (2, 1, 2, 2, Schedule::OneFOneB, 1, (4, 0)),
    (1, 2, 2, 2, Schedule::OneFOneB, 0, (0, 2)),
    (2, 2, 1, 1, Schedule::GPipe, 1, (0, 0)),
    (2, 2, 2, 1, Schedule::OneFOneB, 1, (1, 1)),
];

fn all_plans_agree(dress: Dress) {
    let single = Plan::single(job(dress), 8);
    let wanted = losses(&single);
    assert!(wanted[STEPS - 1] < wanted[0] - 0.5, "it learns: {wanted:?}");
    for case in CASES {
        let plan = plan(dress, case);
        for (step, (ours, wanted)) in losses(&plan).iter().zip(&wanted).enumerate() {
            let error = (ours - wanted).abs() / wanted;
            assert!(error < 1e-4, "{}: step {step}: {ours} for {wanted}", plan.summary());
        }
    }
}

#[test]
fn gpt2_trains_alike_under_every_plan() {
    all_plans_agree(Dress::Gpt2);
}

#[test]
fn llama_trains_alike_under_every_plan() {
    all_plans_agree(Dress::Llama);
}
