//! Published runs predicted again, as `reports/accuracy.md` states: a group whose error grows past that fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a group's median may grow by, in per cent: rounding of the report, no more.
const SLACK: f64 = 0.3;

/// Shares of the rows that are predicted, and errors in per cent, as `reports/accuracy.md` states them: median, 90th percentile.
const PREDICTED: f64 = 0.97;
const PREDICTED_FRESH: f64 = 0.94;
const STEP: [f64; 2] = [4.3, 16.5];
const STEP_FRESH: f64 = 11.0;
const MEMORY: [f64; 2] = [3.9, 14.0];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn validate(runs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
    command.arg("validate").arg(runs).args(arguments).output().unwrap()
}

/// Every column of a CSV file by header, row by row.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.deserialize().map(|row| row.unwrap()).collect()
}

/// The median of a column's absolute errors by another column.
fn medians<'a>(rows: &'a [BTreeMap<String, String>], key: &str, error: &str) -> BTreeMap<&'a str, f64> {
    let mut errors: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in rows {
        if let Ok(error) = row[error].parse::<f64>() {
            errors.entry(&row[key]).or_default().push(error.abs());
        }
    }
    let median = |mut errors: Vec<f64>| {
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    };
    errors.into_iter().map(|(group, errors)| (group, median(errors))).collect()
}

#[test]
fn errors_stay_within_what_the_report_states() {
    let out = scratch("accuracy.csv");
    let output = validate(&file("tests/published/runs.csv"), &["-o", out.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |key: &str| summary[key].as_f64().unwrap();
    let error = |of: &str, key: &str| summary[of][key].as_f64().unwrap();
    assert!(figure("predicted") / figure("rows") >= PREDICTED, "{summary}");
    assert!(error("step", "median_abs_error_pct") <= STEP[0], "{summary}");
    assert!(error("step", "p90_abs_error_pct") <= STEP[1], "{summary}");
    assert!(error("memory", "median_abs_error_pct") <= MEMORY[0], "{summary}");
    assert!(error("memory", "p90_abs_error_pct") <= MEMORY[1], "{summary}");

    let (now, stated) = (rows(&out), rows(&file("reports/accuracy.csv")));
    assert_eq!(now.len(), rows(&file("tests/published/runs.csv")).len(), "a line a row");
    let skipped = now.iter().filter(|row| row["status"] == "skipped");
    assert!(skipped.clone().all(|row| !row["reason"].is_empty()));
    assert_eq!(skipped.count() as f64, figure("rows") - figure("predicted"));
    for (key, error) in [("stack", "step_error_pct"), ("device", "step_error_pct"), ("stack", "memory_error_pct")] {
        let (now, stated) = (medians(&now, key, error), medians(&stated, key, error));
        assert!(stated.len() > 6);
        for (group, median) in &now {
            let before = stated.get(group).unwrap_or_else(|| panic!("{group} is not in the report"));
            assert!(median <= &(before + SLACK), "{group}, {error}: {median:.2} %, the report states {before:.2} %");
        }
    }
}

/// Rows that no fit has seen are predicted too, and every source of both tables has its publisher.
#[test]
fn fresh_runs_are_predicted() {
    let output = validate(&file("tests/published/runs-2.csv"), &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |key: &str| summary[key].as_f64().unwrap();
    assert!(figure("predicted") / figure("rows") >= PREDICTED_FRESH, "{summary}");
    assert!(summary["step"]["median_abs_error_pct"].as_f64().unwrap() <= STEP_FRESH, "{summary}");
    for name in ["runs.csv", "runs-2.csv"] {
        let rows = rows(&file(&format!("tests/published/{name}")));
        assert!(rows.iter().all(|row| !row["publisher"].is_empty()), "{name}");
    }
}

#[test]
fn a_new_file_works_untouched_in_any_order_of_columns() {
    let path = scratch("new-runs.csv");
    let text = "layers,hidden,seq_len,id,n_devices,accelerator,heads,framework,tp,pp,global_batch,year,\
        measured_tokens_per_s_per_device\n\
        96,12288,2048,gpt3,1024,A100-SXM4-80GB,96,Megatron-LM,8,8,1536,2022,140\n\
        24,2048,1024,unknown,8,Abacus-3000,16,Megatron-LM,1,1,64,2022,100\n\
        ,,2048,sizeless,8,H100-SXM5-80GB,,torchtitan,1,1,64,2024,100\n";
    std::fs::write(&path, text).unwrap();
    let out = scratch("new-out.csv");
    assert!(validate(&path, &["-o", out.to_str().unwrap()]).status.success());
    let rows = rows(&out);
    assert_eq!(rows.iter().map(|row| row["status"].as_str()).collect::<Vec<_>>(), ["predicted", "skipped", "skipped"]);
    assert!(rows[0]["step_error_pct"].parse::<f64>().unwrap().abs() < 40.0, "{:?}", rows[0]);
    assert_eq!(rows[1]["reason"], "accelerator has no profile: Abacus-3000");
    assert_eq!(rows[2]["reason"], "model's sizes not stated");
}

/// What a row says in words counts where it has no code; what is taken instead of what it says is in `assumed`.
#[test]
fn words_count_and_what_is_filled_in_is_named() {
    let (path, out) = (scratch("words-runs.csv"), scratch("words-out.csv"));
    let model = "32,4096,14336,32,8,128256,1,8192,H100-SXM5-80GB,8,torchtitan,1,1";
    let text = format!(
        "id,layers,hidden,ffn_hidden,heads,kv_heads,vocab,gated_mlp,seq_len,accelerator,n_devices,framework,tp,pp,\
        global_batch,micro_batch,precision,recompute,zero_stage,precision_class,dp,experts\n\
        bf16,{model},64,1,bf16,none,3,,8,\n\
        fp8,{model},64,1,fp8,none,3,,8,\n\
        full,{model},64,1,bf16,full,3,,8,\n\
        zero,{model},64,1,bf16,full,1,,8,\n\
        batch,{model},60,1,bf16,none,3,,8,\n\
        dp,{model},64,1,bf16,none,3,,2,\n\
        code,{model},64,1,bf16,none,3,banana,8,\n\
        both,{model},64,1,bf16 (fp32 masters),none,3,bf16,8,\n\
        narrow,24,2048,,16,16,32000,1,1024,H100-SXM5-80GB,8,torchtitan,1,1,64,1,bf16,none,1,,8,8\n"
    );
    std::fs::write(&path, text).unwrap();
    assert!(validate(&path, &["-o", out.to_str().unwrap()]).status.success());
    let all = rows(&out);
    let row = |id: &str| all.iter().find(|row| row["id"] == id).unwrap();
    let step = |id: &str| row(id)["predicted_step_time_s"].parse::<f64>().unwrap();
    assert!(step("fp8") < 0.95 * step("bf16") && step("full") > 1.1 * step("bf16"), "{all:#?}");
    assert_eq!(step("both"), step("bf16"));
    assert!(row("full")["plan"].contains("ZeRO-3") && row("zero")["plan"].contains("ZeRO-1"), "{all:#?}");
    let assumed = |id: &str| row(id)["assumed"].split(' ').map(str::to_owned).collect::<Vec<_>>();
    for column in ["precision_class", "recompute_class", "zero_class", "global_batch", "dp"] {
        assert!(!assumed("bf16").contains(&column.to_owned()), "{column}");
    }
    assert!(assumed("batch").contains(&"global_batch".to_owned()) && assumed("dp").contains(&"dp".to_owned()));
    assert!(row("code")["reason"].contains("`precision_class` is banana"), "{:?}", row("code"));
    assert_eq!(row("narrow")["reason"], "width of experts not stated");
    // The same rows by other software.
    let before = step("bf16");
    assert!(validate(&path, &["-o", out.to_str().unwrap(), "--stack", "ideal"]).status.success());
    let ideal = &rows(&out)[0];
    assert!(ideal["stack"] == "ideal" && ideal["predicted_step_time_s"].parse::<f64>().unwrap() < 0.9 * before);
}

#[test]
fn a_file_that_is_no_table_of_runs_is_refused() {
    let path = scratch("no-runs.csv");
    std::fs::write(&path, "id,layers\nx,3\n").unwrap();
    let output = validate(&path, &[]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("no-runs.csv") && message.contains("`hidden` is missing"), "{message}");
    let output = validate(Path::new("nowhere.csv"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.csv"));
}

#[test]
fn a_table_of_which_nothing_can_be_said_is_refused() {
    let path = scratch("none-runs.csv");
    let (header, out) = ("id,accelerator,n_devices,layers,hidden,seq_len,notes\n", scratch("none-out.csv"));
    let refused = |text: &str, says: &str| {
        std::fs::write(&path, text).unwrap();
        let _ = std::fs::remove_file(&out);
        for command in [&["validate"][..], &["gains"]] {
            let mut run = Command::new(env!("CARGO_BIN_EXE_meshwright"));
            let output = run.args(command).arg(&path).arg("-o").arg(&out).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert!(message.contains("none-runs.csv") && message.contains(says), "`{says}` in: {message}");
            assert!(output.stdout.is_empty() && !out.exists());
        }
    };
    refused(header, "below its header there is no row");
    refused(&format!("{header}garbage\n"), "of 1 rows: 1 number of devices not stated");
    let eight = format!("{header}a,H100-SXM5-80GB,8,2,512,512,\"x, y\"\nb,\"H100, SXM\",eight,2,512,512,\n");
    refused(&eight, ":3:15: `n_devices` is eight: it must be a number");
    refused(&eight.replace("eight", "inf"), ":3:15: `n_devices` is inf");
}

/// A misspelt column says so, a zero is no size, and rows of one name do not overwrite each other's plans.
#[test]
fn what_a_table_says_is_not_passed_over() {
    let (path, plans) = (scratch("strange-runs.csv"), scratch("strange-plans"));
    let header = "id,accelerator,n_devices,layers,hidden,seq_len,micro_bacth,tp,source\n";
    let run = |rows: &str, arguments: &[&str]| {
        std::fs::write(&path, format!("{header}{rows}")).unwrap();
        let output = validate(&path, arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("a,H100-SXM5-80GB,8,2,512,512,4,1,here\n", &[]);
    assert!(
        code == Some(0) && said.contains("not read: `micro_bacth` (did you mean `micro_batch`?), `source`"),
        "{said}"
    );
    let (code, said) = run("a,H100-SXM5-80GB,8,2,512,512,4,0,\n", &[]);
    assert!(code == Some(2) && said.contains(":2:32: `tp` is 0: it must be above zero, or be left empty"), "{said}");
    let twice = "a/b,H100-SXM5-80GB,8,2,512,512,4,1,\na_b,H100-SXM5-80GB,8,2,512,512,4,2,\n";
    let (code, said) = run(twice, &["--plans", plans.to_str().unwrap()]);
    assert!(code == Some(2) && said.contains("the rows `a/b` and `a_b`") && !plans.exists(), "{said}");
}

#[test]
fn no_text_of_a_table_becomes_a_formula() {
    let (path, out) = (scratch("formula-runs.csv"), scratch("formula-out.csv"));
    let text = "id,accelerator,n_devices,layers,hidden,seq_len,heads,framework,measured_tokens_per_s_per_device\n\
        \"=HYPERLINK(\"\"http://x\"\")\",A100-SXM4-80GB,8,24,2048,1024,16,Megatron-LM,1000000\n";
    std::fs::write(&path, text).unwrap();
    assert!(validate(&path, &["-o", out.to_str().unwrap()]).status.success());
    let row = &rows(&out)[0];
    assert_eq!(row["id"], "'=HYPERLINK(\"http://x\")");
    assert!(row["step_error_pct"].parse::<f64>().unwrap() > 0.0, "{row:?}");
}

/// Trainings that everybody knows, which no fit has seen: each is predicted, and those that ran what a program holds are near. Not so
/// Falcon, of which only whole device-hours are known.
#[test]
fn known_trainings_are_near_their_papers() {
    let output = scratch("trainings.csv");
    assert!(validate(&file("tests/published/trainings.csv"), &["-o", output.to_str().unwrap()]).status.success());
    let rows = rows(&output);
    assert!(rows.len() == 5 && rows.iter().all(|row| row["status"] == "predicted"), "{rows:?}");
    for id in ["mt-nlg-530b", "llama3-405b-16k", "nemotron4-340b", "deepseek-v3-2048"] {
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        let error: f64 = row["step_error_pct"].parse().unwrap();
        assert!(error.abs() <= 27.0, "{id}: {error} %");
    }
}

#[test]
fn found_plans_are_never_slower_than_published_ones() {
    let wanted = ["llm-foundry-035", "llm-foundry-102", "llm-foundry-215", "nemo-24.07-005", "zero-bubble-034"];
    let table = std::fs::read_to_string(file("tests/published/runs.csv")).unwrap();
    let kept = |line: &&str| line.starts_with("id,") || wanted.iter().any(|id| line.starts_with(&format!("{id},")));
    let lines: Vec<&str> = table.lines().filter(kept).collect();
    assert_eq!(lines.len(), wanted.len() + 1);
    let [runs, output, steps] = ["gains-runs.csv", "gains.csv", "steps.csv"].map(scratch);
    std::fs::write(&runs, lines.join("\n")).unwrap();
    let gains = |output: &Path, args: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
        let done = command.arg("gains").arg(&runs).arg("-o").arg(output).arg("--json").args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let json = gains(&output, &[]);
    assert_eq!((json["compared"].as_u64(), json["worse"].as_u64()), (Some(wanted.len() as u64), Some(0)), "{json}");
    assert!(json["median_gain"].as_f64().unwrap() > 0.02, "{json}");
    let number = |row: &BTreeMap<String, String>, column: &str| row[column].parse::<f64>().unwrap();
    let found = rows(&output);
    assert!(found.len() == wanted.len() && found.iter().all(|row| number(row, "ratio") >= 1.0), "{found:?}");
    // Of one of them, by the decision that brings it.
    let one = scratch("gains-one.csv");
    let json = gains(&one, &["--only", "nemo-24.07-005", "--decisions"]);
    assert_eq!(json["compared"].as_u64(), Some(1), "{json}");
    assert!(self::rows(&one)[0]["decision"].contains(" instead of "), "{:?}", self::rows(&one));
    // The same steps as without a search.
    assert!(validate(&runs, &["-o", steps.to_str().unwrap()]).status.success());
    for (alone, beside) in self::rows(&steps).iter().zip(&found) {
        let step = number(alone, "predicted_step_time_s");
        assert_eq!((&alone["id"], format!("{step:.4}")), (&beside["id"], beside["published_step_s"].clone()));
    }
}

/// Rows of every stack, accelerator, family and schedule: what is said of a row is what `simulate` says of its plan and cluster.
#[test]
fn a_row_is_its_plan_simulated() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    let table = std::fs::read_to_string(file("tests/published/runs.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|other| other == name).unwrap();
    let kinds = ["framework", "accelerator", "arch", "task", "precision_class", "zero_class"].map(column);
    for record in reader.records().map(Result::unwrap) {
        // Programs of deep pipelines take long to write in a test.
        if record[column("pp")].parse::<f64>().is_ok_and(|pp| pp > 16.0) || record[column("micro_batch")].is_empty() {
            continue;
        }
        let fresh = kinds.iter().any(|&at| !seen.contains_key(&format!("{at}{}", &record[at])));
        if fresh {
            kinds.iter().for_each(|&at| *seen.entry(format!("{at}{}", &record[at])).or_default() += 1);
            chosen.push(record);
        }
    }
    chosen.truncate(60);
    let [runs, output] = ["plans-runs.csv", "plans-out.csv"].map(scratch);
    let mut writer = csv::Writer::from_path(&runs).unwrap();
    writer.write_record(&header).unwrap();
    chosen.iter().for_each(|record| writer.write_record(record).unwrap());
    drop(writer);
    let folder = scratch("plans");
    assert!(validate(&runs, &["-o", output.to_str().unwrap(), "--plans", folder.to_str().unwrap()]).status.success());
    let mut compared = 0;
    for row in rows(&output).iter().filter(|row| row["status"] == "predicted") {
        let [plan, cluster] = ["plan", "cluster"].map(|part| folder.join(format!("{}.{part}.toml", row["id"])));
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
        let done = command.arg("simulate").arg(plan).arg("--cluster").arg(cluster).arg("--json").output().unwrap();
        let alone: Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{}: {}", row["id"], String::from_utf8_lossy(&done.stderr)));
        let step: f64 = row["predicted_step_time_s"].parse().unwrap();
        assert_eq!(alone["step_time_s"].as_f64(), Some(step), "{}", row["id"]);
        assert_eq!(alone["fits"].as_bool(), Some(row["predicted_oom"] == "0"), "{}", row["id"]);
        assert_eq!(alone["stack"]["name"].as_str(), Some(row["stack"].as_str()), "{}", row["id"]);
        compared += 1;
    }
    assert!(compared >= 40, "{compared} of {}", chosen.len());
}
