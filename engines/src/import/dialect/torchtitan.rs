//! torchtitan: its TOML, of releases until 0.2.2, with flags over it.
//!
//! In: the configuration's tree, and the command that names it. Out: facts.
//!
//! Names of three generations are read: `training.batch_size` and `experimental.*` of 2024, `parallelism.*` of 2025, and the renamed
//! batch of 0.2.

use serde_json::Value;

use super::{TrainCommand, Tree};
use crate::import::draft::Draft;
use crate::import::known_models::name_model;

/// The release whose defaults hold.
pub const VERSION: &str = "torchtitan 0.2.2";

/// Names by their concept.
const NAMES: &[(&str, &str)] = &[
    ("training.local_batch_size", "local_batch"),
    ("training.batch_size", "local_batch"),
    ("training.global_batch_size", "global_batch"),
    ("training.seq_len", "seq"),
    ("training.steps", "steps"),
    ("training.max_norm", "clip"),
    ("training.seed", "seed"),
    ("debug.seed", "seed"),
    ("parallelism.data_parallel_replicate_degree", "replicate"),
    ("training.data_parallel_replicate_degree", "replicate"),
    ("parallelism.data_parallel_shard_degree", "shard_degree"),
    ("training.data_parallel_shard_degree", "shard_degree"),
    ("training.data_parallel_degree", "shard_degree"),
    ("parallelism.fsdp_reshard_after_forward", "reshard"),
    ("parallelism.tensor_parallel_degree", "tp"),
    ("training.tensor_parallel_degree", "tp"),
    ("parallelism.pipeline_parallel_degree", "pp"),
    ("experimental.pipeline_parallel_degree", "pp"),
    ("parallelism.pipeline_parallel_schedule", "schedule_name"),
    ("experimental.pipeline_parallel_schedule", "schedule_name"),
    ("parallelism.pipeline_parallel_microbatch_size", "pipeline_microbatch"),
    ("experimental.pipeline_parallel_microbatches", "pipeline_microbatches"),
    ("parallelism.pipeline_parallel_layers_per_stage", "layers_per_chunk"),
    ("parallelism.context_parallel_degree", "cp"),
    ("experimental.context_parallel_degree", "cp"),
    ("parallelism.context_parallel_rotate_method", "cp_kind"),
    ("parallelism.expert_parallel_degree", "ep"),
    ("parallelism.expert_tensor_parallel_degree", "etp"),
    ("activation_checkpoint.mode", "ac_mode"),
    ("activation_checkpoint.selective_ac_option", "ac_option"),
    ("activation_checkpoint.selective_ac_type", "ac_option"),
    ("training.mixed_precision_param", "mixed"),
    ("training.enable_cpu_offload", "offload"),
    ("optimizer.name", "optimizer_name"),
    ("optimizer.lr", "lr"),
    ("optimizer.beta1", "beta1"),
    ("optimizer.beta2", "beta2"),
    ("optimizer.eps", "eps"),
    ("optimizer.weight_decay", "weight_decay"),
    ("lr_scheduler.warmup_steps", "warmup"),
    ("training.warmup_steps", "warmup"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    job profiling metrics checkpoint comm fault_tolerance logging validation debug model optimizer.implementation
    optimizer.fused optimizer.early_step_in_backward lr_scheduler training.dataset training.dataset_path
    training.tokenizer_path training.compile training.gc_freq training.deterministic training.mixed_precision_reduce
    training.data_parallel_type compile parallelism.enable_async_tensor_parallel
    experimental.enable_async_tensor_parallel parallelism.enable_loss_parallel parallelism.disable_loss_parallel
    training.disable_loss_parallel activation_checkpoint float8 quantize memory_estimation
    parallelism.enable_compiled_autograd experimental.custom_model_path training.dtype
";

/// Reads a configuration, with a command's flags over it.
pub fn read(tree: &Tree, command: Option<&TrainCommand>) -> Draft {
    let mut draft = Draft::new("torchtitan", VERSION);
    let mut whole = tree.0.clone();
    for flag in command.iter().flat_map(|command| &command.line.flags) {
        let name = flag.name.trim_start_matches('-').replace('-', "_");
        if !name.contains('.') {
            continue;
        }
        let value = match flag.value() {
            Some(Ok(text)) => crate::import::draft::number(text).unwrap_or(Value::String(text.clone())),
            None => Value::Bool(true),
            Some(Err(why)) => {
                if let Some((_, key)) = NAMES.iter().find(|(known, _)| *known == name) {
                    draft.lack(key, &flag.name, why.clone());
                }
                continue;
            }
        };
        put(&mut whole, &name, value);
    }
    let tree = Tree(&whole);
    let unknown: Vec<(&'static str, crate::import::draft::Fact)> =
        std::mem::take(&mut draft.facts).into_iter().collect();
    tree.state_all(&mut draft, NAMES);
    draft.facts.extend(unknown);
    model(&mut draft, &tree);
    precision(&mut draft, &tree);
    finish(&mut draft);
    let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

fn put(whole: &mut Value, path: &str, value: Value) {
    let mut place = whole;
    for part in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(serde_json::Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

/// Flavors: layers, width, heads, key/value heads, feed-forward width, vocabulary, theta.
const FLAVORS: &[(&str, &str, [usize; 6], f64)] = &[
    ("llama3", "debugmodel", [6, 256, 16, 16, 768, 2048], 5e5),
    ("llama2", "7B", [32, 4096, 32, 32, 11008, 32000], 1e4),
    ("llama2", "13B", [40, 5120, 40, 40, 13824, 32000], 1e4),
    ("llama2", "70B", [80, 8192, 64, 8, 28672, 32000], 1e4),
];

fn model(draft: &mut Draft, tree: &Tree) {
    let name = tree.text("model.name").unwrap_or("llama3").to_owned();
    let flavor = tree.text("model.flavor").unwrap_or("debugmodel").to_owned();
    let why = format!("torchtitan's {name} {flavor}");
    let row = FLAVORS.iter().find(|(model, known, _, _)| name.starts_with(model) && *known == flavor);
    if let Some((_, _, [layers, hidden, heads, kv, ffn, vocab], theta)) = row {
        for (key, count) in
            [("layers", layers), ("hidden", hidden), ("heads", heads), ("kv_heads", kv), ("ffn", ffn), ("vocab", vocab)]
        {
            draft.compute(key, *count, &why);
        }
        draft.compute("rope_theta", *theta, &why);
        draft.compute("architecture", "llama", &why);
        draft.compute("model", format!("{name}-{flavor}"), &why);
        return;
    }
    let base = name.trim_end_matches("_ft").trim_end_matches("_simple_fsdp").trim_end_matches("_compiler_toolkit");
    let base = base.rsplit('.').next().unwrap_or(base);
    if !name_model(draft, &format!("{base}{flavor}")) {
        draft.compute("model", format!("{name}-{flavor}"), "of [model]");
        for key in ["layers", "hidden", "heads", "vocab"] {
            draft.lack(
                key,
                "model.flavor",
                format!("the sizes of {name} {flavor} stand in torchtitan's code, and are not known here"),
            );
        }
    }
    if draft.says("experts") {
        // Dropless, balanced by biases.
        draft.facts.remove("capacity");
        draft.facts.remove("balance");
    }
}

fn precision(draft: &mut Draft, tree: &Tree) {
    let converters: Vec<&str> = match tree.get("model.converters") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let narrow = converters.iter().any(|name| name.contains("float8")) || tree.flag("float8.enable_float8_linear");
    if narrow {
        draft.state("precision", "model.converters", "fp8");
    } else if converters.iter().any(|name| name.contains("mx")) {
        draft.state("precision", "model.converters", "fp8");
        draft.note("MX formats are priced as fp8");
    } else {
        match draft.text("mixed") {
            Some("float32") => draft.state("precision", "training.mixed_precision_param", "fp32"),
            Some(_) => draft.state("precision", "training.mixed_precision_param", "bf16"),
            None => draft.usual("precision", "training.mixed_precision_param", "bf16"),
        }
    }
}

/// What follows, and torchtitan's own.
pub fn finish(draft: &mut Draft) {
    draft.usuals([
        ("tp", "parallelism.tensor_parallel_degree", 1),
        ("pp", "parallelism.pipeline_parallel_degree", 1),
        ("cp", "parallelism.context_parallel_degree", 1),
        ("ep", "parallelism.expert_parallel_degree", 1),
        ("seq", "training.seq_len", 2048),
        ("local_batch", "training.local_batch_size", 8),
        ("replicate", "parallelism.data_parallel_replicate_degree", 1),
        ("steps", "training.steps", 10_000),
    ]);
    let tp = draft.count("tp").unwrap_or(1);
    draft.compute("sequence_parallel", tp > 1, "torchtitan's tensor parallelism shards tokens too");
    if draft.count("ep").is_some_and(|ep| ep > 1) {
        draft.compute("etp", 1, "experts stay whole unless parallelism.expert_tensor_parallel_degree says more");
    }
    draft.compute("ring", draft.text("cp_kind") == Some("alltoall"), "of parallelism.context_parallel_rotate_method");
    pipeline(draft);
    sharding(draft);
    recompute(draft);
    match draft.text("optimizer_name").unwrap_or("AdamW").to_owned().as_str() {
        "AdamW" | "Adam" => draft.compute("optimizer", "adamw", "of optimizer.name"),
        name => draft.lack_optimizer("optimizer.name", name),
    }
    draft.usuals([
        ("lr", "optimizer.lr", 8e-4),
        ("beta1", "optimizer.beta1", 0.9),
        ("beta2", "optimizer.beta2", 0.95),
        ("eps", "optimizer.eps", 1e-8),
        ("weight_decay", "optimizer.weight_decay", 0.1),
        ("clip", "training.max_norm", 1.0),
    ]);
    draft.usual("warmup", "lr_scheduler.warmup_steps", 200);
    draft.usual("min_lr", "lr_scheduler.min_lr_factor", 0);
}

fn pipeline(draft: &mut Draft) {
    let (Some(pp), Some(local)) = (draft.count("pp"), draft.count("local_batch")) else { return };
    if pp < 2 {
        draft.compute("microbatch", local, "training.local_batch_size");
        return;
    }
    // All microbatches of a pipeline are one local batch.
    let each = match draft.count("pipeline_microbatches") {
        Some(count) if count > 0 => Some(local / count),
        _ if !draft.says("pipeline_microbatches") && draft.engine == "torchtitan" => {
            draft.count_or("pipeline_microbatch", 1)
        }
        _ => None,
    };
    match each.filter(|each| *each > 0) {
        Some(each) => {
            draft.compute("microbatch", each, "of the local batch, a pipeline's microbatch");
            draft.compute("local_microbatches", local / each, "training.local_batch_size / a microbatch");
        }
        None => draft.fault("the local batch is no multiple of the pipeline's microbatches"),
    }
    let name = draft.text("schedule_name").unwrap_or("1F1B").to_owned();
    let (schedule, chunks) = match name.to_lowercase().as_str() {
        "1f1b" => ("1f1b", 1),
        "gpipe" => ("gpipe", 1),
        "interleaved1f1b" => ("1f1b", 2),
        "zbvzerobubble" => ("zb-v", 2),
        "dualpipev" => ("dualpipe-v", 2),
        "interleavedzerobubble" => {
            draft.note("InterleavedZeroBubble is priced as ZB-H1 with two chunks a stage");
            ("zb-h1", 2)
        }
        other => {
            let why = format!("`{other}` is no schedule that is modelled");
            draft.lack("schedule", "pipeline_parallel_schedule", why);
            return;
        }
    };
    draft.compute("schedule", schedule, format!("of {name}"));
    let each = draft.count("layers_per_chunk").filter(|each| *each > 0);
    let stated = each.zip(draft.count("layers")).map(|(each, layers)| (layers + 2).div_ceil(each).div_ceil(pp).max(1));
    let why = if stated.is_some() {
        "of pipeline_parallel_layers_per_stage"
    } else {
        "as many as the schedule takes at least"
    };
    draft.compute("chunks", if chunks == 1 { 1 } else { stated.unwrap_or(chunks) }, why);
    if !draft.says("layout")
        && let (Some(layers), Some(chunks)) = (draft.count("layers"), draft.count("chunks"))
    {
        draft.compute("layout", spread(layers, pp * chunks), "torchtitan counts embedding and head as a layer each");
    }
}

/// Layers of each virtual stage, where embedding and head count as one each.
fn spread(layers: usize, stages: usize) -> Vec<usize> {
    let (each, extra) = ((layers + 2) / stages, (layers + 2) % stages);
    let of = |stage: usize| each + usize::from(stage < extra);
    (0..stages)
        .map(|stage| of(stage).saturating_sub(usize::from(stage == 0) + usize::from(stage + 1 == stages)))
        .collect()
}

fn sharding(draft: &mut Draft) {
    let pp = draft.count("pp").unwrap_or(1);
    let reshard = draft.text("reshard").unwrap_or("default").to_owned();
    let shards = draft.value("shard_degree").and_then(Value::as_i64).unwrap_or(-1);
    let cp = draft.count("cp").unwrap_or(1);
    draft.usual("shard_degree", "parallelism.data_parallel_shard_degree", -1);
    if shards == 1 && cp == 1 {
        draft.compute("zero", 0, "data_parallel_shard_degree is 1: replicas alone");
        return;
    }
    let after = match reshard.as_str() {
        "always" => true,
        "never" => false,
        // Not beside a pipeline, where weights would be gathered for each microbatch.
        _ => pp == 1,
    };
    draft.compute("zero", if after { 3 } else { 2 }, format!("FSDP, fsdp_reshard_after_forward {reshard}"));
}

fn recompute(draft: &mut Draft) {
    let mode = draft.text("ac_mode").map(str::to_owned);
    let option = draft.text("ac_option").map(str::to_owned).or(draft.count("ac_option").map(|n| n.to_string()));
    let option = option.unwrap_or_else(|| "2".to_owned());
    match mode.as_deref() {
        Some("none") => draft.state("recompute", "activation_checkpoint.mode", "none"),
        Some("full") => draft.state("recompute", "activation_checkpoint.mode", "full"),
        Some("selective") | None => {
            let word = "activation_checkpoint.selective_ac_option";
            match option.parse::<usize>() {
                Ok(every) if every > 0 => {
                    draft.compute(
                        "recompute",
                        "full-share",
                        format!("selective of every {every}th layer: these in full"),
                    );
                    draft.state("recompute_every", word, every);
                }
                _ => draft.compute("recompute", "selective", format!("of {word} {option}")),
            }
        }
        Some(other) => {
            let why = format!("`{other}` is decided as it compiles");
            draft.lack("recompute", "activation_checkpoint.mode", why);
        }
    }
}
