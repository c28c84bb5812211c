//! A schedule, a model, a profile and a device are each named in one place, so that the next one is added in one place; an op in
//! four files, and in a table of each device that has a kernel for it. A type's name has one meaning.
//!
//! In: the crates' sources, tests left out. Out: nothing, or the files that name one beside its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use meshwright_executor::device::DEVICES;
use meshwright_hardware::op::{Op, Sizes};
use meshwright_hardware::profile::catalog;
use meshwright_planner::models;
use meshwright_planner::schedule::Schedule;

/// Rust files under a folder, but for those of tests and what lies in folders of them.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Each source file by its path in the project, and its text without comments and tests.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "hardware/src", "planner/src", "engines/src", "executor/src", "executor/torch/src"] {
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

/// The names of all ops.
fn ops() -> BTreeSet<String> {
    let name = |op: Op| format!("{op:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
    Op::samples(&Sizes::edges()).into_iter().flat_map(|(_, ops)| ops).map(name).collect()
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
    // Published runs name schedules in their sources' words, and engines have their own.
    let places = ["planner/src/schedule", "src/validate/", "engines/src/"];
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
        stands_only_in(&texts, &format!("\"{}\"", entry.name), &["executor/src/device/", "executor/torch/"]);
    }
    stands_only_in(&texts, "Wgpu", &["executor/src/device/mod.rs", "executor/src/device/wgpu/"]);
    stands_only_in(&texts, "Torch", &["executor/src/device/mod.rs", "executor/src/device/torch/", "executor/torch/"]);
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

/// Files of a device's kernels by op; libtorch's operators and our kernels on CUDA have one each.
const TABLES: [&str; 3] = ["executor/src/device/cpu/run.rs", "executor/src/device/wgpu/ops.rs", "executor/torch/src/"];

#[test]
fn ops_are_named_by_their_families_models_and_devices_tables_alone() {
    let (texts, places) = (texts(), [&["hardware/src/op/", "planner/src/model/"], &TABLES[..]].concat());
    let ops = ops();
    assert!(ops.len() > 30, "{ops:?}");
    for op in ops {
        let more: &[&str] = match &op[..] {
            // A step has them beside its model's.
            "Zero" | "Copy" | "Accumulate" | "SquaredNorm" | "AdamW" => &[
                "planner/src/lower/",
                "planner/src/search/cost.rs",
                "planner/src/search/shared_costs.rs",
                "executor/src/calibrate.rs",
            ],
            "Update" | "Orthogonalize" => &["planner/src/lower/", "hardware/src/price/op.rs"],
            // What matrix units run is priced, and bounded, by its shape.
            "Matmul" | "ExpertMatmul" | "Attention" | "AttentionGrad" | "ContextAttention" | "ContextAttentionGrad" => {
                &["hardware/src/price/op.rs", "planner/src/search/shape_bound"]
            }
            // The sum may stand where one of its terms does.
            "Add" => &["executor/src/device/cpu.rs", "executor/src/device/cpu/wide.rs"],
            _ => &[],
        };
        stands_only_in(&texts, &format!("Op::{op}"), &[&places, more].concat());
    }
}

/// What an op is stands in one file beside the list of ops; besides it needs a rule for its gradient, and a model that uses it.
/// Where speed is wanted devices have kernels, a table each.
#[test]
fn an_op_is_named_in_four_files_and_in_a_table_a_device() {
    let texts = texts();
    let names = |text: &str| has(text, "LatentPack") || has(text, "LatentPackGrad");
    let found: BTreeSet<&str> = texts.iter().filter(|(_, text)| names(text)).map(|(path, _)| path.as_str()).collect();
    let op = ["hardware/src/op/rotary.rs", "hardware/src/op/vocabulary.rs"];
    let model = ["planner/src/model/backward.rs", "planner/src/model/latent.rs"];
    let tables = ["executor/src/device/cpu/run.rs", "executor/src/device/wgpu/ops.rs", "executor/torch/src/ops/mod.rs"];
    assert_eq!(found, [&op[..], &model, &tables].concat().into_iter().collect());
}

/// The type that a line defines, if it does. Associated types, which are indented, have their trait's name for it.
fn defined(line: &str) -> Option<&str> {
    let public = ["pub(crate) ", "pub(super) ", "pub "];
    let item = public.iter().fold(line.trim_start(), |item, public| item.strip_prefix(public).unwrap_or(item));
    let kinds = ["struct ", "enum ", "union ", "trait ", "type "];
    let kind = kinds.into_iter().find(|kind| item.starts_with(kind) && (*kind != "type " || !line.starts_with(' ')))?;
    item[kind.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[test]
fn a_types_name_has_one_meaning() {
    let texts = texts();
    let ops = ops();
    // The vocabulary makes a type of each op; a macro's `$name` is none.
    let mut found: BTreeMap<&str, Vec<&str>> = ops.iter().map(|op| (&op[..], vec!["an op"])).collect();
    for (path, text) in &texts {
        for name in text.lines().filter_map(defined).filter(|name| !name.is_empty()) {
            found.entry(name).or_default().push(path);
        }
    }
    for known in ["Op", "LatentPack", "Plan", "Device", "PipelineSchedule", "Rank"] {
        assert!(found.contains_key(known), "`{known}` is a type");
    }
    found.retain(|_, places| places.len() > 1);
    assert!(found.is_empty(), "defined more than once: {found:#?}");
}
