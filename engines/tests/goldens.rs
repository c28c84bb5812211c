//! What engines are given, text by text: every case by every engine that can express it, and what the others say.
//!
//! The same cases go to the engines' own parsers by `scripts/engines check`.

mod plans;

use std::fmt::Write;

use meshwright_engines::engine::{ENGINES, TextFile, find};
use meshwright_engines::export::{Refusal, export};
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::{self, LAUNCHERS};
use meshwright_hardware::profile::Cluster;
use meshwright_planner::ability::Lost;
use meshwright_planner::predict::predict;
use plans::cases;

fn by_hand() -> &'static dyn launcher::Launcher {
    LAUNCHERS[0]
}

fn shown(files: &[TextFile], but: &[&str]) -> String {
    let kept = files.iter().filter(|file| !but.contains(&file.name.as_str()));
    kept.map(|TextFile { name, text }| format!("===== {name}\n{text}")).collect::<Vec<_>>().join("\n")
}

/// One golden a case in a folder an engine.
fn golden(engine: &str, case: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("goldens/{engine}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(case, text));
}

#[test]
fn each_engine_is_given_what_it_was_given_before() {
    for (case, plan) in cases() {
        for engine in ENGINES {
            let launch = Launch::new(plan.clone(), None);
            if let Ok(done) = export(&launch, *engine, by_hand(), false) {
                assert!(done.losses.is_empty() && done.plan == plan, "{case}");
                golden(engine.about().name, &case, &shown(&done.files, &["plan.toml", "train.py", "PLAN.md"]));
            }
        }
    }
}

#[test]
fn what_an_engine_cannot_express_is_said_with_the_nearest_plan() {
    let mut text = String::new();
    for (case, plan) in cases() {
        let _ = writeln!(text, "{case}: {}", plan.summary());
        for engine in ENGINES {
            let launch = Launch::new(plan.clone(), None);
            let Err(Refusal { losses, nearest }) = export(&launch, *engine, by_hand(), false) else { continue };
            let _ = writeln!(text, "  {}", engine.about().name);
            for Lost { what, instead } in losses {
                let _ = writeln!(text, "    {what}: {}", instead.as_deref().unwrap_or("nothing"));
            }
            match nearest {
                Ok(nearest) => {
                    let _ = writeln!(text, "    nearest: {}", nearest.summary());
                    let done = export(&launch, *engine, by_hand(), true).unwrap();
                    assert!(done.plan == *nearest && !done.losses.is_empty());
                    // The nearest plan is one that the engine can express.
                    let again = export(&Launch::new(*nearest, None), *engine, by_hand(), false);
                    assert!(again.is_ok(), "{case} by {}: {again:?}", engine.about().name);
                }
                Err(why) => {
                    let _ = writeln!(text, "    {why}");
                }
            }
        }
    }
    golden("", "refusals", &text);
}

#[test]
fn a_folder_tells_what_was_predicted_and_how_it_is_started() {
    let (_, plan) = cases().into_iter().find(|(case, _)| case == "llama-fsdp").unwrap();
    let cluster = Cluster::parse("8x dgx-h100").unwrap();
    let figures = predict(&plan, &cluster).unwrap().figures;
    let launch = Launch::new(plan, Some((&cluster, Some(figures))));
    let engine = find("torchtitan").unwrap();
    let folders: Vec<String> = LAUNCHERS
        .iter()
        .map(|launcher| {
            let done = export(&launch, engine, *launcher, false).unwrap();
            let but: &[&str] = if launcher.name() == "torchrun" { &["plan.toml"] } else { &["plan.toml", "PLAN.md"] };
            let but = [but, &["train.sh", "meshwright_plan.py"]].concat();
            format!("##### {}: {}\n{}", launcher.name(), done.usage, shown(&done.files, &but))
        })
        .collect();
    golden("", "launchers", &folders.join("\n"));
}

#[test]
fn engines_are_given_what_is_no_code_to_a_shell() {
    let (_, mut plan) = cases().into_iter().find(|(case, _)| case == "llama-fsdp").unwrap();
    plan.job.model.name = "it's $(touch here) `x`".to_owned();
    plan.check().unwrap();
    for engine in ENGINES {
        for launcher in LAUNCHERS {
            let done = export(&Launch::new(plan.clone(), None), *engine, *launcher, false).unwrap();
            for file in done.files.iter().filter(|file| file.name != "PLAN.md" && file.name != "plan.toml") {
                let code = file.text.lines().filter(|line| !line.trim_start().starts_with('#'));
                let bad = code.filter(|line| line.contains("touch here") && !line.contains("flavor=")).count();
                assert_eq!(bad, 0, "{}: {}", engine.about().name, file.name);
            }
        }
    }
}

#[test]
fn an_engine_is_not_given_devices_that_it_does_not_run_on() {
    let (_, plan) = cases().into_iter().find(|(case, _)| case == "llama-fsdp").unwrap();
    let tpus = Cluster::parse("64x tpu-v5p").unwrap();
    let launch = Launch::new(plan, Some((&tpus, None)));
    let refused = export(&launch, find("torchtitan").unwrap(), by_hand(), true).unwrap_err();
    assert!(refused.losses[0].what.contains("devices of this kind") && refused.nearest.is_err());
    let kubernetes = launcher::find("kubernetes").unwrap();
    let done = export(&launch, find("maxtext").unwrap(), kubernetes, false).unwrap();
    assert!(done.files.iter().any(|file| file.text.contains("google.com/tpu")));
}
