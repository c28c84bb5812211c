//! A run: how the executor trains its plan, and its folder: everything that a report needs, and what a resumed run goes on from.
//!
//! Files: `plan.toml`, `cluster.toml`, `metrics.jsonl`, `measured.json`, `checkpoints/`, `lock`.
//!
//! Invariant: a file is whole or absent: it is written aside and renamed. One process at a time trains into a folder: it holds
//! `lock`, in which its number stands. What is read was checked against the program of the folder's plan.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meshwright_executor::device::Backend;
use meshwright_executor::train::{CheckpointConfig, TrainConfig};
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::{FileError, read_bytes};
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_hardware::program::Program;
use meshwright_hardware::trace::Trace;
use meshwright_planner::plan::Plan;
use serde::{Deserialize, Serialize};

use crate::answer;
use crate::busy::Busy;
use crate::failure::Failure;
use crate::out::{delete_unfinished, write_whole};

/// What training measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Median step, in seconds.
    pub step_time_s: f64,
    /// Most bytes of tensors that a rank held.
    pub peak_memory_bytes: u64,
    /// Of these, what the program declares.
    pub declared_bytes: u64,
    /// Nats a token of the text by single-token frequencies.
    pub unigram_entropy: f64,
    /// What it ran on.
    pub device: String,
    /// Whether ranks shared cores.
    pub emulated: bool,
    /// Whether others used the machine meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Busy>,
    /// When each instruction of the median step ran, on every rank.
    pub trace: Trace,
}

impl Measured {
    /// Says in what it is not of a program, or no measurement at all.
    fn check(&self, program: &Program) -> Result<(), String> {
        let (mesh, lanes) = (program.mesh, &self.trace.lanes);
        if !(self.step_time_s.is_finite() && self.step_time_s > 0.0) {
            return Err(format!("`step_time_s` is {}", self.step_time_s));
        }
        if !(self.unigram_entropy.is_finite() && self.unigram_entropy >= 0.0) {
            return Err(format!("`unigram_entropy` is {}", self.unigram_entropy));
        }
        if lanes.len() != mesh.ranks() {
            return Err(format!("it has {} lanes for {} rank(s)", lanes.len(), mesh.ranks()));
        }
        for (rank, lane) in lanes.iter().enumerate() {
            if lane.rank != rank {
                return Err(format!("lane {rank} is of rank {}", lane.rank));
            }
            let role = program.role_of(mesh.coord_of(rank));
            if lane.role != role {
                return Err(format!("rank {rank} has role {} where the plan gives it {role}", lane.role));
            }
            let (spans, instrs) = (lane.spans.len(), program.roles[role].instrs.len());
            if spans != instrs {
                return Err(format!("rank {rank} has {spans} spans for {instrs} instructions"));
            }
            if let Some(span) = lane.spans.iter().position(|span| span.end < span.start) {
                return Err(format!("span {span} of rank {rank} ends before it starts"));
            }
        }
        if self.trace.step_time().0 == 0 {
            return Err("its step takes no time".to_owned());
        }
        Ok(())
    }
}

/// The largest trace that is read.
const MOST_BYTES: u64 = 4 << 30;

/// A run's folder.
#[derive(Debug)]
pub struct RunDir {
    /// Its path.
    pub path: PathBuf,
    /// Held by the process that trains into it; given back when this is dropped, however the process ends.
    _lock: Option<File>,
}

impl RunDir {
    /// Whether a run of this plan can be begun or resumed in a folder. Touches nothing.
    ///
    /// # Errors
    /// Code 2 where a run is there already, or none to resume, or one of another plan. More steps make no other plan.
    pub fn check(path: &Path, plan: &Plan, resume: bool) -> Result<(), Failure> {
        let dir = RunDir { path: path.to_owned(), _lock: None };
        let (what, known) = (path.display(), dir.file("plan.toml"));
        match (known.exists(), resume) {
            (false, false) => Ok(()),
            (true, false) => {
                Err(Failure::input(format!("{what} holds a run already; go on with --resume, or choose another -o")))
            }
            (false, true) => Err(Failure::input(format!(
                "{what} holds no run to resume: it has no plan.toml; give its folder with -o, or leave --resume out"
            ))),
            (true, true) => {
                let what = known.display();
                let there = dir.plan()?;
                let mut ours = plan.clone();
                ours.job.steps = there.job.steps;
                if ours != there {
                    let problem = "is another plan than the one given; resume with that one";
                    return Err(Failure::input(format!("{what} {problem}")));
                }
                let (done, asked) = (there.job.steps, plan.job.steps);
                if asked < done {
                    let problem =
                        format!("is of {done} steps, and {asked} are asked for: give --steps {done}, or more");
                    return Err(Failure::input(format!("{what} {problem}")));
                }
                Ok(())
            }
        }
    }

    /// Makes the folder of a new run, or opens that of one to resume, and keeps other processes out until it is dropped. What
    /// killed processes left half-written is deleted. A machine that is not the folder's takes its place.
    ///
    /// # Errors
    /// As [`RunDir::check`]; code 2 where another process trains into it; code 1 where it cannot be written.
    pub fn create(path: &Path, plan: &Plan, machine: &Machine, resume: bool) -> Result<RunDir, Failure> {
        RunDir::check(path, plan, resume)?;
        std::fs::create_dir_all(path).map_err(FileError::write(path))?;
        let dir = RunDir { path: path.to_owned(), _lock: lock(path)? };
        // Another process may have been here until now.
        RunDir::check(path, plan, resume)?;
        delete_unfinished(path)?;
        if !resume || dir.cluster().ok() != Some(Cluster::from(machine.clone())) {
            write_whole(&dir.file("cluster.toml"), &machine.to_toml())?;
        }
        let grows = if resume { dir.plan()?.job.steps < plan.job.steps } else { false };
        if grows {
            let steps = plan.job.steps;
            answer::note(&format!("the run grows to {steps} steps; from here on its learning rate is that of so many"));
        }
        if !resume || grows {
            write_whole(&dir.file("plan.toml"), &plan.to_toml())?;
        }
        Ok(dir)
    }

    /// Opens a run's folder to read it.
    pub fn open(path: &Path) -> Result<RunDir, Failure> {
        let dir = RunDir { path: path.to_owned(), _lock: None };
        if !dir.file("plan.toml").exists() {
            let what = path.display();
            let exit = if path.exists() { Exit::Input } else { Exit::Failed };
            return Err(Failure::new(
                exit,
                format!("{what} is no run's folder: it has no plan.toml; `meshwright run` makes one"),
            ));
        }
        Ok(dir)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its plan.
    pub fn plan(&self) -> Result<Plan, Failure> {
        Ok(Plan::read(&self.file("plan.toml").display().to_string())?)
    }

    /// The machine it was planned for.
    pub fn cluster(&self) -> Result<Cluster, Failure> {
        Ok(Machine::read(&self.file("cluster.toml"))?.into())
    }

    /// Keeps what was measured.
    pub fn write_measured(&self, measured: &Measured) -> Result<(), Failure> {
        let text = serde_json::to_string(measured).expect("a trace is lists of numbers");
        write_whole(&self.file("measured.json"), &text)
    }

    /// What was measured, of the program of its plan.
    ///
    /// # Errors
    /// Code 2 where the run has not finished, or the file is damaged or of another program.
    pub fn measured(&self, program: &Program) -> Result<Measured, Failure> {
        let path = self.file("measured.json");
        let what = path.display();
        let damaged = |why: String| {
            Failure::input(format!("{what} is damaged: {why}; `meshwright run --resume` measures it again"))
        };
        if !path.exists() {
            let why = "the run has not finished: go on with `meshwright run --resume`";
            return Err(Failure::input(format!("{what} is not there: {why}")));
        }
        let bytes = read_bytes(&path, MOST_BYTES)?;
        let measured: Measured = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        measured.check(program).map_err(damaged)?;
        Ok(measured)
    }
}

/// Takes the lock of a folder; none where its file system has no locks.
fn lock(folder: &Path) -> Result<Option<File>, Failure> {
    let path = folder.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(FileError::write(&path))?;
    match file.try_lock() {
        Ok(()) => {
            let process = std::process::id().to_string();
            file.set_len(0).and_then(|()| file.write_all(process.as_bytes())).map_err(FileError::write(&path))?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // Whoever holds it may not have written its number yet.
            let _ = file.read_to_string(&mut process);
            let (what, process) = (folder.display(), process.trim());
            Err(Failure::input(format!(
                "{what} is in use by process {process}: wait for its end, or choose another -o"
            )))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// The first of `runs/NAME-1`, `runs/NAME-2`, … that is not there, whatever signs are in the name.
pub fn free_folder(name: &str) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).take(64).collect();
    let name = match name.trim_matches(['.', '-']) {
        "" => "run",
        name => name,
    };
    let numbered = (1..).map(|i| Path::new("runs").join(format!("{name}-{i}")));
    numbered.into_iter().find(|path| !path.exists()).expect("numbers do not end")
}

/// How the executor trains a plan, on the CPU unless its device is set.
pub fn train_config(plan: &Plan, threads_per_rank: usize, checkpoints: Option<CheckpointConfig>) -> TrainConfig {
    let o = &plan.job.optimizer;
    TrainConfig {
        steps: plan.job.steps,
        seed: plan.job.seed,
        lr_peak: o.lr.into(),
        lr_min: o.min_lr.into(),
        warmup_steps: o.warmup_steps,
        beta1: o.beta1.into(),
        beta2: o.beta2.into(),
        eps: o.eps.into(),
        weight_decay: o.weight_decay.into(),
        clip: o.clip.into(),
        loss_scaling: Default::default(),
        microbatch_size: plan.microbatch,
        num_microbatches: plan.microbatches(),
        shares: plan.shares.clone(),
        seq: plan.job.seq,
        global_batch: plan.job.global_batch,
        device: Backend::CPU,
        threads_per_rank,
        traced: true,
        checkpoints,
        text: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_inside_runs_whatever_the_model_is_called() {
        let long = "n".repeat(300);
        for name in ["../../x", "/absolute/x", "..", "", "a b\u{1b}[31m", "nul\0", &long] {
            let folder = free_folder(name);
            let parts: Vec<_> = folder.components().collect();
            assert!(folder.starts_with("runs") && parts.len() == 2, "{name:?}: {}", folder.display());
            assert!(folder.as_os_str().len() < 100 && !folder.to_string_lossy().contains(char::is_control));
        }
        assert_eq!(free_folder("tiny-2.5"), Path::new("runs/tiny-2.5-1"));
    }
}
