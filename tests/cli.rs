//! The command as its user runs it: figures, files, errors and exit codes.

mod place;

use std::process::Stdio;
use std::time::{Duration, Instant};

use place::{Place, json};
use serde_json::Value;

/// A folder with text to train on.
fn place(name: &str) -> Place {
    Place::new(name, "text.txt", &"a text to learn from, again and again; ".repeat(2000))
}

fn tiny() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml")).unwrap()
}

const FIGURES: [&str; 6] =
    ["step_time_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "peak_memory_bytes", "idle_fraction"];

#[test]
fn plan_and_simulate_agree_and_have_the_keys_that_scripts_rely_on() {
    let place = place("plan");
    let cluster = "128x dgx-a100-80gb";
    let arguments = ["plan", "gpt3-175b", "--cluster", cluster, "--seq", "2048", "--global-batch", "1536", "--json"];
    let planned = json(&place.run(&[&arguments[..], &["-o", "plan.toml"]].concat()));
    let simulated = json(&place.run(&["simulate", "plan.toml", "--cluster", cluster, "--json", "--trace", "t.json"]));
    for key in FIGURES {
        assert!(planned[key].as_f64().unwrap() >= 0.0, "{key}");
        assert_eq!(planned[key], simulated[key], "{key}");
    }
    let mfu = planned["mfu"].as_f64().unwrap();
    assert!((0.3..0.62).contains(&mfu), "{mfu}");
    assert_eq!(planned["plan"], simulated["plan"]);
    let search = &planned["search"];
    assert!(search["considered"].as_u64().unwrap() > 100 && search["seconds"].as_f64().unwrap() > 0.0);
    assert!(search["rejected"]["out of memory"].as_u64().unwrap() > 0);
    let trace: Value = serde_json::from_slice(&std::fs::read(place.0.join("t.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let streams = events.iter().filter(|event| event["name"] == "thread_name").map(|event| &event["args"]["name"]);
    assert!(events.len() > 1000 && streams.into_iter().any(|name| name == "collectives"));
}

/// As Perfetto reads it: arrows bind to the spans that enclose their ends, and counters never go below zero.
#[test]
fn a_trace_has_arrows_memory_marks_and_a_lane_of_exposed_communication() {
    let place = place("trace");
    let fixed = ["--tp", "4", "--pp", "4", "--dp", "1", "--any-engine"];
    let job =
        ["plan", "llama3-8b", "--cluster", "2x dgx-h100", "--seq", "4096", "--global-batch", "16", "-o", "p.toml"];
    assert!(place.run(&[&job[..], &fixed].concat()).status.success());
    assert!(place.run(&["simulate", "p.toml", "--cluster", "2x dgx-h100", "--trace", "t.json"]).status.success());
    let trace: Value = serde_json::from_slice(&std::fs::read(place.0.join("t.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
    let spans: Vec<&Value> = of("X").collect();
    let enclosed = |end: &Value| {
        spans.iter().any(|span| {
            let (from, at) = (span["ts"].as_f64().unwrap(), end["ts"].as_f64().unwrap());
            let same = span["pid"] == end["pid"] && span["tid"] == end["tid"];
            same && from <= at && at <= from + span["dur"].as_f64().unwrap()
        })
    };
    let (begins, ends): (Vec<_>, Vec<_>) = (of("s").collect(), of("f").collect());
    assert!(!begins.is_empty() && begins.len() == ends.len());
    for (begin, end) in begins.iter().zip(&ends) {
        assert!(begin["id"] == end["id"] && begin["ts"].as_f64() < end["ts"].as_f64(), "{begin} {end}");
        assert!(begin["pid"] != end["pid"] && enclosed(begin) && enclosed(end), "{begin} {end}");
    }
    let kept: Vec<f64> = of("C").map(|event| event["args"]["kept for backward"].as_f64().unwrap()).collect();
    assert!(kept.iter().all(|bytes| *bytes >= 0.0) && kept.iter().any(|bytes| *bytes > 1e9), "{kept:?}");
    let marks: Vec<&str> = of("i").map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(marks, ["step begins", "step ends"]);
    let exposed = events.iter().find(|event| event["args"]["name"] == "exposed communication").unwrap();
    let in_it = |span: &&&Value| span["tid"] == exposed["tid"];
    assert!(spans.iter().filter(in_it).any(|span| span["name"].as_str().unwrap().contains("tp")));
    assert!(spans.iter().filter(in_it).all(|span| span["cat"] == "communication"));
}

#[test]
fn a_run_trains_measures_and_reports() {
    let place = place("run");
    place.write("tiny.toml", &tiny());
    let report = json(&place.run(&["run", "tiny.toml", "--data", "text.txt", "-o", "out", "--json"]));
    for origin in ["predicted", "replayed", "measured", "error_pct"] {
        for key in ["step_time_s", "tokens_per_s", "peak_memory_bytes"] {
            assert!(report[origin][key].is_number(), "{origin}.{key}");
        }
    }
    let memory = report["error_pct"]["peak_memory_bytes"].as_f64().unwrap();
    assert!(memory.abs() < 100.0, "{memory}");
    let metrics = std::fs::read_to_string(place.0.join("out/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(step, line)| line["step"] == step && line["tokens_per_s"].as_f64().unwrap() > 0.0)
    );
    let (first, last) = (lines[0]["loss"].as_f64().unwrap(), lines[19]["loss"].as_f64().unwrap());
    assert!(last < first - 1.0, "{first} to {last}");

    let again = json(&place.run(&["report", "out", "--json"]));
    assert_eq!(again["measured"], report["measured"]);
    let table = String::from_utf8(place.run(&["report", "out"]).stdout).unwrap();
    assert!(table.contains("predicted") && table.contains("step time") && table.contains("layer backward"), "{table}");
    assert!(place.0.join("out/report.csv").exists());
    let page = std::fs::read_to_string(place.0.join("out/report.html")).unwrap();
    let shown = ["loss, nats", "learning rate", "gradient norm", "tokens a second", "MFU, %", "peak memory a rank"];
    for part in shown.iter().chain(&["95 % confidence", "download=\"plan.toml\"", "global_batch"]) {
        assert!(page.contains(part), "{part}");
    }
    place.refused(&["run", "tiny.toml", "--data", "text.txt", "-o", "out"], 2, &["out", "--resume"]);
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint_as_if_nothing_had_been() {
    let place = place("kill");
    place.write("tiny.toml", &tiny().replace("steps = 20", "steps = 60"));
    let train = |folder: &'static str| {
        ["run", "tiny.toml", "--data", "text.txt", "-o", folder, "--checkpoint-every", "5", "--json"]
    };
    json(&place.run(&train("whole")));
    let mut child = place.command(&train("killed")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let metrics = place.0.join("killed/metrics.jsonl");
    let lines = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let start = Instant::now();
    while lines() < 12 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = lines();
    assert!((12..60).contains(&done), "killed after {done} steps");
    let output = place.run(&[&train("killed")[..], &["--resume"]].concat());
    json(&output);
    let losses = |folder: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(place.0.join(folder).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone()).collect()
    };
    assert_eq!(losses("killed"), losses("whole"));
}

#[test]
fn a_corrupted_checkpoint_is_refused_by_name() {
    let place = place("corrupt");
    place.write("tiny.toml", &tiny().replace("steps = 20", "steps = 4"));
    let train = ["run", "tiny.toml", "--data", "text.txt", "-o", "out"];
    assert!(place.run(&train).status.success());
    let mut files = Vec::new();
    for step in std::fs::read_dir(place.0.join("out/checkpoints")).unwrap() {
        files.extend(std::fs::read_dir(step.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    let file = files.iter().find(|file| file.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    place.refused(&[&train[..], &["--resume"]].concat(), 2, &[&name]);
}

#[test]
fn bad_input_is_refused_with_file_key_and_value_and_nothing_is_written() {
    let place = place("bad");
    let bad = |name: &str, from: &str, to: &str| place.write(name, &tiny().replace(from, to));
    bad("torn.toml", "[mesh]", "[mesh");
    bad("key.toml", "zero = 1", "zeros = 1");
    bad("tp.toml", "tp = 1", "tp = 3");
    bad("batch.toml", "global_batch = 8", "global_batch = 6");
    bad("format.toml", "\"fp32\"", "\"fp8\"");
    let run = |file: &'static str| ["run", file, "--data", "text.txt", "-o", "out"];
    place.refused(&run("torn.toml"), 2, &["torn.toml:", "[mesh"]);
    place.refused(&run("key.toml"), 2, &["key.toml:", "zeros"]);
    place.refused(&run("tp.toml"), 2, &["tp.toml:", "`mesh.tp` is 3", "`heads` = 4"]);
    place.refused(&run("batch.toml"), 2, &["batch.toml:", "`job.global_batch` is 6"]);
    place.refused(&run("format.toml"), 2, &["format.toml", "fp8", "fp32, bf16 and fp16"]);
    place.refused(&run("missing.toml"), 1, &["missing.toml"]);
    place.write("tiny.toml", &tiny());
    place.refused(&["run", "tiny.toml", "--data", "nothing-here", "-o", "out"], 1, &["nothing-here"]);
    place.refused(&["run", "tiny.toml", "--device", "abacus"], 2, &["abacus", "cpu"]);
    place.refused(&["report", "no-run"], 1, &["no-run"]);
    place.refused(&["report", "."], 2, &["no run's folder"]);
    let plan = |cluster: &'static str| {
        ["plan", "gpt3-175b", "--cluster", cluster, "--seq", "2048", "--global-batch", "1536", "-o", "out"]
    };
    place.refused(&plan("8x h1000"), 2, &["h1000", "h100"]);
    place.refused(&["plan", "gpt5", "--cluster", "8x h100", "--seq", "1", "--global-batch", "1"], 2, &["gpt5"]);
    place.refused(&[&plan("2x dgx-a100-80gb")[..], &["--tp", "5"]].concat(), 2, &["--tp is 5"]);
    assert!(!place.0.join("out").exists());
}

#[test]
fn what_fits_nowhere_is_counted() {
    let place = place("infeasible");
    let arguments = ["plan", "gpt3-175b", "--cluster", "1x dgx-1v", "--seq", "2048", "--global-batch", "1536"];
    place.refused(&arguments, 3, &["no plan fits", "considered", "out of memory"]);
}

#[test]
fn the_catalog_can_be_listed_and_shown() {
    let place = place("hardware");
    let list = String::from_utf8(place.run(&["hardware", "list"]).stdout).unwrap();
    for name in ["h100", "mi300x", "tpu-v5p", "trainium2", "dgx-h100", "this machine"] {
        assert!(list.contains(name), "{name} in {list}");
    }
    let line = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("rtx4090-8").contains("391 MB/s") && line("rtx4090-8").ends_with("assumed: network"), "{list}");
    assert!(line("gaudi2 ").ends_with("assumed: memory") && !line("h100 ").contains("assumed"), "{list}");
    let show = String::from_utf8(place.run(&["hardware", "show", "trn2-48xl"]).stdout).unwrap();
    let price = show.lines().find(|line| line.starts_with("price")).unwrap();
    assert!(price.contains("$2.235") && price.contains("source"), "{show}");
    assert!(show.lines().any(|line| line.starts_with("latency") && line.contains("assumption:")), "{show}");
    place.refused(&["hardware", "show", "h101"], 2, &["h101"]);
}

#[cfg(not(feature = "torch"))]
#[test]
fn a_build_without_torch_says_so() {
    let place = place("without-torch");
    place.refused(&["run", "plan.toml", "--device", "abacus"], 2, &["abacus", "torch, cuda, cuda:N"]);
    place.write("plan.toml", &tiny());
    for device in ["torch", "cuda:1"] {
        place.refused(&["run", "plan.toml", "--device", device], 4, &[device, "not built in: scripts/torch"]);
    }
    let list = place.run(&["hardware", "list"]);
    let list = String::from_utf8_lossy(&list.stdout);
    for line in ["torch          cannot be used: not built in", "cuda:0         cannot be used: not built in"] {
        assert!(list.contains(line), "`{line}` in: {list}");
    }
}
