//! `schema`: what files and answers hold, as JSON Schema.
//!
//! In: a kind. Out: its schema, every key with what it means and its unit, from the types that read it.
//!
//! Invariant: what a schema lists is read, and no other key is: serde and schemars derive from the same fields.

use clap::{Args, ValueEnum};
use meshwright_hardware::profile::{Machine, Stack};
use meshwright_planner::goodput::TRAINING_FIGURES;
use meshwright_planner::job::Job;
use meshwright_planner::models;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{FIGURES, Unit};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::scenario::Scenario;

/// Arguments of `schema`.
#[derive(Args)]
pub struct SchemaCommand {
    /// Of what
    #[arg(value_enum)]
    of: SchemaKind,
}

/// What there is a schema of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchemaKind {
    /// A job file (TOML)
    Job,
    /// A plan file (TOML)
    Plan,
    /// A model file (TOML)
    Model,
    /// What --cluster takes
    Cluster,
    /// A machine's profile (TOML)
    Profile,
    /// A software stack (TOML)
    Stack,
    /// Scenarios of `compare` (TOML)
    Scenarios,
    /// What --json prints of a step and of training
    Json,
}

impl SchemaCommand {
    /// That of a machine's profile.
    pub fn of_profile() -> SchemaCommand {
        SchemaCommand { of: SchemaKind::Profile }
    }

    /// Prints it.
    pub fn run(&self) -> Result<(), Failure> {
        println!("{:#}", self.of.schema());
        Ok(())
    }
}

impl SchemaKind {
    fn schema(self) -> Value {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let root = |generator: SchemaGenerator, schema: Schema| {
            let mut schema = schema.to_value();
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
            let definitions = generator.definitions();
            if !definitions.is_empty() {
                schema["$defs"] = Value::Object(definitions.clone());
            }
            schema
        };
        match self {
            SchemaKind::Job => generator.into_root_schema_for::<Job>().to_value(),
            SchemaKind::Plan => generator.into_root_schema_for::<Plan>().to_value(),
            SchemaKind::Profile => generator.into_root_schema_for::<Machine>().to_value(),
            SchemaKind::Stack => generator.into_root_schema_for::<Stack>().to_value(),
            SchemaKind::Model => {
                let schema = models::schema(&mut generator);
                root(generator, schema)
            }
            SchemaKind::Scenarios => {
                let schema = scenarios(&mut generator);
                root(generator, schema)
            }
            SchemaKind::Cluster => root(generator, cluster()),
            SchemaKind::Json => root(generator, answers()),
        }
    }
}

/// What `--cluster` takes.
fn cluster() -> Schema {
    json_schema!({
        "title": "Cluster",
        "description": "COUNTx NAME [+ COUNTx NAME …] of systems or devices (`meshwright hardware list`), several such sites as \
                        COUNTx(POOLS) @ BANDWIDTH LATENCY with bandwidth in bits or bytes a second out of a site, or a path ending in \
                        .toml to a machine's profile",
        "type": "string",
        "examples": ["16x dgx-a100-80gb", "8x dgx-h100 + 16x dgx-a100-80gb", "4x(125x dgx-h100) @ 10 Gbit/s 50 ms", "machine.toml"],
    })
}

/// A file of scenarios: what all share, single ones, lists of which every combination is taken, and figures of owning.
fn scenarios(generator: &mut SchemaGenerator) -> Schema {
    let one = generator.subschema_for::<Scenario>();
    let keys = generator.definitions().get("Scenario").and_then(|of| of["properties"].as_object()).cloned();
    let lists: Map<String, Value> = keys
        .unwrap_or_default()
        .into_iter()
        .map(|(key, of)| (key, json!({ "type": "array", "minItems": 1, "items": of })))
        .collect();
    json_schema!({
        "title": "Scenarios",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "defaults": one,
            "own": { "type": "object", "additionalProperties": { "type": ["number", "object"] }, "description": "figures of owning devices" },
            "scenario": { "type": "array", "items": one, "description": "each over `defaults`" },
            "sweep": {
                "type": "object", "additionalProperties": false, "properties": lists,
                "description": "every combination of one value a list, for each scenario",
            },
        },
    })
}

/// Figures of a step, which `plan`, `simulate` and `explain` print at the top, and of training, in `training`.
fn answers() -> Schema {
    let of =
        |title: &str, unit: Unit| json!({ "type": ["number", "null"], "description": title, "unit": unit_name(unit) });
    let step = FIGURES.iter().map(|figure| (figure.key.to_owned(), of(figure.title, figure.unit)));
    let training: Map<String, Value> =
        TRAINING_FIGURES.iter().map(|figure| (figure.key.to_owned(), of(figure.title, figure.unit))).collect();
    let mut all: Map<String, Value> = step.collect();
    all.insert(
        "fits".to_owned(),
        json!({ "type": "boolean", "description": "whether every rank finds the bytes that it declares" }),
    );
    all.insert(
        "headroom_bytes".to_owned(),
        json!({ "type": "integer", "unit": "bytes", "description": "what the fullest rank leaves" }),
    );
    all.insert("training".to_owned(), json!({ "type": "object", "properties": training }));
    all.insert("schema".to_owned(), json!({ "type": "string", "description": "of what it is, and its version" }));
    let said = json!({ "type": "array", "items": { "type": "string" }, "description": "what was said on stderr" });
    all.insert("warnings".to_owned(), said);
    all.insert("version".to_owned(), json!({ "type": "string", "description": "of Meshwright" }));
    json_schema!({ "title": "Answers", "type": "object", "properties": all })
}

/// What a figure is counted in.
fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Seconds => "seconds",
        Unit::PerSecond => "a second",
        Unit::Bytes => "bytes",
        Unit::Share => "share, 0 to 1",
        Unit::Days => "days",
        Unit::Dollars => "US dollars",
        Unit::KilowattHours => "kilowatt-hours",
    }
}
