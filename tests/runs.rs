//! No run is lost: what would end one is said before it begins, and what was begun can be gone on with and reported.

mod place;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use place::{Place, json};
use serde_json::Value;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");

fn case(name: &str) -> String {
    std::fs::read_to_string(Path::new(CASES).join(name)).unwrap()
}

/// A folder with text, a plan of two ranks that trains in a second, and a machine that need not be measured.
fn place(name: &str) -> Place {
    let place =
        Place::new(&format!("runs-{name}"), "text.txt", &"a text to learn from, again and again; ".repeat(2000));
    place.write("machine.toml", &case("machine.toml"));
    place.write("tiny.toml", &alone());
    place
}

/// The tiny plan for one rank, and less of it: ranks that wait for each other are slow on a machine that does other things too.
fn alone() -> String {
    let less = [
        ("dp = 2", "dp = 1"),
        ("microbatch = 2", "microbatch = 1"),
        ("global_batch = 8", "global_batch = 2"),
        ("seq = 64", "seq = 16"),
    ];
    less.iter().fold(case("tiny.toml"), |plan, (from, to)| exchanged(&plan, from, to))
}

fn exchanged(plan: &str, from: &str, to: &str) -> String {
    assert!(plan.contains(from), "{from}");
    plan.replacen(from, to, 1)
}

/// The plan for one rank with something in it exchanged.
fn tiny(from: &str, to: &str) -> String {
    exchanged(&alone(), from, to)
}

/// The arguments of a run into a folder, and more.
fn train<'a>(plan: &'a str, folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", plan, "--data", "text.txt", "--cluster", "machine.toml", "-o", folder][..], more].concat()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn done(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

fn losses(place: &Place, folder: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(place.0.join(folder).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}

/// Starts a run and waits until it has done some steps.
fn started(place: &Place, arguments: &[&str], folder: &str, steps: usize) -> Child {
    let child = place.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = place.0.join(folder).join("metrics.jsonl");
    let lines = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let start = Instant::now();
    while lines() < steps && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn any_settings_can_be_resumed() {
    let place = place("settings");
    let settings = "[job.optimizer]\nbeta2 = 0.999\neps = 1e-9\nweight_decay = 0.11";
    let plan = tiny("[job.optimizer]", settings).replace("lr = 3e-3", "lr = 1.6e-3");
    place.write("adam.toml", &plan.replace("steps = 20", "steps = 6"));
    done(place.run(&train("adam.toml", "out", &["--checkpoint-every", "3"])));
    let before = std::fs::read(place.0.join("out/metrics.jsonl")).unwrap();
    let newest = place.0.join("out/checkpoints/step-00000006");
    std::fs::rename(newest, place.0.join("gone")).unwrap();
    done(place.run(&train("adam.toml", "out", &["--resume"])));
    let after = std::fs::read(place.0.join("out/metrics.jsonl")).unwrap();
    let third = before.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0;
    assert_eq!(after[..third], before[..third], "lines of steps that were not done again are as they were");
}

#[test]
fn folders_and_files_may_have_any_name() {
    let place = place("names");
    place.write("tiny.toml", &tiny("steps = 20", "steps = 2"));
    for folder in ["lr+wd", "a@b", "a (2)"] {
        done(place.run(&train("tiny.toml", folder, &[])));
        done(place.run(&["report", folder]));
    }
    std::fs::rename(place.0.join("machine.toml"), place.0.join("me+1@(x).toml")).unwrap();
    done(place.run(&["simulate", "tiny.toml", "--cluster", "me+1@(x).toml"]));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_what_is_no_plain_file_is_written_to() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = place("outputs");
    let simulate = |to: &str| {
        done(place.run(&["simulate", "tiny.toml", "--cluster", "machine.toml", "--trace", to]));
    };
    let parsed = |name: &str| serde_json::from_slice::<Value>(&std::fs::read(place.0.join(name)).unwrap()).unwrap();
    std::fs::create_dir(place.0.join("far")).unwrap();
    place.write("far/there.json", "old");
    for (link, to) in [("near.json", "far/there.json"), ("twice.json", "near.json"), ("dangling.json", "far/new.json")]
    {
        symlink(to, place.0.join(link)).unwrap();
        simulate(link);
        assert!(place.0.join(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        assert!(parsed(link)["traceEvents"].is_array(), "{link}");
    }
    assert!(parsed("far/there.json")["traceEvents"].is_array() && parsed("far/new.json")["traceEvents"].is_array());

    let made = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .current_dir(&place.0)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    assert!(made("mkfifo", &["pipe"]));
    let reader = Command::new("cat").arg("pipe").current_dir(&place.0).stdout(Stdio::piped()).spawn().unwrap();
    simulate("pipe");
    let read = reader.wait_with_output().unwrap().stdout;
    assert!(serde_json::from_slice::<Value>(&read).unwrap()["traceEvents"].is_array());
    let kind = |name: &str| place.0.join(name).symlink_metadata().unwrap().file_type();
    assert!(kind("pipe").is_fifo());
    // Only root can make a device.
    if made("mknod", &["null", "c", "1", "3"]) {
        simulate("null");
        done(place.run(&[
            "plan",
            "demo-10m",
            "--cluster",
            "8x h100",
            "--seq",
            "256",
            "--global-batch",
            "8",
            "-o",
            "null",
        ]));
        assert!(kind("null").is_char_device());
    }
    simulate("/dev/stdout");
    let left: Vec<_> = std::fs::read_dir(&place.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".tmp-")), "{left:?}");
}

#[test]
fn what_would_end_a_run_is_said_before_anything_is_written() {
    let place = place("refused");
    place.write("fp16.toml", &tiny("\"fp32\"", "\"fp16\""));
    place.write("ranks.toml", &exchanged(&case("tiny.toml"), "dp = 2", "dp = 4"));
    place.write("eps.toml", &tiny("[job.optimizer]", "[job.optimizer]\neps = 0.0"));
    let wide = tiny("hidden = 64", "hidden = 65536").replace("ffn = 128", "ffn = 1048576");
    place.write("large.toml", &wide.replace("layers = 2", "layers = 20"));
    place.write("short.txt", "x");
    let calibrated = "\n[device.calibrated]\ndate = \"2026-01-01\"\nmachine = \"made up\"\nversions = \"0.1.0\"\n";
    place.write("measured.toml", &(case("machine.toml") + calibrated));
    let narrow = ["run", "fp16.toml", "--data", "text.txt", "--cluster", "measured.toml", "-o", "out"];
    place.refused(&narrow, 2, &["fp16"]);
    place.refused(&train("ranks.toml", "out", &[]), 2, &["4", "2"]);
    place.refused(&train("eps.toml", "out", &[]), 2, &["eps", "above zero"]);
    place.refused(&train("large.toml", "out", &[]), 4, &["memory is short", "TiB", "free on this machine"]);
    let short = ["run", "tiny.toml", "--data", "short.txt", "--cluster", "machine.toml", "-o", "out"];
    place.refused(&short, 2, &["short.txt", "2 bytes", "16 tokens"]);
    place.refused(&["demo", "--data", "short.txt", "-o", "out"], 2, &["short.txt", "2 bytes"]);
    assert!(!place.0.join("out").exists());
}

#[test]
fn a_run_without_its_measurements_can_be_ended() {
    let place = place("measured");
    place.write("tiny.toml", &case("tiny.toml").replace("steps = 20", "steps = 5"));
    done(place.run(&train("tiny.toml", "out", &["--json"])));
    let file = place.0.join("out/measured.json");
    let whole = std::fs::read_to_string(&file).unwrap();
    let before = losses(&place, "out");
    std::fs::remove_file(&file).unwrap();
    place.refused(&["report", "out"], 2, &["measured.json", "--resume"]);
    let report = json(&place.run(&train("tiny.toml", "out", &["--resume", "--json"])));
    assert!(report["measured"]["step_time_s"].as_f64().unwrap() > 0.0);
    assert_eq!(losses(&place, "out"), before);

    let measured: Value = serde_json::from_str(&whole).unwrap();
    let damage = |change: &dyn Fn(&mut Value)| {
        let mut spoilt = measured.clone();
        change(&mut spoilt);
        std::fs::write(&file, spoilt.to_string()).unwrap();
        place.refused(&["report", "out"], 2, &["measured.json", "damaged", "--resume"]);
    };
    damage(&|m| m["trace"]["lanes"][1]["rank"] = 99.into());
    damage(&|m| m["trace"]["lanes"][0]["role"] = 255.into());
    damage(&|m| m["trace"]["lanes"] = Value::Array(Vec::new()));
    damage(&|m| drop(m["trace"]["lanes"][0]["spans"].as_array_mut().unwrap().pop()));
    damage(&|m| m["trace"]["lanes"][0]["spans"][1]["start"] = u64::MAX.into());
    damage(&|m| m["step_time_s"] = (-1).into());
    damage(&|m| drop(m.as_object_mut().unwrap().remove("trace")));
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    place.refused(&["report", "out"], 2, &["measured.json", "damaged"]);
    done(place.run(&train("tiny.toml", "out", &["--resume"])));
    done(place.run(&["report", "out", "--within", "1e9"]));
    for within in ["nan", "inf", "-1"] {
        place.refused(&["report", "out", &format!("--within={within}")], 2, &["--within"]);
    }
}

#[test]
fn one_process_at_a_time_trains_into_a_folder() {
    let place = place("lock");
    place.write("tiny.toml", &tiny("steps = 20", "steps = 2"));
    done(place.run(&train("tiny.toml", "out", &[])));
    // As a run that goes on holds it.
    let lock = std::fs::File::options().read(true).write(true).open(place.0.join("out/lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(place.0.join("out/lock"), "4321").unwrap();
    place.refused(&train("tiny.toml", "out", &["--resume"]), 2, &["out is in use by process 4321", "-o"]);
    lock.unlock().unwrap();
    done(place.run(&train("tiny.toml", "out", &["--resume"])));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_after_a_whole_step_that_is_saved() {
    let place = place("signal");
    place.write("long.toml", &tiny("steps = 20", "steps = 150"));
    let arguments = train("long.toml", "out", &["--checkpoint-every", "1000"]);
    let child = started(&place, &arguments, "out", 5);
    let process = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
    assert!(stderr(&output).contains("SIGTERM: training stopped after step"), "{}", stderr(&output));
    let steps = losses(&place, "out").len();
    assert!((5..150).contains(&steps), "{steps}");
    place.write("out/plan.toml.tmp-123", "half");
    done(place.run(&train("long.toml", "out", &["--resume"])));
    assert!(!place.0.join("out/plan.toml.tmp-123").exists());
    done(place.run(&train("long.toml", "whole", &["--checkpoint-every", "0"])));
    assert_eq!(losses(&place, "out"), losses(&place, "whole"));
}

#[test]
fn what_is_resumed_is_there_and_the_same() {
    let place = place("resume");
    place.refused(&["run", "tiny.toml", "--resume"], 2, &["--resume", "-o"]);
    place.refused(&train("tiny.toml", "typo", &["--resume"]), 2, &["typo", "no run to resume"]);
    assert!(!place.0.join("typo").exists());
    done(place.run(&train("tiny.toml", "out", &["--checkpoint-every", "12"])));
    let whole = losses(&place, "out");
    std::fs::rename(place.0.join("out/checkpoints/step-00000020"), place.0.join("gone")).unwrap();
    // Another text, and one by another name.
    place.write("other.txt", &"quite another text; ".repeat(2000));
    let other = |text: &'static str| ["run", "tiny.toml", "--data", text, "-o", "out", "--resume"];
    place.refused(&other("other.txt"), 2, &["another text"]);
    std::fs::copy(place.0.join("text.txt"), place.0.join("copy.txt")).unwrap();
    // Lines that a power cut took.
    let metrics = place.0.join("out/metrics.jsonl");
    let lines = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, lines.lines().skip(3).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let output = done(place.run(&[&other("copy.txt")[..], &["--checkpoint-every", "0"]].concat()));
    assert!(stderr(&output).contains("lacks 3 of the 12 steps"), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 of 20 have no line"));
    assert_eq!(losses(&place, "out"), whole[3..]);
    assert!(!place.0.join("out/checkpoints/step-00000020").exists());
}

#[test]
fn a_run_that_is_resumed_may_grow() {
    let place = place("grow");
    done(place.run(&train("tiny.toml", "out", &["--steps", "6"])));
    let before = losses(&place, "out");
    place.refused(&train("tiny.toml", "out", &["--resume", "--steps", "5"]), 2, &["is of 6 steps", "--steps 6"]);
    let output = done(place.run(&train("tiny.toml", "out", &["--resume", "--steps", "9"])));
    assert!(stderr(&output).contains("grows to 9 steps"), "{}", stderr(&output));
    let after = losses(&place, "out");
    assert_eq!((after.len(), &after[..6]), (9, &before[..]));
    done(place.run(&["report", "out"]));
    place.refused(&train("tiny.toml", "out", &["--resume", "--steps", "6"]), 2, &["is of 9 steps"]);
}

#[test]
fn a_run_that_diverges_ends_and_keeps_the_last_finite_checkpoint() {
    let place = place("diverged");
    let wild = tiny("lr = 3e-3", "lr = 1e30").replace("min_lr = 3e-4", "min_lr = 1e30").replace("warmup_steps = 4", "");
    place.write("wild.toml", &wild);
    let output = place.run(&train("wild.toml", "out", &["--checkpoint-every", "1"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("warning: step 2: the gradient is not finite"), "{said}");
    assert!(said.contains("diverged at step 9") && said.contains("steps 2 to 9") && said.contains("`lr`"), "{said}");
    let kept: Vec<_> = std::fs::read_dir(place.0.join("out/checkpoints")).unwrap().collect();
    assert_eq!(kept.len(), 1, "the first step's loss was finite: {kept:?}");
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_finds_no_room_leaves_nothing_and_training_goes_on() {
    let place = place("full");
    let program = env!("CARGO_BIN_EXE_meshwright");
    let arguments = train("tiny.toml", "out", &["--checkpoint-every", "5"]).join(" ");
    // No file may be larger than some blocks: figures fit, a checkpoint does not.
    let script = format!("trap '' XFSZ; ulimit -f 100; exec {program} {arguments}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&place.0).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("warning: step 5 is not saved") && said.contains("step    20/20"), "{said}");
    assert_eq!(losses(&place, "out").len(), 20);
    assert_eq!(std::fs::read_dir(place.0.join("out/checkpoints")).unwrap().count(), 0);
    done(place.run(&train("tiny.toml", "out", &["--resume"])));
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_renamed_meanwhile_does_not_come_up_again() {
    let place = place("renamed");
    place.write("long.toml", &tiny("steps = 20", "steps = 100"));
    let child = started(&place, &train("long.toml", "out", &["--checkpoint-every", "40"]), "out", 5);
    std::fs::rename(place.0.join("out"), place.0.join("elsewhere")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("renamed or deleted"), "{}", stderr(&output));
    assert!(!place.0.join("out").exists() && losses(&place, "elsewhere").len() == 100);
}

#[test]
fn a_run_of_an_older_version_goes_on() {
    let place = place("old");
    let from = Path::new(CASES).join("old-run");
    let checkpoint = "checkpoints/step-00000006";
    std::fs::create_dir_all(place.0.join("old").join(checkpoint)).unwrap();
    for file in ["plan.toml", "cluster.toml", "metrics.jsonl"] {
        std::fs::copy(from.join(file), place.0.join("old").join(file)).unwrap();
    }
    for file in ["manifest.json", "rank-00000.safetensors"] {
        let file = Path::new(checkpoint).join(file);
        std::fs::copy(from.join(&file), place.0.join("old").join(&file)).unwrap();
    }
    place.write("text.txt", &"a text to learn from, again and again; \n".repeat(200));
    done(place.run(&["run", "old/plan.toml", "--data", "text.txt", "-o", "old", "--resume"]));
    let losses = losses(&place, "old");
    // What the older version went on to.
    for (loss, wanted) in losses[6..].iter().zip([5.4362, 5.4343]) {
        assert!((loss - wanted).abs() < 1e-3, "{losses:?}");
    }
    assert_eq!(losses.len(), 8);
}

#[test]
fn run_is_advised_for_this_machine_alone() {
    let place = place("advice");
    let simulate = |cluster: &str| {
        let output = done(place.run(&["simulate", "tiny.toml", "--cluster", cluster]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    done(place.run(&["hardware", "calibrate", "--ranks", "1", "--seconds", "0.2", "-o", "my machine.toml"]));
    let advice = "next: meshwright run tiny.toml --cluster 'my machine.toml' to train it on this machine";
    assert!(simulate("my machine.toml").contains(advice), "{}", simulate("my machine.toml"));
    let here = std::fs::read_to_string(place.0.join("my machine.toml")).unwrap();
    // One of another processor, and several of this one.
    let (_, rest) = here.split_once("[device.calibrated]").unwrap();
    let machine = rest.lines().find(|line| line.starts_with("machine = ")).unwrap();
    place.write("elsewhere.toml", &here.replace(machine, "machine = \"another, 2 cores\""));
    place.write("many.toml", &exchanged(&here, "nodes = 1", "nodes = 2"));
    for cluster in ["machine.toml", "elsewhere.toml", "8x cpu-generic"] {
        let said = simulate(cluster);
        assert!(said.contains("next: meshwright explain") && !said.contains("meshwright run"), "{cluster}: {said}");
    }
    place.refused(
        &["run", "tiny.toml", "--cluster", "1x dgx-h100", "-o", "out"],
        2,
        &["--cluster is 1x dgx-h100", "calibrate"],
    );
    assert!(!place.0.join("out").exists());
}

#[test]
fn ops_that_a_machine_never_timed_are_no_measured_prediction() {
    let place = place("untimed");
    done(place.run(&["hardware", "calibrate", "--ranks", "1", "--seconds", "0.2", "-o", "here.toml"]));
    place.write("lion.toml", &tiny("[job.optimizer]", "[job.optimizer]\nname = \"lion\""));
    let support = |plan: &str| {
        let answer = json(&place.run(&["simulate", plan, "--cluster", "here.toml", "--json"]));
        (answer["support"].clone(), answer["untimed_ops"].clone(), answer["extrapolated"]["reason"].to_string())
    };
    assert_eq!(support("tiny.toml").0, "measured");
    let (support, ops, why) = support("lion.toml");
    assert_eq!((support, ops), ("extrapolated".into(), serde_json::json!(["lion"])));
    assert!(why.contains("not timed on this machine"), "{why}");
}
