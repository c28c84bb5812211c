//! Hugging Face's `TrainingArguments`, as flags of a script or keys of a configuration.
//!
//! In: names and values. Out: facts.

use serde_json::Value;

use super::Tree;
use crate::import::draft::Draft;

/// The release whose defaults hold.
pub const VERSION: &str = "transformers 5.23.0";

/// Arguments by their concept.
pub const NAMES: &[(&str, &str)] = &[
    ("per_device_train_batch_size", "microbatch"),
    ("gradient_accumulation_steps", "accumulation"),
    ("learning_rate", "lr"),
    ("max_steps", "steps"),
    ("warmup_steps", "warmup"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_epsilon", "eps"),
    ("weight_decay", "weight_decay"),
    ("max_grad_norm", "clip"),
    ("seed", "seed"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("tf32", "tf32"),
    ("optim", "optim"),
    ("gradient_checkpointing", "checkpointing"),
    ("model_name_or_path", "model_path"),
    ("num_train_epochs", "epochs"),
    ("fsdp", "fsdp"),
    ("lora_r", "lora_rank"),
    ("lora_rank", "lora_rank"),
    ("lora_alpha", "lora_alpha"),
    ("use_peft", "lora"),
    ("use_lora", "lora"),
    ("use_peft_lora", "lora"),
    ("warmup_ratio", "warmup_share"),
    ("use_4bit_quantization", "four_bits"),
    ("load_in_4bit", "four_bits"),
];

/// What scripts call a sequence's tokens.
pub const LENGTHS: &str = "
    model_max_length max_seq_length max_seq_len block_size cutoff_len max_length seq_length sequence_len
    max_source_length
";

/// Facts of keys that a configuration has at its first level.
pub fn take(draft: &mut Draft, tree: &Tree) {
    tree.state_all(draft, NAMES);
    if let Some((word, value)) = LENGTHS.split_whitespace().find_map(|word| Some((word, tree.get(word)?))) {
        draft.state("seq", word, value.clone());
    }
}

/// What follows from the arguments.
pub fn finish(draft: &mut Draft) {
    draft.usual("microbatch", "per_device_train_batch_size", 8);
    draft.usual("accumulation", "gradient_accumulation_steps", 1);
    if draft.count("steps").is_none() {
        draft.facts.remove("steps");
    }
    if !draft.says("precision") || draft.facts["precision"].origin == crate::import::draft::ValueOrigin::Default {
        let word = if draft.flag("bf16") { "bf16" } else { "fp16" };
        if draft.flag("bf16") || draft.flag("fp16") {
            draft.state("precision", &format!("--{word}"), word);
        } else if draft.lacks("bf16") || draft.lacks("fp16") {
            draft.lack("precision", "--bf16", "whether it stands is not known");
        } else {
            let tf32 = draft.flag("tf32");
            draft.compute("precision", if tf32 { "tf32" } else { "fp32" }, "neither bf16 nor fp16");
        }
    }
    if draft.lacks("checkpointing") {
        draft.lack("recompute", "gradient_checkpointing", draft.facts["checkpointing"].why.clone());
    } else if draft.flag("checkpointing") {
        draft.state("recompute", "gradient_checkpointing", "full");
    }
    if let Some(text) = draft.text("fsdp").map(str::to_owned).filter(|text| !text.is_empty()) {
        let zero = match text.split_whitespace().next().unwrap_or_default() {
            "full_shard" => Some(3),
            "shard_grad_op" => Some(2),
            "no_shard" => Some(0),
            "hybrid_shard" => {
                draft.note("hybrid_shard: shards lie within a node");
                Some(3)
            }
            _ => None,
        };
        if let Some(zero) = zero {
            draft.state("zero", "--fsdp", zero);
        }
    }
    warmup(draft);
    optimizer(draft);
    tuning(draft);
    draft.usuals([("tp", "", 1), ("pp", "", 1), ("cp", "", 1), ("ep", "", 1), ("zero", "", 0)]);
    draft.usual("recompute", "gradient_checkpointing", "none");
    draft.usual("clip", "max_grad_norm", 1);
    draft.usual("lr", "learning_rate", 5e-5);
    draft.usual("seed", "seed", 42);
    usual(draft);
}

/// Warm-up as a share of the steps.
fn warmup(draft: &mut Draft) {
    let Some(share) =
        draft.float("warmup_share").filter(|share| *share > 0.0 && draft.count("warmup").unwrap_or(0) == 0)
    else {
        return;
    };
    match draft.count("steps") {
        Some(steps) => draft.recompute("warmup", (share * steps as f64).ceil() as usize, "warmup_ratio of the steps"),
        None => draft.lack("warmup", "warmup_ratio", "a share of the steps, whose number no file says"),
    }
}

/// Arguments that move no price: paths, data, logs, checkpoints.
pub const HARMLESS: &str = "
    output_dir overwrite_output_dir logging_ save_ eval_ evaluation_ report_to run_name deepspeed dataset data_ train_file validation_file
    preprocessing_num_workers dataloader_ ddp_ lr_scheduler_type remove_unused_columns do_train do_eval push_to_hub hub_ local_rank trust_remote_code
    cache_dir torch_dtype tokenizer_name use_fast_tokenizer splits append_concat_token add_special_tokens max_eval_samples max_train_samples
    load_best_model_at_end resume_from_checkpoint include_tokens_per_second print_loss num_workers
";

/// `optim`.
pub fn optimizer(draft: &mut Draft) {
    let Some(name) = draft.text("optim").map(str::to_owned) else { return };
    let known = match name.as_str() {
        name if name.contains("8bit") && name.contains("adam") => Some("adamw-8bit"),
        name if name.contains("adamw") || name == "adam" => Some("adamw"),
        name if name.starts_with("adafactor") => Some("adafactor"),
        name if name.starts_with("lion") => Some("lion"),
        name if name.starts_with("muon") => Some("muon"),
        "sgd" => Some("sgd"),
        _ => None,
    };
    match known {
        Some(known) => draft.state("optimizer", "optim", known),
        None => draft.lack_optimizer("optim", &name),
    }
}

/// Adapters.
pub fn tuning(draft: &mut Draft) {
    let rank = draft.count("lora_rank");
    let on = draft.flag("lora") || (rank.is_some() && !draft.says("lora"));
    draft.compute("tuning", if on { "lora" } else { "none" }, if on { "of its rank" } else { "no adapters" });
    if on && rank.is_none() {
        draft.lack("lora_rank", "lora_r", "adapters without a rank");
    }
    if on && draft.flag("four_bits") {
        draft.state("base", "load_in_4bit", "nf4");
    }
}

/// AdamW as transformers and DeepSpeed have it.
pub fn usual(draft: &mut Draft) {
    draft.usual("optimizer", "optim", "adamw");
    draft.usual("beta1", "adam_beta1", 0.9);
    draft.usual("beta2", "adam_beta2", 0.999);
    draft.usual("eps", "adam_epsilon", 1e-8);
    draft.usual("weight_decay", "weight_decay", 0);
    draft.usual("warmup", "warmup_steps", 0);
    draft.usual("min_lr", "", Value::from(0));
}
