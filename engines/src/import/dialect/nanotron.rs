//! nanotron: its YAML.
//!
//! In: the configuration's tree. Out: facts.

use super::{Tree, training_arguments};
use crate::import::draft::Draft;

/// The release whose defaults hold.
pub const VERSION: &str = "nanotron 0.4 of 2025";

const NAMES: &[(&str, &str)] = &[
    ("parallelism.dp", "dp"),
    ("parallelism.tp", "tp"),
    ("parallelism.pp", "pp"),
    ("parallelism.context_parallel_size", "cp"),
    ("parallelism.expert_parallel_size", "ep"),
    ("parallelism.pp_engine", "engine_schedule"),
    ("parallelism.tp_mode", "tp_mode"),
    ("parallelism.recompute_layer", "recompute_layer"),
    ("tokens.sequence_length", "seq"),
    ("tokens.micro_batch_size", "microbatch"),
    ("tokens.batch_accumulation_per_replica", "accumulation"),
    ("tokens.train_steps", "steps"),
    ("model.model_config.hidden_size", "hidden"),
    ("model.model_config.intermediate_size", "ffn"),
    ("model.model_config.num_attention_heads", "heads"),
    ("model.model_config.num_key_value_heads", "kv_heads"),
    ("model.model_config.num_hidden_layers", "layers"),
    ("model.model_config.vocab_size", "vocab"),
    ("model.model_config.tie_word_embeddings", "tied"),
    ("model.model_config.rope_theta", "rope_theta"),
    ("model.model_config.moe_config.num_experts", "experts"),
    ("model.model_config.moe_config.top_k", "top_k"),
    ("model.model_config.moe_config.moe_intermediate_size", "expert_ffn"),
    ("model.model_config.moe_num_experts", "experts"),
    ("model.model_config.num_experts_per_tok", "top_k"),
    ("optimizer.zero_stage", "zero_stage"),
    ("optimizer.weight_decay", "weight_decay"),
    ("optimizer.clip_grad", "clip"),
    ("optimizer.optimizer_factory.adam_beta1", "beta1"),
    ("optimizer.optimizer_factory.adam_beta2", "beta2"),
    ("optimizer.optimizer_factory.adam_eps", "eps"),
    ("optimizer.adam_beta1", "beta1"),
    ("optimizer.adam_beta2", "beta2"),
    ("optimizer.adam_eps", "eps"),
    ("optimizer.learning_rate_scheduler.learning_rate", "lr"),
    ("optimizer.learning_rate_scheduler.lr_warmup_steps", "warmup"),
    ("optimizer.learning_rate_scheduler.min_decay_lr", "min_lr"),
    ("general.seed", "seed"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    general checkpoints data data_stages logging lighteval profiler profile tokenizer s3_upload metrics_logging
    model.ddp_bucket_cap_mb model.dtype model.init_method model.make_vocab_size_divisible_by model.model_config
    optimizer.name optimizer.optimizer_factory.name optimizer.learning_rate_scheduler optimizer.torch_adam_is_fused
    optimizer.optimizer_factory.torch_adam_is_fused tokens parallelism.tp_linear_async_communication
    parallelism.tp_recompute_allgather optimizer.accumulate_grad_in_fp32 experiment_logger
";

/// Whether a tree is one.
pub fn is_one(tree: &Tree) -> bool {
    tree.get("parallelism").is_some() && tree.get("tokens").is_some() && tree.get("model.model_config").is_some()
}

/// Reads a configuration.
pub fn read(tree: &Tree) -> Draft {
    let mut draft = Draft::new("nanotron", VERSION);
    tree.state_all(&mut draft, NAMES);
    for key in ["dp", "tp", "pp", "cp", "ep"] {
        draft.usual(key, "parallelism", 1);
    }
    draft.compute("architecture", "llama", "of model.model_config");
    match draft.count("zero_stage") {
        Some(0) | None => draft.usual("zero", "optimizer.zero_stage", 0),
        Some(stage) => {
            draft.state("zero", "optimizer.zero_stage", 1);
            if stage > 1 {
                draft.note(format!("optimizer.zero_stage is {stage}: nanotron shards the optimizer's state alone, whatever above 0 it says"));
            }
        }
    }
    let scatters = draft.text("tp_mode").unwrap_or("REDUCE_SCATTER") == "REDUCE_SCATTER";
    if draft.count("tp") == Some(1) && draft.says("tp_mode") {
        draft.inert("sequence_parallel", false, "at a tensor parallelism of 1 there is nothing to shard");
    } else {
        draft.compute("sequence_parallel", scatters, "of parallelism.tp_mode");
    }
    match draft.text("engine_schedule").unwrap_or("1f1b") {
        "afab" => draft.state("schedule", "parallelism.pp_engine", "gpipe"),
        _ => draft.compute("schedule", "1f1b", "of parallelism.pp_engine"),
    }
    let recompute = if draft.flag("recompute_layer") { "full" } else { "none" };
    draft.compute("recompute", recompute, "of parallelism.recompute_layer");
    match tree.text("model.dtype") {
        Some("bfloat16" | "double") => draft.state("precision", "model.dtype", "bf16"),
        Some("float16") => draft.state("precision", "model.dtype", "fp16"),
        Some("float32") => draft.state("precision", "model.dtype", "fp32"),
        _ => draft.usual("precision", "model.dtype", "bf16"),
    }
    draft.usual("accumulation", "tokens.batch_accumulation_per_replica", 1);
    draft.usual("clip", "optimizer.clip_grad", 0);
    training_arguments::usual(&mut draft);
    let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}
