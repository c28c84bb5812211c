//! Schemas as their user reads them: JSON that has every key that is read, each with what it means.

mod place;

use place::{Place, json};
use serde_json::Value;

/// Every object that lists keys, by its way from the root.
fn tables<'a>(way: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    if let Value::Object(keys) = schema {
        if keys.get("properties").is_some_and(Value::is_object) {
            found.push((way.to_owned(), schema));
        }
        keys.iter().for_each(|(key, value)| tables(&format!("{way}/{key}"), value, found));
    } else if let Value::Array(items) = schema {
        items.iter().for_each(|value| tables(way, value, found));
    }
}

#[test]
fn every_key_has_a_meaning() {
    let place = Place::new("schemas", "none", "");
    for (kind, keys) in [
        ("job", &["seq", "global_batch", "optimizer", "goal", "model"][..]),
        ("plan", &["microbatch", "mesh", "stages", "job"]),
        ("model", &["layers", "vocab", "family", "parameters"]),
        ("profile", &["nodes", "system", "device"]),
        ("stack", &["overheads", "memory", "attention"]),
        ("scenarios", &["defaults", "scenario", "sweep"]),
        ("json", &["step_time_s", "mfu", "training"]),
    ] {
        let schema = json(&place.run(&["schema", kind]));
        for key in keys {
            assert!(schema["properties"].get(key).is_some(), "{kind} has `{key}`");
        }
        let mut found = Vec::new();
        tables("", &schema, &mut found);
        for (way, table) in found {
            for (key, value) in table["properties"].as_object().unwrap() {
                let said = value.get("description").is_some() || value.get("$ref").is_some();
                assert!(
                    said || way.contains("sweep") || ["defaults", "training"].contains(&&key[..]),
                    "{kind}{way}: `{key}`"
                );
            }
        }
    }
    let cluster = json(&place.run(&["schema", "cluster"]));
    assert!(cluster["examples"].as_array().unwrap().len() > 2);
    let units = json(&place.run(&["schema", "profile"]))["$defs"].to_string();
    assert!(
        units.contains("GiB") && units.contains("TB/s") && units.contains("TFLOP/s"),
        "quantities list their units"
    );
    assert_eq!(json(&place.run(&["hardware", "schema"])), json(&place.run(&["schema", "profile"])));
    place.refused(&["schema", "weather"], 2, &["weather", "job", "profile"]);
}

#[test]
fn files_that_are_read_have_keys_of_their_schema_alone() {
    let place = Place::new("schemas-files", "none", "");
    let plan: toml::Table = toml::from_str(include_str!("cases/tiny.toml")).unwrap();
    let machine: toml::Table = toml::from_str(include_str!("cases/machine.toml")).unwrap();
    for (kind, file) in [("plan", plan), ("profile", machine)] {
        let schema = json(&place.run(&["schema", kind]));
        let known = schema["properties"].as_object().unwrap();
        assert!(file.keys().all(|key| known.contains_key(key)), "{kind}: {known:?}");
        let needed = schema["required"].as_array().unwrap();
        assert!(needed.iter().all(|key| file.contains_key(key.as_str().unwrap())), "{kind}: {needed:?}");
    }
}
