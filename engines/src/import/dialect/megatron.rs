//! Megatron-LM's arguments, of any release that takes flags, and those that Megatron-DeepSpeed adds.
//!
//! In: a command line. Out: facts.
//!
//! Invariant: what its parser computes is computed as it does (`validate_args` of megatron-core 0.19.2); a flag that may or may not
//! stand makes its value unknown.

use serde_json::Value;

use super::TrainCommand;
use crate::import::draft::{Draft, number};
use crate::import::flags::{CommandLine, Flag};

mod flag_table;
mod model;

pub use model::model;

use flag_table::{FLAGS, HARMLESS, No, Number, Text, Yes};
use model::{experts, latent};

/// The release whose defaults hold.
pub const VERSION: &str = "megatron-core 0.19.2";

/// Reads a command line.
pub fn read(command: &TrainCommand) -> Draft {
    let mut draft = Draft::new("megatron-lm", VERSION);
    take(&command.line, &mut draft);
    environment(command, &mut draft);
    finish(&mut draft, command);
    draft
}

/// Takes up the flags.
pub fn take(line: &CommandLine, draft: &mut Draft) {
    for flag in &line.flags {
        let Some((_, key, kind)) = FLAGS.iter().find(|(name, _, _)| *name == flag.name) else {
            other(flag, draft);
            continue;
        };
        if let Some(why) = &flag.depends {
            draft.lack(key, &flag.name, why.clone());
            continue;
        }
        match (kind, flag.value()) {
            (Yes | No, None) => draft.state(key, &flag.name, *kind == Yes),
            (Yes | No, Some(Ok(text))) => {
                draft.state(key, &flag.name, (text.to_lowercase() != "false") == (*kind == Yes))
            }
            (_, None) => draft.fault(format!("{} has no value", flag.name)),
            (_, Some(Err(why))) => draft.lack(key, &flag.name, why.clone()),
            (Number, Some(Ok(text))) => match number(text) {
                Some(value) => draft.state(key, &flag.name, value),
                None => draft.fault(format!("{} is `{text}`: a number is wanted", flag.name)),
            },
            (Text, Some(Ok(_))) => {
                let all: Vec<String> = flag.values.iter().filter_map(|value| value.clone().ok()).collect();
                draft.state(key, &flag.name, all.join(" "));
            }
        }
        if *kind == Yes && flag.value().is_some_and(Result::is_ok) {
            draft.note(format!("{} takes no value: `{}` behind it is passed over", flag.name, flag.shown()));
        }
    }
    modules(line, draft);
    for hole in &line.more {
        draft.note(format!("`{}` may hold more flags, which are not read: {}", hole.spelt, hole.why));
    }
}

fn other(flag: &Flag, draft: &mut Draft) {
    let name = flag.name.as_str();
    let ours = ["--recompute-modules", "--rampup-batch-size"].contains(&name);
    let unmodelled =
        ["--hybrid-", "--mamba", "--window-size", "--mtp-num-layers", "--spec", "--retro", "--linear-attention"];
    if name == "--rampup-batch-size" {
        let values: Vec<String> = flag.values.iter().filter_map(|value| value.clone().ok()).collect();
        draft.note(format!(
            "the batch grows at first ({} {}): priced is the step at its full size",
            name,
            values.join(" ")
        ));
    } else if unmodelled.iter().any(|start| name.starts_with(start)) {
        draft.unprice(format!("{}: it changes the model, and the plan has it not", flag.shown()));
    } else if !ours && !HARMLESS.split_whitespace().any(|start| name.starts_with(start)) {
        draft.unprice(flag.shown());
    }
}

/// `--recompute-modules` has several values.
fn modules(line: &CommandLine, draft: &mut Draft) {
    let Some(flag) = line.find(&["--recompute-modules"]) else { return };
    match (&flag.depends, flag.values.iter().cloned().collect::<Result<Vec<String>, String>>()) {
        (None, Ok(names)) => draft.state("modules", &flag.name, names),
        (Some(why), _) => draft.lack("modules", &flag.name, why.clone()),
        (None, Err(why)) => draft.lack("modules", &flag.name, why),
    }
}

/// What the environment says.
pub fn environment(command: &TrainCommand, draft: &mut Draft) {
    if let Some(value) = command.environment.get("NVIDIA_TF32_OVERRIDE") {
        draft.state_text("tf32", "NVIDIA_TF32_OVERRIDE", value);
    }
}

/// What follows from the flags, by the engine's own rules.
fn finish(draft: &mut Draft, command: &TrainCommand) {
    let two = command.program.contains("t5");
    if command.program.contains("bert") {
        draft.compute("bidirectional", true, format!("of {}", command.program_name()));
    }
    if two && !draft.says("decoder_layers") {
        match draft.count("layers") {
            Some(layers) => draft.compute("decoder_layers", layers, "as many as the encoder's"),
            None => draft.lack("decoder_layers", "", "the encoder's layers are not known"),
        }
    }
    model(draft);
    experts(draft);
    latent(draft);
    axes(draft);
    zero(draft);
    recompute(draft);
    length(draft);
    precision(draft);
    optimizer(draft);
    draft.usual("microbatch", "--micro-batch-size", Value::Null);
    if draft.value("microbatch").is_none() && !draft.lacks("microbatch") {
        draft.lack("microbatch", "--micro-batch-size", "the engine demands it, and no file has it");
    }
}

/// How layers and ranks are laid out.
pub fn axes(draft: &mut Draft) {
    for (key, word) in [
        ("tp", "--tensor-model-parallel-size"),
        ("pp", "--pipeline-model-parallel-size"),
        ("cp", "--context-parallel-size"),
        ("ep", "--expert-model-parallel-size"),
    ] {
        draft.usual(key, word, 1);
    }
    draft.usual("sequence_parallel", "--sequence-parallel", false);
    if draft.flag("sequence_parallel") && draft.count("tp") == Some(1) {
        draft.inert("sequence_parallel", false, "at a tensor parallelism of 1 there is nothing to shard");
    }
    if draft.count("cp").is_some_and(|cp| cp > 1) {
        match draft.text("cp_kind").unwrap_or("p2p") {
            "p2p" => draft.compute("ring", true, "of --cp-comm-type p2p"),
            "all_gather" | "allgather" => draft.compute("ring", false, "of --cp-comm-type all_gather"),
            other => {
                let note = format!("--cp-comm-type {other}: priced as keys and values that are gathered");
                draft.note(note);
                draft.compute("ring", false, "of --cp-comm-type");
            }
        }
    }
    if draft.flag("pipeline_inside") {
        draft.state("order", "--use-tp-pp-dp-mapping", "tp-pp-data");
    }
    if let (Some(layers), Some(pp), Some(each)) =
        (draft.count("layers"), draft.count("pp"), draft.count("layers_per_chunk"))
    {
        let total = layers + draft.count("decoder_layers").unwrap_or(0);
        let word = "--num-layers-per-virtual-pipeline-stage";
        if each > 0 && pp > 0 && total.is_multiple_of(pp * each) {
            draft.state("chunks", word, total / pp / each);
        } else {
            draft.fault(format!("{word} is {each}: {pp} stages of so many layers each do not make {total} layers"));
        }
    } else if draft.lacks("layers_per_chunk") {
        draft.lack("chunks", "--num-layers-per-virtual-pipeline-stage", draft.facts["layers_per_chunk"].why.clone());
    }
    if let Some(text) = draft.text("layout_text").map(str::to_owned) {
        match layout(&text) {
            Some(layers) => {
                let chunks = draft
                    .count("pp")
                    .filter(|pp| *pp > 0 && layers.len().is_multiple_of(*pp))
                    .map(|pp| layers.len() / pp);
                draft.state("layout", "--pipeline-model-parallel-layout", layers);
                match chunks {
                    Some(chunks) => draft.state("chunks", "--pipeline-model-parallel-layout", chunks),
                    None => {
                        draft.fault("--pipeline-model-parallel-layout: its stages are no multiple of the pipeline's")
                    }
                }
            }
            None => draft.fault(format!("--pipeline-model-parallel-layout is `{text}`: it cannot be read")),
        }
    }
}

/// Layers of each virtual stage, of `Et*3|(tt|)*6,L`.
fn layout(text: &str) -> Option<Vec<usize>> {
    const MOST: usize = 20_000;
    let plain: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
    let mut out = String::new();
    let mut at = 0;
    while at < plain.len() {
        let (unit, next) = match plain[at] {
            '(' => {
                let close = at + plain[at..].iter().position(|c| *c == ')')?;
                (plain[at + 1..close].iter().collect::<String>(), close + 1)
            }
            c if "EtmL|".contains(c) => (c.to_string(), at + 1),
            _ => return None,
        };
        at = next;
        let mut times = 1;
        if plain.get(at) == Some(&'*') {
            let digits: String = plain[at + 1..].iter().take_while(|c| c.is_ascii_digit()).collect();
            times = digits.parse().ok()?;
            at += 1 + digits.len();
        }
        if unit.len().checked_mul(times)? + out.len() > MOST {
            return None;
        }
        out += &unit.repeat(times);
    }
    Some(out.split('|').map(|stage| stage.chars().filter(|c| *c == 't').count()).collect())
}

fn zero(draft: &mut Draft) {
    if draft.flag("megatron_fsdp") {
        let strategy = draft.text("sharding").unwrap_or("optim_grads_params").to_owned();
        if !draft.says("sharding") {
            draft.note(format!(
                "--data-parallel-sharding-strategy is not given: {VERSION}'s default, optim_grads_params"
            ));
        }
        let zero = match strategy.as_str() {
            "no_shard" => 0,
            "optim" => 1,
            "optim_grads" => 2,
            _ => 3,
        };
        draft.recompute("zero", zero, format!("of Megatron-FSDP, {strategy}"));
    } else if draft.flag("torch_fsdp") {
        draft.recompute("zero", 3, "of --use-torch-fsdp2");
    } else if draft.lacks("distributed_optimizer") {
        draft.lack("zero", "--use-distributed-optimizer", draft.facts["distributed_optimizer"].why.clone());
    } else if draft.flag("distributed_optimizer") {
        draft.state("zero", "--use-distributed-optimizer", 1);
    }
    draft.usual("zero", "--use-distributed-optimizer", 0);
}

/// What layers recompute.
pub fn recompute(draft: &mut Draft) {
    let unknown =
        ["granularity", "recompute_activations", "checkpoint_activations", "recompute_method", "activations_method"];
    if let Some(key) = unknown.into_iter().find(|key| draft.lacks(key)) {
        let (word, why) = (draft.facts[key].word.clone(), draft.facts[key].why.clone());
        draft.lack("recompute", &word, why);
        return;
    }
    let full = draft.text("granularity") == Some("full")
        || draft.flag("checkpoint_activations")
        || draft.says("activations_method");
    let selective = draft.text("granularity") == Some("selective") || draft.flag("recompute_activations");
    if full {
        let method =
            draft.text("recompute_method").or(draft.text("activations_method")).unwrap_or("uniform").to_owned();
        let word = if draft.says("granularity") { "--recompute-granularity" } else { "--checkpoint-activations" };
        if method == "block" {
            draft.state("recompute", word, "full-leading");
            draft.usual("recompute_layers", "--recompute-num-layers", 1);
        } else {
            draft.state("recompute", word, "full");
            if let Some(layers) = draft.count("recompute_layers").filter(|layers| *layers > 1) {
                draft.note(format!(
                    "layers recompute {layers} at a time: priced as one at a time, which keeps more of their inputs"
                ));
            }
        }
    } else if selective {
        let word =
            if draft.flag("recompute_activations") { "--recompute-activations" } else { "--recompute-granularity" };
        draft.state("recompute", word, "selective");
        draft.usual("modules", "--recompute-modules", serde_json::json!(["core_attn"]));
    } else {
        draft.usual("recompute", "--recompute-granularity", "none");
        if draft.says("recompute_layers") || draft.says("recompute_method") {
            draft.inert("recompute_layers", 0, "without --recompute-granularity full");
        }
    }
}

/// Batch and length.
fn length(draft: &mut Draft) {
    if !draft.says("steps")
        && let (Some(samples), Some(batch)) =
            (draft.count("samples"), draft.count("global_batch").filter(|batch| *batch > 0))
    {
        draft.compute("steps", samples.div_ceil(batch), "--train-samples / --global-batch-size");
    }
    if let (Some(fraction), Some(steps)) = (draft.float("warmup_fraction"), draft.count("steps")) {
        draft.compute("warmup", (fraction * steps as f64) as usize, "--lr-warmup-fraction of the steps");
    }
    if let (Some(samples), Some(batch)) =
        (draft.count("warmup_samples"), draft.count("global_batch").filter(|batch| *batch > 0))
    {
        draft.compute("warmup", samples / batch, "--lr-warmup-samples / --global-batch-size");
    }
    draft.usual("warmup", "--lr-warmup-iters", 0);
    draft.usual("seed", "--seed", 1234);
}

/// The format of matrices.
pub fn precision(draft: &mut Draft) {
    for key in ["bf16", "fp16", "fp8", "fp8_hybrid", "fp4"] {
        if draft.lacks(key) {
            let (word, why) = (draft.facts[key].word.clone(), draft.facts[key].why.clone());
            draft.lack("precision", &word, why);
            return;
        }
    }
    if draft.flag("bf16") && draft.flag("fp16") {
        draft.fault("--bf16 and --fp16 stand side by side: one of them");
    }
    let narrow = draft.text("fp8").is_some() || draft.flag("fp8_hybrid");
    if draft.text("fp4").is_some() {
        draft.state("precision", "--fp4-format", "fp4");
    } else if narrow {
        let word = draft.word(if draft.says("fp8") { "fp8" } else { "fp8_hybrid" }).to_owned();
        draft.state("precision", &word, "fp8");
    } else if draft.flag("bf16") {
        draft.state("precision", "--bf16", "bf16");
    } else if draft.flag("fp16") {
        draft.state("precision", "--fp16", "fp16");
    } else if draft.count("tf32") == Some(1) {
        draft.state("precision", "NVIDIA_TF32_OVERRIDE", "tf32");
    } else {
        draft.usual("precision", "--bf16", "fp32");
    }
}

fn optimizer(draft: &mut Draft) {
    match draft.text("optimizer_name").unwrap_or("adam").to_owned().as_str() {
        "sgd" => {
            let momentum = draft.float("momentum").unwrap_or(0.9);
            draft.state("optimizer", "--optimizer", if momentum > 0.0 { "sgd-momentum" } else { "sgd" });
            if momentum > 0.0 {
                draft.recompute("beta1", momentum, "--sgd-momentum");
            }
        }
        "adam" => draft.compute(
            "optimizer",
            "adamw",
            if draft.says("optimizer_name") { "of --optimizer" } else { "of --optimizer's default" },
        ),
        name if name.contains("muon") => draft.state("optimizer", "--optimizer", "muon"),
        name if name.contains("lion") => draft.state("optimizer", "--optimizer", "lion"),
        name => draft.lack_optimizer("--optimizer", name),
    }
    draft.usual("min_lr", "--min-lr", 0);
    draft.usual("beta1", "--adam-beta1", 0.9);
    draft.usual("beta2", "--adam-beta2", 0.999);
    draft.usual("eps", "--adam-eps", 1e-8);
    draft.usual("weight_decay", "--weight-decay", 0.01);
    draft.usual("clip", "--clip-grad", 1);
    let graphs = draft.flag("graphs") || draft.text("graph_kind").is_some_and(|kind| kind != "none");
    draft.compute("cuda_graphs", graphs, "of --cuda-graph-impl");
}
