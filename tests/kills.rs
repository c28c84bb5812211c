//! Runs that are killed at any moment, or at the n-th write of a checkpoint, end after one resume with the bits of a run that was
//! let be.
//!
//! 24 kills; `MESHWRIGHT_KILLS=1000 cargo test --test kills` tries so many, `MESHWRIGHT_KILLS_SEED` others (`scripts/kills`).
//! Invariant: which moments are tried follows from the seed; what a run does at such a moment is up to the machine.

mod place;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use place::{Place, json};

const STEPS: usize = 12;

/// SplitMix64 (Steele et al. 2014).
struct Draws(u64);

impl Draws {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % most
    }
}

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after it was started.
    After(Duration),
    /// As soon as so many checkpoints, whole or not, have been seen.
    Checkpoint(usize),
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}: a number")))
}

fn place() -> Place {
    let place = Place::new("kills", "text.txt", &"a text to learn from, again and again; ".repeat(500));
    let case = |name: &str| {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
        std::fs::read_to_string(cases.join(name)).unwrap()
    };
    let less =
        [("microbatch = 2", "microbatch = 1"), ("global_batch = 8", "global_batch = 2"), ("seq = 64", "seq = 16")];
    place.write("tiny.toml", &less.iter().fold(case("tiny.toml"), |plan, (from, to)| plan.replace(from, to)));
    place.write("machine.toml", &case("machine.toml"));
    place
}

fn arguments(folder: &str, more: &[&str]) -> Vec<String> {
    let steps = STEPS.to_string();
    let run = ["run", "tiny.toml", "--data", "text.txt", "--cluster", "machine.toml", "-o", folder, "--steps", &steps];
    [&run[..], &["--checkpoint-every", "1"], more].concat().into_iter().map(str::to_owned).collect()
}

/// Names of what stands in a folder; nothing where there is none.
fn listed(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Runs, and kills at a moment, if the run lasts so long.
fn killed(place: &Place, folder: &str, moment: Moment) {
    let all = arguments(folder, &[]);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut child = place.command(&all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (start, checkpoints) = (Instant::now(), place.0.join(folder).join("checkpoints"));
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let now = match moment {
            Moment::After(time) => start.elapsed() >= time,
            Moment::Checkpoint(count) => {
                seen.extend(listed(&checkpoints));
                seen.len() >= count
            }
        };
        if now || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let _ = child.kill();
    child.wait().unwrap();
}

/// What a run leaves: the bytes of its last checkpoint's tensors, and its losses as they are written.
fn left(place: &Place, folder: &str) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let dir = place.0.join(folder);
    let last = dir.join("checkpoints").join(format!("step-{STEPS:08}"));
    let tensors = listed(&last).into_iter().filter(|name| name.ends_with(".safetensors"));
    let tensors = tensors.map(|name| (name.clone(), std::fs::read(last.join(name)).unwrap())).collect();
    let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
    (tensors, metrics.lines().map(loss).collect())
}

#[test]
fn a_run_that_is_killed_at_any_moment_ends_after_one_resume_with_the_same_bits() {
    let place = place();
    let run = |folder: &str, more: &[&str]| {
        let all = arguments(folder, more);
        place.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let start = Instant::now();
    json(&run("whole", &["--json"]));
    let (took, wanted) = (start.elapsed(), left(&place, "whole"));
    assert!(!wanted.0.is_empty() && wanted.1.len() == STEPS);
    let again = arguments("whole", &[]);
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    place.refused(&again, 2, &["whole holds a run already", "--resume"]);
    let (kills, seed) = (setting("MESHWRIGHT_KILLS", 24), setting("MESHWRIGHT_KILLS_SEED", 1));
    let mut draws = Draws(seed);
    for kill in 0..kills {
        let moment = match kill % 3 {
            0 => Moment::Checkpoint(1 + draws.below(2 * STEPS as u64) as usize),
            _ => Moment::After(took.mul_f64(draws.below(1100) as f64 / 1000.0)),
        };
        let folder = format!("killed-{kill}");
        killed(&place, &folder, moment);
        // What was killed before it had a plan is begun again.
        let begun = place.0.join(&folder).join("plan.toml").exists();
        let output = run(&folder, if begun { &["--resume"] } else { &[] });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kill {kill} of seed {seed}, {moment:?}: {said}");
        assert!(left(&place, &folder) == wanted, "kill {kill} of seed {seed}, {moment:?}: other bits");
        assert!(!listed(&place.0.join(&folder)).iter().any(|name| name.contains(".tmp-")), "kill {kill}");
        std::fs::remove_dir_all(place.0.join(&folder)).unwrap();
    }
}
