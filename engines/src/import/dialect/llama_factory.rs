//! LLaMA-Factory: a YAML of transformers' arguments and its own.
//!
//! In: the configuration's tree. Out: facts.

use super::{Tree, axolotl, deepspeed, hugging_face, training_arguments};
use crate::import::draft::Draft;
use crate::import::shell::FilesBeside;

/// The release whose defaults hold.
pub const VERSION: &str = "llamafactory 0.9.5";

/// Names that are read, or that move no price.
const READ: &str = "
    stage do_train finetuning_type lora_target lora_dropout dataset dataset_dir template max_samples overwrite_cache
    preprocessing_num_workers dataloader_num_workers output_dir logging_steps save_steps plot_loss
    overwrite_output_dir save_only_model report_to lr_scheduler_type warmup_ratio ddp_timeout resume_from_checkpoint
    val_size per_device_eval_batch_size eval_strategy eval_steps trust_remote_code deepspeed quantization_bit
    quantization_method flash_attn packing neat_packing eval_dataset do_eval run_name image_max_pixels
    video_max_pixels cutoff_len disable_gradient_checkpointing pref_beta pref_loss enable_liger_kernel streaming
    mix_strategy save_strategy use_swanlab
";

/// Reads a configuration.
pub fn read(tree: &Tree, files: FilesBeside) -> Draft {
    let mut draft = Draft::new("llama-factory", VERSION);
    training_arguments::take(&mut draft, tree);
    draft.usual("seq", "cutoff_len", 2048);
    if let Some(name) = tree.text("model_name_or_path") {
        hugging_face::named(&mut draft, "model_name_or_path", name, files);
    }
    match tree.text("finetuning_type").unwrap_or("lora") {
        "full" => draft.compute("lora", false, "of finetuning_type full"),
        "lora" => {
            draft.compute("lora", true, "of finetuning_type");
            draft.usual("lora_rank", "lora_rank", 8);
        }
        other => draft.unprice(format!("finetuning_type: {other}: priced as all weights trained")),
    }
    axolotl::targets(&mut draft, tree, "lora_target", false);
    match tree.count("quantization_bit") {
        Some(4) => draft.state("base", "quantization_bit", "nf4"),
        Some(8) => draft.state("base", "quantization_bit", "fp8"),
        _ => {}
    }
    // Its layers recompute unless it is told not to.
    if tree.flag("disable_gradient_checkpointing") {
        draft.state("checkpointing", "disable_gradient_checkpointing", false);
    } else {
        draft.usual("checkpointing", "disable_gradient_checkpointing", true);
    }
    let checkpointing = draft.flag("checkpointing");
    if checkpointing
        && !draft.says("recompute")
        && draft.facts["checkpointing"].origin == crate::import::draft::ValueOrigin::Default
    {
        draft.usual("recompute", "disable_gradient_checkpointing", "full");
        draft.facts.remove("checkpointing");
    }
    if let Some(name) = tree.text("deepspeed") {
        deepspeed::named_by(&mut draft, name, files, ("LLaMA-Factory", BROUGHT));
    }
    if tree.get("stage").is_some_and(|stage| !["sft", "pt"].iter().any(|known| stage == known)) {
        draft.unprice(format!("stage: {}: priced as plain training of one model", tree.text("stage").unwrap_or("")));
    }
    training_arguments::finish(&mut draft);
    let known: Vec<&str> = training_arguments::NAMES
        .iter()
        .map(|(name, _)| *name)
        .chain(training_arguments::LENGTHS.split_whitespace())
        .chain(READ.split_whitespace())
        .collect();
    tree.others(&known).into_iter().for_each(|other| draft.unprice(other));
    draft
}

/// Configurations of DeepSpeed that come with it: `examples/deepspeed/ds_z3_config.json`.
const BROUGHT: &[(&str, usize, bool)] = &[
    ("ds_z0_config.json", 0, false),
    ("ds_z2_config.json", 2, false),
    ("ds_z2_offload_config.json", 2, true),
    ("ds_z3_config.json", 3, false),
    ("ds_z3_offload_config.json", 3, true),
];
