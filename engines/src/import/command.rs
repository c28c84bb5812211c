//! Which of a script's commands trains, and by which dialect its arguments are read.
//!
//! In: commands that would be started. Out: the one that trains; its draft.

use serde_json::Value;

use super::Knowledge;
use super::dialect::{TrainCommand, Tree, axolotl, deepspeed, foundry, llama_factory, maxtext, megatron};
use super::dialect::{nanotron, neox, titan_python, torchtitan, trainer};
use super::draft::Draft;
use super::launched::{Launched, launched};
use super::shell::{Reading, Started};
use super::tree;

/// The launch that trains, and the others.
pub fn chosen(reading: &Reading, wanted: Option<usize>) -> Result<(Started, Launched, Vec<String>), String> {
    let all: Vec<(Started, Launched)> =
        reading.started.iter().filter_map(|started| Some((started.clone(), launched(started, reading)?))).collect();
    let score = |launch: &Launched| {
        let program = reading.shown(&launch.program).to_lowercase();
        let program = program.rsplit('/').next().unwrap_or_default().to_owned();
        let other = [
            "preprocess",
            "convert",
            "eval",
            "generate",
            "tokenize",
            "inference",
            "export",
            "download",
            "server",
            "split",
            "merge",
            "prepare",
        ];
        if other.iter().any(|word| program.contains(word)) && !program.contains("train") {
            return 0;
        }
        let trains = ["train", "finetune", "sft", "run_clm", "pretrain", "axolotl", "llamafactory"]
            .iter()
            .any(|word| program.contains(word));
        let flags = [
            "--num-layers",
            "--micro-batch-size",
            "--deepspeed",
            "--per_device_train_batch_size",
            "--tensor-model-parallel-size",
        ];
        let told = launch.arguments.iter().any(|word| flags.iter().any(|flag| word.starts_with(flag)));
        let spread = launch.launcher != "python";
        1 + 2 * usize::from(trains) + 4 * usize::from(told) + usize::from(spread)
    };
    let best = all.iter().map(|(_, launch)| score(launch)).max().unwrap_or(0);
    let good: Vec<&(Started, Launched)> = all.iter().filter(|(_, launch)| score(launch) == best && best > 0).collect();
    if good.is_empty() {
        let ran: Vec<String> =
            reading.started.iter().take(5).map(|started| reading.shown(&started.words.join(" "))).collect();
        let ran: Vec<String> = ran.iter().map(|text| text.chars().take(80).collect()).collect();
        let notes = if reading.notes.is_empty() { String::new() } else { format!(" ({})", reading.notes.join("; ")) };
        return Err(match ran.is_empty() {
            true => format!("it starts nothing that trains{notes}"),
            false => format!("it starts nothing that is known to train, but: {}{notes}", ran.join("; ")),
        });
    }
    let at = match wanted {
        None => 0,
        Some(number) if (1..=good.len()).contains(&number) => number - 1,
        Some(number) => return Err(format!("--launch is {number}: there are {}", good.len())),
    };
    let other = |(at, (started, launch)): (usize, &&(Started, Launched))| {
        format!("{}, line {}: {}", at + 1, started.line, reading.shown(&launch.program))
    };
    let others: Vec<String> = good.iter().enumerate().filter(|(other, _)| *other != at).take(8).map(other).collect();
    let (started, launch) = good[at].clone();
    Ok((started, launch, others))
}

/// A command by what it starts.
pub fn of_command(command: &TrainCommand, known: &Knowledge) -> Result<Draft, String> {
    let (program, line) = (command.program.as_str(), &command.line);
    let loose: Vec<String> = line.loose.iter().filter_map(|word| word.clone().ok()).collect();
    let config = |ends: &[&str]| loose.iter().find(|word| ends.iter().any(|end| word.ends_with(end))).cloned();
    let text_of = |name: &str| {
        (command.files)(name)
            .ok_or_else(|| format!("`{name}`, which it starts with, is not beside it: give it as a further file"))
    };
    if program.to_lowercase().contains("maxtext")
        || (program.ends_with("train") && loose.iter().any(|word| word.contains("ici_")))
    {
        let tree = match config(&[".yml", ".yaml"]) {
            // `base.yml` is the engine's own defaults.
            Some(name) if !name.ends_with("base.yml") => tree::yaml(&text_of(&name)?)?,
            _ => Value::Object(serde_json::Map::new()),
        };
        return Ok(maxtext::read(&Tree(&tree), Some(command), known.gpus));
    }
    if program.contains("torchtitan")
        || line.has(&["--job.config_file", "--job.config-file"])
        || line.flags.iter().any(|f| f.name.starts_with("--training."))
    {
        return titan(command);
    }
    if program == "axolotl" || program.starts_with("axolotl.cli") {
        let name = config(&[".yml", ".yaml"]).ok_or("axolotl's configuration is not known")?;
        return Ok(axolotl::read(&Tree(&tree::yaml(&text_of(&name)?)?), command.files));
    }
    if (program == "llamafactory-cli" || program.ends_with("src/train.py"))
        && let Some(name) = config(&[".yml", ".yaml", ".json"])
    {
        return Ok(llama_factory::read(&Tree(&tree::yaml(&text_of(&name)?)?), command.files));
    }
    if command.launched.launcher == "composer"
        && let Some(name) = config(&[".yml", ".yaml"])
    {
        return Ok(foundry::read(&tree::yaml(&text_of(&name)?)?, command.files));
    }
    if program.ends_with("run_train.py")
        && let Some(name) = line.text(&["--config-file"])
    {
        return Ok(nanotron::read(&Tree(&tree::yaml(&text_of(&name)?)?)));
    }
    if program.ends_with("deepy.py") || (command.launched.launcher == "deepspeed.py") {
        let mut whole = serde_json::Map::new();
        for name in loose.iter().filter(|word| word.ends_with(".yml") || word.ends_with(".yaml")) {
            if let Value::Object(more) = neox::plain(&tree::yaml(&text_of(name)?)?) {
                whole.extend(more);
            }
        }
        return Ok(neox::read(&Value::Object(whole)));
    }
    if deepspeed::is_megatron(command) {
        return Ok(deepspeed::megatron_deepspeed(command));
    }
    let megatron = [
        "--num-layers",
        "--tensor-model-parallel-size",
        "--micro-batch-size",
        "--encoder-num-layers",
        "--pipeline-model-parallel-size",
    ];
    if line.has(&megatron) {
        return Ok(megatron::read(command));
    }
    let hugging = [
        "--per_device_train_batch_size",
        "--deepspeed",
        "--model_name_or_path",
        "--deepspeed_config",
        "--learning_rate",
    ];
    if line.has(&hugging) || command.launched.launcher == "accelerate" || command.launched.launcher == "deepspeed" {
        return Ok(trainer::read(command));
    }
    if let Some(hole) = line.more.first() {
        return Err(format!("`{}` holds its arguments, and they are not known: {}", hole.spelt, hole.why));
    }
    Err(format!("`{program}` is no program of an engine that is known"))
}

fn titan(command: &TrainCommand) -> Result<Draft, String> {
    let line = &command.line;
    if let Some(module) = line.text(&["--module"]) {
        let name = format!("{}.py", module.replace('.', "/"));
        let text =
            (command.files)(&name).ok_or_else(|| format!("`{name}` is not beside it: give it as a further file"))?;
        return Ok(titan_python::read(&text));
    }
    let file = line.find(&["--job.config_file", "--job.config-file"]);
    let tree = match file.and_then(|flag| flag.value().cloned()) {
        Some(Ok(name)) => {
            let text = (command.files)(&name)
                .ok_or_else(|| format!("`{name}` is not beside it: give it as a further file"))?;
            tree::toml(&text).map_err(|problem| format!("{name}: {problem}"))?
        }
        Some(Err(why)) => return Err(format!("which configuration it reads is not known: {why}")),
        None => Value::Object(serde_json::Map::new()),
    };
    Ok(torchtitan::read(&Tree(&tree), Some(command)))
}
