//! What tests of every device that is not the default one ask: the losses of the CPU, the same bits again, a run by the
//! command.
//!
//! In: a device, and a folder for runs. Out: a panic that says which step or message differs.

#[path = "../learnable/mod.rs"]
mod learnable;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::device::Backend;
use meshwright_executor::train::{TrainConfig, Trainer};
use meshwright_hardware::mesh::Mesh;
use meshwright_planner::job::Architecture;
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::schedule::Schedule;
use serde_json::Value;

const STEPS: usize = 20;
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml");

/// Tokens that a model can learn: each follows from the one before.
fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    learnable::sample(256, step, index)
}

fn losses(plan: &Plan, device: Backend) -> Vec<f64> {
    plan.check().unwrap();
    let lowered = lower(plan).unwrap();
    let config = TrainConfig { device, ..train_config(plan, 1, None) };
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(sample)).unwrap();
    (0..STEPS).map(|_| trainer.step().unwrap().loss).collect()
}

#[track_caller]
fn assert_alike(ours: &[f64], wanted: &[f64]) {
    assert_eq!(ours.len(), wanted.len());
    assert!(wanted[STEPS - 1] < wanted[0] - 0.5, "it learns: {wanted:?}");
    for (step, (ours, wanted)) in ours.iter().zip(wanted).enumerate() {
        assert!((ours - wanted).abs() / wanted < 1e-4, "step {step}: {ours} on the device, {wanted} on the cpu");
    }
}

/// The device of a name.
pub fn named(name: &str) -> Backend {
    name.parse().unwrap()
}

/// Both dresses learn as on the CPU: on one rank, and under data, pipeline and tensor parallelism with recomputation.
pub fn both_dresses_train_alike(device: Backend) {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let mut plan = Plan::read(TINY).unwrap();
        plan.job.seq = 16;
        plan.job.model.architecture = architecture;
        plan.job.model.tied = architecture == Architecture::Gpt2;
        plan.job.model.kv_heads = if architecture == Architecture::Llama { 2 } else { 4 };
        let single = Plan::single(plan.job.clone(), 8);
        let wanted = losses(&single, Backend::CPU);
        assert_alike(&losses(&single, device), &wanted);
        let stage = |full| Stage { layers: 1, full, selective: 0, offload: 0 };
        let mesh = Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE };
        let split = Plan { mesh, schedule: Schedule::OneFOneB, zero: 1, stages: vec![stage(1), stage(0)], ..plan };
        assert_alike(&losses(&split, device), &wanted);
    }
}

/// The same plan gives the same bits.
pub fn the_same_bits_again(device: Backend) {
    let mut plan = Plan::read(TINY).unwrap();
    plan.job.seq = 16;
    assert_eq!(losses(&plan, device), losses(&plan, device));
}

/// The command trains on it and reports, against the CPU's profile.
pub fn the_command_trains(place: &Path, device: Backend) {
    let name = device.to_string();
    std::fs::write(place.join("text.txt"), "a text to learn from, again and again; ".repeat(2000)).unwrap();
    let run = |arguments: &[&str]| {
        let output = meshwright(place, &[&["run", TINY, "--data", "text.txt", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    run(&["-o", "cpu"]);
    let report = run(&["-o", "device", "--device", &name, "--cluster", "cpu/cluster.toml"]);
    assert!(report["measured"]["step_time_s"].as_f64().unwrap() > 0.0, "{report}");
    let measured = std::fs::read_to_string(place.join("device/measured.json")).unwrap();
    assert!(measured.contains(&name), "{measured}");
    let losses = |folder: &str| -> Vec<f64> {
        let metrics = std::fs::read_to_string(place.join(folder).join("metrics.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        metrics.lines().map(line).collect()
    };
    assert_alike(&losses("device"), &losses("cpu"));
}

/// A program, to be started in a folder of a test's own.
pub fn command(program: impl AsRef<Path>, place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).current_dir(place).env("XDG_CACHE_HOME", place.join("cache"));
    command
}

/// What the command gives in a folder.
pub fn meshwright(place: &Path, arguments: &[&str]) -> Output {
    command(env!("CARGO_BIN_EXE_meshwright"), place, arguments).output().unwrap()
}

/// An empty folder of a test's own.
pub fn place(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// That the command ended with exit code 4 (a device failed), wrote no folder `out`, and said all of these.
#[track_caller]
pub fn assert_device_failed(output: &Output, place: &Path, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
    assert!(!place.join("out").exists());
}
