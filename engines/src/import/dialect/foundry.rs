//! llm-foundry: its YAML, with `${variables.…}` put in.
//!
//! In: the configuration's tree. Out: facts.

use serde_json::Value;

use super::{Tree, hugging_face, training_arguments};
use crate::import::draft::Draft;
use crate::import::shell::FilesBeside;

/// The release whose defaults hold.
pub const VERSION: &str = "llm-foundry 0.22.0";

const NAMES: &[(&str, &str)] = &[
    ("max_seq_len", "seq"),
    ("global_train_batch_size", "global_batch"),
    ("model.d_model", "hidden"),
    ("model.n_heads", "heads"),
    ("model.n_layers", "layers"),
    ("model.expansion_ratio", "expansion"),
    ("model.vocab_size", "vocab"),
    ("model.attn_config.kv_n_heads", "kv_heads"),
    ("model.ffn_config.ffn_hidden_size", "ffn"),
    ("model.ffn_config.moe_num_experts", "experts"),
    ("model.ffn_config.moe_top_k", "top_k"),
    ("optimizer.lr", "lr"),
    ("optimizer.eps", "eps"),
    ("optimizer.weight_decay", "weight_decay"),
    ("algorithms.gradient_clipping.clipping_threshold", "clip"),
    ("seed", "seed"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    variables data_local data_remote run_name global_seed model tokenizer train_loader eval_loader eval_interval
    eval_first eval_subset_num_batches scheduler optimizer algorithms max_duration device_train_microbatch_size
    device_eval_batch_size precision fsdp_config progress_bar log_to_console console_log_interval callbacks loggers
    save_folder save_interval save_num_checkpoints_to_keep load_path icl_tasks dist_timeout python_log_level
    save_overwrite autoresume max_split_size_mb expandable_segments
";

/// Whether a tree is one.
pub fn is_one(tree: &Tree) -> bool {
    tree.get("global_train_batch_size").is_some()
        && (tree.get("device_train_microbatch_size").is_some() || tree.get("fsdp_config").is_some())
}

/// Reads a configuration.
pub fn read(value: &Value, files: FilesBeside) -> Draft {
    let value = filled(value, value, 0);
    let tree = Tree(&value);
    let mut draft = Draft::new("llm-foundry", VERSION);
    tree.state_all(&mut draft, NAMES);
    if let Some(name) = tree.text("model.pretrained_model_name_or_path") {
        hugging_face::named(&mut draft, "model.pretrained_model_name_or_path", name, files);
    } else {
        shape(&mut draft, &tree);
    }
    match tree.get("device_train_microbatch_size") {
        Some(value) if value.is_number() => draft.state("microbatch", "device_train_microbatch_size", value.clone()),
        Some(_) => draft.lack("microbatch", "device_train_microbatch_size", "auto: what fits as it runs"),
        None => draft.lack("microbatch", "device_train_microbatch_size", "no file has it"),
    }
    match tree.text("fsdp_config.sharding_strategy").unwrap_or("FULL_SHARD") {
        _ if tree.get("fsdp_config").is_none() => draft.compute("zero", 0, "no fsdp_config"),
        "SHARD_GRAD_OP" => draft.state("zero", "fsdp_config.sharding_strategy", 2),
        "NO_SHARD" => draft.state("zero", "fsdp_config.sharding_strategy", 0),
        "FULL_SHARD" => draft.compute("zero", 3, "of fsdp_config.sharding_strategy"),
        other => {
            draft.state("zero", "fsdp_config.sharding_strategy", 3);
            draft.lack(
                "shard",
                "fsdp_config.sharding_strategy",
                format!("{other}: how many devices a node has is not known"),
            );
        }
    }
    let recompute = if tree.flag("fsdp_config.activation_checkpointing") { "full" } else { "none" };
    draft.compute("recompute", recompute, "of fsdp_config.activation_checkpointing");
    if tree.flag("fsdp_config.activation_cpu_offload") {
        draft.unprice("fsdp_config.activation_cpu_offload");
    }
    match tree.text("precision").unwrap_or("amp_bf16") {
        "fp32" => draft.state("precision", "precision", "fp32"),
        "amp_fp16" => draft.state("precision", "precision", "fp16"),
        "amp_fp8" => draft.state("precision", "precision", "fp8"),
        _ => draft.compute("precision", "bf16", "of precision"),
    }
    optimizer(&mut draft, &tree);
    for key in ["tp", "pp", "cp", "ep"] {
        draft.usual(key, "", 1);
    }
    let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

fn shape(draft: &mut Draft, tree: &Tree) {
    let why = "MPT's";
    if let (Some(hidden), false) = (draft.count("hidden"), draft.says("ffn")) {
        let ratio = draft.float("expansion").unwrap_or(4.0);
        draft.compute("ffn", (ratio * hidden as f64).round() as usize, "model.expansion_ratio · model.d_model");
    }
    if let Some(heads) = draft.count("heads") {
        let one = tree.text("model.attn_config.attn_type") == Some("multiquery_attention");
        draft.compute("kv_heads", if one { 1 } else { heads }, "of model.attn_config.attn_type");
    }
    draft.compute("architecture", "gpt2", why);
    let gated = tree.text("model.ffn_config.ffn_type").is_some_and(|kind| kind.contains("glu"));
    draft.compute("gated", gated, "of model.ffn_config.ffn_type");
    let turned = tree.flag("model.attn_config.rope") || tree.flag("model.attn_config.alibi");
    draft.compute("positions", if turned { "rope" } else { "learned" }, "of model.attn_config");
    draft.usual("tied", "model.tie_word_embeddings", true);
    if tree.get("model.tie_word_embeddings").is_some() {
        draft.state("tied", "model.tie_word_embeddings", tree.flag("model.tie_word_embeddings"));
    }
    if draft.says("experts")
        && let Some(ffn) = draft.value("ffn").cloned()
    {
        draft.compute("expert_ffn", ffn, "as wide as the feed-forward part");
    }
    if let Some(name) = tree.text("model.name") {
        draft.compute("model", name.to_owned(), "of model.name");
    }
}

fn optimizer(draft: &mut Draft, tree: &Tree) {
    match tree.text("optimizer.name").unwrap_or("decoupled_adamw") {
        name if name.contains("lion") => draft.state("optimizer", "optimizer.name", "lion"),
        name if name.contains("adamw") => draft.compute("optimizer", "adamw", "of optimizer.name"),
        other => draft.lack_optimizer("optimizer.name", other),
    }
    if let Some(Value::Array(betas)) = tree.get("optimizer.betas")
        && let [one, two] = &betas[..]
    {
        draft.state("beta1", "optimizer.betas", one.clone());
        draft.state("beta2", "optimizer.betas", two.clone());
    }
    if let Some(steps) = tree.text("max_duration").and_then(|text| text.strip_suffix("ba")?.parse::<usize>().ok()) {
        draft.state("steps", "max_duration", steps);
    }
    if let Some(steps) = tree.text("scheduler.t_warmup").and_then(|text| text.strip_suffix("ba")?.parse::<usize>().ok())
    {
        draft.state("warmup", "scheduler.t_warmup", steps);
    }
    training_arguments::usual(draft);
}

/// Values that name others, put in.
fn filled(value: &Value, root: &Value, depth: usize) -> Value {
    const DEEPEST: usize = 40;
    match value {
        _ if depth > DEEPEST => Value::Null,
        Value::String(text) => match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
            Some(path) => match Tree(root).get(path) {
                // Names of names, so often.
                Some(named) if named.is_string() => filled(named, root, depth + 1),
                Some(named) if !named.is_object() && !named.is_array() => named.clone(),
                _ => value.clone(),
            },
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| filled(item, root, depth + 1)).collect(),
        Value::Object(table) => {
            Value::Object(table.iter().map(|(name, value)| (name.clone(), filled(value, root, depth + 1))).collect())
        }
        other => other.clone(),
    }
}
