//! Training on a wgpu adapter: the losses of the CPU, and what the command says of devices.
//!
//! These tests need an adapter; Mesa's software one will do, which `scripts/test` installs.

#![cfg(feature = "wgpu")]

mod devices;

use devices::{TINY, assert_device_failed, meshwright, place};

#[test]
fn both_dresses_train_alike_under_every_kind_of_parallelism() {
    devices::both_dresses_train_alike(devices::named("wgpu"));
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    devices::the_same_bits_again(devices::named("wgpu"));
}

#[test]
fn the_command_trains_on_it() {
    devices::the_command_trains(&place("wgpu-run"), devices::named("wgpu"));
}

#[test]
fn an_adapter_that_is_not_there_ends_the_command_with_what_was_found() {
    let place = place("wgpu-missing");
    let output = meshwright(&place, &["run", TINY, "--device", "wgpu:9", "-o", "out"]);
    assert_device_failed(&output, &place, &["wgpu:9", "found: cpu", "wgpu:0"]);
}

/// Where the loader of Vulkan finds no driver.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_an_adapter_ends_the_command_with_what_was_found() {
    let place = place("wgpu-none");
    let none = place.join("no-driver.json");
    let arguments = ["run", TINY, "--device", "wgpu", "-o", "out"];
    let mut command = devices::command(env!("CARGO_BIN_EXE_meshwright"), &place, &arguments);
    let output = command.env("VK_ICD_FILENAMES", &none).env("VK_DRIVER_FILES", &none).output().unwrap();
    let parts = ["wgpu:0", "found: cpu (", "no adapter"];
    assert_device_failed(&output, &place, &parts);
}

#[test]
fn the_list_of_hardware_has_the_devices_of_this_machine() {
    let place = place("wgpu-list");
    let mut command = devices::command(env!("CARGO_BIN_EXE_meshwright"), &place, &["hardware", "list"]);
    // As on a server, where no display is.
    let output = command.env_remove("XDG_RUNTIME_DIR").output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!complaints.contains("XDG_RUNTIME_DIR"), "{complaints}");
    let list = String::from_utf8_lossy(&output.stdout);
    for line in ["cpu            usable: ", "wgpu:0         usable: "] {
        assert!(list.contains(line), "`{line}` in: {list}");
    }
}
