//! Small jobs for this crate's tests.

use meshwright_hardware::units::Precision;

use crate::job::{Dress, Job, Model, Optimizer};

/// Eight sequences of sixteen tokens in fp32.
pub fn tiny_job(model: Model) -> Job {
    Job {
        seq: 16,
        target_seq: None,
        global_batch: 8,
        precision: Precision::Fp32,
        steps: 4,
        seed: 0,
        model,
        optimizer: Optimizer::default(),
        fix: Default::default(),
        goal: Default::default(),
    }
}

/// Four small layers that two and four ranks can share.
pub fn tiny_model(dress: Dress) -> Model {
    Model {
        name: "tiny".to_owned(),
        dress,
        layers: 4,
        hidden: 32,
        heads: 4,
        kv_heads: if dress == Dress::Llama { 2 } else { 4 },
        ffn: 64,
        vocab: 64,
        tied: dress == Dress::Gpt2,
        family: None,
        rope_theta: 1e4,
    }
}
