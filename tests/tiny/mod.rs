//! A model that trains in a test.

use meshwright_planner::job::{Architecture, Model};

/// Four small layers over 64 words, that two and four ranks can share.
pub fn model(architecture: Architecture) -> Model {
    Model {
        name: "tiny".to_owned(),
        architecture,
        layers: 4,
        hidden: 32,
        heads: 4,
        kv_heads: if architecture == Architecture::Llama { 2 } else { 4 },
        ffn: 64,
        vocab: 64,
        tied: architecture == Architecture::Gpt2,
        family: None,
        rope_theta: 1e4,
    }
}
