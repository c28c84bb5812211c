//! `import`, `check`, `capture`, `report --measured`, and launch files where a plan is wanted, as their user sees them.

mod place;

use place::{Place, json};

const SCRIPT: &str = r#"#!/bin/bash
NNODES=${NNODES:-4}
CHECKPOINTS=$1
MODEL=(--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 2048 --max-position-embeddings 2048)
PARALLEL="--tensor-model-parallel-size ${TP:-2} --pipeline-model-parallel-size 4"
torchrun --nproc_per_node 8 --nnodes $NNODES pretrain_gpt.py "${MODEL[@]}" $PARALLEL --micro-batch-size 1 --global-batch-size 64 \
  --bf16 --lr 1e-4 --train-iters 100 --save $CHECKPOINTS --use-distributed-optimizer
"#;

#[test]
fn a_script_becomes_a_plan_and_each_value_says_where_it_is_from() {
    let place = Place::new("import", "train.sh", SCRIPT);
    let done = place.run(&["import", "train.sh", "-o", "plan.toml"]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    for part in ["stated", "default", "computed", "--num-layers", "plan: dp 4 × pp 4 × tp 2", "NNODES, TP"] {
        assert!(said.contains(part), "`{part}` in {said}");
    }
    let all = json(&place.run(&["import", "train.sh", "--json", "--env", "TP=4"]));
    assert_eq!((&all["values"]["tp"]["value"], &all["values"]["dp"]["value"]), (&4.into(), &2.into()));
    assert_eq!(all["values"]["ffn"]["origin"], "computed");
    let plan = place.run(&["simulate", "plan.toml", "--cluster", "4x dgx-a100-80gb", "--json"]);
    let direct = place.run(&["simulate", "train.sh", "--cluster", "4x dgx-a100-80gb", "--json"]);
    assert_eq!(json(&plan)["step_time_s"], json(&direct)["step_time_s"]);
}

#[test]
fn explain_ends_with_what_to_change_in_the_engines_words() {
    let place = Place::new("explain-launch", "train.sh", SCRIPT);
    let done = place.run(&["explain", "train.sh", "--cluster", "4x dgx-a100-80gb"]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let next = said.split("\nnext: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(next.contains("in Megatron-LM's words") && next.contains("--tensor-model-parallel-size"), "{next}");
    let done = place.run(&["plan", "train.sh", "--cluster", "4x dgx-a100-80gb"]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("to change in the launch file, in Megatron-LM's words"), "{said}");
}

#[test]
fn check_says_every_broken_rule_and_import_writes_nothing_then() {
    let script = SCRIPT.replace("--num-layers 32", "--num-layers 30").replace("size 64 ", "size 66 ");
    let place = Place::new("check-launch", "train.sh", &script);
    let words = [
        "2 rule(s) broken",
        "--num-layers is 30",
        "legal near: 28, 32, 36",
        "--global-batch-size is 66",
        "legal near: 64, 68",
    ];
    place.refused(&["check", "train.sh"], 3, &words);
    let done = place.run(&["import", "train.sh", "-o", "plan.toml"]);
    assert_eq!(done.status.code(), Some(3));
    assert!(!place.0.join("plan.toml").exists());
    place.write("good.sh", SCRIPT);
    assert!(place.run(&["check", "good.sh"]).status.success());
    // What nobody can know is asked for.
    place.write("open.sh", &SCRIPT.replace("--nproc_per_node 8", "--nproc_per_node $(nvidia-smi -L | wc -l)"));
    let done = place.run(&["import", "open.sh"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && said.contains("nvidia-smi") && said.contains("--gpus N"), "{said}");
    assert!(place.run(&["import", "open.sh", "--gpus", "32"]).status.success());
}

#[test]
fn a_log_stands_beside_what_was_predicted() {
    let place = Place::new("measured", "train.sh", SCRIPT);
    let line = |step: usize, ms: usize| {
        format!(
            " iteration {step:8}/     100 | consumed samples: {:10} | elapsed time per iteration (ms): {ms}.0 | lm loss: 9.5E+00 |\n",
            step * 64
        )
    };
    let log: String = (1..30).map(|step| line(step, if step == 1 { 30000 } else { 2000 + step })).collect();
    place.write("log.txt", &log);
    let arguments = ["report", "train.sh", "--measured", "log.txt", "--cluster", "4x dgx-a100-80gb"];
    let all = json(&place.run(&[&arguments[..], &["--json"]].concat()));
    assert_eq!((&all["engine"], &all["measured"]["warmup"]), (&"Megatron-LM".into(), &1.into()));
    let measured = all["measured"]["step_time_s"].as_f64().unwrap();
    assert!((measured - 2.0155).abs() < 1e-3, "{measured}");
    let shown = String::from_utf8_lossy(&place.run(&arguments).stdout).into_owned();
    assert!(shown.contains("step time") && shown.contains("left out: 1 of warm-up"), "{shown}");
}

#[cfg(unix)]
#[test]
fn capture_reads_what_a_script_would_start_and_starts_none_of_it() {
    let script = SCRIPT.replace("NNODES=${NNODES:-4}", "NNODES=$(python3 -c 'print(4)'; expr 2 + 2)");
    let place = Place::new("capture", "train.sh", &script);
    let done = place.run(&["capture", "-o", "plan.toml", "--", "bash", "train.sh", "checkpoints"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    let plan = std::fs::read_to_string(place.0.join("plan.toml")).unwrap();
    assert!(plan.contains("global_batch = 64") && plan.contains("pp = 4"), "{plan}");
    place.write("nothing.sh", "echo nothing\n");
    place.refused(&["capture", "--", "bash", "nothing.sh"], 2, &["started none of torchrun"]);
}

#[test]
fn a_launch_file_reads_no_file_outside_its_folder() {
    let place = Place::new("outside", "secret.sh", "LAYERS=7\n");
    std::fs::create_dir_all(place.0.join("inside")).unwrap();
    let script = "source ../secret.sh\nsource /etc/passwd\nsource link.sh\ntorchrun --nproc_per_node 8 pretrain_gpt.py --num-layers ${LAYERS:-2} --hidden-size 64\n";
    place.write("inside/train.sh", script);
    #[cfg(unix)]
    std::os::unix::fs::symlink("../secret.sh", place.0.join("inside/link.sh")).unwrap();
    let done = place.run(&["import", "inside/train.sh", "--json"]);
    let all: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(all["values"]["layers"]["value"], 2);
}
