//! Clusters of two pools with unlike accelerators: uneven stages and uneven shares, simulated and by the command.

use std::process::Command;

use meshwright_hardware::profile::Cluster;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::predict::{Figures, predict};
use meshwright_planner::search::shares::SharesProblem;
use serde_json::Value;

const BOTH: &str = "8x dgx-h100 + 16x dgx-a100-80gb";

fn case(name: &str) -> String {
    format!("{}/tests/cases/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn plan(name: &str) -> Plan {
    Plan::read(&case(name)).unwrap()
}

fn figures(plan: &Plan, cluster: &str) -> Figures {
    plan.check().unwrap();
    predict(plan, &Cluster::parse(cluster).unwrap()).unwrap().figures
}

/// What holds of any prediction over both pools.
fn plausible(figures: &Figures) {
    assert!(figures.mfu > 0.2 && figures.mfu < 0.7, "{figures:?}");
    let pools: Vec<_> = figures.pools.iter().map(|pool| (pool.device.as_str(), pool.ranks)).collect();
    assert_eq!(pools, [("h100", 64), ("a100-80gb", 128)]);
    let most = figures.pools.iter().map(|pool| pool.peak_memory_bytes).max();
    assert_eq!(most, Some(figures.peak_memory_bytes));
    assert!(figures.pools.iter().all(|pool| pool.headroom > 0.0 && pool.headroom < 1.0), "{figures:?}");
}

#[test]
fn more_layers_on_the_faster_pool_beat_an_even_split_and_the_faster_pool_alone() {
    let uneven = plan("pools-stages");
    let mut even = uneven.clone();
    even.stages.iter_mut().enumerate().for_each(|(i, stage)| stage.layers = if i < 2 { 14 } else { 13 });
    let mut alone = even.clone();
    (alone.mesh.pp, alone.stages) = (2, vec![even.stages[0]; 2]);
    alone.stages.iter_mut().for_each(|stage| stage.layers = 40);
    let [both, split, fast] =
        [(&uneven, BOTH), (&even, BOTH), (&alone, "8x dgx-h100")].map(|(plan, cluster)| figures(plan, cluster));
    plausible(&both);
    assert!(both.tokens_per_s > 1.15 * split.tokens_per_s, "{both:?}\n{split:?}");
    assert!(both.tokens_per_s > 1.15 * fast.tokens_per_s, "{both:?}\n{fast:?}");
    // The split waits for the slower pool; what is idle tells.
    assert!(both.idle_fraction < split.idle_fraction);
}

#[test]
fn more_microbatches_on_the_faster_pool_beat_even_shares_and_the_faster_pool_alone() {
    let uneven = plan("pools-shares");
    let even = Plan { shares: Vec::new(), ..uneven.clone() };
    let mut alone = even.clone();
    alone.mesh.dp = 4;
    let [both, same, fast] =
        [(&uneven, BOTH), (&even, BOTH), (&alone, "8x dgx-h100")].map(|(plan, cluster)| figures(plan, cluster));
    plausible(&both);
    assert!(both.tokens_per_s > 1.15 * same.tokens_per_s, "{both:?}\n{same:?}");
    assert!(both.tokens_per_s > 1.15 * fast.tokens_per_s, "{both:?}\n{fast:?}");
}

#[test]
fn shares_by_linear_programming_are_at_least_as_good_as_by_hand() {
    let hand = plan("pools-shares");
    let found = SharesProblem::of(&hand, &Cluster::parse(BOTH).unwrap()).unwrap().solve().unwrap();
    assert!(found.gap() < 0.05, "{found:?}");
    let solved = Plan { shares: found.shares, ..hand.clone() };
    let [ours, by_hand] = [&solved, &hand].map(|plan| figures(plan, BOTH).step_time_s);
    assert!(ours <= by_hand * (1.0 + 1e-9), "{ours} {by_hand}");
    assert!(found.seconds <= ours && found.seconds > 0.97 * ours, "{} of {ours}", found.seconds);
}

#[test]
fn even_shares_on_unlike_pools_end_with_the_slower_one() {
    let even = Plan { shares: Vec::new(), ..plan("pools-shares") };
    let slow = figures(&even, "24x dgx-a100-80gb");
    let both = figures(&even, BOTH);
    let ratio = both.step_time_s / slow.step_time_s;
    assert!((ratio - 1.0).abs() < 0.02, "{ratio}");
    assert!(slow.pools.is_empty(), "one pool is the cluster");
}

#[test]
fn a_group_on_both_pools_is_as_slow_as_its_slower_one() {
    let mut plan = plan("pools-shares");
    (plan.mesh.dp, plan.mesh.pp, plan.mesh.tp, plan.shares) = (1, 1, 16, Vec::new());
    plan.stages = vec![Stage { layers: 80, ..plan.stages[0] }];
    plan.job.global_batch = 2;
    plan.job.model.kv_heads = 16;
    let step = |cluster: &str| figures(&plan, cluster).step_time_s;
    let (fast, slow, mixed) = (step("2x dgx-h100"), step("2x dgx-a100-80gb"), step("1x dgx-h100 + 1x dgx-a100-80gb"));
    assert!(fast < slow && mixed >= slow * (1.0 - 1e-9), "{fast} {slow} {mixed}");
}

#[test]
fn the_command_simulates_unlike_pools() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_meshwright")).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for name in ["pools-stages", "pools-shares"] {
        let (code, out, err) = run(&["simulate", &case(name), "--cluster", BOTH, "--json"]);
        assert_eq!(code, Some(0), "{err}");
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["pools"][1]["device"], "a100-80gb");
        assert!(json["pools"][0]["headroom"].as_f64().unwrap() > 0.0);
        let (_, text, _) = run(&["simulate", &case(name), "--cluster", BOTH]);
        assert!(text.contains("on 64 × h100,") && text.contains("on 128 × a100-80gb,"), "{text}");
        let (code, _, err) = run(&["simulate", &case(name), "--cluster", "8x dgx-h100"]);
        assert!(code == Some(2) && err.contains("192 ranks, the cluster 64"), "{err}");
    }
}

/// Replicas on unlike pools: every place has its own column, and each pool's parts their own worth.
#[test]
fn unlike_replicas_are_explained_place_by_place() {
    let explain = |more: &[&str]| {
        let plan = case("pools-shares");
        let arguments = [&["explain", &plan, "--cluster", BOTH, "--no-search"], more].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_meshwright")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let all: Value = serde_json::from_str(&explain(&["--json"])).unwrap();
    let places: Vec<_> =
        all["places"].as_array().unwrap().iter().map(|at| (&at["stage"], &at["replicas"], &at["device"])).collect();
    let [zero, one, four, eight, h100, a100]: [Value; 6] =
        [0.into(), 1.into(), 4.into(), 8.into(), "h100".into(), "a100-80gb".into()];
    let (fast, slow) = ((&four, &h100), (&eight, &a100));
    assert_eq!(
        places,
        [(&zero, fast.0, fast.1), (&one, fast.0, fast.1), (&zero, slow.0, slow.1), (&one, slow.0, slow.1)]
    );
    for key in ["stages", "memory", "usable_memory_bytes"] {
        assert_eq!(all[key].as_array().unwrap().len(), 4, "{key}");
    }
    assert!(all["usable_memory_bytes"][0].as_u64() < all["usable_memory_bytes"][2].as_u64());
    let worth = |more: &str| {
        let prices = all["shadow_prices"].as_array().unwrap();
        prices.iter().find(|price| price["more"] == more).unwrap()["tokens_per_s"].as_f64().unwrap()
    };
    // Their shares make both pools wait for the slower one, whose FLOPs alone are worth something.
    assert!(worth("10 % more FLOP/s, a100-80gb") > 10.0 * worth("10 % more FLOP/s, h100").max(1.0));
    let text = explain(&[]);
    assert!(text.contains("place 2: stage 0 of 8 replicas on a100-80gb") && text.contains("usable"), "{text}");
}
