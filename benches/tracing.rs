//! What tracing costs, and how near a replay of a trace is to the step it was made from: steps of one trainer with and without it
//! in turn, a table of medians. Two trainers would differ by more than tracing costs, by where their memory lies.
//! `cargo bench --bench tracing -- cpu torch wgpu`; the CPU alone, unless devices are named.

use std::sync::Arc;
use std::time::Instant;

use meshwright::runs::train_config;
use meshwright_executor::device::{Backend, device_info};
use meshwright_executor::train::{TrainConfig, Trainer};
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::replay::durations;
use meshwright_hardware::simulate::simulate;
use meshwright_hardware::trace::{Origin, Trace};
use meshwright_hardware::units::Precision;
use meshwright_hardware::verify::Verified;
use meshwright_planner::job::{Job, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::schedule::Schedule;

/// Pairs of steps, after the first, which warm up.
const PAIRS: usize = 40;
const WARM_UP: usize = 2;

/// `demo-10m` on one rank; on two that share the batch; on two stages.
fn plans(seq: usize) -> Vec<(&'static str, Plan)> {
    let optimizer = Optimizer { warmup_steps: 10, ..Optimizer::default() };
    let model = models::load("demo-10m").expect("it is embedded");
    let job = Job { precision: Precision::Fp32, optimizer, ..Job::of(model, seq, 4) };
    let stage = |layers| Stage { layers, full: 0, selective: 0, offload: 0 };
    let single = Plan { stages: vec![stage(6)], ..Plan::single(job, 2) };
    let data = Plan { zero: 1, mesh: Mesh { dp: 2, ..Mesh::ONE }, ..single.clone() };
    let (schedule, mesh) = (Schedule::OneFOneB, Mesh { pp: 2, ..Mesh::ONE });
    let stages = Plan { schedule, mesh, microbatch: 1, stages: vec![stage(3), stage(3)], ..single.clone() };
    vec![("1 rank", single), ("2 ranks, ZeRO-1", data), ("2 stages, 1F1B", stages)]
}

fn trainer(plan: &Plan, device: Backend) -> (Arc<Verified>, Trainer) {
    let lowered = lower(plan).expect("the plan is sound");
    let threads = (device_info().cores / plan.mesh.ranks()).max(1);
    let config = TrainConfig { device, ..train_config(plan, threads, None) };
    let seq = plan.job.seq;
    let source = move |step: usize, index: usize| {
        let ids: Vec<u32> = (0..seq).map(|i| ((step * 31 + index * 7 + i * i) % 256) as u32).collect();
        let targets = ids.iter().map(|id| (id + 1) % 256).collect();
        (ids, targets)
    };
    let program = Arc::new(lowered.program);
    let trainer = Trainer::new(Arc::clone(&program), lowered.params, config, Arc::new(source));
    (program, trainer.expect("it fits this machine"))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// How far a replay is from what it replays, signed.
fn replayed(program: &Verified, measured: &Trace) -> f64 {
    let replayed = simulate(program, &durations(program, measured), false, Origin::Replayed).expect("it ran");
    replayed.step_time().0 as f64 / measured.step_time().0 as f64 - 1.0
}

/// Seconds of steps with and without a trace, and how far replays are off.
#[derive(Default)]
struct Pairs {
    with: Vec<f64>,
    without: Vec<f64>,
    replays: Vec<f64>,
}

/// Steps of a trainer with and without a trace, in turn.
fn pairs(plan: &Plan, device: Backend) -> Pairs {
    let (program, mut trainer) = trainer(plan, device);
    let mut pairs = Pairs::default();
    for pair in 0..WARM_UP + PAIRS {
        // Who comes first changes too.
        for traced in if pair % 2 == 0 { [true, false] } else { [false, true] } {
            trainer.set_traced(traced);
            let start = Instant::now();
            let outcome = trainer.step().expect("it trains");
            let seconds = start.elapsed().as_secs_f64();
            if pair < WARM_UP {
                continue;
            }
            if traced {
                pairs.with.push(seconds);
                pairs.replays.push(replayed(&program, &outcome.trace));
            } else {
                pairs.without.push(seconds);
            }
        }
    }
    pairs
}

fn compare(name: &str, plan: &Plan, device: Backend) {
    let Pairs { with, without, replays } = pairs(plan, device);
    let percent = |share: f64| format!("{:+.1} %", 100.0 * share);
    let cost = median(with.iter().zip(&without).map(|(with, without)| with / without).collect()) - 1.0;
    let worst = replays.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    let (cost, worst, replay) = (percent(cost), percent(worst), percent(median(replays)));
    let [with, without] = [with, without].map(|times| 1e3 * median(times));
    println!("| {device} | {name} | {with:.1} ms | {without:.1} ms | {cost} | {replay} | {worst} |");
}

fn main() {
    let named: Vec<Backend> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    let devices = if named.is_empty() { vec![Backend::CPU] } else { named };
    println!("| device | plan | step, traced | step, untraced | tracing costs | replayed, off by | at worst |");
    println!("|---|---|---|---|---|---|---|");
    for device in devices {
        // An adapter that is emulated takes seconds for what others do in a fraction of one.
        let seq =
            if device.find().is_ok_and(|found| found.software && !device.entry().shares_cores) { 32 } else { 256 };
        plans(seq).iter().for_each(|(name, plan)| compare(name, plan, device));
    }
}
