//! `capture`: what a launch script would start, by running it among stubs.
//!
//! In: a command, as `bash train.sh`. Out: the exact command that trains, read as `import` reads a file.
//!
//! Stubs of launchers stand first on PATH: each writes down its arguments and ends well. Where the system allows it the script has
//! no network; it runs in a folder of its own with an environment of its own, so long and no longer.
//!
//! Invariant: what is stubbed is never started. Everything else of the script does run: it is the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use meshwright_engines::import::import_commands;
use meshwright_hardware::exit::Exit;

use super::import::show;
use super::launch_file::{KnownArguments, beside};
use crate::answer;
use crate::failure::Failure;

/// What is stubbed.
const STUBS: &str = "
    torchrun python python3 deepspeed accelerate srun sbatch mpirun mpiexec axolotl llamafactory-cli composer torchx
    ssh pdsh nvidia-smi rocm-smi docker singularity apptainer kubectl pip pip3 wget curl git wandb huggingface-cli
";

/// Arguments of `capture`.
#[derive(Args)]
pub struct CaptureCommand {
    /// Where to write the plan
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    known: KnownArguments,
    /// Seconds until the script is ended
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The command, as `bash train.sh`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl CaptureCommand {
    /// Runs the script among stubs, and shows what it would have started.
    pub fn run(self) -> Result<(), Failure> {
        let known = self.known.known(&[])?;
        let folder = std::env::temp_dir().join(format!("meshwright-capture-{}", std::process::id()));
        let recorded = stubs(&folder).and_then(|()| record(&folder, &self.command, self.seconds, &known.environment));
        let commands = recorded.and_then(|()| read(&folder));
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_dir_all(&folder);
        let shown = self.command.join(" ");
        let commands =
            commands.map_err(|error| Failure::new(Exit::Failed, format!("cannot run `{shown}`: {error}")))?;
        if commands.is_empty() {
            return Err(Failure::input(format!(
                "`{shown}` started none of {}",
                STUBS.split_whitespace().take(10).collect::<Vec<_>>().join(", ")
            )));
        }
        let script = self.command.iter().find(|word| Path::new(word).is_file());
        let here = script.and_then(|script| Path::new(script).parent()).map_or(PathBuf::from("."), Path::to_path_buf);
        let imported = import_commands(commands, &known, &|name| beside(&here, name)).map_err(Failure::input)?;
        show(&imported, &shown, self.output.as_deref(), self.json)
    }
}

/// Writes the stubs.
fn stubs(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin)?;
    for name in STUBS.split_whitespace() {
        // Numbers of words, then words, each to its end.
        let text = "#!/bin/sh\n{ printf '%s\\0' \"$(($# + 1))\"; printf '%s\\0' \"${0##*/}\" \"$@\"; } >> \"$MESHWRIGHT_CAPTURE\"\nexit 0\n";
        let path = bin.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::write(folder.join("recorded"), "")
}

/// Runs the script, without a network where the system allows that.
fn record(
    folder: &Path,
    words: &[String],
    seconds: u64,
    environment: &std::collections::BTreeMap<String, String>,
) -> std::io::Result<()> {
    let quiet =
        |command: &mut Command| command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let apart = quiet(Command::new("unshare").args(["-rn", "true"])).is_ok_and(|status| status.success());
    let mut command = if apart { Command::new("unshare") } else { Command::new(&words[0]) };
    if apart {
        command.args(["-rn", "--"]).args(words);
    } else {
        answer::note("the script runs with the network it has: `unshare -rn` is not allowed here");
        command.args(&words[1..]);
    }
    let usual = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{usual}", folder.join("bin").display()));
    command.env("MESHWRIGHT_CAPTURE", folder.join("recorded")).env("HOME", folder).envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let end = Instant::now() + Duration::from_secs(seconds.min(600));
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            answer::note(&format!("the script was ended after {seconds} s; what it had started is read"));
            // Whatever it started ends with it.
            let group = format!("-{}", child.id());
            let _ = quiet(Command::new("kill").args(["-KILL", "--", &group]));
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What was recorded.
fn read(folder: &Path) -> std::io::Result<Vec<Vec<String>>> {
    const MOST_WORDS: usize = 10_000;
    let bytes = std::fs::read(folder.join("recorded"))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split('\0');
    let mut all = Vec::new();
    while let Some(count) =
        words.next().and_then(|count| count.trim().parse::<usize>().ok()).filter(|count| *count <= MOST_WORDS)
    {
        all.push(words.by_ref().take(count).map(str::to_owned).collect());
    }
    Ok(all)
}
