//! Which figures of a profile rest on an assumption.
//!
//! In: a profile. Out: the keys of those figures.
//!
//! Invariant: a source says `assumption:` before whatever is not known of that very figure; nothing else marks it.

use serde::Serialize;
use toml::Value;

use super::Sourced;

/// What stands in a source before what is assumed.
const MARK: &str = "assumption:";

impl<T> Sourced<T> {
    /// Whether all or part of it is assumed.
    pub fn is_assumed(&self) -> bool {
        self.source.contains(MARK)
    }
}

/// The dotted keys of a device's or system's figures and curves that are assumed, all or in part.
pub fn assumed(profile: &impl Serialize) -> Vec<String> {
    let mut found = Vec::new();
    walk("", &Value::try_from(profile).expect("a profile is tables of strings and numbers"), &mut found);
    found
}

fn walk(at: &str, value: &Value, found: &mut Vec<String>) {
    let Value::Table(table) = value else { return };
    if table.get("source").and_then(Value::as_str).is_some_and(|source| source.contains(MARK)) {
        found.push(at.to_owned());
    }
    for (key, value) in table {
        walk(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::catalog;

    #[test]
    fn what_a_source_calls_an_assumption_is_named() {
        let device = catalog().device("trainium2").unwrap();
        let keys = assumed(device);
        for key in ["efficiency.matmul", "gemm", "gemm.sustained", "launch", "mtbf", "power"] {
            assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
        }
        assert!(!keys.iter().any(|key| key.starts_with("peak") || key == "memory"), "{keys:?}");
        assert!(device.launch.is_assumed() && !device.memory.is_assumed());
        let system = assumed(catalog().system("trn2-48xl").unwrap());
        assert!(
            system.contains(&"scale_out.latency".to_owned()) && !system.contains(&"price".to_owned()),
            "{system:?}"
        );
    }
}
