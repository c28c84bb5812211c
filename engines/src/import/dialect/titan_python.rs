//! torchtitan's configurations in Python, as `meshwright export` writes them: assignments to a `Trainer.Config`.
//!
//! In: a module's text. Out: facts.
//!
//! Invariant: Python is not run: of a module only lines of the form `c.name = literal`, and the calls that build the model, are read.

use serde_json::Value;

use super::torchtitan;
use crate::import::draft::{Draft, number};

/// The release that reads such modules.
pub const VERSION: &str = "torchtitan 0.3.0";

/// Whether a text is such a module.
pub fn is_one(text: &str) -> bool {
    text.contains("Trainer.Config") && text.contains("torchtitan")
}

/// Reads a module.
pub fn read(text: &str) -> Draft {
    let mut draft = Draft::new("torchtitan", VERSION);
    assignments(&mut draft, text);
    model(&mut draft, text);
    layout(&mut draft, text);
    let precision = if text.contains("Float8LinearConverter.Config(") {
        Some("fp8")
    } else if text.contains("NVFP4LinearConverter.Config(") {
        Some("fp4")
    } else {
        None
    };
    match (precision, draft.text("mixed")) {
        (Some(narrow), _) => draft.state("precision", "converter", narrow),
        (None, Some("float32")) => draft.state("precision", "training.mixed_precision_param", "fp32"),
        (None, _) => draft.usual("precision", "training.mixed_precision_param", "bf16"),
    }
    if draft.says("chunks_stated") {
        draft.facts.remove("chunks_stated");
    }
    torchtitan::finish(&mut draft);
    draft
}

const NAMES: &[(&str, &str)] = &[
    ("training.local_batch_size", "local_batch"),
    ("training.global_batch_size", "global_batch"),
    ("training.seq_len", "seq"),
    ("training.steps", "steps"),
    ("training.mixed_precision_param", "mixed"),
    ("training.enable_cpu_offload", "offload"),
    ("debug.seed", "seed"),
    ("parallelism.data_parallel_replicate_degree", "replicate"),
    ("parallelism.data_parallel_shard_degree", "shard_degree"),
    ("parallelism.fsdp_reshard_after_forward", "reshard"),
    ("parallelism.tensor_parallel_degree", "tp"),
    ("parallelism.enable_sequence_parallel", "sequence_parallel"),
    ("parallelism.context_parallel_degree", "cp"),
    ("parallelism.expert_parallel_degree", "ep"),
    ("parallelism.pipeline_parallel_degree", "pp"),
    ("parallelism.pipeline_parallel_schedule", "schedule_name"),
    ("parallelism.pipeline_parallel_microbatch_size", "pipeline_microbatch"),
    ("lr_scheduler.warmup_steps", "warmup"),
];

fn assignments(draft: &mut Draft, text: &str) {
    for line in text.lines().map(str::trim) {
        let Some((target, value)) = line.split_once(" = ") else { continue };
        let Some((_, name)) = target.split_once('.').filter(|(head, _)| head.len() <= 6) else { continue };
        let value = value.split("  #").next().unwrap_or_default().trim();
        match name {
            "activation_checkpoint" => {
                let mode = if value.starts_with("FullAC") {
                    "full"
                } else if value.starts_with("SelectiveAC") {
                    "selective"
                } else {
                    "none"
                };
                draft.state("ac_mode", name, mode);
                draft.state("ac_option", name, "op");
            }
            "optimizer" => adamw(draft, value),
            "lr_scheduler.min_lr_factor" => {
                let factor = match value.split_once(" / ") {
                    // As it was written: the first of the two.
                    Some((least, _)) => number(least.trim()),
                    None => None,
                };
                if let Some(least) = factor {
                    draft.state("min_lr", name, least);
                }
            }
            "training.max_norm" => match number(value) {
                Some(norm) => draft.state("clip", name, norm),
                None => draft.state("clip", name, 0),
            },
            "training.disable_cuda_graphs" => draft.state("cuda_graphs", name, value == "False"),
            name => {
                let Some((word, key)) = NAMES.iter().find(|(known, _)| *known == name) else {
                    if !name.starts_with("metrics")
                        && !name.starts_with("compile")
                        && !name.contains("module_fqns")
                        && !name.contains("mixed_precision_reduce")
                    {
                        draft.unprice(format!("{name} = {value}"));
                    }
                    continue;
                };
                draft.state_text(key, word, value.trim_matches(['"', '\'']));
            }
        }
    }
}

/// `default_adamw(lr=…, betas=(…, …), eps=…, weight_decay=…)`.
fn adamw(draft: &mut Draft, value: &str) {
    for (name, key) in [("lr=", "lr"), ("eps=", "eps"), ("weight_decay=", "weight_decay")] {
        if let Some(number) = argument(value, name).and_then(|text| number(&text)) {
            draft.state(key, "optimizer", number);
        }
    }
    let betas = value
        .split_once("betas=(")
        .and_then(|(_, rest)| rest.split_once(')'))
        .and_then(|(pair, _)| pair.split_once(','));
    if let Some((one, two)) = betas {
        for (key, text) in [("beta1", one), ("beta2", two)] {
            if let Some(number) = number(text.trim()) {
                draft.state(key, "optimizer", number);
            }
        }
    }
}

/// The text of an argument by its name.
fn argument(call: &str, name: &str) -> Option<String> {
    let at =
        call.match_indices(name).find(|(at, _)| !call[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))?.0;
    let rest = &call[at + name.len()..];
    let end = rest.find([',', ')', '\n']).unwrap_or(rest.len());
    Some(rest[..end].trim().to_owned())
}

fn model(draft: &mut Draft, text: &str) {
    let call = ["_build_llama3_layers(\n", "_build_qwen3_moe_layers(\n"].iter().find_map(|name| text.split_once(name));
    let Some((_, call)) = call else {
        // A recipe of torchtitan's own: `c = llama3_8b()`.
        let recipe =
            text.lines().find_map(|line| line.trim().split_once(" = ")?.1.strip_suffix("()").map(str::to_owned));
        if let Some(recipe) = recipe.filter(|name| !name.contains("Config") && !name.contains('.'))
            && !crate::import::known_models::name_model(draft, &recipe)
        {
            for key in ["layers", "hidden", "heads", "vocab"] {
                draft.lack(key, &recipe, "its sizes stand in torchtitan's code, and are not known here");
            }
        }
        return;
    };
    let names = [
        ("n_layers=", "layers"),
        ("dim=", "hidden"),
        ("n_heads=", "heads"),
        ("n_kv_heads=", "kv_heads"),
        ("hidden_dim=", "ffn"),
        ("head_dim=", "head_dim"),
        ("moe_hidden_dim=", "expert_ffn"),
        ("num_experts=", "experts"),
        ("top_k=", "top_k"),
        ("theta=", "rope_theta"),
    ];
    for (name, key) in names {
        if let Some(value) = argument(call, name).and_then(|text| number(&text)) {
            draft.state(key, name.trim_end_matches('='), value);
        }
    }
    if let Some(vocab) = argument(text, "vocab_size=").and_then(|text| number(&text)) {
        draft.state("vocab", "vocab_size", vocab);
    }
    if let Some(width) = draft.value("expert_ffn").cloned() {
        draft.compute("ffn", width, "as wide as an expert");
    }
    draft.state("tied", "enable_weight_tying", text.contains("enable_weight_tying=True"));
    draft.compute("architecture", "llama", "torchtitan's layers");
    if let Some(name) = text.split_once("flavor=\"").and_then(|(_, rest)| rest.split_once('"')) {
        draft.state("model", "flavor", name.0);
    }
}

/// Layers of each virtual stage, of lists of modules.
fn layout(draft: &mut Draft, text: &str) {
    let Some((_, list)) = text.split_once("module_fqns_per_model_part = [") else { return };
    let list = list.split_once("\n    ]").map_or(list, |(list, _)| list);
    let mut layers: Vec<usize> = Vec::new();
    for line in list.lines().filter(|line| line.contains("range(")) {
        let Some((_, range)) = line.split_once("range(") else { continue };
        let mut ends = range.split([',', ')']).map(|end| end.trim().parse::<usize>());
        let (Some(Ok(from)), Some(Ok(to))) = (ends.next(), ends.next()) else { return };
        layers.push(to.saturating_sub(from));
    }
    if let Some(pp) = draft.count("pp").filter(|pp| *pp > 0) {
        draft.state("chunks", "module_fqns_per_model_part", layers.len() / pp);
    }
    draft.state("layout", "module_fqns_per_model_part", Value::from(layers));
}
