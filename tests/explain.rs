//! `explain`, and sites, as their user runs them: figures, sums, tables, errors and exit codes.

mod place;

use std::process::Output;

use place::{Place, json};
use serde_json::Value;

/// A folder with the plan of a small job.
fn place(name: &str) -> Place {
    Place::new(name, "plan.toml", PLAN)
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A LLaMA of 1.4 B parameters on sixteen devices.
const PLAN: &str = r#"
microbatch = 1
schedule = "1f1b"
zero = 1

[mesh]
dp = 4
pp = 2
tp = 2

[[stages]]
layers = 12
selective = 4

[[stages]]
layers = 12

[job]
seq = 2048
global_batch = 64
precision = "bf16"
steps = 100000

[job.model]
name = "small"
architecture = "llama"
layers = 24
hidden = 2048
heads = 16
kv_heads = 16
ffn = 5504
vocab = 32000
tied = false
"#;

const CLUSTER: &str = "2x dgx-a100-80gb";

fn sum(object: &Value) -> f64 {
    object.as_object().unwrap().values().map(|value| value.as_f64().unwrap()).sum()
}

#[test]
fn explanations_sum_and_have_the_keys_that_scripts_rely_on() {
    let place = place("explain");
    let all = json(&place.run(&["explain", "plan.toml", "--cluster", CLUSTER, "--json"]));
    let simulated = json(&place.run(&["simulate", "plan.toml", "--cluster", CLUSTER, "--json"]));
    for key in ["step_time_s", "tokens_per_s", "mfu", "peak_memory_bytes", "idle_fraction"] {
        assert_eq!(all[key], simulated[key], "{key}");
    }
    let step = all["step_time_s"].as_f64().unwrap();
    assert_eq!(all["stages"].as_array().unwrap().len(), 2);
    for stage in all["stages"].as_array().unwrap() {
        assert!((sum(stage) - step).abs() < 1e-9, "{stage}");
    }
    let memory = all["memory"].as_array().unwrap();
    let most = memory.iter().map(|stage| sum(stage) - stage["host"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(most, all["peak_memory_bytes"].as_f64().unwrap());
    let binding = &all["binding"];
    for key in ["limit", "bottleneck_stage", "busy_s", "memory_stage", "headroom_bytes", "link"] {
        assert!(!binding[key].is_null(), "{key}");
    }
    assert!(binding["headroom_bytes"].as_i64().unwrap() > 0);
    let prices = all["shadow_prices"].as_array().unwrap();
    let of = |more: &str, decided: &str| {
        let found =
            prices.iter().find(|price| price["more"].as_str().unwrap().contains(more) && price["decided"] == decided);
        found.unwrap_or_else(|| panic!("{more} {decided}: {prices:?}"))
    };
    for (more, decided) in [
        ("FLOP/s", "held"),
        ("memory bandwidth", "held"),
        ("scale-up", "held"),
        ("scale-out", "held"),
        ("GB more memory", "refitted"),
        ("GB more memory", "searched"),
        ("one more node", "searched"),
    ] {
        assert!(of(more, decided)["tokens_per_s"].as_f64().unwrap() >= 0.0, "{more}");
    }
    // Faster matmuls are worth their part of the time, in tokens and in dollars alike.
    let flops = of("FLOP/s", "held");
    let (gain, now) = (flops["tokens_per_s"].as_f64().unwrap(), all["tokens_per_s"].as_f64().unwrap());
    assert!((0.002..0.1).contains(&(gain / now)), "{gain} of {now}");
    let worth = flops["dollars_per_hour"].as_f64().unwrap();
    assert!((worth / (16.0 * 4.0963 * gain / now) - 1.0).abs() < 1e-9, "{worth}");
    let alternatives = all["alternatives"].as_array().unwrap();
    assert!(alternatives.len() > 10 && alternatives.iter().all(|a| !a["why"].as_str().unwrap().is_empty()));
    let training = &all["training"];
    assert!(training["goodput"].as_f64().unwrap() > 0.9 && training["goodput"].as_f64().unwrap() < 1.0);
    assert!(training["dollars"].as_f64().unwrap() > 0.0 && training["energy_kwh"].as_f64().unwrap() > 0.0);
    assert!(all["sites"].is_null());
}

#[test]
fn tables_name_what_they_show_and_end_with_what_is_next() {
    let place = place("explain-table");
    let text = printed(&place.run(&["explain", "plan.toml", "--cluster", CLUSTER, "--no-search"]));
    for part in [
        "where a step's time goes, predicted",
        "tp exposed",
        "bubble",
        "where a rank's bytes go, predicted",
        "optimizer",
        "usable",
        "sets the pace",
        "10 % more scale-out bandwidth",
        "$/hour",
        "tp 2 → 4, dp 4 → 2",
        "assumed: a100-80gb fails every",
        "assumed: a device-hour costs $4.10: Azure",
        "assumed, all or in part, of a100-80gb: efficiency.memory, launch",
        "assumed, all or in part, of dgx-a100-80gb: scale_out.efficiency, scale_out.latency",
        "\nnext: ",
    ] {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    let often = printed(&place.run(&["explain", "plan.toml", "--cluster", CLUSTER, "--no-search", "--mtbf", "100 h"]));
    assert!(
        often.contains("fails every 4.17 d: the command line") && often.contains("a failure every 6.25 h"),
        "{often}"
    );
    place.refused(&["explain", "plan.toml", "--cluster", CLUSTER, "--mtbf", "0 h"], 2, &["--mtbf is 0"]);
    place.refused(&["explain", "plan.toml", "--cluster", "1x dgx-a100-80gb"], 2, &["16 ranks", "8 devices"]);
    place.refused(&["explain", "none.toml", "--cluster", CLUSTER], 1, &["none.toml"]);
}

#[test]
fn sites_are_simulated_explained_and_not_run() {
    let place = place("sites");
    place.write("sites.toml", &PLAN.replace("[mesh]", "[sites]\ncount = 4\nevery = 100\n\n[mesh]"));
    let cluster = "4x(2x dgx-a100-80gb) @ 1 Gbit/s 50 ms";
    let text = printed(&place.run(&["simulate", "sites.toml", "--cluster", cluster]));
    assert!(text.contains("4 sites that meet every 100 steps") && text.contains("Douillard et al. 2023"), "{text}");
    let explained = json(&place.run(&["explain", "sites.toml", "--cluster", cluster, "--json", "--no-search"]));
    let step = explained["step_time_s"].as_f64().unwrap();
    for stage in explained["stages"].as_array().unwrap() {
        assert!((sum(stage) - step).abs() < 1e-8 && stage["sites_s"].as_f64().unwrap() > 0.0, "{stage}");
    }
    assert!(explained["memory"][0]["sites"].as_u64().unwrap() > 0);
    let rarer = explained["alternatives"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["change"] == "sites meet every 100 → 200 steps");
    assert!(rarer.unwrap()["slower"].as_f64().unwrap() < -0.1, "{rarer:?}");
    let prices = explained["shadow_prices"].as_array().unwrap();
    let wan = prices.iter().find(|price| price["more"].as_str().unwrap().contains("between sites")).unwrap();
    assert!(wan["tokens_per_s"].as_f64().unwrap() > 0.0);
    let job =
        ["plan", "demo-10m", "--seq", "256", "--global-batch", "64", "--cluster", "2x(1x dgx-h100) @ 1 Gbit/s 20 ms"];
    let found = json(&place.run(&[&job[..], &["-o", "found.toml", "--json"]].concat()));
    assert_eq!((&found["plan"]["sites"]["count"], &found["plan"]["sites"]["every"]), (&2.into(), &500.into()));
    place.refused(
        &["simulate", "sites.toml", "--cluster", CLUSTER],
        2,
        &["the plan is for 4 sites, the cluster has 1"],
    );
    place.refused(&["simulate", "plan.toml", "--cluster", cluster], 2, &["`count = 4`"]);
    place.refused(&["simulate", "plan.toml", "--cluster", "4x(2x dgx-a100-80gb)"], 2, &["@ 10 Gbit/s 50 ms"]);
    let job = PLAN.replace("[mesh]", "[sites]\ncount = 2\n\n[mesh]").replace("\"bf16\"", "\"fp32\"");
    place.write("run.toml", &job);
    place.refused(&["run", "run.toml"], 2, &["run.toml", "`sites.count` is 2", "on paper only"]);
}
