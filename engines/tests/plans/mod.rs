//! The plans of `tests/cases`, by name.

use std::path::PathBuf;

use meshwright_planner::plan::Plan;

pub fn cases() -> Vec<(String, Plan)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| Plan::read(path.to_str().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    paths.iter().map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(path))).collect()
}
