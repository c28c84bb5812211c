//! axolotl: a YAML of its own over transformers, FSDP or DeepSpeed.
//!
//! In: the configuration's tree. Out: facts.

use super::{Tree, deepspeed, hugging_face, training_arguments};
use crate::import::draft::Draft;
use crate::import::shell::FilesBeside;

/// The release whose defaults hold.
pub const VERSION: &str = "axolotl 0.21.0";

const NAMES: &[(&str, &str)] = &[
    ("micro_batch_size", "microbatch"),
    ("gradient_accumulation_steps", "accumulation"),
    ("sequence_len", "seq"),
    ("learning_rate", "lr"),
    ("max_steps", "steps"),
    ("num_epochs", "epochs"),
    ("warmup_steps", "warmup"),
    ("warmup_ratio", "warmup_share"),
    ("weight_decay", "weight_decay"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_epsilon", "eps"),
    ("max_grad_norm", "clip"),
    ("optimizer", "optim"),
    ("seed", "seed"),
    ("lora_r", "lora_rank"),
    ("lora_alpha", "lora_alpha"),
    ("load_in_4bit", "four_bits"),
    ("tensor_parallel_size", "tp"),
    ("context_parallel_size", "cp"),
    ("sequence_parallel_degree", "cp"),
    ("expert_parallel_size", "ep"),
    ("dp_shard_size", "shard_degree"),
    ("dp_replicate_size", "replicate"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    base_model base_model_config model_type tokenizer_type datasets dataset_prepared_path val_set_size output_dir
    adapter wandb_project wandb_entity wandb_watch wandb_name wandb_log_model lr_scheduler gradient_checkpointing
    deepspeed fsdp fsdp_config fsdp_version logging_steps saves_per_epoch evals_per_epoch save_steps eval_steps
    special_tokens chat_template flash_attention sample_packing pad_to_sequence_len eval_sample_packing lora_dropout
    lora_target_linear lora_target_modules strict tf32 early_stopping_patience resume_from_checkpoint local_rank
    hub_model_id save_safetensors train_on_inputs group_by_length xformers_attention warmup_ratio load_in_8bit
    gradient_checkpointing_kwargs tokens plugins debug batch_size save_total_limit loss_watchdog_threshold
    loss_watchdog_patience shuffle_merged_datasets dataset_processes
";

/// Reads a configuration.
pub fn read(tree: &Tree, files: FilesBeside) -> Draft {
    let mut draft = Draft::new("axolotl", VERSION);
    tree.state_all(&mut draft, NAMES);
    if tree.text("bf16") == Some("auto") {
        draft.state("bf16", "bf16", true);
        draft.note("bf16: auto, which is yes where the devices have it");
    }
    if let Some(all) = tree.count("batch_size")
        && !draft.says("accumulation")
        && !draft.says("microbatch")
    {
        draft.unprice(format!("batch_size: {all}"));
    }
    if let Some(name) = tree.text("base_model") {
        hugging_face::named(&mut draft, "base_model", name, files);
    }
    adapter(&mut draft, tree);
    match tree.get("gradient_checkpointing") {
        Some(value) if value.as_bool() == Some(true) || value.is_string() => {
            draft.state("checkpointing", "gradient_checkpointing", true)
        }
        _ => {}
    }
    if let Some(name) = tree.text("deepspeed") {
        let brought = deepspeed::named_by(&mut draft, name, files, ("axolotl", BROUGHT));
        if brought && name.contains("cpuoffload") {
            draft.unprice(format!("{name}: weights in the host's memory are not modelled"));
        }
    }
    fsdp(&mut draft, tree);
    if tree.flag("sample_packing") {
        draft.note("sample_packing: how long samples are, the data say; priced as one sample a sequence (`packed` in the plan's job says another)");
    }
    draft.usual("microbatch", "micro_batch_size", 1);
    draft.usual("seq", "sequence_len", 512);
    training_arguments::finish(&mut draft);
    let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

fn adapter(draft: &mut Draft, tree: &Tree) {
    let adapter = tree.text("adapter").unwrap_or("");
    draft.compute("lora", !adapter.is_empty(), "of adapter");
    if adapter == "qlora" || draft.flag("four_bits") {
        draft.state("four_bits", "load_in_4bit", true);
    }
    if tree.flag("load_in_8bit") && !adapter.is_empty() {
        draft.state("base", "load_in_8bit", "fp8");
        draft.note("load_in_8bit: the base is priced as a byte a weight");
    }
    targets(draft, tree, "lora_target_modules", tree.flag("lora_target_linear"));
}

/// Which layers have adapters.
pub fn targets(draft: &mut Draft, tree: &Tree, name: &str, all: bool) {
    let of = |text: &str| {
        let module = text.trim().rsplit('.').next().unwrap_or_default().trim_end_matches("_proj").to_owned();
        ["q", "k", "v", "o", "gate", "up", "down"].contains(&module.as_str()).then_some(module)
    };
    let names: Vec<String> = match tree.get(name) {
        Some(serde_json::Value::Array(items)) => {
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        Some(serde_json::Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    if all || names.is_empty() || names.iter().any(|name| name == "all" || name == "all-linear") {
        return;
    }
    let known: Vec<String> = names.iter().filter_map(|name| of(name)).collect();
    if known.len() < names.len() {
        draft.note(format!("{name}: adapters of {} are priced alone", known.join(", ")));
    }
    draft.state("targets", name, known);
}

/// Configurations of DeepSpeed that come with axolotl: `deepspeed_configs/zero3_bf16.json`.
const BROUGHT: &[(&str, usize, bool)] = &[
    ("zero1.json", 1, false),
    ("zero2.json", 2, false),
    ("zero3.json", 3, false),
    ("zero3_bf16.json", 3, false),
    ("zero1_torch_compile.json", 1, false),
    ("zero3_bf16_cpuoffload_all.json", 3, true),
    ("zero3_bf16_cpuoffload_params.json", 3, false),
];

fn fsdp(draft: &mut Draft, tree: &Tree) {
    let on = tree.get("fsdp").is_some_and(|value| value.as_array().is_some_and(|all| !all.is_empty()))
        || tree.get("fsdp_config").is_some();
    if !on {
        return;
    }
    let words: Vec<&str> = match tree.get("fsdp") {
        Some(serde_json::Value::Array(all)) => all.iter().filter_map(serde_json::Value::as_str).collect(),
        _ => Vec::new(),
    };
    let strategy = tree.any(&["fsdp_config.fsdp_sharding_strategy", "fsdp_config.sharding_strategy"]);
    let grads = words.contains(&"shard_grad_op") || strategy.is_some_and(|(_, value)| value == "SHARD_GRAD_OP");
    let keeps = tree.any(&["fsdp_config.reshard_after_forward", "fsdp_config.fsdp_reshard_after_forward"]);
    let keeps = keeps.is_some_and(|(_, value)| value.as_bool() == Some(false));
    draft.state("zero", "fsdp", if grads || keeps { 2 } else { 3 });
    let checkpoints = ["fsdp_config.activation_checkpointing", "fsdp_config.fsdp_activation_checkpointing"];
    if checkpoints.iter().any(|name| tree.flag(name)) {
        draft.state("checkpointing", "fsdp_config.activation_checkpointing", true);
    }
    if ["fsdp_config.offload_params", "fsdp_config.fsdp_offload_params"].iter().any(|name| tree.flag(name)) {
        draft.state("offload", "fsdp_config.offload_params", true);
        draft.note("offload_params: the optimizer is priced in the host's memory, weights on the device");
    }
}
