//! The keys of a job file, as they are read.
//!
//! In: the types that read it, their docs and defaults. Out: [`JobKey`]s.
//!
//! Invariant: every key that is read is listed, and no other: serde and schemars derive from the same fields.

use meshwright_hardware::mesh::Order;
use meshwright_hardware::units::Precision;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::Job;

/// A key of a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// The table that it stands in, `model.family`; empty at the top.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What it may be.
    pub values: String,
    /// Its value where it is left out; empty if there is none.
    pub default: String,
    /// Whether it cannot be left out.
    pub needed: bool,
    /// What it means, with unit.
    pub about: String,
}

/// The keys of a job file, table by table, needed ones first.
pub fn job_keys() -> Vec<JobKey> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Job>();
    let mut all = Vec::new();
    walk("", schema.as_value(), &mut all);
    all
}

/// Adds the keys of a table, then those of the tables in it.
fn walk(table: &str, schema: &Value, all: &mut Vec<JobKey>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let needed = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let plain = properties.iter().filter(|(_, value)| part(value)["properties"].is_null());
    let mut keys: Vec<JobKey> = plain
        .map(|(name, value)| JobKey {
            table: table.to_owned(),
            name: name.clone(),
            values: values(value),
            default: shown(&value["default"]),
            needed: needed(name),
            about: about(value),
        })
        .collect();
    keys.sort_by_key(|key| !key.needed);
    all.extend(keys);
    for (name, value) in properties {
        let path = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
        walk(&path, part(value), all);
    }
}

/// The schema of a value that may be left out, without that.
fn part(schema: &Value) -> &Value {
    let some = schema["anyOf"].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"));
    some.unwrap_or(schema)
}

/// What a value may be, in words of TOML.
fn values(schema: &Value) -> String {
    let schema = part(schema);
    let names: Vec<String> = match (schema["oneOf"].as_array(), schema["enum"].as_array()) {
        (Some(all), _) => all
            .iter()
            .flat_map(|one| one["enum"].as_array().cloned().unwrap_or(vec![one["const"].clone()]))
            .map(|name| shown(&name))
            .collect(),
        (None, Some(all)) => all.iter().filter(|name| !name.is_null()).map(shown).collect(),
        (None, None) => Vec::new(),
    };
    if !names.is_empty() {
        return names.join(" | ");
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").unwrap_or(&Value::Null),
        kind => kind,
    };
    match kind.as_str().unwrap_or_default() {
        "boolean" => "true | false".to_owned(),
        "integer" => "whole number".to_owned(),
        "string" => "text".to_owned(),
        "array" => format!("list of {}", values(&schema["items"])),
        kind => kind.to_owned(),
    }
}

/// A value as TOML has it; those of `f32` with its digits.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Number(number) if number.is_f64() => (number.as_f64().unwrap_or_default() as f32).to_string(),
        value => value.to_string(),
    }
}

/// A field's doc in one line, without links.
fn about(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`")
}

/// The formats of matmuls.
pub(super) fn formats(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": Precision::ALL })
}

/// The orders of axes.
pub(super) fn orders(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": Order::ALL })
}
