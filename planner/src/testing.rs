//! Small jobs for this crate's tests.

use meshwright_hardware::units::Precision;

use crate::job::{Architecture, Job, Model};

/// Eight sequences of sixteen tokens in fp32.
pub fn tiny_job(model: Model) -> Job {
    Job { precision: Precision::Fp32, steps: 4, ..Job::of(model, 16, 8) }
}

/// Four small layers that two and four ranks can share.
pub fn tiny_model(architecture: Architecture) -> Model {
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
