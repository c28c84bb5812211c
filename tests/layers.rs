//! Within a crate data flows one way: a module knows those before it, and no files know each other in a circle.
//!
//! Read are paths that begin with `crate` or `super`, in `use` and elsewhere; tests may look where they like.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A crate's modules from the ground up: layers by name, and in each its modules, of which a later one may know an earlier.
struct Crate {
    src: &'static str,
    layers: &'static [(&'static str, &'static [&'static str])],
}

const CRATES: [Crate; 6] = [
    Crate {
        src: "hardware/src",
        layers: &[
            ("words", &["exit", "files", "hash", "input", "units", "mesh", "classes", "params"]),
            ("programs", &["elem", "op", "program", "text"]),
            ("soundness", &["hazards", "verify"]),
            ("machines", &["profile", "topology"]),
            ("simulation and prices", &["trace", "chrome", "simulate", "price", "replay"]),
        ],
    },
    Crate {
        src: "planner/src",
        layers: &[
            ("job and model", &["error", "limits", "schedule", "job", "models", "model", "scaling"]),
            ("plan", &["plan", "ability"]),
            ("lower", &["lower"]),
            ("price and predict", &["predict", "goodput"]),
            ("search", &["parallel", "search"]),
            ("explain, goal", &["explain", "goal"]),
        ],
    },
    Crate {
        src: "engines/src",
        layers: &[
            ("words", &["setting"]),
            ("plans", &["launch"]),
            ("engines", &["engine"]),
            ("folders", &["launcher", "export"]),
            ("files and logs of theirs", &["import", "log"]),
        ],
    },
    Crate {
        src: "executor/src",
        layers: &[
            ("kernels", &["error", "clock", "random", "kernels"]),
            ("devices", &["device"]),
            ("ranks", &["transport", "interpret"]),
            ("runs", &["init", "data", "metrics", "checkpoint", "train", "calibrate"]),
        ],
    },
    Crate {
        src: "executor/torch/src",
        layers: &[
            ("libtorch", &["ffi", "view", "cuda"]),
            ("ops", &["launch", "cache", "kernels", "ops"]),
            ("device", &["worker", "tensors", "batch", "torch", "export"]),
        ],
    },
    Crate {
        src: "src",
        layers: &[
            (
                "what a command needs",
                &[
                    "failure", "out", "answer", "signals", "busy", "runs", "machine", "prices", "scenario", "validate",
                    "report",
                ],
            ),
            ("commands", &["cli"]),
        ],
    },
];

/// A file of a crate: its module's path, and its text without comments and tests.
struct File {
    path: PathBuf,
    module: Vec<String>,
    text: String,
}

/// A path in a file that leads to another.
#[derive(Clone, Debug)]
struct Arrow {
    line: usize,
    path: Vec<String>,
    to: usize,
}

impl File {
    /// All files under a crate's `src` but tests.
    fn all(src: &Path) -> Vec<File> {
        let tests = |path: &PathBuf| {
            let stem = path.file_stem().unwrap();
            stem == "tests" || stem == "testing"
        };
        sources(src).into_iter().filter(|path| !tests(path)).map(|path| File::read(src, path)).collect()
    }

    fn read(src: &Path, path: PathBuf) -> File {
        let inside = path.strip_prefix(src).unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(module.last().unwrap().as_str(), "mod" | "lib" | "main") {
            module.pop();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
        let tests = code.windows(2).position(|two| two[0] == "#[cfg(test)]" && two[1].ends_with('{'));
        let text = code[..tests.unwrap_or(code.len())].join("\n");
        File { path, module, text }
    }

    /// Paths from the crate's root that stand in it, each with its line.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut all = Vec::new();
        for root in ["crate", "super"] {
            for (at, _) in self.text.match_indices(&format!("{root}::")) {
                let before = self.text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                    continue;
                }
                let line = self.text[..at].matches('\n').count() + 1;
                all.extend(tree(&self.text[at..]).into_iter().filter_map(|path| Some((line, self.absolute(path)?))));
            }
        }
        all
    }

    fn absolute(&self, path: Vec<String>) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let root = if path[0] == "crate" { 1 } else { supers };
        let base = if path[0] == "crate" { 0 } else { self.module.len().checked_sub(supers)? };
        Some(self.module[..base].iter().chain(&path[root..]).cloned().collect())
    }

    /// Names that the file hands on from its children: the name, and where it stands.
    fn handed_on(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for (at, _) in self.text.match_indices("use ") {
            let line = self.text[..at].rsplit('\n').next().unwrap();
            if line.starts_with("pub") {
                for path in tree(&self.text[at + 4..]) {
                    let name = path.last().unwrap().clone();
                    all.insert(name, self.module.iter().cloned().chain(path).collect());
                }
            }
        }
        all
    }
}

/// All files of Rust under a folder.
fn sources(src: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ext| ext == "rs") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

/// The paths of a `use` tree or of a path that begins a text, without renames.
fn tree(text: &str) -> Vec<Vec<String>> {
    fn read(text: &[u8], at: &mut usize, before: &[String], all: &mut Vec<Vec<String>>) {
        let mut path = before.to_vec();
        loop {
            while text.get(*at).is_some_and(u8::is_ascii_whitespace) {
                *at += 1;
            }
            if text.get(*at) == Some(&b'{') {
                *at += 1;
                while *at < text.len() && text[*at] != b'}' {
                    let start = *at;
                    read(text, at, &path, all);
                    while *at < text.len() && text[*at] != b',' && text[*at] != b'}' {
                        *at += 1;
                    }
                    *at += usize::from(text.get(*at) == Some(&b','));
                    assert!(*at > start, "a use tree that is not understood");
                    while text.get(*at).is_some_and(u8::is_ascii_whitespace) {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            let word = text[*at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count();
            let name = std::str::from_utf8(&text[*at..*at + word]).unwrap();
            if !name.is_empty() && name != "self" {
                path.push(name.to_owned());
            }
            *at += word;
            if !text[*at..].starts_with(b"::") {
                all.push(path);
                return;
            }
            *at += 2;
        }
    }
    let mut all = Vec::new();
    read(text.as_bytes(), &mut 0, &[], &mut all);
    all
}

/// By file: where its paths lead, through names that are handed on to where they are defined.
fn arrows(files: &[File]) -> Vec<Vec<Arrow>> {
    let by_module: BTreeMap<&[String], usize> = files.iter().enumerate().map(|(i, f)| (&f.module[..], i)).collect();
    let handed: Vec<_> = files.iter().map(File::handed_on).collect();
    let resolve = |path: &[String]| {
        let mut path = path.to_vec();
        for _ in 0..4 {
            let deep = (0..=path.len()).rev().find(|&n| by_module.contains_key(&path[..n]))?;
            let file = by_module[&path[..deep]];
            match path.get(deep).and_then(|name| handed[file].get(name)) {
                Some(target) if *target != path => path.clone_from(target),
                _ => return Some(file),
            }
        }
        None
    };
    let of = |(from, file): (usize, &File)| {
        let found = file.paths().into_iter().filter_map(|(line, path)| {
            let to = resolve(&path)?;
            (to != from).then_some(Arrow { line, path, to })
        });
        found.collect()
    };
    files.iter().enumerate().map(of).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(file: &File, line: usize) -> String {
    format!("{}:{line}", file.path.strip_prefix(root()).unwrap().display())
}

#[test]
fn modules_know_only_those_before_them() {
    let mut upward = Vec::new();
    for Crate { src, layers } in CRATES {
        let order: Vec<(&str, &str)> =
            layers.iter().flat_map(|(layer, modules)| modules.iter().map(|module| (*module, *layer))).collect();
        let rank = |module: &str| order.iter().position(|(other, _)| *other == module);
        let files = File::all(&root().join(src));
        let modules: BTreeSet<&str> = files.iter().filter_map(|file| Some(file.module.first()?.as_str())).collect();
        let listed: BTreeSet<&str> = order.iter().map(|(module, _)| *module).collect();
        assert_eq!(modules, listed, "every module of {src} is in one layer, and every listed one exists");
        for (file, arrows) in files.iter().zip(arrows(&files)) {
            let Some(from) = file.module.first().and_then(|module| rank(module)) else { continue };
            for Arrow { line, path, to } in arrows {
                let Some(to) = files[to].module.first().and_then(|module| rank(module)) else { continue };
                if to > from {
                    let ((module, layer), (other, above)) = (order[from], order[to]);
                    let (at, path) = (shown(file, line), path.join("::"));
                    upward.push(format!("{at}: {path}: `{module}` ({layer}) stands before `{other}` ({above})"));
                }
            }
        }
    }
    assert!(upward.is_empty(), "upward:\n{}", upward.join("\n"));
}

/// A parent may hand on what its children define, and children use what their parent defines; others go one way.
#[test]
fn no_files_know_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for Crate { src, .. } in CRATES {
        let files = File::all(&root().join(src));
        let arrows = arrows(&files);
        let related = |a: usize, b: usize| {
            let (a, b) = (&files[a].module, &files[b].module);
            a.starts_with(b) || b.starts_with(a)
        };
        let onward = |from: usize| arrows[from].iter().filter(move |arrow| !related(from, arrow.to));
        // A file is in a circle if it reaches itself; the way is kept to be shown.
        for start in 0..files.len() {
            let mut came: BTreeMap<usize, (usize, &Arrow)> = BTreeMap::new();
            let mut next = vec![start];
            while let Some(at) = next.pop() {
                for arrow in onward(at) {
                    if let Entry::Vacant(unseen) = came.entry(arrow.to) {
                        unseen.insert((at, arrow));
                        next.push(arrow.to);
                    }
                }
            }
            if came.contains_key(&start) {
                let (mut way, mut at) = (Vec::new(), start);
                while way.is_empty() || at != start {
                    let (from, arrow) = came[&at];
                    way.push(format!("{} {}", shown(&files[from], arrow.line), arrow.path.join("::")));
                    at = from;
                }
                way.reverse();
                // Once, though each of its files finds it.
                if !way.iter().any(|step| circles.iter().any(|circle: &String| circle.contains(step))) {
                    circles.push(way.join("\n  "));
                }
            }
        }
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n\n"));
}

/// Longer ones hold several concepts, each of which is a file.
#[test]
fn no_file_is_longer_than_400_lines() {
    let mut long = Vec::new();
    for Crate { src, .. } in CRATES {
        for path in sources(&root().join(src)) {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            if lines > 400 {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}
