//! The model files that come with Meshwright, by name, and a user's.
//!
//! In: a name, a path ending in `.toml`, or one to a Hugging Face `config.json`. Out: a checked [`Model`].

mod config;

use crate::error::PlanError;
use crate::job::Model;

/// Every embedded model: name and file text.
const FILES: &[(&str, &str)] = &[
    ("gpt2-124m", include_str!("../models/gpt2-124m.toml")),
    ("gpt2-xl", include_str!("../models/gpt2-xl.toml")),
    ("gpt3-175b", include_str!("../models/gpt3-175b.toml")),
    ("llama2-7b", include_str!("../models/llama2-7b.toml")),
    ("llama2-70b", include_str!("../models/llama2-70b.toml")),
    ("llama3.2-1b", include_str!("../models/llama3.2-1b.toml")),
    ("llama3-8b", include_str!("../models/llama3-8b.toml")),
    ("llama3-70b", include_str!("../models/llama3-70b.toml")),
    ("bert-large", include_str!("../models/bert-large.toml")),
    ("roberta-large", include_str!("../models/roberta-large.toml")),
    ("t5-11b", include_str!("../models/t5-11b.toml")),
    ("mt5-xxl", include_str!("../models/mt5-xxl.toml")),
    ("switch-c", include_str!("../models/switch-c.toml")),
    ("gshard-600b", include_str!("../models/gshard-600b.toml")),
    ("glam-64b-64e", include_str!("../models/glam-64b-64e.toml")),
    ("palm-540b", include_str!("../models/palm-540b.toml")),
    ("gopher-280b", include_str!("../models/gopher-280b.toml")),
    ("wu-dao-2", include_str!("../models/wu-dao-2.toml")),
    ("llama3-405b", include_str!("../models/llama3-405b.toml")),
    ("mixtral-8x7b", include_str!("../models/mixtral-8x7b.toml")),
    ("mixtral-8x22b", include_str!("../models/mixtral-8x22b.toml")),
    ("deepseek-v3", include_str!("../models/deepseek-v3.toml")),
    ("nemotron-4-340b", include_str!("../models/nemotron-4-340b.toml")),
    ("qwen2.5-72b", include_str!("../models/qwen2.5-72b.toml")),
    ("qwen3-30b-a3b", include_str!("../models/qwen3-30b-a3b.toml")),
    ("falcon-180b", include_str!("../models/falcon-180b.toml")),
    ("demo-10m", include_str!("../models/demo-10m.toml")),
];

/// Names of the embedded models.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The model of an embedded name or of a file.
pub fn load(name: &str) -> Result<Model, PlanError> {
    if name.ends_with(".toml") {
        return parse(name, &PlanError::text_of(name)?);
    }
    if name.ends_with(".json") {
        return config::parse(name, &PlanError::text_of(name)?);
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
    use crate::job::Shape;

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
            ("llama3.2-1b", 8192, 1.236),
            ("llama3-8b", 8192, 8.030),
            ("llama3-70b", 8192, 70.55),
        ];
        for (name, seq, billions) in papers {
            let ours = load(name).unwrap().parameters(seq) as f64 / 1e9;
            assert!((ours / billions - 1.0).abs() < 0.005, "{name}: {ours} against {billions}");
        }
    }

    #[test]
    fn other_families_count_as_their_papers_too() {
        // Billions as the papers state them, rounded there; within 3 %.
        let papers = [
            ("bert-large", 512, 0.335),
            ("roberta-large", 512, 0.355),
            ("t5-11b", 512, 11.3),
            ("mt5-xxl", 512, 12.9),
            ("switch-c", 512, 1571.0),
            ("gshard-600b", 128, 619.0),
            ("glam-64b-64e", 1024, 1162.0),
            ("palm-540b", 2048, 540.35),
            // 280 with Transformer-XL's projection of relative positions, a square matrix a layer, which is not modelled.
            ("gopher-280b", 2048, 280.0 - 80.0 * 16_384.0 * 16_384.0 / 1e9),
            ("wu-dao-2", 2048, 1750.0),
            ("llama3-405b", 8192, 405.9),
            ("mixtral-8x7b", 4096, 46.7),
            ("mixtral-8x22b", 4096, 140.6),
            ("deepseek-v3", 4096, 671.0),
            ("nemotron-4-340b", 4096, 341.0),
            ("qwen2.5-72b", 4096, 72.7),
            ("qwen3-30b-a3b", 4096, 30.5),
            ("falcon-180b", 2048, 179.5),
        ];
        for (name, seq, billions) in papers {
            let ours = load(name).unwrap().parameters(seq) as f64 / 1e9;
            assert!((ours / billions - 1.0).abs() < 0.03, "{name}: {ours} against {billions}");
        }
    }

    #[test]
    fn experts_that_a_token_does_not_meet_are_not_active() {
        // Jiang et al. 2024: 12.9 B active; DeepSeek-AI 2024: 37 B; Qwen Team 2025: 3.3 B. Tables included.
        for (name, billions) in [("mixtral-8x7b", 12.9), ("deepseek-v3", 37.6), ("qwen3-30b-a3b", 3.3)] {
            let shape = Shape::from(&load(name).unwrap());
            let active = (shape.active_layer_parameters() + 2.0 * shape.table_parameters()) / 1e9;
            assert!((active / billions - 1.0).abs() < 0.03, "{name}: {active} against {billions}");
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
