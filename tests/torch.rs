//! Training on torch's CPU: the losses of the default device, and what the command says where torch is not there.
//!
//! These tests need what `scripts/torch` sets up; without the feature `torch` there are none.

#![cfg(all(feature = "torch", unix))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::device::{Backend, found};
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
        assert!((ours - wanted).abs() / wanted < 1e-4, "step {step}: {ours} on torch, {wanted} on the cpu");
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
        assert_alike(&losses(&single, Backend::Torch), &wanted);
        let stage = |full| Stage { layers: 1, full, selective: 0, offload: 0 };
        let mesh = Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE };
        let split = Plan { mesh, schedule: Schedule::OneFOneB, zero: 1, stages: vec![stage(1), stage(0)], ..plan };
        assert_alike(&losses(&split, Backend::Torch), &wanted);
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    let mut plan = Plan::read(TINY).unwrap();
    plan.job.seq = 16;
    assert_eq!(losses(&plan, Backend::Torch), losses(&plan, Backend::Torch));
}

fn command(program: impl AsRef<Path>, place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).current_dir(place).env("XDG_CACHE_HOME", place.join("cache"));
    command
}

/// Runs the command in a folder of the test's own.
fn meshwright(place: &Path, arguments: &[&str]) -> Output {
    command(env!("CARGO_BIN_EXE_meshwright"), place, arguments).output().unwrap()
}

fn place(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_command_trains_reports_and_calibrates_on_it() {
    let place = place("torch-run");
    std::fs::write(place.join("text.txt"), "a text to learn from, again and again; ".repeat(2000)).unwrap();
    let run = |arguments: &[&str]| {
        let output = meshwright(&place, &[&["run", TINY, "--data", "text.txt", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    run(&["-o", "cpu"]);
    let report = run(&["-o", "torch", "--device", "torch", "--cluster", "cpu/cluster.toml"]);
    assert!(report["measured"]["step_time_s"].as_f64().unwrap() > 0.0, "{report}");
    let losses = |folder: &str| -> Vec<f64> {
        let metrics = std::fs::read_to_string(place.join(folder).join("metrics.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        metrics.lines().map(line).collect()
    };
    assert_alike(&losses("torch"), &losses("cpu"));
    let output =
        meshwright(&place, &["hardware", "calibrate", "--device", "torch", "--seconds", "0.5", "-o", "me.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let profile = std::fs::read_to_string(place.join("me.toml")).unwrap();
    for part in ["torch 2.11.", "oneDNN", "date = \"20"] {
        assert!(profile.contains(part), "`{part}` in the profile");
    }
}

/// The command in a folder where nothing of torch lies beside it, told to look in `folder` and to find no Python.
fn alone(place: &Path, folder: &Path, arguments: &[&str]) -> Output {
    let lonely = place.join("alone/bin/meshwright");
    std::fs::create_dir_all(lonely.parent().unwrap()).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_meshwright"), &lonely).unwrap();
    command(&lonely, place, arguments).env("MESHWRIGHT_TORCH", folder).env("PATH", "/nowhere").output().unwrap()
}

#[test]
fn where_torch_is_not_there_the_command_says_what_it_looked_for_and_runs_without() {
    let place = place("torch-missing");
    let empty = place.join("empty");
    let output = alone(&place, &empty, &["run", TINY, "--device", "torch", "-o", "out"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    for part in ["device torch", "libmeshwright_torch.so is in none of", "torch-missing/empty", "scripts/torch"] {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
    assert!(!place.join("out").exists());
    let output = alone(&place, &empty, &["hardware", "list"]);
    let list = String::from_utf8_lossy(&output.stdout);
    for line in ["cpu            usable: ", "torch          cannot be used: lib", "cuda:0         cannot be used: lib"]
    {
        assert!(list.contains(line), "`{line}` in: {list}");
    }
}

#[test]
fn a_libtorch_of_another_version_is_refused() {
    let place = place("torch-version");
    std::fs::create_dir_all(place.join("torch/lib")).unwrap();
    for file in ["libmeshwright_torch.so", "torch/lib/libtorch_cpu.so"] {
        std::fs::write(place.join(file), "").unwrap();
    }
    let of = |version: &str| {
        std::fs::write(place.join("torch/version.py"), format!("__version__ = '{version}'\n")).unwrap();
        let output = alone(&place, &place, &["run", TINY, "--device", "torch", "-o", "out"]);
        assert_eq!(output.status.code(), Some(4));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = of("2.9.1");
    assert!(message.contains("is torch 2.9.1; 2.11.0 is needed"), "{message}");
    // The right version, but no library at all.
    let message = of("2.11.0");
    assert!(message.contains("libtorch_cpu.so cannot be opened: "), "{message}");
}

#[test]
fn the_list_of_hardware_has_torch_and_cuda_or_why_not() {
    let output = meshwright(&place("torch-list"), &["hardware", "list"]);
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(list.contains("torch          usable: ") && list.contains("; torch 2.11.0"), "{list}");
    assert!(list.contains("cuda:0         "), "{list}");
}

#[test]
fn a_cuda_device_that_is_not_there_ends_the_command() {
    let place = place("torch-cuda");
    let beyond = found().iter().filter(|found| found.name.starts_with("cuda") && found.problem.is_none()).count();
    let output = meshwright(&place, &["run", TINY, "--device", &format!("cuda:{beyond}"), "-o", "out"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    assert!(message.contains(&format!("device cuda:{beyond}")), "{message}");
}
