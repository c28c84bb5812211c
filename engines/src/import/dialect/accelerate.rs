//! Hugging Face Accelerate: its YAML, beside a script's arguments, a `config.json` and `plan.json`.
//!
//! In: the configuration's tree. Out: facts.

use serde_json::Value;

use super::{TrainCommand, Tree, deepspeed, hugging_face, training_arguments};
use crate::import::draft::Draft;
use crate::import::shell::FilesBeside;

/// The release whose defaults hold.
pub const VERSION: &str = "accelerate 1.15.0";

/// Reads what the YAML says.
pub fn configuration(draft: &mut Draft, tree: &Tree, files: FilesBeside) {
    let processes = tree.get("num_processes").and_then(|value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    });
    if let Some(count) = processes {
        draft.state("devices", "num_processes", count);
    }
    if let Some(count) = tree.count("num_machines").filter(|count| *count > 0) {
        draft.state("nodes", "num_machines", count);
    }
    match tree.text("mixed_precision") {
        Some("bf16") => draft.state("precision", "mixed_precision", "bf16"),
        Some("fp16") => draft.state("precision", "mixed_precision", "fp16"),
        Some("fp8") => draft.state("precision", "mixed_precision", "fp8"),
        _ => draft.usual("precision", "mixed_precision", "fp32"),
    }
    match tree.text("distributed_type").unwrap_or("NO") {
        "FSDP" => fsdp(draft, tree),
        "DEEPSPEED" => deep(draft, tree, files),
        "MEGATRON_LM" => {
            let names = [
                ("megatron_lm_config.megatron_lm_tp_degree", "tp"),
                ("megatron_lm_config.megatron_lm_pp_degree", "pp"),
                ("megatron_lm_config.megatron_lm_num_micro_batches", "accumulation"),
                ("megatron_lm_config.megatron_lm_gradient_clipping", "clip"),
                ("megatron_lm_config.megatron_lm_sequence_parallelism", "sequence_parallel"),
            ];
            tree.state_all(draft, &names);
            if tree.flag("megatron_lm_config.megatron_lm_use_distributed_optimizer") {
                draft.state("zero", "megatron_lm_use_distributed_optimizer", 1);
            }
            if tree.flag("megatron_lm_config.megatron_lm_recompute_activations") {
                draft.state("recompute", "megatron_lm_recompute_activations", "selective");
                draft.usual("modules", "", serde_json::json!(["core_attn"]));
            }
        }
        "MULTI_GPU" | "NO" | "MULTI_NPU" | "TPU" | "XLA" => {
            draft.usual("zero", "distributed_type", 0);
            if tree.text("distributed_type") == Some("NO") && !draft.says("devices") {
                draft.compute("devices", 1, "distributed_type NO");
            }
        }
        other => draft.fault(format!("distributed_type is {other}: it is not read")),
    }
    parallelism(draft, tree);
    if let Some(value) = tree.get("gradient_accumulation_steps").filter(|value| value.is_number()) {
        draft.state("accumulation", "gradient_accumulation_steps", value.clone());
    }
}

fn fsdp(draft: &mut Draft, tree: &Tree) {
    let strategy =
        tree.get("fsdp_config.fsdp_sharding_strategy").map(|value| value.to_string().trim_matches('"').to_owned());
    let reshard = tree.get("fsdp_config.fsdp_reshard_after_forward");
    let (zero, word) = match (strategy.as_deref(), reshard) {
        (_, Some(Value::Bool(yes))) => (if *yes { 3 } else { 2 }, "fsdp_reshard_after_forward"),
        (Some("1" | "FULL_SHARD"), _) => (3, "fsdp_sharding_strategy"),
        (Some("2" | "SHARD_GRAD_OP"), _) => (2, "fsdp_sharding_strategy"),
        (Some("3" | "NO_SHARD"), _) => (0, "fsdp_sharding_strategy"),
        (Some("4" | "HYBRID_SHARD"), _) => (3, "fsdp_sharding_strategy"),
        (Some("5" | "HYBRID_SHARD_ZERO2"), _) => (2, "fsdp_sharding_strategy"),
        (_, Some(Value::String(text))) => match text.as_str() {
            "FULL_SHARD" | "true" => (3, "fsdp_reshard_after_forward"),
            "SHARD_GRAD_OP" | "false" => (2, "fsdp_reshard_after_forward"),
            _ => (3, "fsdp_reshard_after_forward"),
        },
        _ => (3, ""),
    };
    if word.is_empty() {
        draft.usual("zero", "fsdp_reshard_after_forward", zero);
    } else {
        draft.state("zero", word, zero);
    }
    if strategy.as_deref().is_some_and(|text| text.starts_with("HYBRID") || text == "4" || text == "5") {
        match (draft.count("devices"), draft.count("nodes")) {
            (Some(devices), Some(nodes)) if nodes > 0 && devices.is_multiple_of(nodes) => {
                draft.compute("shard", devices / nodes, "hybrid: within a node");
            }
            _ => draft.lack("shard", "fsdp_sharding_strategy", "hybrid: how many devices a node has is not known"),
        }
    }
    if tree.flag("fsdp_config.fsdp_activation_checkpointing") {
        draft.state("recompute", "fsdp_activation_checkpointing", "full");
    }
    if tree.flag("fsdp_config.fsdp_offload_params") {
        draft.state("offload", "fsdp_offload_params", true);
        draft.note("fsdp_offload_params: the optimizer is priced in the host's memory, weights on the device");
    }
}

fn deep(draft: &mut Draft, tree: &Tree, files: FilesBeside) {
    if let Some(name) = tree.text("deepspeed_config.deepspeed_config_file") {
        match files(name).map(|text| crate::import::tree::json(&text)) {
            Some(Ok(value)) => deepspeed::configuration(draft, &Tree(&value), name),
            Some(Err(problem)) => draft.fault(format!("{name} cannot be read: {problem}")),
            None => {
                draft.note(format!("`{name}` is not beside it: give it as a further file"));
                draft.lack("zero", "deepspeed_config_file", "the configuration of DeepSpeed is not there");
            }
        }
        return;
    }
    let names = [
        ("deepspeed_config.zero_stage", "zero"),
        ("deepspeed_config.gradient_accumulation_steps", "accumulation"),
        ("deepspeed_config.gradient_clipping", "clip"),
    ];
    tree.state_all(draft, &names);
    if tree.text("deepspeed_config.offload_optimizer_device").is_some_and(|device| device != "none") {
        draft.state("offload", "offload_optimizer_device", true);
    }
    if tree.text("deepspeed_config.offload_param_device").is_some_and(|device| device != "none") {
        draft.unprice("offload_param_device: weights in the host's memory are not modelled");
    }
    draft.usual("zero", "zero_stage", 2);
}

fn parallelism(draft: &mut Draft, tree: &Tree) {
    let of = |name: &str| tree.count(&format!("parallelism_config.parallelism_config_{name}_size"));
    for (name, key) in [("tp", "tp"), ("cp", "cp")] {
        if let Some(count) = of(name) {
            draft.state(key, &format!("parallelism_config_{name}_size"), count);
        }
    }
    if let Some(size) = of("sp").filter(|size| *size > 1) {
        draft.unprice(format!("parallelism_config_sp_size {size}: Ulysses' exchange of heads is not modelled"));
    }
    if draft.count("cp").is_some_and(|cp| cp > 1) {
        let way = tree.text("parallelism_config.parallelism_config_cp_comm_strategy").unwrap_or("allgather");
        draft.compute("ring", way != "allgather", "of parallelism_config_cp_comm_strategy");
    }
    let (replicas, shards) = (of("dp_replicate").unwrap_or(1), of("dp_shard"));
    if let Some(shards) = shards {
        let cp = draft.count("cp").unwrap_or(1);
        let sharded = shards.saturating_mul(cp);
        if replicas > 1 && sharded > 1 {
            draft.state("shard", "parallelism_config_dp_shard_size", sharded);
        }
        draft.state("dp", "parallelism_config_dp_shard_size", replicas.saturating_mul(shards));
    } else if replicas > 1 {
        draft.note("parallelism_config_dp_replicate_size without dp_shard_size: replicas alone");
    }
}

/// The configuration that a command names.
pub fn named(command: &TrainCommand, draft: &mut Draft) {
    let options = &command.launched.options;
    let at = options.iter().position(|word| word == "--config_file" || word.starts_with("--config_file="));
    let name = at.and_then(|at| match options[at].split_once('=') {
        Some((_, name)) => Some(name.to_owned()),
        None => options.get(at + 1).cloned(),
    });
    if let Some(name) = name {
        match (command.files)(&name).map(|text| crate::import::tree::yaml(&text)) {
            Some(Ok(value)) => configuration(draft, &Tree(&value), command.files),
            Some(Err(problem)) => draft.fault(format!("{name} cannot be read: {problem}")),
            None => draft.note(format!("`{name}` is not beside the script: give it as a further file")),
        }
    }
    if command.program_name() == "train.py" {
        plan_file(draft, command.files);
    }
    // What the launcher itself is told stands over its file.
    for (at, word) in options.iter().enumerate() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), options.get(at + 1).filter(|next| !next.starts_with('-')).cloned()),
        };
        let value = value.filter(|value| !value.chars().any(crate::import::shell::is_hole));
        match (name, value.as_deref()) {
            ("--mixed_precision", Some(format @ ("bf16" | "fp16" | "fp8"))) => draft.state("precision", name, format),
            ("--gradient_accumulation_steps", Some(text)) => draft.state_text("accumulation", name, text),
            ("--zero_stage", Some(text)) => draft.state_text("zero", name, text),
            ("--use_fsdp", _) => draft.usual("zero", name, 3),
            _ => {}
        }
    }
}

/// Reads a configuration by itself, with what lies beside it.
pub fn alone(tree: &Tree, files: FilesBeside) -> Draft {
    let mut draft = Draft::new("accelerate", VERSION);
    configuration(&mut draft, tree, files);
    if let Some(text) = files("config.json") {
        hugging_face::configuration(&mut draft, &text, "config.json");
    }
    plan_file(&mut draft, files);
    draft.usual("recompute", "", "none");
    for key in ["tp", "pp", "cp", "ep"] {
        draft.usual(key, "", 1);
    }
    draft.usual("zero", "", 0);
    training_arguments::usual(&mut draft);
    draft
}

/// What `meshwright export` writes for its own script.
fn plan_file(draft: &mut Draft, files: FilesBeside) {
    let Some(Ok(value)) = files("plan.json").map(|text| crate::import::tree::json(&text)) else { return };
    let tree = Tree(&value);
    if tree.get("sequence").is_none() || tree.get("class").is_none() {
        return;
    }
    let names = [
        ("sequence", "seq"),
        ("microbatch", "microbatch"),
        ("accumulation", "accumulation"),
        ("global_batch", "global_batch"),
        ("steps", "steps"),
        ("seed", "seed"),
        ("optimizer", "optimizer"),
        ("lr", "lr"),
        ("min_lr", "min_lr"),
        ("warmup_steps", "warmup"),
        ("beta1", "beta1"),
        ("beta2", "beta2"),
        ("eps", "eps"),
        ("weight_decay", "weight_decay"),
        ("clip", "clip"),
    ];
    tree.state_all(draft, &names);
    if tree.count("target_sequence").is_some_and(|count| count > 0) {
        tree.state_all(draft, &[("target_sequence", "target_seq")]);
    }
    if tree.flag("recompute") {
        draft.state("recompute", "recompute", "full");
    }
}
