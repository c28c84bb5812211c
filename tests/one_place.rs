//! A schedule, a model, a profile and a device are each named in one place, so that the next one is added in one place; an op in
//! four files, and in a table of each device that has a kernel for it.
//!
//! In: the crates' sources, tests left out. Out: nothing, or the files that name one beside its place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use meshwright_executor::device::DEVICES;
use meshwright_hardware::profile::catalog;
use meshwright_planner::models;
use meshwright_planner::schedule::Schedule;

/// Rust files under a folder, but for those of tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs")
            && path.file_stem().is_some_and(|stem| stem != "tests")
        {
            found.push(path);
        }
    }
}

/// Each source file by its path in the project, and its text without comments and tests.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "hardware/src", "planner/src", "executor/src"] {
        sources(&root.join(folder), &mut paths);
    }
    assert!(paths.len() > 100, "{} files", paths.len());
    let text = |path: PathBuf| {
        let all = fs::read_to_string(&path).unwrap();
        let code = all.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (path.strip_prefix(root).unwrap().display().to_string(), lines.collect::<Vec<_>>().join("\n"))
    };
    paths.into_iter().map(text).collect()
}

/// Whether a text has a word whole.
fn has(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[at + word.len()..].starts_with(part) && !text[..at].ends_with(part))
}

/// No file names a word, but for those whose paths begin with one of `places`.
#[track_caller]
fn stands_only_in(texts: &[(String, String)], word: &str, places: &[&str]) {
    let elsewhere = |path: &str| !places.iter().any(|place| path.starts_with(place));
    let named: Vec<&str> = texts.iter().filter(|(_, text)| has(text, word)).map(|(path, _)| path.as_str()).collect();
    let wrong: Vec<&str> = named.into_iter().filter(|path| elsewhere(path)).collect();
    assert!(wrong.is_empty(), "`{word}` stands in {wrong:?}; its place is {places:?}");
}

#[test]
fn a_schedule_is_named_by_its_registry_alone() {
    // Published runs name schedules too, of which estimates have a list of their own.
    let places = ["planner/src/schedule", "planner/src/estimate/", "src/validate/"];
    let texts = texts();
    for schedule in Schedule::ALL {
        stands_only_in(&texts, &format!("Schedule::{schedule:?}"), &places);
        stands_only_in(&texts, &format!("\"{}\"", schedule.name()), &places);
    }
}

#[test]
fn a_device_is_named_by_its_driver_and_the_table_alone() {
    let texts = texts();
    for entry in DEVICES.iter().filter(|entry| entry.name != "cpu") {
        stands_only_in(&texts, &format!("\"{}\"", entry.name), &["executor/src/device/"]);
    }
    stands_only_in(&texts, "Wgpu", &["executor/src/device/mod.rs", "executor/src/device/wgpu/"]);
    stands_only_in(&texts, "Torch", &["executor/src/device/mod.rs", "executor/src/device/torch/"]);
}

#[test]
fn models_and_profiles_are_named_by_no_code() {
    let texts = texts();
    for name in models::names() {
        stands_only_in(&texts, &format!("\"{name}\""), &["src/cli/demo.rs"]);
    }
    let catalog = catalog();
    let devices = catalog.devices.iter().map(|device| device.name.as_str());
    for name in devices.chain(catalog.systems.iter().map(|system| system.name.as_str())) {
        // Rows of published runs name accelerators in their own words.
        stands_only_in(&texts, &format!("\"{name}\""), &["src/validate/accelerator.rs"]);
    }
}

/// What an op is stands in one file beside the list of ops; besides it needs a rule for its gradient, and a model that uses it.
/// Where speed is wanted devices have kernels, a table each.
#[test]
fn an_op_is_named_in_four_files_and_in_a_table_a_device() {
    let texts = texts();
    let named: Vec<&str> =
        texts.iter().filter(|(_, text)| has(text, "LatentPack")).map(|(path, _)| path.as_str()).collect();
    let op = ["hardware/src/op/rotary.rs", "hardware/src/op/vocabulary.rs"];
    let model = ["planner/src/model/backward.rs", "planner/src/model/latent.rs"];
    let tables = ["executor/src/device/cpu/run.rs", "executor/src/device/wgpu/ops.rs"];
    let found: BTreeSet<&str> = named.into_iter().collect();
    assert_eq!(found, [op, model, tables].concat().into_iter().collect());
}
