//! MaxText: a YAML over `base.yml`, with `key=value` words over it.
//!
//! In: the configuration's tree, and the command that names it. Out: facts.

use meshwright_planner::limits;
use serde_json::Value;

use super::{TrainCommand, Tree};
use crate::import::draft::{Draft, number};
use crate::import::known_models::name_model;

/// The release whose defaults hold.
pub const VERSION: &str = "maxtext 0.2.5";

const AXES: &str = "
    data fsdp fsdp_transpose tensor tensor_transpose tensor_sequence sequence context expert pipeline autoregressive
";

const NAMES: &[(&str, &str)] = &[
    ("base_num_decoder_layers", "layers"),
    ("base_emb_dim", "hidden"),
    ("base_mlp_dim", "ffn"),
    ("base_num_query_heads", "heads"),
    ("base_num_kv_heads", "kv_heads"),
    ("head_dim", "head_dim"),
    ("vocab_size", "vocab"),
    ("logits_via_embedding", "tied"),
    ("rope_max_timescale", "rope_theta"),
    ("num_experts", "experts"),
    ("num_experts_per_tok", "top_k"),
    ("base_moe_mlp_dim", "expert_ffn"),
    ("load_balance_loss_weight", "balance"),
    ("max_target_length", "seq"),
    ("steps", "steps"),
    ("gradient_accumulation_steps", "accumulation"),
    ("per_device_batch_size", "device_batch"),
    ("adam_b1", "beta1"),
    ("adam_b2", "beta2"),
    ("adam_eps", "eps"),
    ("adam_weight_decay", "weight_decay"),
    ("gradient_clipping_threshold", "clip"),
    ("learning_rate", "lr"),
    ("init_weights_seed", "seed"),
    ("optimizer_memory_host_offload", "offload"),
    ("num_layers_per_pipeline_stage", "layers_per_chunk"),
    ("num_pipeline_microbatches", "pipeline_microbatches"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    base_config run_name model_name hardware num_slices decoder_block mlp_activations enable_dropout fused_qkv
    normalize_embedding_logits trainable_position_size sparse_matmul megablox capacity_factor
    context_parallel_strategy shard_optimizer_over_data dtype weight_dtype grad_dtype matmul_precision quantization
    remat_policy opt_type lr_schedule_type learning_rate_final_fraction cosine_learning_rate_final_fraction
    warmup_steps_fraction dataset_type dataset_path enable_checkpointing log_period base_output_directory
    skip_jax_distributed_system tokenizer_path tokenizer_type compile_topology compile_topology_num_slices attention
    reuse_example_batch enable_profiler profiler async_checkpointing checkpoint_period eval_interval hf_path
    hf_access_token load_parameters_path enable_goodput_recording monitor_goodput gcs_metrics save_config_to_gcs
    use_iota_embed scan_layers profiler_steps skip_first_n_steps_for_profiler upload_all_profiler_results
    per_device_batch_size_start metrics_file packing max_prefill_predict_length dump_hlo jax_cache_dir
    use_vertex_tensorboard
";

/// Reads a configuration, with a command's words over it.
pub fn read(tree: &Tree, command: Option<&TrainCommand>, gpus: Option<usize>) -> Draft {
    let mut draft = Draft::new("maxtext", VERSION);
    let mut whole = tree.0.clone();
    if let (Some(command), Value::Object(table)) = (command, &mut whole) {
        for word in &command.line.loose {
            match word {
                Ok(word) => {
                    if let Some((name, value)) = word.split_once('=') {
                        let value = match value {
                            "true" | "True" => Value::Bool(true),
                            "false" | "False" => Value::Bool(false),
                            value => number(value).unwrap_or(Value::String(value.to_owned())),
                        };
                        table.insert(name.to_owned(), value);
                    }
                }
                Err(why) => draft.note(format!("a setting is not known: {why}")),
            }
        }
        // `name=$UNKNOWN` has a name all the same.
        for raw in &command.launched.arguments {
            let hole = raw.chars().any(crate::import::shell::is_hole);
            if let (true, Some((name, _))) = (hole, raw.split_once('=')) {
                if let Some((_, key)) = NAMES.iter().find(|(known, _)| *known == name) {
                    table.remove(name);
                    draft.lack(key, name, "its value is not known from the script");
                }
                table.remove(name);
            }
        }
        for hole in &command.line.more {
            draft.note(format!("`{}` may hold more settings, which are not read: {}", hole.spelt, hole.why));
        }
    }
    let tree = Tree(&whole);
    let unknown: Vec<(&'static str, crate::import::draft::Fact)> =
        std::mem::take(&mut draft.facts).into_iter().collect();
    tree.state_all(&mut draft, NAMES);
    draft.facts.extend(unknown);
    model(&mut draft, &tree);
    if let Some(gpus) = gpus {
        draft.state("devices", "--gpus", gpus);
    }
    axes(&mut draft, &tree);
    batch(&mut draft, &tree);
    memory(&mut draft, &tree);
    optimizer(&mut draft, &tree);
    let axis: Vec<String> = AXES
        .split_whitespace()
        .flat_map(|axis| [format!("ici_{axis}_parallelism"), format!("dcn_{axis}_parallelism")])
        .collect();
    let known =
        NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).chain(axis.iter().map(String::as_str));
    let known: Vec<&str> = known.collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

fn model(draft: &mut Draft, tree: &Tree) {
    let name = tree.text("model_name").filter(|name| *name != "default").map(str::to_owned);
    let block = tree.text("decoder_block").unwrap_or("llama2").to_owned();
    if let Some(name) = name {
        if !name_model(draft, &name) {
            draft.compute("model", name.clone(), "of model_name");
            for key in ["layers", "hidden", "heads", "vocab"] {
                if !draft.says(key) {
                    draft.lack(
                        key,
                        "model_name",
                        format!("the sizes of {name} stand in MaxText, and are not known here"),
                    );
                }
            }
        }
    } else {
        draft.usuals([
            ("layers", "base_num_decoder_layers", 16),
            ("hidden", "base_emb_dim", 2048),
            ("ffn", "base_mlp_dim", 7168),
            ("heads", "base_num_query_heads", 16),
            ("kv_heads", "base_num_kv_heads", 16),
            ("head_dim", "head_dim", 128),
            ("vocab", "vocab_size", 32000),
        ]);
        draft.usual("tied", "logits_via_embedding", false);
        draft.usual("rope_theta", "rope_max_timescale", 10_000);
    }
    let gpt = block.starts_with("gpt3");
    draft.compute("architecture", if gpt { "gpt2" } else { "llama" }, format!("of decoder_block {block}"));
    if let Some(Value::Array(all)) = tree.get("mlp_activations") {
        draft.state("gated", "mlp_activations", all.len() > 1);
    }
    if gpt || tree.count("trainable_position_size").is_some_and(|size| size > 0) {
        draft.compute("positions", "learned", "of decoder_block");
    }
    // Experts of one are none.
    if draft.count("experts").is_some_and(|count| count < 2) {
        for key in ["experts", "top_k", "expert_ffn", "balance"] {
            draft.facts.remove(key);
        }
        return;
    }
    if draft.says("experts") {
        draft.usual("top_k", "num_experts_per_tok", 1);
        if let Some(ffn) = draft.value("ffn").cloned() {
            draft.compute("expert_ffn", ffn, "as wide as base_mlp_dim");
        }
        draft.facts.remove("capacity");
        if let Some(capacity) = tree.get("capacity_factor").filter(|value| value.as_f64().is_some_and(|x| x > 0.0)) {
            if tree.flag("sparse_matmul") {
                draft.note("capacity_factor is inert beside sparse_matmul: experts drop nothing");
            } else {
                draft.state("capacity", "capacity_factor", capacity.clone());
            }
        }
        draft.usual("balance", "load_balance_loss_weight", 0.01);
    }
}

/// The size of an axis within a slice and between slices: `-1` takes what is left.
fn axis(tree: &Tree, place: &str, axis: &str) -> i64 {
    let usual = match (place, axis) {
        ("ici", "fsdp") | ("dcn", "data") => -1,
        _ => 1,
    };
    // Beyond what is modelled, more is as good.
    let size = tree.get(&format!("{place}_{axis}_parallelism")).and_then(Value::as_i64);
    size.unwrap_or(usual).clamp(-1, limits::RANKS as i64)
}

fn axes(draft: &mut Draft, tree: &Tree) {
    // Where no file numbers slices, what lies between them does.
    let between: i64 = AXES
        .split_whitespace()
        .map(|name| axis(tree, "dcn", name))
        .filter(|size| *size > 0)
        .fold(1, i64::saturating_mul);
    let slices =
        ["num_slices", "compile_topology_num_slices"].iter().find_map(|name| tree.count(name).filter(|n| *n > 0));
    let slices = slices.unwrap_or(between.max(1) as usize);
    let place = |draft: &mut Draft, place: &str, devices: Option<usize>| -> Option<Vec<usize>> {
        let sizes: Vec<i64> = AXES.split_whitespace().map(|name| axis(tree, place, name)).collect();
        let stated = sizes.iter().filter(|size| **size > 0).fold(1, |all: i64, size| all.saturating_mul(*size));
        let open = sizes.iter().filter(|size| **size == -1).count();
        if open > 1 || stated < 1 {
            draft.fault(format!("{place}_*: more than one axis is -1, or one is 0"));
            return None;
        }
        let left = match (open, devices) {
            (0, _) => 1,
            (_, Some(devices)) if devices.is_multiple_of(stated as usize) => devices / stated as usize,
            (_, Some(devices)) => {
                draft.fault(format!("{place}_*: axes of {stated} do not divide {devices}"));
                return None;
            }
            (_, None) => return None,
        };
        if let (0, Some(devices)) = (open, devices)
            && stated as usize != devices
        {
            draft.fault(format!("{place}_*: the product of the axes is {stated}, and there are {devices}"));
        }
        Some(sizes.iter().map(|size| if *size == -1 { left } else { *size as usize }).collect())
    };
    let topology = tree.text("compile_topology").and_then(chips);
    if let Some(chips) = topology.filter(|_| !draft.says("devices")) {
        draft.state("devices", "compile_topology", chips.saturating_mul(slices));
    }
    let devices = draft.count("devices");
    let ici = place(draft, "ici", devices.map(|devices| devices / slices));
    let dcn = place(draft, "dcn", Some(slices));
    let (Some(ici), Some(dcn)) = (ici, dcn) else {
        if devices.is_none() {
            draft.note("an axis of -1 takes what devices are left: give their number by --gpus");
        }
        keep_stated(draft, tree);
        return;
    };
    let of = |name: &str| AXES.split_whitespace().position(|axis| axis == name).map_or(1, |at| ici[at] * dcn[at]);
    let total = ici.iter().chain(&dcn).fold(1, |all: usize, size| all.saturating_mul(*size));
    draft.compute("devices", total, "the product of the axes");
    if total > limits::RANKS {
        return draft
            .fault(format!("the product of the axes is {total}: at most {} devices are modelled", limits::RANKS));
    }
    let sequence = of("tensor_sequence");
    let tp = of("tensor") * of("tensor_transpose") * sequence;
    put(draft, tree, "tp", "tensor", tp);
    draft.compute("sequence_parallel", sequence > 1, "of ici_tensor_sequence_parallelism");
    put(draft, tree, "pp", "pipeline", of("pipeline"));
    put(draft, tree, "cp", "context", of("context") * of("sequence"));
    put(draft, tree, "ep", "expert", of("expert"));
    draft.compute("ring", tree.text("context_parallel_strategy") == Some("ring"), "of context_parallel_strategy");
    let shards = of("fsdp") * of("fsdp_transpose");
    let (cp, ep, data) = (of("context") * of("sequence"), of("expert"), of("data"));
    // All axes over which weights are cut but tensor's: fsdp, context and expert.
    if shards * cp * ep > 1 {
        if tree.get("ici_fsdp_parallelism").is_some() || tree.get("dcn_fsdp_parallelism").is_some() {
            draft.state("zero", "ici_fsdp_parallelism", 3);
        } else {
            draft.usual("zero", "ici_fsdp_parallelism", 3);
        }
        if data > 1 {
            draft.state("shard", "ici_fsdp_parallelism", shards * cp * ep);
        }
    } else if tree.flag("shard_optimizer_over_data") {
        draft.state("zero", "shard_optimizer_over_data", 1);
    } else {
        draft.compute("zero", 0, "no fsdp axis");
    }
    if ep > 1 {
        draft.compute("dp", total / (tp * of("pipeline") * cp), "all axes but tensor, context and pipeline");
    }
    if let (Some(layers), Some(each), pp) = (draft.count("layers"), draft.count("layers_per_chunk"), of("pipeline"))
        && pp > 1
        && each > 0
        && layers.is_multiple_of(each * pp)
    {
        draft.state("chunks", "num_layers_per_pipeline_stage", layers / each / pp);
        draft.compute("schedule", "gpipe", "one program over all stages");
    }
    if of("pipeline") > 1 {
        draft.compute("schedule", "gpipe", "one program over all stages");
    }
}

/// An axis's size: stated, or `base.yml`'s.
fn put(draft: &mut Draft, tree: &Tree, key: &'static str, axis: &str, size: usize) {
    let word = format!("ici_{axis}_parallelism");
    if size > 1 || tree.get(&word).is_some() || tree.get(&format!("dcn_{axis}_parallelism")).is_some() {
        draft.state(key, &word, size);
    } else {
        draft.usual(key, &word, size);
    }
}

/// What axes say even where not all are known.
fn keep_stated(draft: &mut Draft, tree: &Tree) {
    for (key, name) in [("tp", "tensor"), ("pp", "pipeline"), ("cp", "context"), ("ep", "expert")] {
        let (ici, dcn) = (axis(tree, "ici", name), axis(tree, "dcn", name));
        if ici > 0 && dcn > 0 {
            draft.state(key, &format!("ici_{name}_parallelism"), ici.saturating_mul(dcn));
        } else {
            draft.lack(key, &format!("ici_{name}_parallelism"), "-1: what devices are left");
        }
    }
    let fsdp = axis(tree, "ici", "fsdp");
    if fsdp != 1 {
        draft.state("zero", "ici_fsdp_parallelism", 3);
    }
}

/// Chips of a topology: the number of a v4 or v5p is of cores, two a chip.
fn chips(name: &str) -> Option<usize> {
    let (kind, count) = name.rsplit_once('-')?;
    let count: usize = count.parse().ok()?;
    Some(if ["v4", "v5p", "v3", "v2"].contains(&kind) { count / 2 } else { count })
}

fn batch(draft: &mut Draft, tree: &Tree) {
    draft.usual("seq", "max_target_length", 2048);
    draft.usual("accumulation", "gradient_accumulation_steps", 1);
    draft.usual("steps", "steps", 150_001);
    if !draft.lacks("device_batch") {
        draft.usual("device_batch", "per_device_batch_size", 12.0);
    }
    let narrow = tree.text("quantization").unwrap_or("").to_owned();
    let dtype = tree.text("dtype").unwrap_or("bfloat16").to_owned();
    match narrow.as_str() {
        "" if dtype == "float32" => draft.state("precision", "dtype", "fp32"),
        "" if tree.get("dtype").is_none() => draft.usual("precision", "dtype", "bf16"),
        "" => draft.state("precision", "dtype", "bf16"),
        text if text.contains("fp8") || text.contains("fp8_full") => draft.state("precision", "quantization", "fp8"),
        text if text.starts_with("int8") => draft.state("precision", "quantization", "int8"),
        text => {
            let why = format!("`{text}` is no format that is modelled");
            draft.lack("precision", "quantization", why);
        }
    }
}

fn memory(draft: &mut Draft, tree: &Tree) {
    const POLICIES: &str = "
    none full minimal minimal_with_context minimal_with_context_and_quantization minimal_flash
    save_dot_with_context_except_mlp save_dot_except_mlpwi save_dot_except_mlp save_qkv_proj save_out_proj
    qkv_proj_offloaded custom minimal_offloaded minimal_with_quantization save_dot_except_logits_ffw1
";
    let policy = tree.text("remat_policy").unwrap_or("full").to_owned();
    match policy.as_str() {
        "full" if tree.get("remat_policy").is_none() => draft.usual("recompute", "remat_policy", "full"),
        "full" => draft.state("recompute", "remat_policy", "full"),
        "none" => draft.state("recompute", "remat_policy", "none"),
        "minimal" | "minimal_with_context" | "minimal_flash" => draft.state("recompute", "remat_policy", "selective"),
        policy if POLICIES.split_whitespace().any(|known| known == policy) => {
            let why = format!("remat_policy {policy} keeps other parts of a layer than are modelled");
            draft.lack("recompute", "remat_policy", why);
        }
        policy => {
            draft.fault(format!(
                "remat_policy is `{policy}`: MaxText takes it here and fails as it traces; known: {}",
                POLICIES.split_whitespace().collect::<Vec<_>>().join(", ")
            ));
            draft.lack("recompute", "remat_policy", "no such policy");
        }
    }
}

fn optimizer(draft: &mut Draft, tree: &Tree) {
    match tree.text("opt_type").unwrap_or("adamw") {
        "adamw" | "adam_pax" => draft.compute("optimizer", "adamw", "of opt_type"),
        "sgd" => draft.state("optimizer", "opt_type", "sgd"),
        "muon" => draft.state("optimizer", "opt_type", "muon"),
        other => draft.lack_optimizer("opt_type", other),
    }
    draft.usuals([
        ("lr", "learning_rate", 3e-5),
        ("beta1", "adam_b1", 0.9),
        ("beta2", "adam_b2", 0.95),
        ("eps", "adam_eps", 1e-8),
        ("weight_decay", "adam_weight_decay", 0.1),
        ("clip", "gradient_clipping_threshold", 1.0),
    ]);
    let least = tree.any(&["learning_rate_final_fraction", "cosine_learning_rate_final_fraction"]);
    let least = least.and_then(|(_, value)| value.as_f64()).unwrap_or(0.1);
    if let Some(lr) = draft.float("lr") {
        draft.compute(
            "min_lr",
            f64::from((lr as f32) * (least as f32)),
            "learning_rate · learning_rate_final_fraction",
        );
    }
    let share = tree.get("warmup_steps_fraction").and_then(Value::as_f64).unwrap_or(0.1);
    if let Some(steps) = draft.count("steps") {
        draft.compute("warmup", (share * steps as f64).round() as usize, "warmup_steps_fraction of the steps");
    }
}
