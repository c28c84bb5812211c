//! A run: how the executor trains its plan, and its folder: everything that a report needs, and what a resumed run goes on from.
//!
//! Files: `plan.toml`, `cluster.toml`, `metrics.jsonl`, `measured.json`, `checkpoints/`.
//!
//! Invariant: a file is whole or absent: it is written aside and renamed.

use std::io::Write;
use std::path::{Path, PathBuf};

use meshwright_executor::device::Backend;
use meshwright_executor::train::{CheckpointConfig, TrainConfig};
use meshwright_hardware::exit::Exit;
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_hardware::trace::Trace;
use meshwright_planner::plan::Plan;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

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
    /// When each instruction of the median step ran, on every rank.
    pub trace: Trace,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    /// Its path.
    pub path: PathBuf,
}

impl RunDir {
    /// Makes the folder of a new run, or opens that of one to resume.
    pub fn create(path: &Path, plan: &Plan, machine: &Machine, resume: bool) -> Result<RunDir, Failure> {
        let dir = RunDir { path: path.to_owned() };
        let known = dir.file("plan.toml");
        if known.exists() && !resume {
            let what = path.display();
            return Err(Failure::input(format!(
                "{what} holds a run already; go on with --resume, or choose another -o"
            )));
        }
        if resume && known.exists() {
            let earlier = dir.plan()?;
            if earlier != *plan {
                let what = known.display();
                return Err(Failure::input(format!("{what} is another plan than the one given; resume with that one")));
            }
            return Ok(dir);
        }
        std::fs::create_dir_all(path).map_err(Failure::io(path))?;
        write_whole(&dir.file("cluster.toml"), &machine.to_toml())?;
        write_whole(&known, &plan.to_toml())?;
        Ok(dir)
    }

    /// Opens a run's folder.
    pub fn open(path: &Path) -> Result<RunDir, Failure> {
        let dir = RunDir { path: path.to_owned() };
        if !dir.file("plan.toml").exists() {
            let what = path.display();
            return Err(Failure::input(format!(
                "{what} is no run's folder: it has no plan.toml; `meshwright run` makes one"
            )));
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
        Ok(Cluster::parse(&self.file("cluster.toml").display().to_string())?)
    }

    /// Keeps what was measured.
    pub fn write_measured(&self, measured: &Measured) -> Result<(), Failure> {
        let text = serde_json::to_string(measured).expect("a trace is lists of numbers");
        write_whole(&self.file("measured.json"), &text)
    }

    /// What was measured.
    pub fn measured(&self) -> Result<Measured, Failure> {
        let path = self.file("measured.json");
        let what = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::input(format!("{what}: {error}; the run has not finished: go on with `meshwright run --resume`"))
        })?;
        serde_json::from_str(&text).map_err(|error| Failure::input(format!("{what}: {error}; run it again")))
    }
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
        device: Backend::Cpu,
        threads_per_rank,
        traced: true,
        checkpoints,
    }
}

/// Writes a table as CSV, whole or not at all.
pub fn write_csv(path: &Path, header: &[&str], records: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let unwritten = |error: csv::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    writer.write_record(header).map_err(unwritten)?;
    for record in records {
        writer.write_record(record).map_err(unwritten)?;
    }
    let bytes = writer.into_inner().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    write_whole(path, &String::from_utf8_lossy(&bytes))
}

/// Writes a file whole: aside, to disk, then renamed.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".tmp-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let write = || {
        let mut file = std::fs::File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&aside, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        Failure::io(path)(error)
    })
}
