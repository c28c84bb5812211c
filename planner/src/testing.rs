//! Small jobs for this crate's tests.

use meshwright_hardware::units::Precision;

use crate::job::{Architecture, Job, Model, Optimizer};

/// Eight sequences of sixteen tokens in fp32.
pub fn tiny_job(model: Model) -> Job {
    Job {
        seq: 16,
        target_seq: None,
        global_batch: 8,
        precision: Precision::Fp32,
        steps: 4,
        seed: 0,
        stack: None,
        model,
        optimizer: Optimizer::default(),
        fix: Default::default(),
        goal: Default::default(),
    }
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
