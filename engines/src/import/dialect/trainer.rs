//! Scripts over Hugging Face's Trainer, DeepSpeed or Accelerate.
//!
//! In: a command. Out: facts.

use super::{TrainCommand, accelerate, deepspeed, hugging_face, training_arguments};
use crate::import::draft::{Draft, number};

/// Reads a script's command.
pub fn read(command: &TrainCommand) -> Draft {
    let deep = command.line.has(&["--deepspeed", "--deepspeed_config"]) || command.launched.launcher == "deepspeed";
    let by_config = command.launched.launcher == "accelerate";
    let mut draft = match (deep, by_config) {
        (true, _) => Draft::new("deepspeed", training_arguments::VERSION),
        (false, true) => Draft::new("accelerate", training_arguments::VERSION),
        (false, false) => Draft::new("hf-trainer", training_arguments::VERSION),
    };
    for flag in &command.line.flags {
        let name = flag.name.trim_start_matches('-').replace('-', "_");
        let known = training_arguments::NAMES.iter().find(|(known, _)| *known == name);
        let key = known
            .map(|(_, key)| *key)
            .or_else(|| training_arguments::LENGTHS.split_whitespace().any(|known| known == name).then_some("seq"));
        let key = key.or((name == "num_processes").then_some("devices"));
        let Some(key) = key else {
            // Numbers of a batch in other scripts' words.
            match name.as_str() {
                "per_gpu_train_batch_size" | "micro_batch_size" => state(&mut draft, "microbatch", flag),
                "train_batch_size" | "batch_size" if !deep => {
                    draft.note(format!(
                        "{}: whether that is a device's or all of them's is the script's to say",
                        flag.shown()
                    ));
                    draft.lack("microbatch", &flag.name, "whether it is a device's batch or all devices' is not known");
                }
                name if training_arguments::HARMLESS.split_whitespace().any(|start| name.starts_with(start)) => {}
                _ => draft.unprice(flag.shown()),
            }
            continue;
        };
        state(&mut draft, key, flag);
    }
    for hole in &command.line.more {
        draft.note(format!("`{}` may hold more flags, which are not read: {}", hole.spelt, hole.why));
    }
    if by_config {
        accelerate::named(command, &mut draft);
    }
    deepspeed::named(command, &mut draft);
    if let Some(path) = draft.text("model_path").map(str::to_owned) {
        hugging_face::named(&mut draft, "--model_name_or_path", &path, command.files);
    } else if let Some(text) = command.line.text(&["--config_name", "--tokenizer_name"]) {
        hugging_face::named(&mut draft, "--config_name", &text, command.files);
    } else if let Some(text) = (command.files)("config.json") {
        hugging_face::configuration(&mut draft, &text, "config.json");
    }
    training_arguments::finish(&mut draft);
    draft
}

fn state(draft: &mut Draft, key: &'static str, flag: &crate::import::flags::Flag) {
    match (&flag.depends, flag.value()) {
        (Some(why), _) | (None, Some(Err(why))) => draft.lack(key, &flag.name, why.clone()),
        (None, None) => draft.state(key, &flag.name, true),
        (None, Some(Ok(text))) => match number(text) {
            Some(value) => draft.state(key, &flag.name, value),
            None => draft.state_text(key, &flag.name, text),
        },
    }
}
