//! Adapters train as the mathematics has it: nothing is added at first, gradients are finite differences, the base stays what it
//! is, and every plan has the losses of one rank.

mod learnable;
mod tiny;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::train::Trainer;
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, Experts, Family, Job, Model, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Stage};

const STEPS: usize = 8;

fn model(architecture: Architecture) -> Model {
    let experts = Experts {
        count: 4,
        top_k: 2,
        groups: None,
        ffn: 32,
        shared_ffn: 32,
        dense_layers: 0,
        every: 2,
        capacity: 4.0,
        balance: 0.0,
    };
    let family = Family { experts: Some(experts), ..Family::default() };
    let family = Some(family).filter(|_| architecture == Architecture::Llama);
    Model { layers: 2, family, ..tiny::model(architecture) }
}

fn job(model: Model) -> Job {
    Job {
        precision: Precision::Fp32,
        steps: STEPS,
        seed: 3,
        optimizer: Optimizer { lr: 1e-2, min_lr: 1e-3, warmup_steps: 1, ..Optimizer::default() },
        tuning: Some(toml::from_str("method = 'lora'\nrank = 4").unwrap()),
        ..Job::of(model, 16, 8)
    }
}

fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    learnable::sample(64, step, index)
}

fn trainer(plan: &Plan) -> Trainer {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    let lowered = lower(plan).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()));
    let config = train_config(plan, 1, None);
    Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(sample)).unwrap()
}

fn losses(plan: &Plan) -> Vec<f64> {
    let mut trainer = trainer(plan);
    (0..STEPS).map(|_| trainer.step().unwrap().loss).collect()
}

#[test]
fn at_first_the_loss_is_that_of_the_base_which_stays_what_it_is() {
    let tuned = Plan::single(job(model(Architecture::Llama)), 8);
    let whole = Plan { job: Job { tuning: None, ..tuned.job.clone() }, ..tuned.clone() };
    let mut trainer = trainer(&tuned);
    let before = trainer.gather_params().unwrap();
    let first = trainer.step().unwrap().loss;
    assert_eq!(first, losses(&whole)[0]);
    let last = (1..STEPS).map(|_| trainer.step().unwrap().loss).last().unwrap();
    assert!(last < first - 0.05, "it learns: {first} to {last}");
    let after = trainer.gather_params().unwrap();
    let adapter = |name: &str| name.contains(".lora.");
    for (name, values) in &before {
        assert_eq!(adapter(name), after[name] != *values, "{name}");
    }
    assert!(trainer.gather_grads().unwrap().keys().all(|name| adapter(name)));
}

#[test]
fn gradients_of_adapters_are_finite_differences() {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let mut plan = Plan::single(job(model(architecture)), 8);
        plan.job.tuning.as_mut().unwrap().alpha = 2.0;
        let mut start: BTreeMap<String, Vec<f32>> = trainer(&plan).gather_params().unwrap();
        // Where B is zero, A has no gradient.
        for (name, values) in start.iter_mut().filter(|(name, _)| name.ends_with(".lora.b")) {
            values.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * 7 + name.len()) % 11) as f32 / 20.0 - 0.25);
        }
        let outcome = |params: &BTreeMap<String, Vec<f32>>| {
            let mut trainer = trainer(&plan);
            trainer.set_params(params).unwrap();
            let loss = trainer.step().unwrap().loss;
            (loss, trainer.gather_grads().unwrap())
        };
        let (_, grads) = outcome(&start);
        for (name, grad) in grads {
            let at = (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs())).unwrap();
            let moved = |by: f32| {
                let mut params = start.clone();
                params.get_mut(&name).unwrap()[at] += by;
                outcome(&params).0
            };
            let (slope, wanted) = ((moved(1e-2) - moved(-1e-2)) / 2e-2, f64::from(grad[at]));
            assert!((slope - wanted).abs() < 0.03 * wanted.abs() + 2e-4, "{name}[{at}]: {wanted}, slope {slope}");
        }
    }
}

#[test]
fn every_plan_has_the_losses_of_one_rank() {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let single = Plan::single(job(model(architecture)), 8);
        let wanted = losses(&single);
        let of = |mesh: Mesh, zero, full, sequence_parallel| {
            let layers = 2 / mesh.pp;
            let stages = vec![Stage { layers, full: if full { layers } else { 0 }, selective: 0, offload: 0 }; mesh.pp];
            Plan { mesh, zero, sequence_parallel, stages, microbatch: 2, ..single.clone() }
        };
        let plans = [
            of(Mesh { dp: 2, ..Mesh::ONE }, 1, false, false),
            of(Mesh { dp: 2, ..Mesh::ONE }, 3, true, false),
            of(Mesh { pp: 2, ..Mesh::ONE }, 0, false, false),
            of(Mesh { tp: 2, ..Mesh::ONE }, 0, true, false),
            of(Mesh { tp: 2, dp: 2, ..Mesh::ONE }, 2, false, true),
            of(Mesh { cp: 2, tp: 2, ..Mesh::ONE }, 3, false, false),
            of(
                Mesh { dp: 2, ep: if architecture == Architecture::Llama { 2 } else { 1 }, ..Mesh::ONE },
                3,
                false,
                false,
            ),
        ];
        for plan in plans {
            for (step, (ours, wanted)) in losses(&plan).iter().zip(&wanted).enumerate() {
                let error = (ours - wanted).abs() / wanted;
                assert!(error < 1e-4, "{}: step {step}: {ours} for {wanted}", plan.summary());
            }
        }
    }
}
