//! The worked examples of CONTRIBUTING.md apply to the project as it is, and touch as few files as it says; `scripts/samples` builds
//! and uses them.
//!
//! In: `tests/samples/*.patch`. Out: nothing, or the sample that no longer applies or touches more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A sample's files: new ones, and those that it changes.
fn files(sample: &str) -> [BTreeSet<String>; 2] {
    let text = fs::read_to_string(Path::new(ROOT).join("tests/samples").join(format!("{sample}.patch"))).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (mut new, mut changed) = (BTreeSet::new(), BTreeSet::new());
    for pair in lines.windows(2) {
        if let Some(file) = pair[1].strip_prefix("+++ b/") {
            if pair[0] == "--- /dev/null" { &mut new } else { &mut changed }.insert(file.to_owned());
        }
    }
    [new, changed]
}

#[test]
fn what_is_added_touches_few_files() {
    // What may be new, and what may change beside it.
    let bounds =
        [("profile", 2, 0), ("model", 1, 0), ("schedule", 1, 1), ("op", 0, 4), ("backend", 1, 1), ("figure", 0, 1)];
    let page = fs::read_to_string(Path::new(ROOT).join("CONTRIBUTING.md")).unwrap();
    for (sample, most_new, most_changed) in bounds {
        let [new, changed] = files(sample);
        assert!(!new.is_empty() || !changed.is_empty(), "{sample}");
        assert!(new.len() <= most_new && changed.len() <= most_changed, "{sample}: {new:?}, {changed:?}");
        for file in new.iter().chain(&changed) {
            let name = file.rsplit('/').next().unwrap_or_default();
            assert!(page.contains(name), "{sample}: CONTRIBUTING.md does not name {file}");
        }
    }
    assert_eq!(fs::read_dir(Path::new(ROOT).join("tests/samples")).unwrap().count(), bounds.len() + 1);
}

#[test]
fn samples_apply_to_the_project_as_it_is() {
    let patches = ["backend", "figure", "model", "op", "profile", "schedule"];
    let paths = patches.map(|sample| format!("tests/samples/{sample}.patch"));
    let run = Command::new("git").current_dir(ROOT).args(["apply", "--check", "-C1"]).args(paths).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
