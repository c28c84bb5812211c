//! Sizes that an architecture takes where its `config.json` does not state them.
//!
//! In: the file's object. Out: the same with the defaults of its `model_type`, and a note of each.
//!
//! Invariant: they are those of transformers' own classes, of the version that `defaults.json` states; `scripts/configurations.py`
//! writes it anew.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// What `defaults.json` holds that is read.
#[derive(Deserialize)]
struct Defaults {
    architectures: BTreeMap<String, Map<String, Value>>,
}

/// Adds to a file's object the sizes that an architecture of this `model_type` takes by itself, `groups` being the keys that name the same size; a
/// sentence for each.
pub(super) fn complete(kind: &str, object: &mut Map<String, Value>, groups: &[&[&str]]) -> Vec<String> {
    let defaults: Defaults = serde_json::from_str(include_str!("defaults.json")).expect("the script writes it");
    let Some(sizes) = defaults.architectures.get(kind) else { return Vec::new() };
    let mut notes = Vec::new();
    for (key, value) in sizes {
        let same = groups.iter().find(|keys| keys.contains(&key.as_str()));
        if same.is_some_and(|keys| keys.iter().any(|key| object.contains_key(*key))) || object.contains_key(key) {
            continue;
        }
        notes.push(format!("`{key}` is missing: {value} is planned with, as {kind} has it"));
        object.insert(key.clone(), value.clone());
    }
    notes
}
