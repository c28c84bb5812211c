//! `run`: a plan trained on this machine, with progress, metrics, checkpoints and its measured trace.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use meshwright_executor::data::Corpus;
use meshwright_executor::device::Backend;
use meshwright_executor::metrics::{MetricsLog, StepMetrics};
use meshwright_executor::train::{CheckpointConfig, Task, TrainConfig, TrainReport, Trainer, corpus_source};
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Job, masked};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::Plan;

use super::report::of_run;
use crate::failure::Failure;
use crate::machine::{Share, cached};
use crate::runs::{Measured, RunDir, train_config};

/// Text to fall back on where a machine has none: Meshwright's own.
pub const OWN_TEXT: &str = concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"));

/// How long an unknown machine is measured before a run.
const CALIBRATION: Duration = Duration::from_secs(8);

/// Arguments of `run`.
#[derive(Args)]
pub struct Run {
    /// A plan file
    plan: String,
    #[arg(long, default_value_t, help = super::devices("What to run on"))]
    device: Backend,
    /// Files or folders of text to train on; else source text found on this machine
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// A calibrated machine's .toml to predict with; else this machine is measured, and that kept
    #[arg(long)]
    cluster: Option<PathBuf>,
    /// The run's folder
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Go on from the newest checkpoint of the folder
    #[arg(long)]
    resume: bool,
    /// Steps from one checkpoint to the next, the last step has one too; 0 for none at all
    #[arg(long, default_value_t = 50)]
    checkpoint_every: usize,
    /// Steps to train, instead of the plan's
    #[arg(long)]
    steps: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run {
    /// Trains, then reports.
    pub fn run(self) -> Result<(), Failure> {
        let mut plan = Plan::read(&self.plan)?;
        plan.job.steps = self.steps.unwrap_or(plan.job.steps);
        check_runnable(&self.plan, &plan, self.device)?;
        self.device.find()?;
        let corpus = corpus(&self.data)?;
        let share = Share::of_ranks(self.device, plan.mesh.ranks());
        let machine = match &self.cluster {
            Some(path) => one_pool(Cluster::parse(&path.display().to_string())?)?,
            None => cached(share, plan.job.precision, CALIBRATION)?,
        };
        let output = self.output.unwrap_or_else(|| free_folder(&plan.job.model.name));
        let dir = RunDir::create(&output, &plan, &machine, self.resume)?;
        train(&dir, &plan, share, corpus, self.checkpoint_every, self.resume)?;
        let report = of_run(&dir.path)?;
        if self.json {
            let mut all = report.json();
            all["dir"] = dir.path.display().to_string().into();
            println!("{all}");
        } else {
            print!("{}", report.table());
            println!("\nreport: {}", dir.file("report.html").display());
        }
        Ok(())
    }
}

/// What this executor cannot run, said before anything is written.
fn check_runnable(file: &str, plan: &Plan, device: Backend) -> Result<(), Failure> {
    let precision = plan.job.precision;
    if !runs_in(precision) {
        return Err(Failure::input(format!(
            "{file}: `job.precision` is {precision}: device `{device}` trains in fp32, bf16 and fp16"
        )));
    }
    if let Some(sites) = plan.sites {
        let count = sites.count;
        let problem = "several sites are on paper only: a machine trains one; take the table `[sites]` out";
        return Err(Failure::input(format!("{file}: `sites.count` is {count}: {problem}")));
    }
    if plan.job.model.vocab < 256 {
        let vocab = plan.job.model.vocab;
        return Err(Failure::input(format!("{file}: `job.model.vocab` is {vocab}: bytes as tokens need 256 or more")));
    }
    Ok(())
}

/// Whether devices here train in a format.
pub fn runs_in(precision: Precision) -> bool {
    match precision {
        Precision::Fp32 | Precision::Bf16 | Precision::Fp16 => true,
        Precision::Tf32 | Precision::Fp8 | Precision::Fp4 | Precision::Int8 => false,
    }
}

fn one_pool(cluster: Cluster) -> Result<Machine, Failure> {
    let [machine] = <[Machine; 1]>::try_from(cluster.pools)
        .map_err(|pools| Failure::input(format!("--cluster has {} pools; a run has one machine", pools.len())))?;
    Ok(machine)
}

/// The user's text, or what is found here.
pub fn corpus(data: &[PathBuf]) -> Result<Corpus, Failure> {
    Ok(if data.is_empty() { Corpus::find(OWN_TEXT) } else { Corpus::from_paths(data)? })
}

/// The first of `runs/NAME-1`, `runs/NAME-2`, … that is not there.
pub fn free_folder(name: &str) -> PathBuf {
    let numbered = (1..).map(|i| Path::new("runs").join(format!("{name}-{i}")));
    numbered.into_iter().find(|path| !path.exists()).expect("numbers do not end")
}

/// What a job's model learns: decoders to go on, encoders to guess.
fn task(job: &Job) -> Task {
    let seq = job.seq;
    match job.target() {
        0 if job.model.causal() => Task::Next { seq },
        0 => Task::Masked { seq, masked: masked(seq), vocab: job.model.vocab },
        target => Task::Continue { seq, target },
    }
}

/// Trains a plan into a run's folder.
pub fn train(
    dir: &RunDir,
    plan: &Plan,
    share: Share,
    corpus: Corpus,
    checkpoint_every: usize,
    resume: bool,
) -> Result<TrainReport, Failure> {
    let lowered = lower(plan)?;
    let declared = lowered.program.roles.iter().map(|role| role.bytes()).max().unwrap_or(0);
    let unigram_entropy = corpus.unigram_entropy();
    let source = corpus_source(corpus, plan.job.seed, task(&plan.job));
    let checkpoints = CheckpointConfig { dir: dir.file("checkpoints"), every: checkpoint_every, keep: 2 };
    let checkpoints = (checkpoint_every > 0).then_some(checkpoints);
    let config = TrainConfig { device: share.device, ..train_config(plan, share.threads, checkpoints) };
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, source)?;
    let first = if resume { trainer.resume()? } else { 0 };
    let mut log = MetricsLog::open(&dir.file("metrics.jsonl"), first)?;
    let mut progress = Progress::new(plan.job.steps);
    let mut failed = None;
    let report = trainer.train(|metrics| {
        progress.show(metrics);
        match log.append(metrics) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    progress.end();
    if let Some(error) = failed {
        return Err(error.into());
    }
    if report.losses.is_empty() {
        eprintln!("all {} steps were done before", plan.job.steps);
        return Ok(report);
    }
    let found = share.device.find()?;
    dir.write_measured(&Measured {
        step_time_s: report.trace.step_time().seconds().0,
        peak_memory_bytes: report.peak_memory_bytes,
        declared_bytes: declared,
        unigram_entropy,
        device: format!("{}: {}, {}, {}", found.name, found.title, share.words(), found.driver),
        emulated: share.emulated(),
        trace: report.trace.clone(),
    })?;
    Ok(report)
}

/// One line on stderr that says how far training is; without a terminal, a line every tenth of the way.
struct Progress {
    steps: usize,
    started: Instant,
    first: Option<usize>,
    terminal: bool,
}

impl Progress {
    fn new(steps: usize) -> Self {
        Progress { steps, started: Instant::now(), first: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, metrics: &StepMetrics) {
        let first = *self.first.get_or_insert(metrics.step);
        let (done, total) = (metrics.step + 1, self.steps);
        let each = self.started.elapsed().as_secs_f64() / (done - first) as f64;
        let eta = each * (total - done.min(total)) as f64;
        let (loss, rate) = (metrics.loss, metrics.tokens_per_s);
        let line = format!("step {done:>5}/{total}  loss {loss:.4}  {rate:>8.0} tokens/s  ETA {eta:>4.0} s");
        if self.terminal {
            eprint!("\r{line}  ");
            let _ = std::io::stderr().flush();
        } else if done == 1 || done == total || done.is_multiple_of((total / 10).max(1)) {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal && self.first.is_some() {
            eprintln!();
        }
    }
}
