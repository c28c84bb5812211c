//! DeepSpeed: its JSON, beside Megatron-DeepSpeed's flags or a Hugging Face training_arguments's.
//!
//! In: the configuration, and the command that names it. Out: facts.
//!
//! Batch, precision, clipping and ZeRO are the JSON's to say; `auto` means that the front end fills it.

use serde_json::Value;

use super::{TrainCommand, Tree, megatron, training_arguments};
use crate::import::draft::Draft;
use crate::import::shell::FilesBeside;

/// The release whose defaults hold.
pub const VERSION: &str = "deepspeed 0.19.8";

/// Keys of the first level that DeepSpeed knows.
const KNOWN: &str = "
    train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping optimizer scheduler
    fp16 bf16 bfloat16 amp zero_optimization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer steps_per_print
    wall_clock_breakdown dump_state prescale_gradients gradient_predivide_factor sparse_gradients
    communication_data_type activation_checkpointing flops_profiler tensorboard wandb csv_monitor comet monitor_config
    autotuning elasticity data_efficiency curriculum_learning progressive_layer_drop sparse_attention
    compression_training checkpoint data_types comms_logger nebula aio pipeline eigenvalue quantize_training
    hybrid_engine memory_breakdown dataloader_drop_last disable_allgather seq_parallel_communication_data_type
    use_node_local_storage compile tensor_parallel graph_harvesting load_universal_checkpoint
    use_data_before_expert_parallelism weight_quantization zenflow sequence_parallel_size timers torch_autocast mup
    fp8 checkpoint_tag_validation_mode train_steps prescale gradient_accumulation_dtype local_rank sequence_parallel
    data_parallel_size communication_backend comment tp
";

/// Keys that are read.
const READ: &str = "
    train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping optimizer scheduler
    fp16 bf16 bfloat16 zero_optimization.stage zero_optimization.offload_optimizer zero_optimization.offload_param
    zero_optimization.cpu_offload zero_optimization.mics_shard_size tensor_parallel.autotp_size sequence_parallel_size
    steps_per_print wall_clock_breakdown comment data_types.grad_accum_dtype zero_optimization.overlap_comm
    zero_optimization.contiguous_gradients tensorboard wandb csv_monitor flops_profiler comms_logger
";

/// Reads the JSON that another configuration names; where no file is, what `owner` brings under that name: its ZeRO stage, and
/// whether the optimizer is the host's. Whether it was one of those.
pub fn named_by(
    draft: &mut Draft,
    name: &str,
    files: FilesBeside,
    (owner, brought): (&str, &[(&str, usize, bool)]),
) -> bool {
    match files(name).map(|text| crate::import::tree::json(&text)) {
        Some(Ok(value)) => configuration(draft, &Tree(&value), name),
        Some(Err(problem)) => draft.fault(format!("{name} cannot be read: {problem}")),
        None => {
            let last = name.rsplit('/').next().unwrap_or(name);
            if let Some((_, zero, offload)) = brought.iter().find(|(known, _, _)| *known == last) {
                draft.compute("zero", *zero, format!("of {owner}'s {last}"));
                draft.compute("offload", *offload, format!("of {owner}'s {last}"));
                return true;
            }
            draft.note(format!("`{name}` is not beside it: give it as a further file"));
            draft.lack("zero", "deepspeed", format!("`{name}` is not there"));
        }
    }
    false
}

/// Reads what the JSON says.
pub fn configuration(draft: &mut Draft, tree: &Tree, file: &str) {
    let names = [
        ("train_batch_size", "global_batch"),
        ("train_micro_batch_size_per_gpu", "microbatch"),
        ("gradient_accumulation_steps", "accumulation"),
        ("gradient_clipping", "clip"),
        ("zero_optimization.stage", "zero"),
        ("sequence_parallel_size", "ulysses"),
        ("tensor_parallel.autotp_size", "tp"),
        ("zero_optimization.mics_shard_size", "shard"),
    ];
    for (path, key) in names {
        match tree.get(path) {
            Some(Value::String(text)) if text == "auto" => {
                draft.note(format!("{path} is auto: the front end fills it"))
            }
            Some(value) => {
                let before = draft
                    .value(key)
                    .filter(|before| before.as_f64() != value.as_f64() && draft.facts[key].word.starts_with("--"))
                    .cloned();
                if let Some(before) = before.filter(|_| key != "zero") {
                    let word = draft.word(key).to_owned();
                    draft.fault(format!("{word} is {before}, and {path} in {file} {value}: they have to be alike"));
                }
                draft.state(key, path, value.clone());
            }
            None => {}
        }
    }
    draft.usual("zero", "zero_optimization.stage", 0);
    precision(draft, tree);
    optimizer(draft, tree);
    for key in ["zero_optimization.offload_optimizer.device", "zero_optimization.cpu_offload"] {
        match tree.get(key) {
            Some(Value::String(device)) if device == "cpu" => draft.state("offload", key, true),
            Some(Value::String(device)) if device == "nvme" => {
                draft.state("offload", key, true);
                draft.note("the optimizer lies on NVMe: priced as in the host's memory");
            }
            Some(Value::Bool(true)) => draft.state("offload", key, true),
            _ => {}
        }
    }
    if tree.text("zero_optimization.offload_param.device").is_some_and(|device| device != "none") {
        draft.unprice("zero_optimization.offload_param: weights in the host's memory are not modelled");
    }
    if let Some(table) = tree.0.as_object() {
        for key in table.keys().filter(|key| !KNOWN.split_whitespace().any(|known| known == *key)) {
            draft.advise(format!("`{key}` in {file} is no key of DeepSpeed's, which passes over it in silence"));
        }
    }
    for other in tree.others(&READ.split_whitespace().collect::<Vec<_>>()) {
        draft.unprice(format!("{file}: {other}"));
    }
}

fn precision(draft: &mut Draft, tree: &Tree) {
    let on = |names: [&str; 2]| names.iter().any(|name| tree.flag(name));
    let (bf16, fp16) = (on(["bf16.enabled", "bfloat16.enabled"]), tree.flag("fp16.enabled"));
    if bf16 && fp16 {
        draft.fault("fp16 and bf16 are both enabled: DeepSpeed takes one");
    }
    if bf16 {
        draft.state("precision", "bf16.enabled", "bf16");
    } else if fp16 {
        draft.state("precision", "fp16.enabled", "fp16");
    } else if tree.text("fp16.enabled") != Some("auto") && tree.text("bf16.enabled") != Some("auto") {
        draft.usual("precision", "bf16.enabled", "fp32");
    }
}

fn optimizer(draft: &mut Draft, tree: &Tree) {
    if let Some(name) = tree.text("optimizer.type") {
        let known = match name.to_lowercase().as_str() {
            "adam" | "adamw" | "fusedadam" | "onebitadam" | "cpuadam" | "deepspeedcpuadam" => Some("adamw"),
            "sgd" => Some("sgd"),
            "lion" => Some("lion"),
            "muon" => Some("muon"),
            _ => None,
        };
        match known {
            Some(known) => draft.state("optimizer", "optimizer.type", known),
            None => draft.lack_optimizer("optimizer.type", name),
        }
    }
    let numbers = [("lr", "lr"), ("eps", "eps"), ("weight_decay", "weight_decay")];
    for (name, key) in numbers {
        if let Some(value) = tree.get(&format!("optimizer.params.{name}")).filter(|value| value.is_number()) {
            draft.state(key, &format!("optimizer.params.{name}"), value.clone());
        }
    }
    if let Some(Value::Array(betas)) = tree.get("optimizer.params.betas")
        && let [one, two] = &betas[..]
    {
        draft.state("beta1", "optimizer.params.betas", one.clone());
        draft.state("beta2", "optimizer.params.betas", two.clone());
    }
    if let Some(value) = tree.get("scheduler.params.warmup_num_steps").filter(|value| value.is_number()) {
        draft.state("warmup", "scheduler.params.warmup_num_steps", value.clone());
    }
}

/// Whether a command is Megatron-DeepSpeed's.
pub fn is_megatron(command: &TrainCommand) -> bool {
    command.line.has(&["--num-layers"])
        && (command.line.has(&["--deepspeed"]) || command.line.has(&["--zero-stage", "--deepspeed_config"]))
}

/// Reads Megatron-DeepSpeed's command, with the JSON that it names.
pub fn megatron_deepspeed(command: &TrainCommand) -> Draft {
    let mut draft = Draft::new("deepspeed", VERSION);
    megatron::take(&command.line, &mut draft);
    megatron::environment(command, &mut draft);
    if let Some(fact) = draft.facts.remove("batch_per_device") {
        draft.facts.insert("microbatch", fact);
    }
    named(command, &mut draft);
    if !draft.says("precision") {
        megatron::precision(&mut draft);
    }
    if draft.flag("no_pipeline") {
        draft.note("--no-pipeline-parallel: ZeRO without the pipeline engine");
    }
    megatron::model(&mut draft);
    // Its fork divides grouped heads by a flag of its own.
    megatron::axes(&mut draft);
    megatron::recompute(&mut draft);
    let ep = draft.count("ep").unwrap_or(1);
    if draft.says("experts") {
        draft.usual("top_k", "--topk", 1);
        if let Some(ffn) = draft.count("ffn") {
            draft.compute("expert_ffn", ffn, "as wide as --ffn-hidden-size");
        }
        let _ = ep;
    }
    if let Some(size) = draft.count("ulysses").filter(|size| *size > 1) {
        draft.unprice(format!("--ds-sequence-parallel-size {size}: Ulysses' exchange of heads is not modelled"));
    }
    if !draft.says("steps")
        && let (Some(tokens), Some(batch), Some(seq)) =
            (draft.count("tokens"), draft.count("global_batch"), draft.count("seq"))
        && batch * seq > 0
    {
        draft.compute("steps", tokens / (batch * seq), "--train-tokens / tokens of a step");
    }
    draft.compute("optimizer", "adamw", "of --optimizer's default");
    draft.usuals([
        ("beta1", "--adam-beta1", 0.9),
        ("beta2", "--adam-beta2", 0.999),
        ("eps", "--adam-eps", 1e-8),
        ("weight_decay", "--weight-decay", 0.01),
        ("clip", "--clip-grad", 1.0),
    ]);
    draft.usual("min_lr", "--min-lr", 0);
    draft.usual("warmup", "--lr-warmup-iters", 0);
    draft.usual("seed", "--seed", 1234);
    draft
}

/// The configuration that a command names.
pub fn named(command: &TrainCommand, draft: &mut Draft) {
    let names = ["--deepspeed_config", "--deepspeed-config", "--deepspeed"];
    let Some(flag) = names.iter().find_map(|name| command.line.find(&[name]).filter(|flag| flag.value().is_some()))
    else {
        return;
    };
    let name = match flag.value() {
        Some(Ok(name)) => name.clone(),
        Some(Err(why)) => {
            draft.note(format!("which configuration {} names is not known: {why}", flag.name));
            return missing(draft);
        }
        None => return,
    };
    match (command.files)(&name).map(|text| crate::import::tree::json(&text)) {
        Some(Ok(value)) => configuration(draft, &Tree(&value), &name),
        Some(Err(problem)) => {
            draft.fault(format!("{name} cannot be read: {problem}"));
            missing(draft);
        }
        None => {
            draft.note(format!("`{name}` is not beside the script: give it as a further file"));
            missing(draft);
        }
    }
}

/// What only the configuration would have said.
fn missing(draft: &mut Draft) {
    for key in ["zero", "precision"] {
        if !draft.says(key) {
            draft.lack(key, "", "the configuration of DeepSpeed is not there");
        }
    }
}

/// Reads a JSON by itself, with the model's configuration if there is one.
pub fn alone(tree: &Tree, file: &str) -> Draft {
    let mut draft = Draft::new("deepspeed", VERSION);
    configuration(&mut draft, tree, file);
    defaults(&mut draft);
    draft
}

/// DeepSpeed's own, where a front end says nothing.
pub fn defaults(draft: &mut Draft) {
    for key in ["tp", "pp", "cp", "ep"] {
        draft.usual(key, "", 1);
    }
    draft.usual("clip", "gradient_clipping", 0);
    draft.usual("recompute", "", "none");
    training_arguments::usual(draft);
}
