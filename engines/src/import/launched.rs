//! What a command trains by: the program behind launchers, its arguments, and on how many devices.
//!
//! In: a command that a script would start. Out: [`Launched`].
//!
//! Known launchers: torchrun, `torch.distributed`, deepspeed, accelerate, srun, mpirun, plain Python, and the engines' own commands.

use super::shell::{Reading, Started};

/// A count that is known, or why it is not.
pub type Counted = Result<usize, String>;

/// A program as it is launched.
#[derive(Clone, Debug, Default)]
pub struct Launched {
    /// A script's path, a module's name, or an engine's own command.
    pub program: String,
    /// Its arguments, with holes.
    pub arguments: Vec<String>,
    /// What the launcher is told, with holes.
    pub options: Vec<String>,
    /// Which launcher.
    pub launcher: String,
    /// Nodes.
    pub nodes: Option<Counted>,
    /// Processes on each.
    pub per_node: Option<Counted>,
    /// Processes in all, where that is what is said.
    pub processes: Option<Counted>,
}

/// Programs that launch others, or train.
const LAUNCHERS: &str = "
    torchrun torchx deepspeed deepspeed.py accelerate axolotl llamafactory-cli composer
";
/// Options without a value.
const BARE: &str = "
    --standalone --no-python --no_python --no_local_rank --no_ssh_check --no_ssh --force_multi --multi_gpu --multi-gpu
    --use_deepspeed --use_fsdp --use_megatron_lm --quiet --same_network --cpu --tpu --debug --use_env -u -O -B -s -I
    -E
";

/// Whether a word names Python.
fn is_python(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("python").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// What a command launches, if it is one that may train.
pub fn launched(started: &Started, reading: &Reading) -> Option<Launched> {
    let words = &started.words;
    let name = |word: &String| reading.shown(word).rsplit('/').next().unwrap_or_default().to_owned();
    let launches = |word: &String| LAUNCHERS.split_whitespace().any(|known| known == name(word)) || is_python(word);
    let at = words.iter().position(launches).or_else(|| words.iter().position(|word| word.ends_with(".py")))?;
    let mut found = Launched { launcher: name(&words[at]), ..Launched::default() };
    before(&words[..at], reading, &mut found);
    if words[at].ends_with(".py") && found.launcher != "deepspeed.py" {
        found.program = words[at].clone();
        found.arguments = words[at + 1..].to_vec();
        found.launcher = "python".to_owned();
        return Some(found);
    }
    let mut rest = &words[at + 1..];
    if is_python(&words[at]) {
        found.launcher = "python".to_owned();
    }
    // `accelerate launch`, `axolotl train`, `llamafactory-cli train`.
    if ["accelerate", "axolotl", "llamafactory-cli"].contains(&found.launcher.as_str()) {
        let known = ["launch", "train"];
        let verb = rest.first().filter(|word| known.contains(&word.as_str()));
        if found.launcher != "accelerate" {
            verb?;
            found.program = found.launcher.clone();
            found.arguments = rest[1..].to_vec();
            return Some(found);
        }
        verb?;
        rest = &rest[1..];
    }
    options(rest, reading, &mut found);
    if found.launcher == "python" {
        let module = match found.program.as_str() {
            "torch.distributed.run" | "torch.distributed.launch" | "torch.distributed.elastic" => "torchrun",
            "accelerate.commands.launch" => "accelerate",
            "deepspeed.launcher.runner" => "deepspeed",
            _ => "",
        };
        if !module.is_empty() {
            let rest = std::mem::take(&mut found.arguments);
            found.launcher = module.to_owned();
            found.program.clear();
            options(&rest, reading, &mut found);
        }
    }
    counts(reading, &mut found);
    (!found.program.is_empty()).then_some(found)
}

/// What srun and mpirun say before the program.
fn before(words: &[String], reading: &Reading, found: &mut Launched) {
    let Some(first) = words.first().map(|word| word.rsplit('/').next().unwrap_or_default().to_owned()) else { return };
    let counted = |names: &[&str]| option(words, names).map(|text| count(&text, reading));
    match first.as_str() {
        "srun" => {
            found.nodes = counted(&["-N", "--nodes"]);
            found.per_node = counted(&["--ntasks-per-node", "--tasks-per-node"]);
            found.processes = counted(&["-n", "--ntasks"]);
        }
        "mpirun" | "mpiexec" | "orterun" | "horovodrun" => {
            found.processes = counted(&["-n", "-np", "--np", "-c"]);
            found.per_node = counted(&["-N", "-ppn", "--npernode", "-npernode"]);
        }
        _ => {}
    }
}

/// The value of an option, in either spelling.
fn option(words: &[String], names: &[&str]) -> Option<String> {
    words.iter().enumerate().find_map(|(at, word)| {
        names.iter().find_map(|name| match word.strip_prefix(name) {
            Some("") => words.get(at + 1).cloned(),
            Some(rest) if rest.starts_with('=') => Some(rest[1..].to_owned()),
            Some(rest) if !name.starts_with("--") && rest.chars().all(|c| c.is_ascii_digit()) => Some(rest.to_owned()),
            _ => None,
        })
    })
}

fn count(text: &str, reading: &Reading) -> Counted {
    if let Some(hole) = reading.hole(text) {
        return Err(format!("{}: {}", hole.spelt, hole.why));
    }
    text.parse().map_err(|_| format!("`{text}` is decided as it starts"))
}

/// A launcher's options, then the program and its arguments.
fn options(words: &[String], reading: &Reading, found: &mut Launched) {
    let mut at = 0;
    let mut module = false;
    while let Some(word) = words.get(at) {
        if word == "-m" || word == "--module" {
            module = true;
            at += 1;
            continue;
        }
        if !word.starts_with('-') {
            let hole = reading.hole(word).is_some() && word.chars().count() == 1 && found.launcher != "python";
            // Options that nobody knows, unless a program can no more come.
            let later = words[at + 1..].iter().any(|word| word.ends_with(".py") || word == "-m" || word == "--module");
            if hole && later && !module {
                let hole = reading.hole(word).cloned();
                for option in hole.iter().flat_map(|hole| hole.maybe.iter()).flatten() {
                    found.options.push(option.split('=').next().unwrap_or_default().to_owned() + "=?");
                }
                found.options.push(word.clone());
                at += 1;
                continue;
            }
            found.program = word.clone();
            found.arguments = words[at + 1..].to_vec();
            return;
        }
        found.options.push(word.clone());
        at += 1;
        let value = !word.contains('=') && !BARE.split_whitespace().any(|bare| bare == word);
        if value && let Some(next) = words.get(at).filter(|next| !next.starts_with('-') && !next.ends_with(".py")) {
            found.options.push(next.clone());
            at += 1;
        }
    }
}

/// How many processes a launcher is told to start.
fn counts(reading: &Reading, found: &mut Launched) {
    let options = found.options.clone();
    let of = |names: &[&str]| option(&options, names).map(|text| count(&text, reading));
    match found.launcher.as_str() {
        "torchrun" => {
            let nodes = option(&options, &["--nnodes"]).map(|text| {
                // `1:4`: as many as there are.
                let most = text.rsplit(':').next().unwrap_or_default().to_owned();
                count(&most, reading)
            });
            found.nodes = nodes.or(found.nodes.take()).or(Some(Ok(1)));
            found.per_node = of(&["--nproc_per_node", "--nproc-per-node"]).or(Some(Ok(1)));
            found.processes = None;
        }
        "deepspeed" | "deepspeed.py" => {
            let listed = option(&options, &["--include", "-i"]).and_then(|text| included(&text));
            found.per_node = of(&["--num_gpus", "--num-gpus"]).or(listed.map(Ok));
            let file =
                option(&options, &["--hostfile", "-H"]).map(|_| Err("its hostfile says on which nodes".to_owned()));
            found.nodes = of(&["--num_nodes", "--num-nodes"]).or(file).or(Some(Ok(1)));
            found.processes = None;
        }
        "accelerate" => {
            found.processes = of(&["--num_processes", "--num-processes"]);
            found.nodes = of(&["--num_machines", "--num-machines"]);
            found.per_node = None;
        }
        "composer" => {
            found.per_node = of(&["-n", "--nproc"]);
            found.processes = of(&["--world_size"]);
        }
        _ => {}
    }
}

/// `localhost:0,1,2,3` as a count.
fn included(text: &str) -> Option<usize> {
    let parts = text.split('@').map(|part| part.split_once(':').map(|(_, slots)| slots.split(',').count()));
    parts.sum::<Option<usize>>()
}

impl Launched {
    /// All devices, each of which has a process.
    pub fn devices(&self) -> Option<Counted> {
        if let Some(all) = &self.processes {
            return Some(all.clone());
        }
        match (&self.nodes, &self.per_node) {
            (Some(nodes), Some(per_node)) => match (nodes, per_node) {
                (Ok(nodes), Ok(per_node)) => Some(nodes.checked_mul(*per_node).ok_or("too many".to_owned())),
                (Err(why), _) | (_, Err(why)) => Some(Err(why.clone())),
            },
            _ => None,
        }
    }
}
