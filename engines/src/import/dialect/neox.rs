//! GPT-NeoX: its YAML, several files over each other, with dashes or underscores in names.
//!
//! In: the configuration's tree. Out: facts.

use serde_json::{Map, Value};

use super::{Tree, training_arguments};
use crate::import::draft::Draft;

/// The release whose defaults hold.
pub const VERSION: &str = "gpt-neox 2.0";

const NAMES: &[(&str, &str)] = &[
    ("pipe_parallel_size", "pp"),
    ("model_parallel_size", "tp"),
    ("context_parallel_size", "cp"),
    ("sequence_parallel", "sequence_parallel"),
    ("num_layers", "layers"),
    ("hidden_size", "hidden"),
    ("num_attention_heads", "heads"),
    ("num_kv_heads", "kv_heads"),
    ("seq_length", "seq"),
    ("max_position_embeddings", "positions_most"),
    ("rotary_emb_base", "rope_theta"),
    ("moe_num_experts", "experts"),
    ("moe_top_k", "top_k"),
    ("moe_expert_parallel_size", "ep"),
    ("train_micro_batch_size_per_gpu", "microbatch"),
    ("gradient_accumulation_steps", "accumulation"),
    ("train_batch_size", "global_batch"),
    ("train_iters", "steps"),
    ("seed", "seed"),
    ("gradient_clipping", "clip"),
    ("weight_decay", "weight_decay"),
    ("min_lr", "min_lr"),
    ("make_vocab_size_divisible_by", "padding"),
];

/// Names that are read, or that move no price.
const READ: &str = "
    no_weight_tying pos_emb norm activation intermediate_size mlp_multiple_of gpt_j_residual fp16 bf16 precision
    zero_optimization optimizer checkpoint_activations checkpoint_num_layers partition_activations
    synchronize_each_layer attention_config data_path train_data_paths valid_data_paths test_data_paths
    train_data_weights valid_data_weights test_data_weights vocab_file merge_file save load tokenizer_type
    tensorboard_dir log_dir checkpoint_factor checkpoint eval_interval eval_iters log_interval steps_per_print
    keep_last_n_checkpoints wall_clock_breakdown lr_decay_style lr_decay_iters warmup distributed_backend data_impl
    split hidden_dropout attention_dropout init_method output_layer_init_method
    scaled_upper_triang_masked_softmax_fusion bias_gelu_fusion rope_fusion layernorm_fusion hostfile use_wandb
    wandb_host wandb_project weight_by_num_documents include launcher deepspeed_slurm rotary_pct
    output_layer_parallelism train_dataset_name git_hash attention_softmax_in_fp32 extra_save_iters use_bias_in_norms
    use_bias_in_attn_linear use_bias_in_mlp rms_norm_epsilon layernorm_epsilon data_types
";

/// Whether a tree is one.
pub fn is_one(tree: &Tree) -> bool {
    let names: Vec<String> = tree.0.as_object().into_iter().flatten().map(|(name, _)| name.replace('-', "_")).collect();
    let has = |name: &str| names.iter().any(|other| other == name);
    has("pipe_parallel_size")
        || has("model_parallel_size")
        || (has("num_layers") && has("train_micro_batch_size_per_gpu"))
}

/// Names with underscores.
pub fn plain(value: &Value) -> Value {
    let Value::Object(table) = value else { return value.clone() };
    Value::Object(table.iter().map(|(name, value)| (name.replace('-', "_"), value.clone())).collect::<Map<_, _>>())
}

/// Reads a configuration.
pub fn read(value: &Value) -> Draft {
    let value = plain(value);
    let tree = Tree(&value);
    let mut draft = Draft::new("gpt-neox", VERSION);
    tree.state_all(&mut draft, NAMES);
    // Pipelines of none are those of one stage.
    for (key, word) in
        [("pp", "pipe_parallel_size"), ("tp", "model_parallel_size"), ("cp", "context_parallel_size"), ("ep", "")]
    {
        if draft.count(key) == Some(0) {
            draft.state(key, word, 1);
        }
        draft.usual(key, word, 1);
    }
    shape(&mut draft, &tree);
    if tree.flag("bf16.enabled") || tree.text("precision") == Some("bfloat16") {
        draft.state("precision", "precision", "bf16");
    } else if tree.flag("fp16.enabled") || tree.text("precision") == Some("fp16") || tree.get("fp16").is_some() {
        draft.state("precision", "fp16.enabled", "fp16");
    } else {
        draft.usual("precision", "precision", "fp16");
    }
    match tree.count("zero_optimization.stage") {
        Some(stage) => draft.state("zero", "zero_optimization.stage", stage),
        None => draft.usual("zero", "zero_optimization.stage", 0),
    }
    if tree.text("zero_optimization.offload_optimizer.device") == Some("cpu")
        || tree.flag("zero_optimization.cpu_offload")
    {
        draft.state("offload", "zero_optimization.cpu_offload", true);
    }
    let recompute = if tree.flag("checkpoint_activations") { "full" } else { "none" };
    if tree.get("checkpoint_activations").is_some() {
        draft.state("recompute", "checkpoint_activations", recompute);
    } else {
        draft.usual("recompute", "checkpoint_activations", recompute);
    }
    optimizer(&mut draft, &tree);
    let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(READ.split_whitespace()).collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

fn shape(draft: &mut Draft, tree: &Tree) {
    let activation = tree.text("activation").unwrap_or("gelu").to_owned();
    let gated = ["geglu", "reglu", "swiglu", "silu_gated", "bilinear", "glu"].contains(&activation.as_str());
    draft.compute("gated", gated, format!("of activation {activation}"));
    if let Some(hidden) = draft.count("hidden") {
        let multiple = tree.count("mlp_multiple_of").filter(|of| *of > 0).unwrap_or(1);
        match (tree.count("intermediate_size"), gated) {
            // Of a gated part it is three thirds: what each matrix has is one.
            (Some(all), true) => draft.compute(
                "ffn",
                (all / 3).next_multiple_of(multiple),
                "a third of intermediate_size, where there are gates",
            ),
            (Some(all), false) => draft.state("ffn", "intermediate_size", all),
            (None, true) => draft.compute("ffn", (hidden * 8 / 3).next_multiple_of(multiple), "8/3 of hidden_size"),
            (None, false) => draft.compute("ffn", 4 * hidden, "4 · hidden_size"),
        }
    }
    if let Some(heads) = draft.count("heads") {
        draft.compute("kv_heads", heads, "as many as heads");
    }
    let tied = !tree.flag("no_weight_tying");
    draft.compute("tied", tied, "of no_weight_tying");
    let positions = match tree.text("pos_emb").unwrap_or("learned") {
        "rotary" => "rope",
        "learned" => "learned",
        other => other,
    };
    draft.compute("positions", positions, "of pos_emb");
    let rms = tree.text("norm").is_some_and(|norm| norm.contains("rmsnorm"));
    draft.compute("architecture", if rms { "llama" } else { "gpt2" }, "of norm");
    draft.compute("parallel_block", tree.flag("gpt_j_residual"), "of gpt_j_residual");
    draft.usual("rope_theta", "rotary_emb_base", 10_000);
    match tree.text("tokenizer_type") {
        Some("GPT2BPETokenizer") | None => draft.compute("vocab", 50257, "of GPT2BPETokenizer"),
        Some(other) => {
            let vocab = tree.text("vocab_file").filter(|file| file.contains("20B_tokenizer"));
            match vocab {
                Some(_) => draft.compute("vocab", 50277, "of 20B_tokenizer.json"),
                None => {
                    draft.lack("vocab", "vocab_file", format!("the files of {other} say it; give it by --set vocab=…"))
                }
            }
        }
    }
    if draft.count("experts").is_some_and(|count| count < 2) {
        draft.facts.remove("experts");
        draft.facts.remove("top_k");
    } else if draft.says("experts") {
        draft.usual("top_k", "moe_top_k", 1);
        if let Some(ffn) = draft.value("ffn").cloned() {
            draft.compute("expert_ffn", ffn, "as wide as the feed-forward part");
        }
    }
}

fn optimizer(draft: &mut Draft, tree: &Tree) {
    let name = tree.text("optimizer.type").unwrap_or("Adam").to_lowercase();
    match name.as_str() {
        "adam" | "adamw" | "onebitadam" | "cpu_adam" => draft.compute("optimizer", "adamw", "of optimizer.type"),
        "lion" => draft.state("optimizer", "optimizer.type", "lion"),
        "sgd" => draft.state("optimizer", "optimizer.type", "sgd"),
        _ => draft.lack_optimizer("optimizer.type", &name),
    }
    let names = [("optimizer.params.lr", "lr"), ("optimizer.params.eps", "eps")];
    tree.state_all(draft, &names);
    if let Some(Value::Array(betas)) = tree.get("optimizer.params.betas")
        && let [one, two] = &betas[..]
    {
        draft.state("beta1", "optimizer.params.betas", one.clone());
        draft.state("beta2", "optimizer.params.betas", two.clone());
    }
    if let (Some(share), Some(steps)) = (tree.get("warmup").and_then(Value::as_f64), draft.count("steps")) {
        draft.compute("warmup", (share * steps as f64).round() as usize, "warmup of the steps");
    }
    draft.usual("clip", "gradient_clipping", 1);
    training_arguments::usual(draft);
}
