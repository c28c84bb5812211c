//! The model files that come with Meshwright, by name, and a user's.
//!
//! In: a name, a path ending in `.toml`, one to a Hugging Face `config.json` or its folder, or `org/name` of the hub's cache. Out: a checked [`Model`].
//!
//! Invariant: adding a model is adding one file to `models/`, which the build script lists; sizes give the parameters that the
//! file says were published.

mod architectures;
mod config;
mod defaults;
mod hub;
mod hybrid;
mod inert;
mod keys;
mod nested;
mod published;
mod sparse;
mod vision;

use meshwright_hardware::files::read_text;
use meshwright_hardware::input::{Fault, near};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use self::config::Configured;
use self::published::Published;
use crate::error::PlanError;
use crate::job::Model;

include!(concat!(env!("OUT_DIR"), "/models.rs"));

/// Names of the embedded models.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The model of an embedded name or of a file.
pub fn load(name: &str) -> Result<Model, PlanError> {
    load_noted(name, None).map(|(model, _)| model)
}

/// The same, and what of a `config.json` is left out or taken for granted, a sentence each. With a `family` it is read as one of
/// that `model_type`, and what else it says that is not modelled is left out.
pub fn load_noted(name: &str, family: Option<&str>) -> Result<(Model, Vec<String>), PlanError> {
    match configuration(name)? {
        Some((file, text)) => config::parse(&file, &text, family),
        None if name.ends_with(".toml") => Ok((parse(name, &read_text(name)?)?, Vec::new())),
        None => Ok((embedded(name)?, Vec::new())),
    }
}

/// The `config.json` that a name leads to, with what messages call it; nothing where it is a model file or an embedded name.
fn configuration(name: &str) -> Result<Option<(String, String)>, PlanError> {
    if name.ends_with(".json") {
        return Ok(Some((name.to_owned(), read_text(name)?)));
    }
    if name.ends_with(".toml") || names().any(|known| known == name) {
        return Ok(None);
    }
    hub::find(name).map(|hub::HubFile { path, name }| Ok((name, read_text(&path)?))).transpose()
}

/// How large a model is.
#[derive(Debug)]
pub struct ModelSize {
    /// Parameters, where a sequence has 2,048 tokens.
    pub parameters: f64,
    /// What training keeps of them, in words.
    pub states: String,
    /// The model, where it can be planned, or why it cannot.
    pub model: Result<Model, String>,
    /// What is left out or taken for granted, a sentence each.
    pub notes: Vec<String>,
}

/// Counts a model of [`load_noted`], and also one whose layers no program has, as of state space.
///
/// # Errors
/// As of [`load_noted`], but for those models.
pub fn count(name: &str, family: Option<&str>) -> Result<ModelSize, PlanError> {
    match configuration(name)? {
        Some((file, text)) => count_configuration(&file, &text, family),
        None => load_noted(name, family).map(|(model, notes)| ModelSize::of(model, notes)),
    }
}

/// The same of a `config.json`'s text.
///
/// # Errors
/// As [`parse_configuration`]'s, but for those models.
pub fn count_configuration(file: &str, text: &str, family: Option<&str>) -> Result<ModelSize, PlanError> {
    Ok(match config::read(file, text, family)? {
        (Configured::Planned(model), notes) => ModelSize::of(model, notes),
        (Configured::Counted { parameters, why, .. }, notes) => {
            ModelSize { parameters, states: hybrid::states(parameters), model: Err(why.to_owned()), notes }
        }
    })
}

impl ModelSize {
    fn of(model: Model, notes: Vec<String>) -> ModelSize {
        let parameters = model.parameters(2048) as f64;
        ModelSize { parameters, states: hybrid::states(parameters), model: Ok(model), notes }
    }
}

/// The model of a `config.json`'s text, and what of it is left out or taken for granted, a sentence each.
///
/// # Errors
/// [`PlanError`] naming file, line, key and value, where it is no model that is known.
pub fn parse_configuration(file: &str, text: &str) -> Result<(Model, Vec<String>), PlanError> {
    config::parse(file, text, None)
}

fn embedded(name: &str) -> Result<Model, PlanError> {
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => parse(&format!("{name}.toml"), text),
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            // Of the hub's `org/name` the model's own.
            let own = name.rsplit('/').next().unwrap_or(name);
            let near = near(own, names()).iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>();
            let meant = if near.is_empty() { String::new() } else { format!(", did you mean {}?", near.join(" or ")) };
            Err(PlanError::UnknownModel { name: name.to_owned(), meant, known })
        }
    }
}

/// Reads a model file's text.
///
/// # Errors
/// [`PlanError`] naming file, line, key and value, if the text is no model, or its sizes do not give the parameters it states.
pub fn parse(file: &str, text: &str) -> Result<Model, PlanError> {
    read(file, text).map(|(model, _)| model)
}

/// The schema of a model file: sizes, and the parameters that its publication counts.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut sizes = Model::json_schema(generator);
    let published = Published::json_schema(generator);
    if let (Some(keys), Some(more)) = (
        sizes.get_mut("properties").and_then(|keys| keys.as_object_mut()),
        published.get("properties").and_then(|keys| keys.as_object()),
    ) {
        keys.extend(more.clone());
    }
    sizes
}

fn read(file: &str, text: &str) -> Result<(Model, Published), PlanError> {
    let unreadable = |error| PlanError::of_toml(file, text, &error);
    let refused = |fault| PlanError::of_fault(file, text, fault);
    let mut sizes = DeTable::parse(text).map_err(unreadable)?;
    if ["job", "mesh"].iter().all(|key| sizes.get_ref().contains_key(*key)) {
        let problem =
            "this is a plan, which `meshwright simulate`, `explain`, `export` and `run` take; here a model is wanted";
        return Err(refused(Fault::new("job", "a table", problem)));
    }
    let stated = Published::take(sizes.get_mut());
    let model = Model::deserialize(Deserializer::from(sizes)).map_err(unreadable)?;
    let published =
        Published::deserialize(Deserializer::from(Spanned::new(0..text.len(), stated))).map_err(unreadable)?;
    model.check().map_err(refused)?;
    published.check(&model).map_err(refused)?;
    Ok((model, published))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_named_as_its_model_and_gives_the_published_parameters() {
        for (name, text) in FILES {
            let (model, published) = read(&format!("{name}.toml"), text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(model.name, *name);
            assert!(published.parameters.is_some(), "{name} states no `parameters`");
            let routed = model.family.as_ref().is_some_and(|family| family.experts.is_some());
            assert!(routed || published.active_parameters.is_none(), "{name}: all parameters are active");
        }
        assert!(names().count() > 20);
    }

    #[test]
    fn a_name_that_is_near_a_known_one_is_asked_for() {
        for (name, meant) in
            [("llama3_8b", "llama3-8b"), ("mixtral-8x7", "mixtral-8x7b"), ("meta-llama/Llama-3.1-8B", "llama3-8b")]
        {
            let said = load(name).unwrap_err().to_string();
            assert!(said.contains(&format!("did you mean `{meant}`")), "{said}");
        }
        assert!(!load("nothing/quite-like-it").unwrap_err().to_string().contains("did you mean"));
    }

    #[test]
    fn sizes_that_give_other_parameters_than_published_are_refused() {
        let (_, text) = FILES.iter().find(|(name, _)| *name == "mixtral-8x7b").unwrap();
        for (size, other, key) in
            [("ffn = 14336", "ffn = 13336", "parameters"), ("top_k = 2", "top_k = 3", "active_parameters")]
        {
            let message = parse("mine.toml", &text.replace(size, other)).unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}` is ")) && message.contains("the sizes give"), "{message}");
        }
        let unsourced = text.replace("Mistral AI 2023, Mixtral of experts", " ");
        assert!(parse("mine.toml", &unsourced).unwrap_err().to_string().contains("empty `source`"));
    }

    /// A file that somebody published, or made up, as transformers builds it.
    #[derive(Deserialize)]
    struct Configuration {
        of: String,
        parameters: Option<f64>,
        refused: Option<String>,
        config: serde_json::Map<String, serde_json::Value>,
    }

    #[test]
    fn configurations_are_counted_as_transformers_builds_them_or_refused_by_name() {
        let all: Vec<Configuration> = serde_json::from_str(include_str!("../tests/configurations.json")).unwrap();
        let mut hybrids = 0;
        for Configuration { of, parameters, refused, config } in all {
            let text = serde_json::to_string(&config).unwrap();
            let read = parse_configuration("hub/config.json", &text);
            match (parameters, refused) {
                // Counted, and not planned.
                (Some(parameters), Some(key)) => {
                    let Ok((Configured::Counted { parameters: ours, .. }, _)) = config::read("x", &text, None) else {
                        panic!("{of} is not counted: {}", read.unwrap_err())
                    };
                    assert!((ours / parameters - 1.0).abs() < 1e-3, "{of}: {ours}, not {parameters}: {config:?}");
                    let said = read.expect_err(&of).to_string();
                    assert!(said.contains(&format!("`{key}` is ")) && said.contains(" B parameters"), "{of}: {said}");
                    hybrids += 1;
                }
                (Some(parameters), None) => {
                    let ours = read.unwrap_or_else(|error| panic!("{of}: {error}")).0.parameters(0) as f64;
                    assert!((ours / parameters - 1.0).abs() < 1e-3, "{of}: {ours}, not {parameters}: {config:?}");
                }
                (None, Some(key)) => {
                    let said = read.expect_err(&key).to_string();
                    assert!(said.contains(&format!("`{key}` is ")), "{of}: {said}");
                }
                other => panic!("{of}: {other:?}"),
            }
        }
        assert!(hybrids > 8);
    }

    #[test]
    fn a_family_that_is_given_overrides_the_files_and_is_said() {
        let text = r#"{"model_type": "novel", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 128, "vocab_size": 100, "sliding_window": 32, "novel_widening": 3}"#;
        let said = config::parse("x/config.json", text, None).unwrap_err().to_string();
        assert!(said.contains("`model_type` is novel") && said.contains("--as"), "{said}");
        let (model, notes) = config::parse("x/config.json", text, Some("llama")).unwrap();
        assert_eq!((model.layers, model.window().map(|window| window.tokens)), (2, Some(32)));
        let notes = notes.join("\n");
        for said in [
            "`model_type` is \"novel\": its sizes are planned as those of `llama`",
            "`novel_widening` is 3: it is left out",
        ] {
            assert!(notes.contains(said), "{notes}");
        }
        let said = config::parse("x/config.json", text, Some("lama")).unwrap_err().to_string();
        assert!(said.contains("did you mean `llama`?"), "{said}");
    }

    #[test]
    fn sequences_longer_than_a_table_of_positions_are_refused_not_those_longer_than_a_window() {
        let of = |key: &str| {
            let text = format!(
                r#"{{"model_type": "{key}", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
                "num_key_value_heads": 4, "ffn_dim": 128, "intermediate_size": 128, "vocab_size": 100, "sliding_window": 128, "max_position_embeddings": 256}}"#
            );
            parse_configuration("x/config.json", &text).unwrap().0
        };
        let seq = |model: &Model, seq: usize| crate::job::Job::of(model.clone(), seq, 8).check();
        let mistral = of("mistral");
        assert_eq!(mistral.window().map(|window| window.tokens), Some(128));
        assert!(seq(&mistral, 256).is_ok());
        let opt = Model { family: of("opt").family.map(|f| crate::job::Family { window: None, ..f }), ..of("opt") };
        assert!(seq(&opt, 258).is_ok());
        assert!(seq(&opt, 259).unwrap_err().problem.contains("learned 258 positions"));
    }

    #[test]
    fn an_unknown_key_names_file_line_and_key() {
        let text = "name = \"x\"\nlayerz = 3\n";
        let message = parse("x.toml", text).unwrap_err().to_string();
        assert!(message.contains("x.toml:2") && message.contains("layerz = 3"), "{message}");
        let text = include_str!("../models/gpt3-175b.toml").replace("positions", "position");
        let line = 1 + text.lines().position(|line| line.starts_with("parameters")).unwrap();
        let message = parse("x.toml", &text).unwrap_err().to_string();
        assert!(message.contains(&format!("x.toml:{line}:")) && message.contains("position"), "{message}");
    }
}
