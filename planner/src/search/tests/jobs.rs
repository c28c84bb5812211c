//! Bounds of jobs that differ from plain training.

use super::*;

/// Every plan of a job: its bound, its floor and that of its bare shape are no longer than its simulated step.
fn bounded(job: &Job, text: &str) {
    bounded_on(job, &cluster(text), &Fix::default());
}

fn bounded_on(job: &Job, cluster: &Cluster, fix: &Fix) {
    let found = search(job, cluster, fix, usize::MAX).unwrap();
    assert!(found.best.len() > 10, "{}", found.best.len());
    let best = search(job, cluster, fix, 1).unwrap();
    let least = found.best.iter().map(|(_, figures)| figures.step_time_s).fold(f64::INFINITY, f64::min);
    assert!(best.best[0].1.step_time_s <= least * (1.0 + TOLERANCE), "{} for {least}", best.best[0].1.step_time_s);
    for (plan, figures) in &found.best {
        let ((bound, floor, plain), simulated) = (bounds(plan, cluster), figures.step_time_s);
        assert!(bound <= simulated * (1.0 + 1e-6), "{}: {bound} above {simulated}", plan.summary());
        assert!(floor <= bound * (1.0 + 1e-9), "{}: {floor} above {bound}", plan.summary());
        assert!(plain <= bound * (1.0 + 1e-9), "{}: {plain} above {bound}", plan.summary());
    }
}

#[test]
fn no_bound_of_packed_samples_is_above_its_simulation() {
    bounded(&Job { packed: Some(64), precision: Precision::Bf16, ..job_of_eight(32) }, "1x dgx-a100-80gb");
}

/// A job in bf16 with adapters of rank 8.
fn tuned(base: &str, job: Job) -> Job {
    let tuning = toml::from_str(&format!("method = 'lora'\nrank = 8\nbase = '{base}'")).unwrap();
    Job { tuning: Some(tuning), precision: Precision::Bf16, ..job }
}

#[test]
fn no_bound_of_fine_tuning_is_above_its_simulation() {
    for base in ["model", "nf4"] {
        bounded(&tuned(base, job_of_eight(32)), "1x dgx-a100-80gb");
    }
    let tied = Job { model: Model { layers: 8, ..tiny_model(Architecture::Gpt2) }, ..job_of_eight(32) };
    bounded(&tuned("model", tied), "2x dgx-a100-80gb");
}

#[test]
fn no_bound_of_an_encoder_decoder_is_above_its_simulation() {
    let family = crate::job::Family { decoder_layers: Some(2), ..Default::default() };
    let model = Model { layers: 2, hidden: 36, family: Some(family), ..tiny_model(Architecture::Gpt2) };
    bounded(&Job { target_seq: Some(6), ..tiny_job(model) }, "1x dgx-a100-80gb");
}

#[test]
fn no_bound_of_another_optimizer_is_above_its_simulation() {
    for name in ["muon", "adafactor", "adamw-8bit"] {
        let optimizer: crate::job::Optimizer = toml::from_str(&format!("name = '{name}'")).unwrap();
        bounded(&Job { optimizer, precision: Precision::Bf16, ..job_of_eight(32) }, "1x dgx-a100-80gb");
    }
}

#[test]
fn no_bound_of_an_offloaded_optimizer_is_above_its_simulation() {
    let optimizer = crate::job::Optimizer { offload: true, ..Default::default() };
    bounded(&Job { optimizer, precision: Precision::Bf16, ..job_of_eight(32) }, "1x dgx-a100-80gb");
}

/// Windows of attention in every second layer; the loss made with the head's product, of 32 tokens and more in parts.
#[test]
fn no_bound_of_windows_and_of_losses_in_parts_is_above_its_simulation() {
    let window = crate::job::AttentionWindow { tokens: 24, full_every: Some(2) };
    let family = crate::job::Family { window: Some(window), ..Default::default() };
    let base = job_of_eight(32);
    let model = Model { family: Some(family), ..base.model.clone() };
    bounded(&Job { model, precision: Precision::Bf16, ..base.clone() }, "1x dgx-a100-80gb");
    let loss = Some(meshwright_hardware::profile::LossKernel::Linear);
    bounded(&Job { loss, precision: Precision::Bf16, ..base }, "1x dgx-a100-80gb");
}

/// Tokens sent in eight bits, a copy to each of two nodes.
#[test]
fn no_bound_of_tokens_sent_once_a_node_is_above_its_simulation() {
    let experts = "count = 16\ntop_k = 4\nffn = 512\ngroups = { count = 4, top = 2 }";
    let family = crate::job::Family { experts: Some(toml::from_str(experts).unwrap()), ..Default::default() };
    let base = job_of_eight(64);
    let model = Model { family: Some(family), ..base.model.clone() };
    let job = Job { model, precision: Precision::Fp8, ..base };
    let sends = Stack { dispatch: TokenDispatch::PerNode, dispatches_narrow: true, ..Stack::clone(&heavy()) };
    let cluster = cluster("2x dgx-h100").under(Arc::new(job.runs_under(&sends)));
    bounded_on(&job, &cluster, &Fix { tp: Some(1), cp: Some(1), pp: Some(1), ..Fix::default() });
}
