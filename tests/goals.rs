//! Goals as their user gives them: what is chosen, what is limited, what would do where nothing does.

mod place;

use std::process::{Output, Stdio};

use place::{Place, json};
use serde_json::Value;

/// A folder with a small job whose communication weighs much.
fn place(name: &str) -> Place {
    Place::new(name, "job.toml", JOB)
}

impl Place {
    /// `plan job.toml` on a cluster.
    fn plan(&self, cluster: &str, more: &[&str]) -> Output {
        self.run(&[&["plan", "job.toml", "--cluster", cluster], more].concat())
    }

    fn planned(&self, cluster: &str, more: &[&str]) -> Value {
        json(&self.plan(cluster, &[more, &["--json"]].concat()))
    }

    /// What `--json` says where nothing does.
    fn advised(&self, cluster: &str, more: &[&str]) -> Value {
        let output = self.plan(cluster, &[more, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(3), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn unwanted(&self, more: &[&str], says: &[&str]) {
        self.refused(&[&["plan", "job.toml", "--cluster", ALL], more].concat(), 2, says);
    }
}

const JOB: &str = include_str!("cases/small-job.toml");

const ALL: &str = "4x dgx-a100-80gb";

fn number(of: &Value, path: &[&str]) -> f64 {
    path.iter().fold(of, |value, key| &value[*key]).as_f64().unwrap_or_else(|| panic!("{path:?} in {of}"))
}

/// The arguments of the advice that begin with `flag`.
fn how(advised: &Value, flag: &str) -> String {
    let all = advised["advice"].as_array().unwrap();
    let found = all.iter().find_map(|advice| advice["how"].as_str().unwrap().strip_prefix(flag));
    found.unwrap_or_else(|| panic!("{flag} in {advised}")).trim().trim_matches(['"', '\'']).to_owned()
}

#[test]
fn devices_that_do_not_help_stay_idle_and_the_first_line_says_so() {
    let place = place("goals-idle");
    // Seven nodes of eight: 32 sequences and 4 heads divide among no more than 32 ranks of a stage.
    let (cluster, fixed) = ("7x dgx-a100-80gb", ["--pp", "1"]);
    let planned = place.planned(cluster, &fixed);
    let (ranks, idle) = (number(&planned, &["devices"]), number(&planned, &["idle_devices"]));
    assert!(ranks + idle == 56.0 && idle > 0.0, "{planned}");
    let text = String::from_utf8(place.plan(cluster, &fixed).stdout).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.ends_with(&format!(": {idle} of 56 devices idle")), "{first}");
}

#[test]
fn the_mixed_integer_program_decides_the_stages_where_it_is_asked_to() {
    let place = place("goals-milp");
    let fixed = ["--pp", "2", "--microbatch", "1"];
    let paths = place.planned(ALL, &fixed);
    let milp = place.planned(ALL, &[&fixed[..], &["--solver", "milp"]].concat());
    let (ours, wanted) = (number(&milp, &["step_time_s"]), number(&paths, &["step_time_s"]));
    assert!((ours / wanted - 1.0).abs() < 0.01, "{ours} for {wanted}");
    if milp["plan"].get("chunks").is_none() {
        let [found, bound] = ["objective_s", "relaxation_s"].map(|key| number(&milp, &["milp", key]));
        assert!(bound > 0.0 && bound <= found * 1.001, "{bound} for {found}");
    }
}

#[test]
fn what_costs_least_may_leave_nodes_unused() {
    let place = place("goals-cost");
    let fast = place.planned(ALL, &[]);
    for (objective, key, path) in
        [("cost", "dollars", ["training", "dollars"]), ("energy", "energy_kwh", ["training", "energy_kwh"])]
    {
        let best = place.planned(ALL, &["--objective", objective, "-o", "plan.toml"]);
        assert!(number(&best, &path) <= number(&fast, &path), "{objective}");
        // The search ends within half a per cent of the best step.
        assert!(number(&best, &["training", "days"]) >= 0.994 * number(&fast, &["training", "days"]));
        let (bound, gap) = (number(&best, &["bound", key]), number(&best, &["gap"]));
        assert!(bound <= number(&best, &path) && (0.0..1.0).contains(&gap), "{bound} {gap}");
        assert_eq!(best["objective"], objective);
        // Its plan is for the cluster that it names, which has fewer nodes.
        let cluster = best["cluster"].as_str().unwrap();
        assert!(cluster.ends_with("x dgx-a100-80gb") && cluster != ALL, "{cluster}");
        let simulated = place.run(&["simulate", "plan.toml", "--cluster", cluster, "--json"]);
        let simulated: Value = serde_json::from_slice(&simulated.stdout).unwrap();
        assert_eq!(simulated["step_time_s"], best["step_time_s"]);
    }
    assert_eq!((&fast["objective"], &fast["cluster"]), (&"time".into(), &ALL.into()));
    let text = String::from_utf8(place.plan(ALL, &["--objective", "cost"]).stdout).unwrap();
    for part in ["\n   train ", "costs less by more than", "x dgx-a100-80gb: dp", "clusters, the whole and parts of it"]
    {
        assert!(text.contains(part), "`{part}` in {text}");
    }
}

#[test]
fn no_plan_in_the_front_is_beaten_by_another() {
    let place = place("goals-front");
    for objective in ["time", "cost"] {
        let planned = place.planned(ALL, &["--objective", objective]);
        let front = planned["pareto"].as_array().unwrap();
        assert!((2..=12).contains(&front.len()), "{}", front.len());
        let measures = |offer: &Value| {
            ["days", "dollars", "energy_kwh"]
                .map(|key| number(offer, &[key]))
                .into_iter()
                .chain([-number(offer, &["headroom"])])
        };
        for (at, offer) in front.iter().enumerate() {
            let beats = |other: &Value| measures(other).zip(measures(offer)).all(|(a, b)| a <= b);
            let beaten = front.iter().enumerate().any(|(other, offer)| other != at && beats(offer));
            assert!(!beaten, "{offer} in {front:?}");
            assert!(offer["plan"].is_object() && offer["cluster"].is_string());
        }
        let least = |key: &str| front.iter().map(|offer| number(offer, &[key])).fold(f64::INFINITY, f64::min);
        assert!(least("days") <= number(&planned, &["training", "days"]));
        assert!(least("dollars") <= number(&planned, &["training", "dollars"]));
    }
}

#[test]
fn limits_that_nothing_keeps_come_with_advice_that_works() {
    let place = place("goals-limits");
    let fast = place.planned(ALL, &[]);
    let days = number(&fast, &["training", "days"]);
    let tight = format!("{}d", days * 0.8);
    let advised = place.advised(ALL, &["--deadline", &tight]);
    assert!(advised["error"].as_str().unwrap().contains("the deadline is"), "{advised}");
    let kept = |more: &[&str]| number(&place.planned(ALL, more), &["training", "days"]);
    let longer = how(&advised, "--deadline");
    assert!(kept(&["--deadline", &longer]) * 86400.0 <= days * 86400.0 * 1.01);
    let tokens = how(&advised, "--tokens");
    assert!(kept(&["--deadline", &tight, "--tokens", &tokens]) <= days * 0.8);

    let cheap = place.planned(ALL, &["--objective", "cost"]);
    let budget = format!("${}", number(&cheap, &["training", "dollars"]) * 0.5);
    let advised = place.advised(ALL, &["--budget", &budget]);
    let budget = how(&advised, "--budget");
    let most: f64 = budget.trim_start_matches('$').parse().unwrap();
    let planned = place.planned(ALL, &["--budget", &budget]);
    assert!(number(&planned, &["training", "dollars"]) <= most, "{budget}");
    assert!(planned["pareto"].as_array().unwrap().iter().all(|offer| number(offer, &["dollars"]) <= most));
    let text = String::from_utf8(place.plan(ALL, &["--deadline", &tight]).stderr).unwrap();
    assert!(text.contains("what would do, each by a search") && text.contains("--deadline "), "{text}");
}

#[test]
fn a_job_that_does_not_fit_is_told_what_would_make_it() {
    let place = place("goals-unfit");
    let large = JOB.replace("hidden = 256", "hidden = 8192").replace("ffn = 512", "ffn = 32768");
    let large = large
        .replace("layers = 4", "layers = 16")
        .replace("heads = 4", "heads = 64")
        .replace("kv_heads = 4", "kv_heads = 64");
    place.write("job.toml", &format!("precision = \"fp32\"\n{large}"));
    let advised = place.advised("1x dgx-1v", &["--top", "1"]);
    assert!(advised["rejected"]["out of memory"].as_u64().unwrap() > 0, "{advised}");
    let nodes = how(&advised, "--cluster");
    assert!(number(&place.planned(&nodes, &["--top", "1"]), &["step_time_s"]) > 0.0);
    let memory =
        advised["advice"].as_array().unwrap().iter().find(|a| a["change"].as_str().unwrap().contains("of memory"));
    assert!(memory.unwrap()["how"].as_str().unwrap().starts_with("such as "), "{advised}");
    // What the user fixed, and what is in the way alone.
    place.write("job.toml", &format!("{JOB}[fix]\nmicrobatch = 32\ndp = 8\n"));
    let advised = place.advised("1x dgx-a100-80gb", &[]);
    assert_eq!(how(&advised, "leave microbatch"), "open");
    place.write("job.toml", &format!("{JOB}[fix]\ndp = 8\n"));
    assert_eq!(place.planned("1x dgx-a100-80gb", &[])["plan"]["mesh"]["dp"], 8);
}

/// Forty devices cannot share 32 sequences, four heads and four layers evenly.
#[test]
fn devices_that_nothing_divides_by_stay_idle() {
    let place = place("goals-indivisible");
    let five = "5x dgx-a100-80gb";
    let planned = place.planned(five, &[]);
    assert_eq!(planned["cluster"], five);
    assert!(number(&planned, &["idle_devices"]) > 0.0, "{planned}");
    let four = place.planned(ALL, &[]);
    assert!(number(&planned, &["step_time_s"]) <= number(&four, &["step_time_s"]) * 1.005, "{planned}");
    let text = String::from_utf8(place.plan(five, &[]).stdout).unwrap();
    assert!(text.lines().next().unwrap().contains("devices idle"), "{text}");
    // Who asks for little cost gets fewer nodes.
    let cheap = place.planned(five, &["--objective", "cost"]);
    assert_ne!(cheap["cluster"], five);
}

#[test]
fn memory_is_left_free() {
    let place = place("goals-headroom");
    place
        .write("job.toml", &JOB.replace("seq = 128", "seq = 2048").replace("global_batch = 32", "global_batch = 4096"));
    let cluster = "1x dgx-a100-80gb";
    let usual = place.planned(cluster, &[]);
    let roomy = place.planned(cluster, &["--headroom", "0.85"]);
    // What the stack takes beside a program's buffers is in the share that is taken, and so counts once.
    assert!(number(&usual, &["headroom"]) < 0.85 && number(&roomy, &["headroom"]) >= 0.85, "{}", roomy["headroom"]);
    let explained = {
        place.write("goal.toml", &format!("{JOB}[goal]\nheadroom = 0.5\n"));
        place.run(&["plan", "goal.toml", "--cluster", cluster, "-o", "plan.toml"]);
        let output = place.run(&["explain", "plan.toml", "--cluster", cluster, "--no-search", "--json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let usable = explained["usable_memory_bytes"][0].as_f64().unwrap() / (81920.0 * 1024.0 * 1024.0);
    // Half, less what the stack's allocator and context take.
    assert!((0.42..0.49).contains(&usable), "{usable}");
}

#[test]
fn goals_that_make_no_sense_are_refused() {
    let place = place("goals-bad");
    place.unwanted(&["--objective", "speed"], &["speed", "time, cost, energy"]);
    place.unwanted(&["--tokens", "300"], &["`300` is not a count of tokens: no unit", "G tokens"]);
    place.unwanted(&["--tokens", "1G", "--steps", "7"], &["--tokens", "--steps"]);
    place.unwanted(&["--headroom", "1.5"], &["`goal.headroom` is 1.5", "0.94"]);
    place.unwanted(&["--budget", "1000"], &["`1000` is not an amount of money: no unit", "USD"]);
    place.unwanted(&["--budget", "$0"], &["`goal.budget` is $0: it must be $0.01 to"]);
    place.unwanted(&["--deadline", "soon"], &["`soon` is not a duration"]);
    place.write("job.toml", &JOB.replace("steps = 100000", ""));
    place.unwanted(&["--deadline", "3d"], &["give --tokens"]);
    place.write("job.toml", &format!("{JOB}[goal]\ntokens = \"1G\"\n"));
    place.unwanted(&[], &["job.toml:3:9: `steps` is 100000", "`goal.tokens` is 1 G tokens already"]);
    place.write("job.toml", &format!("{JOB}[goal]\nspeed = 1\n"));
    place.unwanted(&[], &["job.toml:", "unknown field `speed`"]);
    place.write("job.toml", JOB);
    let unpriced = place.plan("8x cpu-generic", &["--objective", "cost", "--precision", "fp32"]);
    let message = String::from_utf8(unpriced.stderr).unwrap();
    assert!(unpriced.status.code() == Some(2) && message.contains("--price"), "{message}");
    let priced = place.planned("8x cpu-generic", &["--objective", "cost", "--precision", "fp32", "--price", "$0.10"]);
    assert!(number(&priced, &["training", "dollars"]) > 0.0 && priced["training"]["energy_kwh"].is_null());
}

#[test]
fn goals_stand_in_job_files_too() {
    let place = place("goals-file");
    let goal =
        "[goal]\nobjective = \"cost\"\ntokens = \"2G\"\nheadroom = 0.1\ndeadline = \"3000 d\"\nbudget = \"$5M\"\n";
    place.write("job.toml", &format!("{}{goal}", JOB.replace("steps = 100000", "")));
    let planned = place.planned(ALL, &[]);
    assert_eq!((&planned["objective"], planned["training"]["steps"].as_u64()), (&"cost".into(), Some(488_282)));
    assert_eq!(planned["plan"]["job"]["steps"], 488_282);
    let time = place.planned(ALL, &["--objective", "time", "--tokens", "1G"]);
    assert_eq!((&time["objective"], time["training"]["steps"].as_u64()), (&"time".into(), Some(244_141)));
}

/// As `meshwright … | head` does: nobody reads.
#[test]
fn a_closed_pipe_ends_a_command_without_a_word() {
    let place = place("goals-pipe");
    for arguments in [
        vec!["models"],
        vec!["hardware", "show", "h100"],
        vec!["plan", "job.toml", "--cluster", ALL],
        vec!["plan", "job.toml", "--cluster", ALL, "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = place.command(&arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {:?}", output.status);
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Nor does it matter whether anybody reads what went wrong.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = place.command(&["plan", "none", "--cluster", ALL]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn keys_of_job_files_are_listed_as_they_are_read() {
    let place = Place::new("goals-keys", "none", "");
    let output = place.run(&["plan", "--keys"]);
    let listed = String::from_utf8(output.stdout).unwrap();
    let mut table = String::new();
    let (mut defaults, mut keys) = (0, Vec::new());
    for line in listed.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((name, rest)) = line.split_once(" = ") {
            keys.push(format!("{table}{name}"));
            defaults += usize::from(rest.contains("default "));
        }
    }
    for key in
        ["seq", "fix.shard", "goal.headroom", "model.family.experts.capacity", "optimizer.offload", "tuning.base"]
    {
        assert!(keys.iter().any(|known| known == key), "{key} in {listed}");
    }
    assert!(
        defaults > 10 && listed.contains("global_batch = whole number   needed\n    # Sequences a step."),
        "{listed}"
    );
    place.write("job.toml", &format!("sequ = 3\n{JOB}"));
    place.refused(&["plan", "job.toml", "--cluster", "8x h100"], 2, &["unknown field `sequ`"]);
}
