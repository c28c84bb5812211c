//! Screens as their user sees them: no wider than 80 columns, answers for scripts that say what was said, pages, shells, manuals.

mod place;

use place::{Place, json};

const PLAN: [&str; 8] = ["plan", "llama3-8b", "--cluster", "4x dgx-h100", "--seq", "8192", "--global-batch", "64"];

fn text(place: &Place, arguments: &[&str]) -> String {
    let output = place.command(arguments).env_remove("COLUMNS").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Lines that stand by themselves, such as commands and paths to copy, may be longer.
fn narrow(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with("next: ")) {
        assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
    }
}

#[test]
fn plans_and_explanations_fit_80_columns() {
    let place = Place::new("screens", "none", "");
    let plan = text(&place, &[&PLAN[..], &["--tokens", "1T", "-o", "plan.toml"]].concat());
    narrow(&plan);
    let words = plan.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["on 4x dgx-h100 (32 devices)", "2x dgx-h100: dp16", "mb1x4: 4 microbatches of 1"] {
        assert!(words.contains(part), "{part} in {plan}");
    }
    let cluster = ["plan.toml", "--cluster", "4x dgx-h100"];
    narrow(&text(&place, &[&["simulate"], &cluster[..]].concat()));
    let explained = text(&place, &[&["explain"], &cluster[..]].concat());
    narrow(&explained);
    assert!(explained.contains("% slower") || explained.contains("% faster"), "{explained}");
}

#[test]
fn what_was_taken_for_granted_is_said_and_stands_in_json() {
    let place = Place::new("screens-json", "none", "");
    let short = ["plan", "llama3-8b", "--cluster", "2x dgx-h100", "--json"];
    let output = place.run(&short);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sequences of 4096 tokens") && said.contains("512 sequences a step"), "{said}");
    let answer = json(&output);
    assert_eq!(answer["schema"], "meshwright.plan/1");
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 2, "{}", answer["warnings"]);
    let quiet = place.run(&[&short[..], &["--quiet"]].concat());
    assert!(quiet.stderr.is_empty() && json(&quiet)["warnings"] == answer["warnings"]);
    for (arguments, key) in [
        (&["models", "--json"][..], "models"),
        (&["hardware", "list", "--json"], "systems"),
        (&["stacks", "--json"], "stacks"),
        (&["prices", "list", "--json"], "prices"),
    ] {
        let answer = json(&place.run(arguments));
        assert!(answer["schema"].as_str().unwrap().starts_with("meshwright."), "{arguments:?}");
        assert!(answer["warnings"].is_array() && answer[key].as_array().unwrap().len() > 5, "{arguments:?}");
    }
}

#[test]
fn a_plan_is_a_page_that_stands_alone() {
    let place = Place::new("screens-page", "none", "");
    text(&place, &[&PLAN[..], &["--tokens", "1T", "-o", "plan.toml", "--html", "plan.html"]].concat());
    text(&place, &["explain", "plan.toml", "--cluster", "4x dgx-h100", "--no-search", "--html", "why.html"]);
    for (name, front) in [("plan.html", true), ("why.html", false)] {
        let page = std::fs::read_to_string(place.0.join(name)).unwrap();
        for part in ["A step's timeline", "<rect class=\"k0\"", "Memory by stage", "One decision changed", "llama3-8b"]
        {
            assert!(page.contains(part), "{part} in {name}");
        }
        assert_eq!(page.contains("<h2>The front</h2>"), front, "{name}");
        for outside in ["<script", "src=", "@import", "{{"] {
            assert!(!page.contains(outside), "{outside} in {name}");
        }
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let place = Place::new("screens-shells", "none", "");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = text(&place, &["completions", shell]);
        assert!(script.contains("global-batch") && script.contains("calibrate"), "{shell}");
    }
    place.refused(&["completions", "tcsh"], 2, &["tcsh", "bash"]);
    text(&place, &["man", "-o", "man"]);
    let page = std::fs::read_to_string(place.0.join("man/meshwright-hardware-calibrate.1")).unwrap();
    assert!(page.starts_with(".") && page.contains("precision"), "{page}");
    assert!(text(&place, &["man"]).contains("meshwright"));
}

#[test]
fn examples_of_the_help_are_read() {
    let place = Place::new("screens-examples", "none", "");
    for command in ["plan", "simulate", "explain", "run", "compare", "hardware", "completions"] {
        let help = text(&place, &[command, "--help"]);
        let (_, examples) = help.split_once("Examples:").unwrap();
        for example in examples.lines().map(str::trim).filter(|line| line.starts_with("meshwright ")) {
            let words = example.split(" > ").next().unwrap().replace('"', "");
            assert!(words.starts_with(&format!("meshwright {command} ")), "{example}");
            // Every option is one of the command's.
            let options = words.split(' ').filter(|word| word.starts_with("--"));
            let of = if command == "hardware" {
                text(&place, &["hardware", words.split(' ').nth(2).unwrap(), "--help"])
            } else {
                help.clone()
            };
            options.for_each(|option| assert!(of.contains(option), "{option} of {example}"));
        }
    }
}

/// Every command that answers in figures or words; scripts, pages and schemas are what they are.
#[test]
fn every_command_answers_for_scripts_with_its_schema_and_what_was_said() {
    fn leaves(command: &clap::Command, way: &str, all: &mut Vec<(String, bool)>) {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let way = format!("{way} {}", below.get_name());
            if below.has_subcommands() && below.is_subcommand_required_set() {
                leaves(below, &way, all);
            } else {
                let json = below.get_arguments().any(|argument| argument.get_long() == Some("json"));
                all.push((way, json));
            }
        }
    }
    let mut all = Vec::new();
    leaves(&meshwright::cli::command(), "", &mut all);
    let without: Vec<&str> = all.iter().filter(|(_, json)| !json).map(|(way, _)| way.trim()).collect();
    assert!(all.len() > 20 && without == ["hardware schema", "schema", "completions", "man"], "{without:?}");

    let place = Place::new("screens-scripts", "none", "");
    text(&place, &[&PLAN[..], &["-o", "plan.toml"]].concat());
    place.write("faulty.toml", "inherit = \"dgx-h100\"\nname = \"ours\"\ncount = 0\n");
    place.write("prices.toml", "");
    let asked: [(&[&str], &str, &str, Option<i32>); 8] = [
        (&["export", "plan.toml", "--to", "torchtitan", "-o", "out"], "export", "files", Some(0)),
        (&["export", "--list"], "engines", "engines", Some(0)),
        (
            &["hardware", "calibrate", "--ranks", "1", "--seconds", "0.2", "-o", "me.toml"],
            "calibration",
            "output",
            Some(0),
        ),
        (&["hardware", "check", "me.toml"], "check", "faults", Some(0)),
        (&["hardware", "check", "faulty.toml"], "check", "faults", Some(2)),
        (&["check", "plan.toml"], "check", "violations", Some(0)),
        (&["prices", "check", "prices.toml"], "check", "doubtful", Some(0)),
        (&["models", "llama3-8b"], "models", "models", Some(0)),
    ];
    for (arguments, kind, key, code) in asked {
        let output = place.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), code, "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["schema"], format!("meshwright.{kind}/1"), "{arguments:?}");
        assert!(answer["warnings"].is_array() && !answer[key].is_null(), "{arguments:?}: {answer}");
    }
    let planned = json(&place.run(&[&PLAN[..], &["--export", "found", "--to", "torchtitan", "--json"]].concat()));
    assert!(planned["exported"]["files"].as_array().unwrap().len() > 2, "{}", planned["exported"]);
    assert!(planned["exported"]["start"].as_str().unwrap().contains("train.sh"), "{}", planned["exported"]);
}

/// A hybrid is counted and refused with the true reason; what is not known at all says which are.
#[test]
fn models_of_files_are_counted_also_those_that_are_not_planned() {
    let place = Place::new("screens-models", "none", "");
    let all: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../planner/tests/configurations.json")).unwrap();
    let jamba = all.iter().find(|case| case["of"] == "ai21labs/Jamba-1.5-Mini").unwrap();
    std::fs::create_dir_all(place.0.join("jamba")).unwrap();
    place.write("jamba/config.json", &jamba["config"].to_string());
    let counted = json(&place.run(&["models", "jamba", "--json"]));
    let counted = &counted["models"][0];
    assert_eq!((counted["parameters"].as_f64(), &counted["planned"]), (jamba["parameters"].as_f64(), &false.into()));
    let said = text(&place, &["models", "jamba"]);
    assert!(said.contains("51.570 B parameters") && said.contains("state space") && said.contains("GiB"), "{said}");
    let plan = ["plan", "jamba", "--cluster", "32x dgx-h100"];
    place.refused(&plan, 2, &["`model_type` is jamba: of its 51.570 B parameters", "layers of state space"]);
    assert!(text(&place, &[&plan[..], &["--as", "mixtral", "--seq", "4096"]].concat()).contains("dp"));
}
