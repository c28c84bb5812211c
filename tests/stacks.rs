//! The software that runs a plan: named in every answer, and kept in the plan.

mod place;

use place::{Place, json};

const MODEL: [&str; 5] = ["llama3-8b", "--seq", "8192", "--global-batch", "128"];

fn place(name: &str) -> Place {
    Place::new(name, "note.txt", "")
}

fn text(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn answers_name_the_stack_and_plans_keep_it() {
    let (place, cluster) = (place("stack-kept"), ["--cluster", "8x dgx-h100"]);
    let planned = text(&place.run(&[&["plan"], &MODEL[..], &cluster, &["-o", "plan.toml"]].concat()));
    assert!(
        planned
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("stack torchtitan: measured on no run on h100, 8 on a100-80gb, 25 on h100-96gb"),
        "{planned}"
    );
    let own = json(&place.run(&[&["simulate", "plan.toml", "--json"], &cluster[..]].concat()));
    assert_eq!((&own["stack"]["name"], &own["stack"]["measured_runs"]), (&"torchtitan".into(), &0.into()));
    assert_eq!(own["stack"]["hash"].as_str().unwrap().len(), 16);
    assert_eq!(own["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(own["plan"]["job"]["stack"], "torchtitan");
    let other =
        json(&place.run(&[&["simulate", "plan.toml", "--json", "--stack", "nemo-2024"], &cluster[..]].concat()));
    let ideal = json(&place.run(&[&["simulate", "plan.toml", "--json", "--stack", "ideal"], &cluster[..]].concat()));
    let [own, other, ideal] = [own, other, ideal].map(|all| all["step_time_s"].as_f64().unwrap());
    assert!(ideal < 0.9 * own && ideal < 0.9 * other && own != other, "{ideal} {own} {other}");
    let explained =
        text(&place.run(&[&["explain", "plan.toml", "--no-search", "--stack", "ideal"], &cluster[..]].concat()));
    assert!(explained.lines().nth(1).unwrap().ends_with("nothing of its own is priced"), "{explained}");
}

#[test]
fn a_plan_of_before_stacks_gets_the_usual_one() {
    let (place, cluster) = (place("stack-old"), ["--cluster", "8x dgx-h100"]);
    text(&place.run(&[&["plan"], &MODEL[..], &cluster, &["-o", "plan.toml"]].concat()));
    let plan = std::fs::read_to_string(place.0.join("plan.toml")).unwrap();
    assert!(plan.contains("stack = \"torchtitan\"\n"), "{plan}");
    place.write("old.toml", &plan.replace("stack = \"torchtitan\"\n", ""));
    let [old, new] =
        ["old.toml", "plan.toml"].map(|plan| json(&place.run(&[&["simulate", plan, "--json"], &cluster[..]].concat())));
    assert_eq!((&old["stack"], &old["step_time_s"]), (&new["stack"], &new["step_time_s"]));
}

#[test]
fn an_accelerator_on_which_nothing_was_measured_gets_the_typical_one() {
    let place = place("stack-typical");
    let planned = text(&place.run(&[&["plan"], &MODEL[..], &["--cluster", "8x mi300x-8"]].concat()));
    let line = planned.lines().nth(1).unwrap();
    assert!(line.starts_with("stack typical, ") && line.ends_with("measured on no run on mi300x"), "{line}");
}

#[test]
fn stacks_are_listed_with_their_errors_and_unknown_ones_are_refused() {
    let place = place("stack-list");
    let listed = text(&place.run(&["stacks"]));
    let line = listed.lines().find(|line| line.starts_with("torchtitan ")).unwrap();
    assert!(line.contains("h100") && line.contains(" / "), "{line}");
    let count = listed.lines().find(|line| line.contains(" figures are fitted: ")).unwrap();
    assert!(count.split(' ').next().unwrap().parse::<usize>().unwrap() <= 200, "{count}");
    let figures = text(&place.run(&["stacks", "t5x"]));
    let whose = |figure: &str| {
        let line = figures.lines().find(|line| line.trim_start().starts_with(figure)).unwrap();
        line.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!([whose("context"), whose("reserve")], ["xla", "all"]);
    let wrong = [&["plan"], &MODEL[..], &["--cluster", "8x dgx-h100", "--stack", "nemo-2023x"]].concat();
    place.refused(&wrong, 2, &["nemo-2023x", "near names: nemo-2023"]);
}

#[test]
fn what_is_found_is_believable() {
    let place = place("stack-mfu");
    let mfu = |model: &str, cluster: &str, seq: &str, batch: &str| {
        let asked = ["plan", model, "--cluster", cluster, "--seq", seq, "--global-batch", batch, "--json"];
        json(&place.run(&asked))["mfu"].as_f64().unwrap()
    };
    let a100 = mfu("gpt3-175b", "128x dgx-a100-80gb", "2048", "1536");
    assert!((0.35..0.62).contains(&a100), "{a100}");
    let h100 = mfu("llama3-70b", "64x dgx-h100", "8192", "512");
    assert!((0.3..0.53).contains(&h100), "{h100}");
}

#[test]
fn the_ideal_stack_is_a_bound_also_of_experts_over_nodes() {
    let (place, cluster) = (place("stack-bound"), ["--cluster", "8x dgx-h100"]);
    let job = ["plan", "mixtral-8x7b", "--seq", "4096", "--global-batch", "256", "-o", "plan.toml"];
    text(&place.run(&[&job[..], &cluster].concat()));
    let plan = std::fs::read_to_string(place.0.join("plan.toml")).unwrap();
    let line = plan.lines().find(|line| line.starts_with("ep = ")).unwrap_or_else(|| panic!("{plan}"));
    assert_ne!(line, "ep = 1");
    let step = |stack: &str| {
        let asked = [&["simulate", "plan.toml", "--json", "--stack", stack], &cluster[..]].concat();
        json(&place.run(&asked))["step_time_s"].as_f64().unwrap()
    };
    let ideal = step("ideal");
    for stack in ["torchtitan", "megatron-core", "megatron-moe-2025", "maxtext", "typical"] {
        assert!(step(stack) > ideal, "{stack}");
    }
}

#[test]
fn what_comes_next_and_what_fails_name_the_stack() {
    let (place, cluster) = (place("stack-named"), ["--cluster", "8x dgx-h100"]);
    let planned =
        text(&place.run(&[&["plan"], &MODEL[..], &cluster, &["--stack", "ideal", "-o", "plan.toml"]].concat()));
    assert!(
        planned.ends_with("next: meshwright simulate plan.toml --cluster \"8x dgx-h100\" --stack ideal\n"),
        "{planned}"
    );
    place.refused(
        &[&["plan"], &MODEL[..], &cluster, &["--stack", "torchtitn"]].concat(),
        2,
        &["unknown stack `torchtitn`; near names: torchtitan", "`meshwright stacks` shows all"],
    );
    let small = place.run(&["simulate", "plan.toml", "--cluster", "64x rtx4090", "--stack", "torchtune"]);
    let said = String::from_utf8_lossy(&small.stderr).into_owned();
    assert!(small.status.code() == Some(3) && said.contains("under stack torchtune"), "{said}");
}

/// DGX H100 has 2 TB of memory for eight devices, of which a tenth is not a job's.
#[test]
fn activations_go_to_the_host_no_further_than_it_has_memory() {
    let (place, cluster) = (place("stack-host"), ["--cluster", "16x dgx-h100"]);
    let job = [
        "plan",
        "llama3-70b",
        "--seq",
        "8192",
        "--global-batch",
        "256",
        "--headroom",
        "0",
        "-o",
        "plan.toml",
        "--json",
    ];
    let found = json(&place.run(&[&job[..], &["--any-engine"], &cluster[..]].concat()));
    let kept = found["host_bytes"].as_f64().unwrap();
    assert!((1e9..225e9).contains(&kept), "{kept}");
    let plan = std::fs::read_to_string(place.0.join("plan.toml")).unwrap();
    assert!(plan.contains("microbatch = 1\n"), "{plan}");
    let offload = plan.lines().find(|line| line.starts_with("offload = ")).unwrap();
    place.write("more.toml", &plan.replace("microbatch = 1\n", "microbatch = 2\n").replace(offload, "offload = 79"));
    let output = place.run(&[&["simulate", "more.toml", "--json"], &cluster[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["fits"], told["headroom_bytes"].as_i64().unwrap() > 0), (&false.into(), true));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in its host's memory, which has 210 GiB"), "{output:?}");
}

/// The fastest plans of a site leave no room for what sites need to meet; others do.
#[test]
fn sites_find_plans_with_room_to_meet() {
    let place = place("stack-sites");
    let sites = ["--cluster", "2x(1x dgx-h100) @ 10 Gbit/s 50 ms", "--stack", "nemo-2024", "--json"];
    let found =
        json(&place.run(&[&["plan", "llama3-8b", "--seq", "8192", "--global-batch", "64"], &sites[..]].concat()));
    assert!(found["fits"] == true && found["plan"]["sites"]["count"] == 2, "{found}");
}
