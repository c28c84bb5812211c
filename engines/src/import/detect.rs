//! What a file is, and by which dialect it is read.
//!
//! In: a file's name and text. Out: a draft, and how it is launched.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Knowledge;
use super::command::{chosen, of_command};
use super::dialect::{
    TrainCommand, Tree, accelerate, axolotl, deepspeed, foundry, hugging_face, llama_factory, maxtext,
};
use super::dialect::{nanotron, neox, titan_python, torchtitan};
use super::draft::Draft;
use super::flags::CommandLine;
use super::launched::Launched;
use super::shell::{self, FilesBeside, Reading, ScriptInput, Started};
use super::tree;
use crate::engine::TextFile;
use crate::setting::shell_word;

pub type Read = (Draft, Option<Launched>);

/// The first file, by what it is.
pub fn read(file: &TextFile, files: &[TextFile], known: &Knowledge, find: FilesBeside) -> Result<Read, String> {
    let name = file.name.to_lowercase();
    let start = file.text.trim_start();
    let wrong = |problem: String| format!("{}: {problem}", file.name);
    if start.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    if name.ends_with(".json") {
        return tree::json(&file.text).map_err(wrong).and_then(|value| Ok((of_json(file, &value, files, find)?, None)));
    }
    if name.ends_with(".toml") {
        let value = tree::toml(&file.text).map_err(wrong)?;
        let tree = Tree(&value);
        if !["training", "parallelism", "job", "experimental", "activation_checkpoint"]
            .iter()
            .any(|table| tree.get(table).is_some())
        {
            return Err(wrong("it is neither a plan nor a configuration of torchtitan".to_owned()));
        }
        return Ok((torchtitan::read(&tree, None), None));
    }
    if name.ends_with(".py") {
        return match titan_python::is_one(&file.text) {
            true => Ok((titan_python::read(&file.text), None)),
            false => Err(wrong("Python is not run: give the script or configuration that starts it".to_owned())),
        };
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        let value = tree::yaml(&file.text).map_err(wrong)?;
        return of_yaml(file, value, files, known, find).map_err(wrong);
    }
    of_script(file, &file.text, known, find).map_err(wrong)
}

fn of_json(file: &TextFile, value: &Value, files: &[TextFile], find: FilesBeside) -> Result<Draft, String> {
    let tree = Tree(value);
    let deep =
        ["train_batch_size", "train_micro_batch_size_per_gpu", "zero_optimization", "gradient_accumulation_steps"];
    if deep.iter().any(|key| tree.get(key).is_some())
        && tree.get("model_type").is_none()
        && tree.get("base_model").is_none()
    {
        let mut draft = deepspeed::alone(&tree, &file.name);
        let other = |other: &&TextFile| {
            other.name != file.name && tree::json(&other.text).is_ok_and(|v| v.get("model_type").is_some())
        };
        let config = files.iter().find(other).map(|file| file.text.clone()).or_else(|| find("config.json"));
        match config {
            Some(text) => hugging_face::configuration(&mut draft, &text, "config.json"),
            None => draft.note("the model stands in no file: give its config.json, or the script, as a further file"),
        }
        return Ok(draft);
    }
    if tree.get("distributed_type").is_some() {
        return Ok(accelerate::alone(&tree, find));
    }
    if tree.get("model_name_or_path").is_some() {
        return Ok(llama_factory::read(&tree, find));
    }
    Err(format!(
        "{}: this JSON is no configuration of an engine that is known; a model's goes behind a launch file",
        file.name
    ))
}

fn of_yaml(
    file: &TextFile,
    value: Value,
    files: &[TextFile],
    known: &Knowledge,
    find: FilesBeside,
) -> Result<Read, String> {
    let tree = Tree(&value);
    let is = |keys: &[&str]| keys.iter().any(|key| tree.get(key).is_some());
    if is(&["compute_environment", "distributed_type"]) {
        return Ok((accelerate::alone(&tree, find), None));
    }
    let axes = value
        .as_object()
        .is_some_and(|table| table.keys().any(|key| key.starts_with("ici_") || key.starts_with("dcn_")));
    if axes || is(&["base_emb_dim", "per_device_batch_size", "base_config", "decoder_block"]) {
        return Ok((maxtext::read(&tree, None, known.gpus), None));
    }
    if nanotron::is_one(&tree) {
        return Ok((nanotron::read(&tree), None));
    }
    if foundry::is_one(&tree) {
        return Ok((foundry::read(&value, find), None));
    }
    if is(&["base_model"]) {
        return Ok((axolotl::read(&tree, find), None));
    }
    if is(&["model_name_or_path"]) {
        return Ok((llama_factory::read(&tree, find), None));
    }
    // Several files over each other.
    let mut whole = neox::plain(&value);
    for other in files.iter().filter(|other| other.name != file.name) {
        if let (Ok(Value::Object(more)), Value::Object(all)) =
            (tree::yaml(&other.text).map(|v| neox::plain(&v)), &mut whole)
        {
            all.extend(more);
        }
    }
    if neox::is_one(&Tree(&whole)) {
        return Ok((neox::read(&whole), None));
    }
    if let Some(script) = script_in(&tree) {
        return of_script(file, &script, known, find);
    }
    if let Some(Value::Object(arguments)) = tree.get("MODEL_ARGS") {
        return of_script(file, &arguments_of(arguments), known, find);
    }
    Err("this YAML is no configuration of an engine that is known".to_owned())
}

/// `MODEL_ARGS` of Megatron-LM's own tests, as words.
fn arguments_of(arguments: &serde_json::Map<String, Value>) -> String {
    let mut text = "torchrun pretrain_gpt.py".to_owned();
    for (name, value) in arguments {
        match value {
            Value::Bool(true) => text += &format!(" {name}"),
            Value::Bool(false) | Value::Null => {}
            Value::String(value) => text += &format!(" {name} {}", shell_word(value)),
            value => text += &format!(" {name} {}", shell_word(&value.to_string())),
        }
    }
    text
}

/// The commands of a manifest: SkyPilot's `run`, or a container's of Kubernetes.
fn script_in(tree: &Tree) -> Option<String> {
    if let Some(run) = tree.text("run").filter(|run| run.contains(' ')) {
        let nodes = tree.count("num_nodes").unwrap_or(1);
        let gpus = tree.get("resources.accelerators").map(|value| value.to_string());
        let gpus = gpus.and_then(|text| text.trim_matches(['"', '}']).rsplit(':').next()?.parse::<usize>().ok());
        let each = gpus.map_or(String::new(), |gpus| format!("SKYPILOT_NUM_GPUS_PER_NODE={gpus}\n"));
        return Some(format!("SKYPILOT_NUM_NODES={nodes}\nSKYPILOT_NODE_RANK=0\n{each}{run}"));
    }
    let container = match find_key(tree.0, "containers", 0) {
        Some(containers) => containers.as_array()?.first()?,
        None => find_key(tree.0, "trainer", 0)?,
    };
    let list = |name: &str| match container.get(name) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(shell_word).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let mut words = [list("command"), list("args")].concat();
    // What an operator tells torchrun by its environment.
    if words.first().is_some_and(|word| word == "torchrun") && !words.iter().any(|word| word.starts_with("--nnodes")) {
        let count = |names: &[&str]| {
            let value = names.iter().find_map(|name| find_key(tree.0, name, 0))?;
            value.as_u64().or_else(|| value.as_str()?.parse().ok())
        };
        let replicas = |role: &str| find_key(tree.0, role, 0).and_then(|role| role.get("replicas")?.as_u64());
        let nodes =
            count(&["numNodes"]).or(replicas("Worker").map(|workers| workers + replicas("Master").unwrap_or(0)));
        let each = count(&["numProcPerNode", "nprocPerNode"]);
        let told = [("--nnodes", nodes), ("--nproc-per-node", each)];
        for (name, count) in told.into_iter().filter_map(|(name, count)| Some((name, count?))) {
            words.insert(1, format!("{name}={count}"));
        }
    }
    (!words.is_empty()).then(|| words.join(" "))
}

fn find_key<'a>(value: &'a Value, key: &str, depth: usize) -> Option<&'a Value> {
    const DEEPEST: usize = 20;
    if depth > DEEPEST {
        return None;
    }
    match value {
        Value::Object(table) => {
            table.get(key).or_else(|| table.values().find_map(|value| find_key(value, key, depth + 1)))
        }
        Value::Array(items) => items.iter().find_map(|item| find_key(item, key, depth + 1)),
        _ => None,
    }
}

/// A script, or a list of arguments alone.
fn of_script(file: &TextFile, text: &str, known: &Knowledge, find: FilesBeside) -> Result<Read, String> {
    let bare = text.trim_start().starts_with("--");
    let listed: String;
    let text = if bare {
        let lines = text
            .lines()
            .map(|line| line.trim_end().trim_end_matches('\\'))
            .filter(|line| !line.trim_start().starts_with('#'));
        listed = format!("python pretrain_gpt.py {}", lines.collect::<Vec<_>>().join(" "));
        &listed
    } else {
        text
    };
    let given = ScriptInput {
        name: &file.name,
        text,
        arguments: &known.arguments,
        environment: &known.environment,
        beside: find,
    };
    let reading = shell::read(&given)?;
    of_reading(&reading, known, find, bare)
}

/// The launch that trains, of commands that would be started; `bare` where nobody knows what launches it.
pub fn of_reading(reading: &Reading, known: &Knowledge, find: FilesBeside, bare: bool) -> Result<Read, String> {
    let (started, mut launch, others) = chosen(reading, known.launch)?;
    let files = |name: &str| reading.written.get(name).map(|text| reading.shown(text)).or_else(|| find(name));
    let line = CommandLine::read(&launch.arguments, reading);
    let mut command = TrainCommand {
        program: reading.shown(&launch.program),
        line,
        environment: BTreeMap::new(),
        launched: launch.clone(),
        files: &files,
    };
    for (name, value) in &started.environment {
        command.environment.insert(name.clone(), reading.shown(value));
    }
    let mut draft = of_command(&command, known)?;
    if bare {
        return Ok((draft, None));
    }
    told(&mut draft, reading, &started, &others);
    if launch.devices().is_none() {
        processes(&mut launch, reading);
    }
    Ok((draft, Some(launch)))
}

/// What starts processes without being told how many: Slurm's header, or torchtitan's own script.
fn processes(launch: &mut Launched, reading: &Reading) {
    let count = |name: &str| match reading.variables.get(name) {
        Some(shell::ShellValue::One(text)) => text.parse::<usize>().ok(),
        _ => None,
    };
    let nodes = launch.nodes.clone().and_then(Result::ok).or(count("SLURM_NNODES"));
    let slurm = nodes.zip(count("SLURM_GPUS_ON_NODE").or(count("SLURM_NTASKS_PER_NODE")));
    if let Some((nodes, each)) = slurm.filter(|_| launch.launcher == "python" || launch.launcher == "deepspeed") {
        (launch.nodes, launch.per_node) = (Some(Ok(nodes)), Some(Ok(each)));
    }
}

/// What is to be known of the reading.
fn told(draft: &mut Draft, reading: &Reading, started: &Started, others: &[String]) {
    reading.notes.iter().for_each(|note| draft.note(note.clone()));
    let names = |positional: bool| {
        let fits = |name: &&String| name.starts_with('$') == positional;
        reading.unset.iter().filter(fits).cloned().collect::<Vec<_>>().join(", ")
    };
    let (arguments, variables) = (names(true), names(false));
    if !arguments.is_empty() {
        draft.note(format!("read as started without arguments ({arguments}); give them after `--`"));
    }
    if !variables.is_empty() {
        draft.note(format!("read as started with these unset: {variables}; give them by --env NAME=VALUE"));
    }
    if !started.when.is_empty() {
        draft.note(format!("it is started where {}", started.when.join(", and ")));
    }
    if !others.is_empty() {
        draft.note(format!("other launches of the script, read by --launch N: {}", others.join("; ")));
    }
}
