//! The model files that come with Meshwright, by name, and a user's.
//!
//! In: a name or a path ending in `.toml`. Out: a checked [`Model`].

use crate::error::PlanError;
use crate::job::Model;

/// Every embedded model: name and file text.
const FILES: &[(&str, &str)] = &[
    ("gpt2-124m", include_str!("../models/gpt2-124m.toml")),
    ("gpt2-xl", include_str!("../models/gpt2-xl.toml")),
    ("gpt3-175b", include_str!("../models/gpt3-175b.toml")),
    ("llama2-7b", include_str!("../models/llama2-7b.toml")),
    ("llama2-70b", include_str!("../models/llama2-70b.toml")),
    ("llama3-8b", include_str!("../models/llama3-8b.toml")),
    ("llama3-70b", include_str!("../models/llama3-70b.toml")),
    ("demo-10m", include_str!("../models/demo-10m.toml")),
];

/// Names of the embedded models.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The model of an embedded name or of a file.
pub fn load(name: &str) -> Result<Model, PlanError> {
    if name.ends_with(".toml") {
        let unread = |error: std::io::Error| PlanError::Read { file: name.to_owned(), problem: error.to_string() };
        return parse(name, &std::fs::read_to_string(name).map_err(unread)?);
    }
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => parse(&format!("{name}.toml"), text),
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            Err(PlanError::UnknownModel { name: name.to_owned(), known })
        }
    }
}

/// Reads a model file's text.
pub fn parse(file: &str, text: &str) -> Result<Model, PlanError> {
    let model: Model = toml::from_str(text).map_err(|error| PlanError::of_toml(file, text, &error))?;
    model.check().map_err(|fault| PlanError::of_fault(file, text, fault))?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_papers() {
        // GPT-2 124M and 1.5B: Radford et al. 2019 as released; GPT-3: Brown et al. 2020; LLaMA: Touvron et al. 2023, Dubey
        // et al. 2024. Billions, within a half per cent (vocabularies here are padded).
        let papers = [
            ("gpt2-124m", 1024, 0.1244),
            ("gpt2-xl", 1024, 1.558),
            ("gpt3-175b", 2048, 174.6),
            ("llama2-7b", 4096, 6.738),
            ("llama2-70b", 4096, 68.98),
            ("llama3-8b", 8192, 8.030),
            ("llama3-70b", 8192, 70.55),
        ];
        for (name, seq, billions) in papers {
            let ours = load(name).unwrap().parameters(seq) as f64 / 1e9;
            assert!((ours / billions - 1.0).abs() < 0.005, "{name}: {ours} against {billions}");
        }
    }

    #[test]
    fn every_file_is_named_as_its_model() {
        for name in names() {
            assert_eq!(load(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_key_names_file_line_and_key() {
        let text = "name = \"x\"\nlayerz = 3\n";
        let message = parse("x.toml", text).unwrap_err().to_string();
        assert!(message.contains("x.toml:2") && message.contains("layerz = 3"), "{message}");
    }
}
