//! `export` and `plan --export`: folders, refusals and exit codes as their user sees them.

mod place;

use place::{Place, json};

/// A plan of the engines' cases.
fn case(name: &str) -> String {
    let path = format!("{}/engines/tests/cases/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn place(name: &str, plan: &str) -> Place {
    Place::new(name, "plan.toml", &case(plan))
}

#[test]
fn a_plan_becomes_a_folder_whose_script_a_shell_reads() {
    let place = place("export", "llama-uneven");
    let arguments = ["export", "plan.toml", "--to", "megatron-lm", "--launcher", "slurm", "-o", "out"];
    let done = place.run(&[&arguments[..], &["--cluster", "16x dgx-h100", "--stack", "megatron-core"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("next: cd out && sbatch job.sbatch"));
    let read = |file: &str| std::fs::read_to_string(place.0.join("out").join(file)).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(place.0.join("out/train.sh")).status().unwrap();
    assert!(checked.success() && read("job.sbatch").contains("--nodes=16"));
    let story = read("PLAN.md");
    assert!(story.contains("stack `megatron-core`") && story.contains("| step time |"), "{story}");
    // The plan beside it is the one that was given.
    let again = place.run(&["export", "out/plan.toml", "--to", "megatron-lm", "-o", "again"]);
    assert!(again.status.success());
    assert_eq!(read("train.sh"), std::fs::read_to_string(place.0.join("again/train.sh")).unwrap());
}

#[test]
fn what_an_engine_cannot_express_is_not_written_unless_it_is_forced() {
    let place = place("refused", "llama-v");
    let arguments = ["export", "plan.toml", "--to", "megatron-lm", "-o", "out"];
    place.refused(&arguments, 3, &["schedule dualpipe-v: 1f1b", "nearest that it can: dp 8"]);
    assert!(!place.0.join("out").exists());
    let forced = place.run(&[&arguments[..], &["--force"]].concat());
    let words = String::from_utf8_lossy(&forced.stdout);
    assert!(forced.status.success() && words.contains("not as planned:\n   schedule dualpipe-v: 1f1b"), "{words}");
    let story = std::fs::read_to_string(place.0.join("out/PLAN.md")).unwrap();
    assert!(story.contains("- schedule dualpipe-v: 1f1b"), "{story}");
}

#[test]
fn a_plan_that_does_not_fit_is_not_written_unless_it_is_forced() {
    let place = place("export-unfit", "llama-fsdp");
    let arguments = ["export", "plan.toml", "--to", "torchtitan", "-o", "out", "--cluster", "64x v100-16gb"];
    place.refused(&arguments, 3, &["does not fit", "v100-16gb"]);
    assert!(!place.0.join("out").exists());
    let forced = place.run(&[&arguments[..], &["--force"]].concat());
    assert!(
        forced.status.success() && String::from_utf8_lossy(&forced.stderr).contains("warning: the plan does not fit")
    );
}

#[test]
fn the_engine_is_that_of_the_stack_or_has_to_be_named() {
    let place = place("engine", "llama-fsdp");
    place.refused(&["export", "plan.toml", "-o", "out"], 2, &["megatron-lm, torchtitan"]);
    place.refused(&["export", "plan.toml", "--to", "megatron", "-o", "out"], 2, &["unknown engine `megatron`"]);
    let by_stack = ["export", "plan.toml", "-o", "out", "--cluster", "8x dgx-h100", "--stack", "torchtitan"];
    assert!(place.run(&by_stack).status.success() && place.0.join("out/meshwright_plan.py").exists());
    let list = place.run(&["export", "--list"]);
    let words = String::from_utf8_lossy(&list.stdout);
    for name in ["torchtitan 0.3.0", "megatron-core 0.19.2", "skypilot"] {
        assert!(words.contains(name), "{words}");
    }
}

#[test]
fn a_plan_is_exported_as_it_is_found() {
    let place = place("found", "llama-fsdp");
    let arguments = ["plan", "llama3-8b", "--cluster", "1x dgx-h100", "--seq", "4096", "--global-batch", "64"];
    let fixed =
        ["--pp", "1", "--zero", "3", "--stack", "megatron-core", "--export", "out", "--force", "-o", "best.toml"];
    let done = place.run(&[&arguments[..], &fixed].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let script = std::fs::read_to_string(place.0.join("out/train.sh")).unwrap();
    assert!(script.contains("--use-megatron-fsdp") && script.contains("--num-layers 32"), "{script}");
    let simulated = json(&place.run(&["simulate", "out/plan.toml", "--cluster", "1x dgx-h100", "--json"]));
    assert_eq!((&simulated["fits"], &simulated["plan"]["zero"]), (&true.into(), &3.into()));
}

#[test]
fn plans_keep_to_the_engine_of_the_stack_or_to_the_named_one() {
    let place = Place::new("kept", "none", "");
    let job = ["plan", "llama3-8b", "--cluster", "2x dgx-h100", "--seq", "8192", "--global-batch", "64", "--json"];
    let of = |more: &[&str]| json(&place.run(&[&job[..], more].concat()));
    let (usual, any) = (of(&[]), of(&["--any-engine"]));
    assert_eq!((&usual["engine"], &any["engine"]), (&"torchtitan".into(), &serde_json::Value::Null));
    let step = |plan: &serde_json::Value| plan["step_time_s"].as_f64().unwrap();
    assert!(step(&any) <= step(&usual) * 1.005);
    // DeepSpeed's pipelines have no interleaving, and no ZeRO beyond 1 beside them.
    let deepspeed = of(&["--to", "deepspeed", "--pp", "4"]);
    assert_eq!(deepspeed["engine"], "deepspeed");
    let plan = &deepspeed["plan"];
    assert!(plan["zero"].as_u64().unwrap_or(0) < 2 && plan["chunks"].as_u64().unwrap_or(1) == 1, "{plan}");
    place.refused(
        &[&job[..8], &["--to", "deepspeed", "--pp", "4", "--dp", "4", "--zero", "3"]].concat(),
        3,
        &["--any-engine"],
    );
}

#[test]
fn decisions_are_fixed_on_the_command_line() {
    let place = Place::new("fixed", "none", "");
    let job =
        ["plan", "llama3-8b", "--cluster", "2x dgx-h100", "--seq", "8192", "--global-batch", "64", "--any-engine"];
    let of = |more: &[&str]| json(&place.run(&[&job[..], more, &["--json"]].concat()));
    let fixed = of(&["--schedule", "zb-h1", "--pp", "4", "--chunks", "1", "--tp", "2", "--sp"]);
    let plan = &fixed["plan"];
    assert_eq!((&plan["schedule"], &plan["sequence_parallel"]), (&"zb-h1".into(), &true.into()), "{plan}");
    let low = of(&["--max-pp", "1"]);
    assert_eq!(low["plan"]["mesh"]["pp"].as_u64().unwrap_or(1), 1, "{}", low["plan"]);
    let full = of(&["--recompute", "full", "--no-offload"]);
    let stages = full["plan"]["stages"].as_array().unwrap();
    assert!(
        stages.iter().all(|stage| stage["full"] == stage["layers"] && stage.get("offload").is_none()),
        "{stages:?}"
    );
    place.refused(
        &[&job[..], &["--recompute", "half"]].concat(),
        2,
        &["unknown kind `half`; known: none, selective, full"],
    );
    place.refused(&[&job[..], &["--schedule", "1f2b"]].concat(), 2, &["unknown schedule `1f2b`; known: 1f1b, gpipe"]);
}
