//! Training on a wgpu adapter: the losses of the CPU, and what the command says of devices.
//!
//! These tests need an adapter; Mesa's software one will do, which `scripts/test` installs.

#![cfg(feature = "wgpu")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::device::Backend;
use meshwright_executor::train::{TrainConfig, Trainer};
use meshwright_hardware::mesh::Mesh;
use meshwright_planner::job::Dress;
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Schedule, Stage};
use serde_json::Value;

const STEPS: usize = 20;
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml");

/// Tokens that a model can learn: each follows from the one before.
fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    let mut state = (step * 8 + index) as u32 * 7 + 1;
    let mut next = || {
        state = (state * 5 + 3) % 256;
        state
    };
    let all: Vec<u32> = (0..17).map(|_| next()).collect();
    (all[..16].to_vec(), all[1..].to_vec())
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
        assert!((ours - wanted).abs() / wanted < 1e-4, "step {step}: {ours} on wgpu, {wanted} on the cpu");
    }
}

#[test]
fn both_dresses_train_alike_under_every_kind_of_parallelism() {
    for dress in [Dress::Gpt2, Dress::Llama] {
        let mut plan = Plan::read(TINY).unwrap();
        plan.job.seq = 16;
        plan.job.model.dress = dress;
        plan.job.model.tied = dress == Dress::Gpt2;
        plan.job.model.kv_heads = if dress == Dress::Llama { 2 } else { 4 };
        let single = Plan::single(plan.job.clone(), 8);
        let wanted = losses(&single, Backend::Cpu);
        assert_alike(&losses(&single, Backend::Wgpu(0)), &wanted);
        let stage = |full| Stage { layers: 1, full, selective: 0, offload: 0 };
        let mesh = Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE };
        let split = Plan { mesh, schedule: Schedule::OneFOneB, zero: 1, stages: vec![stage(1), stage(0)], ..plan };
        assert_alike(&losses(&split, Backend::Wgpu(0)), &wanted);
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    let mut plan = Plan::read(TINY).unwrap();
    plan.job.seq = 16;
    assert_eq!(losses(&plan, Backend::Wgpu(0)), losses(&plan, Backend::Wgpu(0)));
}

/// Runs the command in a folder of the test's own.
fn meshwright(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
    command.args(arguments).current_dir(place).env("XDG_CACHE_HOME", place.join("cache")).output().unwrap()
}

fn place(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_command_trains_on_it() {
    let place = place("wgpu-run");
    std::fs::write(place.join("text.txt"), "a text to learn from, again and again; ".repeat(2000)).unwrap();
    let run = |arguments: &[&str]| {
        let output = meshwright(&place, &[&["run", TINY, "--data", "text.txt", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    run(&["-o", "cpu"]);
    let report = run(&["-o", "wgpu", "--device", "wgpu", "--cluster", "cpu/cluster.toml"]);
    assert!(report["measured"]["step_time_s"].as_f64().unwrap() > 0.0, "{report}");
    let measured = std::fs::read_to_string(place.join("wgpu/measured.json")).unwrap();
    assert!(measured.contains("wgpu:0"), "{measured}");
    let losses = |folder: &str| -> Vec<f64> {
        let metrics = std::fs::read_to_string(place.join(folder).join("metrics.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        metrics.lines().map(line).collect()
    };
    assert_alike(&losses("wgpu"), &losses("cpu"));
}

#[test]
fn an_adapter_that_is_not_there_ends_the_command_with_what_was_found() {
    let place = place("wgpu-missing");
    let output = meshwright(&place, &["run", TINY, "--device", "wgpu:9", "-o", "out"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    for part in ["wgpu:9", "found: cpu", "wgpu:0"] {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
    assert!(!place.join("out").exists());
}

/// Where the loader of Vulkan finds no driver.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_an_adapter_ends_the_command_with_what_was_found() {
    let place = place("wgpu-none");
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
    command.args(["run", TINY, "--device", "wgpu", "-o", "out"]).current_dir(&place);
    let none = place.join("no-driver.json");
    let output = command.env("VK_ICD_FILENAMES", &none).env("VK_DRIVER_FILES", &none).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    for part in ["wgpu:0", "there is none on this machine", "found: cpu (", "no adapter"] {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
    assert!(!place.join("out").exists());
}

#[test]
fn the_list_of_hardware_has_the_devices_of_this_machine() {
    let output = meshwright(&place("wgpu-list"), &["hardware", "list"]);
    let list = String::from_utf8_lossy(&output.stdout);
    for line in ["cpu            usable: ", "wgpu:0         usable: "] {
        assert!(list.contains(line), "`{line}` in: {list}");
    }
}
