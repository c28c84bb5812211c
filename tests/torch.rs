//! Training on torch's CPU: the losses of the default device, and what the command says where torch is not there.
//!
//! These tests need what `scripts/torch` sets up; without the feature `torch` there are none.

#![cfg(all(feature = "torch", unix))]

mod devices;

use std::path::Path;
use std::process::Output;

use devices::{TINY, assert_device_failed, command, meshwright, place};
use meshwright_executor::device::found;

#[test]
fn both_dresses_train_alike_under_every_kind_of_parallelism() {
    devices::both_dresses_train_alike(devices::named("torch"));
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    devices::the_same_bits_again(devices::named("torch"));
}

#[test]
fn the_command_trains_and_calibrates_on_it() {
    let place = place("torch-run");
    devices::the_command_trains(&place, devices::named("torch"));
    assert_calibrates(&place, "torch", &["torch 2.11.", "oneDNN", "date = \"20"]);
}

fn assert_calibrates(place: &Path, device: &str, parts: &[&str]) {
    let arguments = ["hardware", "calibrate", "--device", device, "--seconds", "0.5", "-o", "me.toml"];
    let output = meshwright(place, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let profile = std::fs::read_to_string(place.join("me.toml")).unwrap();
    for part in parts {
        assert!(profile.contains(part), "`{part}` in the profile");
    }
}

/// `cargo test --release --features torch --test torch -- --ignored`, on a machine with an NVIDIA GPU.
mod cuda {
    use super::*;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn both_dresses_train_alike_under_every_kind_of_parallelism() {
        devices::both_dresses_train_alike(devices::named("cuda"));
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn the_same_plan_gives_the_same_bits() {
        devices::the_same_bits_again(devices::named("cuda"));
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn the_command_trains_and_calibrates_on_it() {
        let place = place("cuda-run");
        devices::the_command_trains(&place, devices::named("cuda"));
        assert_calibrates(&place, "cuda:0", &["torch 2.11.", "CUDA 13", "date = \"20"]);
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
    let parts = ["device torch", "libmeshwright_torch.so is in none of", "torch-missing/empty", "scripts/torch"];
    assert_device_failed(&output, &place, &parts);
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
    assert_device_failed(&output, &place, &[&format!("device cuda:{beyond}")]);
}
