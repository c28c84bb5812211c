//! How sure a prediction is: its interval in every answer, the memory that is kept free for it, and what own measurements change.

mod place;

use place::{Place, json};
use serde_json::Value;

const PLAN: [&str; 8] = ["plan", "llama2-7b", "--seq", "4096", "--global-batch", "64", "--cluster", "2x dgx-a100-80gb"];

fn place(name: &str) -> Place {
    Place::new(name, "note.txt", "")
}

fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or_else(|| panic!("{key} in {of}"))
}

#[test]
fn a_prediction_has_an_interval_and_says_what_supports_it() {
    let place = place("interval-json");
    let planned = json(&place.run(&[&PLAN[..], &["--json", "-o", "plan.toml"]].concat()));
    let cluster = ["--cluster", "2x dgx-a100-80gb", "--json"];
    let simulated = json(&place.run(&[&["simulate", "plan.toml"], &cluster[..]].concat()));
    let explained = json(&place.run(&[&["explain", "plan.toml", "--no-search"], &cluster[..]].concat()));
    for answer in [&planned, &simulated, &explained] {
        let [low, step, high] = ["step_time_low_s", "step_time_s", "step_time_high_s"].map(|key| number(answer, key));
        assert!(low < step && step < high, "{low} {step} {high}");
        let taken = number(&answer["device_memory"], "taken_bytes");
        assert!(number(answer, "memory_low_bytes") < taken && taken < number(answer, "memory_high_bytes"));
        assert_eq!(answer["support"], "measured");
    }
    let training = &planned["training"];
    assert!(number(training, "days_low") < number(training, "days"));
    assert!(number(training, "dollars") < number(training, "dollars_high"));
    let of = |stack: &str| {
        json(&place.run(&[&["simulate", "plan.toml", "--stack", stack], &cluster[..]].concat()))["support"].clone()
    };
    assert_eq!((of("nemo-automodel"), of("ideal")), ("near".into(), Value::Null));
    let text = place.run(&["simulate", "plan.toml", "--cluster", "2x dgx-a100-80gb"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let step = text.lines().find(|line| line.trim_start().starts_with("step ")).unwrap();
    assert!(step.contains('(') && step.contains(" to "), "{step}");
}

/// Of all plans that fit, the fastest here fill memory further than one run in ten bears.
#[test]
fn plans_keep_the_margin_that_one_run_in_ten_needs_unless_told_otherwise() {
    let place = place("interval-margin");
    let of = |more: &[&str]| json(&place.run(&[&PLAN[..], more, &["--json"]].concat()));
    let (usual, all) = (of(&[]), of(&["--headroom", "0"]));
    let device = 80.0 * 1024f64.powi(3);
    for plan in std::iter::once(&usual).chain(usual["alternatives"].as_array().unwrap()) {
        assert!(plan["at_risk"] == false && number(plan, "memory_high_bytes") <= device, "{plan}");
    }
    assert!(number(&all, "step_time_s") <= number(&usual, "step_time_s"));
    let kept = number(&usual["plan"]["job"]["goal"], "headroom");
    assert!((0.02..0.3).contains(&kept), "{kept}");
    assert!(all["plan"]["job"]["goal"].get("headroom").is_none(), "{}", all["plan"]["job"]["goal"]);
}

/// Rows of one stack, each a fifth slower than published.
fn slower(place: &Place) {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/published/runs.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(&header).unwrap();
    let own = reader.records().map(Result::unwrap).filter(|row| row[at("id")].starts_with("korthikanti2022-"));
    for row in own.filter(|row| !row[at("measured_step_time_s")].is_empty()).take(5) {
        let slower = |(column, value): (usize, &str)| match column {
            column if column == at("measured_step_time_s") => (1.2 * value.parse::<f64>().unwrap()).to_string(),
            column if header[column].starts_with("measured_") || header[column].starts_with("derived_") => {
                String::new()
            }
            _ => value.to_owned(),
        };
        table.write_record(row.iter().enumerate().map(slower)).unwrap();
    }
    place.write("mine.csv", &String::from_utf8(table.into_inner().unwrap()).unwrap());
}

#[test]
fn a_stack_of_ones_own_is_fitted_and_used() {
    let place = place("interval-own");
    slower(&place);
    let fitted = place.run(&["stacks", "fit", "--from", "mine.csv", "-o", "ours.toml"]);
    let text = String::from_utf8(fitted.stdout).unwrap();
    assert!(fitted.status.success(), "{}", String::from_utf8_lossy(&fitted.stderr));
    let rows: Vec<Vec<f64>> = text
        .lines()
        .filter(|line| line.starts_with("korthikanti2022-"))
        .map(|line| line.split_whitespace().skip(1).map(|value| value.parse().unwrap()).collect())
        .collect();
    let mean = |column: usize| rows.iter().map(|row| row[column].abs()).sum::<f64>() / rows.len() as f64;
    assert!(rows.len() == 5 && mean(0) > 10.0 && mean(1) < 0.5 * mean(0), "{text}");
    assert!(text.contains("these runs do not tell"), "{text}");
    let of = |stack: &[&str]| {
        let run = [&PLAN[..], stack, &["--json", "-o", "own.toml"]].concat();
        json(&place.run(&run))
    };
    let own = of(&["--stack", "ours.toml"]);
    assert_eq!((&own["stack"]["name"], &own["plan"]["job"]["stack"]), (&"ours.toml".into(), &"ours.toml".into()));
    let again = json(&place.run(&["simulate", "own.toml", "--cluster", "2x dgx-a100-80gb", "--json"]));
    assert_eq!(again["step_time_s"], own["step_time_s"]);
}

#[test]
fn too_few_runs_tell_nothing() {
    let place = place("interval-few");
    slower(&place);
    let text = std::fs::read_to_string(place.0.join("mine.csv")).unwrap();
    place.write("two.csv", &text.lines().take(3).map(|line| format!("{line}\n")).collect::<String>());
    place.refused(&["stacks", "fit", "--from", "two.csv", "-o", "ours.toml"], 2, &["3 or more are needed"]);
    assert!(!place.0.join("ours.toml").exists());
}

#[test]
fn a_measured_step_is_told_apart_by_cause() {
    let place = place("interval-causes");
    json(&place.run(&[&PLAN[..], &["--json", "-o", "plan.toml"]].concat()));
    let explain = |more: &[&str]| {
        let run = [&["explain", "plan.toml", "--no-search", "--cluster", "2x dgx-a100-80gb"], more].concat();
        place.run(&run)
    };
    let predicted = json(&explain(&["--json"]));
    assert!(predicted.get("measured").is_none());
    let slow = format!("{}s", 1.1 * number(&predicted, "step_time_s"));
    let measured = json(&explain(&["--json", "--measured-step", &slow]))["measured"].clone();
    assert!((number(&measured, "error_pct") + 9.1).abs() < 0.2, "{measured}");
    let causes = measured["explained_by"].as_array().unwrap();
    let matmul = causes.iter().find(|cause| cause["overhead"] == "matmul").unwrap();
    assert!(number(matmul, "needed") < number(matmul, "now"), "{matmul}");
    let share = number(&predicted, "mfu") / 1.1;
    let by_share = json(&explain(&["--json", "--measured-mfu", &share.to_string()]))["measured"].clone();
    assert!((number(&by_share, "step_time_s") / number(&measured, "step_time_s") - 1.0).abs() < 1e-6);
    for [option, value] in [["--measured-mfu", "41"], ["--measured-tokens-per-s", "-1"], ["--measured-step", "1e9s"]] {
        let base = ["explain", "plan.toml", "--no-search", "--cluster", "2x dgx-a100-80gb"];
        place.refused(&[&base[..], &[&format!("{option}={value}")]].concat(), 2, &["measured"]);
    }
}
