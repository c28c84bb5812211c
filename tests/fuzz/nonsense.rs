//! Values that mean nothing, over all files and flags: none is taken, and each refusal names key, value and rule.

use std::process::Command;

use crate::mutate::set;
use crate::readers::{Reader, readers};
use crate::tables::{CLUSTERS, CONFIGURATION, FAMILY, JOB, MACHINE, MODEL, OWN, PLAN, QUANTITIES, RENT, STACK};

#[test]
fn no_value_that_means_nothing_is_taken() {
    let readers = readers();
    let find = |name: &str| readers.iter().find(|reader| reader.name == name).unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    let tables = [
        ("model", MODEL),
        ("model", FAMILY),
        ("job", JOB),
        ("plan", PLAN),
        ("machine", MACHINE),
        ("stack", STACK),
        ("configuration", CONFIGURATION),
        ("prices", OWN),
    ];
    for (name, table) in tables {
        let reader = find(name);
        let base = base(reader);
        for (key, value) in table.iter().flat_map(|(key, values)| values.iter().map(move |value| (*key, *value))) {
            count += 1;
            let text = set(&base, reader.form, key, value);
            wrong.extend(taken(reader, &text, key, value));
        }
    }
    let plain = [("cluster", CLUSTERS), ("quantity", QUANTITIES)];
    for (name, text) in plain.iter().flat_map(|(name, texts)| texts.iter().map(move |text| (*name, *text))) {
        count += 1;
        wrong.extend((find(name).read)(text).is_ok().then(|| format!("{name} `{text}` is taken")));
    }
    let rents = find("prices");
    for (from, to) in RENT {
        count += 1;
        assert!(rents.seeds[0].contains(from), "{from}");
        let key = from.split_once(' ').unwrap().0;
        wrong.extend(taken(rents, &rents.seeds[0].replacen(from, to, 1), key, to.split_once("= ").unwrap().1));
    }
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 300, "{count}");
}

/// The valid input in which one value is set.
fn base(reader: &Reader) -> String {
    let tiny = "{\"model_type\": \"llama\", \"hidden_size\": 1024, \"num_attention_heads\": 8, \"num_hidden_layers\": 4, \"intermediate_size\": 2048, \"vocab_size\": 1024}";
    let text = match reader.name {
        "plan" => include_str!("../cases/tiny.toml").to_owned(),
        "machine" => include_str!("../cases/machine.toml").to_owned(),
        "model" => reader.seeds.iter().find(|text| text.contains("\"llama2-7b\"")).unwrap().clone(),
        "stack" => reader.seeds.iter().find(|text| text.contains("\"torchtitan\"")).unwrap().clone(),
        "configuration" => tiny.to_owned(),
        "prices" => reader.seeds.last().unwrap().clone(),
        _ => reader.seeds[0].clone(),
    };
    (reader.read)(&text).unwrap();
    text
}

/// What is wrong with a refusal; also where there is none.
fn taken(reader: &Reader, text: &str, key: &str, value: &str) -> Option<String> {
    let named = format!("{}: {key} = {value}", reader.name);
    let Err(said) = (reader.read)(text) else { return Some(format!("{named} is taken")) };
    let last = key.rsplit('.').next().unwrap_or(key);
    // What stands in an inline table is named by its own key.
    let inner: Vec<&str> =
        value.split(['{', ',', '}']).filter_map(|part| Some(part.split_once('=')?.0.trim())).collect();
    let names = said.contains(last) || inner.iter().any(|key| said.contains(key));
    let plain = value.trim_matches('"').to_lowercase();
    let shown = said.to_lowercase();
    let says = value.contains(['{', '[', '\\']) || shown.contains(&plain) || same_number(&plain, &shown);
    if names && says && reader.refusal(&said).is_ok() { None } else { Some(format!("{named}: {said}")) }
}

/// Whether a number stands in a text, however it is written: as `1e30` is of 31 digits, and `1e-9 s` is `1 ns`.
fn same_number(value: &str, text: &str) -> bool {
    let numbers = |text: &str| -> Vec<f64> {
        text.split(|c: char| !(c.is_alphanumeric() || "+-.".contains(c))).filter_map(|word| word.parse().ok()).collect()
    };
    let digits = |number: f64| format!("{number:.5e}").split_once('e').map(|(digits, _)| digits.to_owned());
    let all: Vec<_> = numbers(text).into_iter().map(digits).collect();
    numbers(value).into_iter().map(digits).any(|number| all.contains(&number))
}

#[test]
fn no_option_that_means_nothing_is_taken() {
    let plan = ["plan", "demo-10m", "--cluster", "8x h100", "--seq", "64", "--global-batch", "8"];
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml");
    let explain = ["explain", tiny, "--cluster", "2x h100", "--no-search"];
    let run = ["run", tiny, "-o", "nowhere"];
    let (calibrate, demo) = (["hardware", "calibrate", "-o", "/dev/null"], ["demo", "-o", "nowhere"]);
    let (report, import) = (["report", "nowhere"], ["import", tiny]);
    let of =
        |command: &[&'static str], options: &[(&'static str, &'static [&'static str])]| -> Vec<Vec<&'static str>> {
            let one = |(option, value): (&'static str, &'static str)| [command, &[option, value]].concat();
            let pairs = options.iter().flat_map(|(option, values)| values.iter().map(move |value| (*option, *value)));
            pairs.map(one).collect()
        };
    let mut all = of(
        &plan,
        &[
            ("--tp", &["0", "-1", "3", "9", "x", "1.5"]),
            ("--pp", &["0", "-2", "1000"]),
            ("--dp", &["0", "9", "2305843009213693952"]),
            ("--cp", &["0"]),
            ("--ep", &["0", "3"]),
            ("--zero", &["4", "9", "255", "-1"]),
            ("--shard", &["0", "1", "16"]),
            ("--max-tp", &["0"]),
            ("--microbatch", &["0", "-1"]),
            ("--schedule", &["2f2b"]),
            ("--chunks", &["0"]),
            ("--precision", &["fp7", ""]),
            ("--steps", &["0", "-1", "18446744073709551615"]),
            ("--tokens", &["0 tokens", "1e400", "1e300 T", "-5G", "300"]),
            ("--headroom", &["nan", "-0.1", "1", "inf"]),
            ("--deadline", &["0 s", "-1 d", "30", "1e300 d"]),
            ("--budget", &["$0", "-5", "$1e300", "5"]),
            ("--price", &["$0", "$-1", "-1", "2.50", "$1e300"]),
            ("--objective", &["speed"]),
            ("--stack", &["no-such"]),
            ("--top", &["0", "-1", "x"]),
            ("--gpus", &["0", "-1"]),
            ("--solver", &["magic"]),
        ],
    );
    all.extend(of(&plan[..6], &[("--global-batch", &["0", "-8", "2305843009213693952"])]));
    all.extend(of(&[&plan[..4], &plan[6..]].concat(), &[("--seq", &["0", "-1", "2305843009213693952"])]));
    all.extend(of(
        &explain,
        &[
            ("--mtbf", &["0 s", "1ms", "-1 h", "5", "1e300 d"]),
            ("--storage", &["0 B/s", "5", "1e300 TB/s"]),
            ("--restart", &["0 s", "-1 s", "1e300 d"]),
        ],
    ));
    all.extend(of(
        &run,
        &[("--steps", &["0", "-1", "1.5"]), ("--checkpoint-every", &["-1", "x"]), ("--device", &["abacus", ""])],
    ));
    all.extend(of(
        &calibrate,
        &[
            ("--seconds", &["0", "-1", "nan", "1e9"]),
            ("--ranks", &["0", "-1", "2305843009213693952"]),
            ("--precision", &["int8", "fp7"]),
        ],
    ));
    all.extend(of(&demo, &[("--seconds", &["0", "-1", "nan", "1e9"])]));
    all.extend(of(&report, &[("--within", &["nan", "-1", "inf", "x"])]));
    all.extend(of(
        &import,
        &[("--gpus", &["0", "-1"]), ("--launch", &["0"]), ("--set", &["vocab", "nonsense=1"]), ("--env", &["x"])],
    ));
    let mut wrong = Vec::new();
    for arguments in &all {
        let output = Command::new(env!("CARGO_BIN_EXE_meshwright"))
            .args(arguments)
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (option, value) = (arguments[arguments.len() - 2], arguments[arguments.len() - 1]);
        let key = option.trim_start_matches('-').replace('-', "_");
        let named = said.contains(option) || said.contains(&key);
        if output.status.code() != Some(2) || !named {
            wrong.push(format!(
                "{option} {value}: {:?}: {}",
                output.status.code(),
                said.lines().next().unwrap_or_default()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
