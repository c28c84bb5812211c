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
use meshwright_executor::train::{
    CheckpointConfig, Task, TextId, TrainConfig, TrainReport, Trainer, check_memory, corpus_source,
};
use meshwright_hardware::exit::Exit;
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_hardware::units::Precision;
use meshwright_planner::error::Fault;
use meshwright_planner::job::{Job, OptimizerName, masked};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::predict;

use super::progress::ProgressLine;
use super::report::of_run;
use super::show::missing_memory;
use crate::answer;
use crate::busy::LoadWatch;
use crate::failure::Failure;
use crate::machine::{Share, cached, here};
use crate::runs::{Measured, RunDir, free_folder, train_config};
use crate::signals::Signals;

/// Text to fall back on where a machine has none: Meshwright's own.
pub const OWN_TEXT: &str = concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"));

/// How long an unknown machine is measured before a run.
const CALIBRATION: Duration = Duration::from_secs(8);

/// Arguments of `run`.
#[derive(Args)]
pub struct RunCommand {
    /// A plan file
    plan: String,
    #[arg(long, default_value_t, help = super::devices("What to run on"))]
    device: Backend,
    /// Files or folders of text to train on; else source text found on this machine
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// A calibrated machine's .toml to predict with; else that of the run to resume, or this machine is measured, and that kept
    #[arg(long)]
    cluster: Option<PathBuf>,
    /// The run's folder
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Go on from the newest checkpoint of the folder
    #[arg(long)]
    resume: bool,
    /// Steps from one checkpoint to the next, the last step has one too; 0 to save none at all
    #[arg(long, default_value_t = 50)]
    checkpoint_every: usize,
    /// Steps to train, instead of the plan's; with --resume they may be more than before
    #[arg(long)]
    steps: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RunCommand {
    /// Trains, then reports. What can be known to end the run is said before anything is measured, allocated or written.
    pub fn run(self) -> Result<(), Failure> {
        let mut plan = Plan::read(&self.plan)?;
        plan.job.steps = self.steps.unwrap_or(plan.job.steps);
        // The file's own were checked as it was read.
        let refused = |Fault { key, value, problem }| Failure::input(format!("--{key} is {value}: {problem}"));
        plan.job.check().map_err(refused)?;
        check_runnable(&self.plan, &plan, self.device)?;
        let output = match (&self.output, self.resume) {
            (Some(output), _) => output.clone(),
            (None, false) => free_folder(&plan.job.model.name),
            (None, true) => {
                return Err(Failure::input("--resume needs the run's folder: give it with -o, as `-o runs/NAME-1`"));
            }
        };
        RunDir::check(&output, &plan, self.resume)?;
        self.device.find()?;
        let corpus = corpus(&self.data)?;
        let share = Share::of_ranks(self.device, plan.mesh.ranks());
        ready(&plan, share, &corpus)?;
        let machine = self.machine(&output, share, &plan)?;
        // A profile that cannot price the plan, of another format or too few ranks, would leave a run without a report.
        let figures = predict(&plan, &Cluster::from(machine.clone()))?.figures;
        if let Some(missing) = missing_memory(&figures, &Cluster::from(machine.clone())) {
            answer::warn(&format!("by what the plan is predicted with it does not fit: {missing}"));
        }
        let dir = RunDir::create(&output, &plan, &machine, self.resume)?;
        let (checkpoint_every, resume, named) = (self.checkpoint_every, self.resume, !self.data.is_empty());
        train(&dir, &plan, share, corpus, Options { checkpoint_every, resume, named })?;
        let report = of_run(&dir.path)?;
        if self.json {
            let mut all = report.json();
            all["dir"] = dir.path.display().to_string().into();
            answer::print("run", all);
        } else {
            print!("{}", report.table());
            println!("\nreport: {}", dir.file("report.html").display());
        }
        Ok(())
    }
}

impl RunCommand {
    /// What to predict with: the machine that is named, that of the folder to resume, or this one.
    fn machine(&self, output: &Path, share: Share, plan: &Plan) -> Result<Machine, Failure> {
        match &self.cluster {
            Some(path) => named(&path.display().to_string()),
            None if self.resume => one_pool(RunDir::open(output)?.cluster()?),
            None => {
                let precision = plan.job.precision;
                ProgressLine::during("measuring", CALIBRATION, || cached(share, precision, CALIBRATION))
            }
        }
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
    if let Some(packed) = plan.job.packed {
        let problem = "text here is one sample from end to end, and kernels attend over whole sequences: leave it out";
        return Err(Failure::input(format!("{file}: `job.packed` is {packed}: {problem}")));
    }
    if plan.job.pure && precision != Precision::Fp32 {
        let problem = "devices here add gradients up in fp32 and update fp32 weights: on paper only; leave it out";
        return Err(Failure::input(format!("{file}: `job.pure` is true: {problem}")));
    }
    if plan.job.tuning.is_some() {
        let problem = "runs begin from drawn weights, and adapters of such a base learn nothing: take the table `[job.tuning]` out";
        return Err(Failure::input(format!("{file}: `job.tuning.method` is lora: {problem}")));
    }
    let optimizer = plan.job.optimizer.name;
    if optimizer != OptimizerName::AdamW {
        let name = optimizer.name();
        let problem = "devices here have kernels of adamw; others are on paper only";
        return Err(Failure::input(format!("{file}: `job.optimizer.name` is {name}: {problem}")));
    }
    if plan.job.optimizer.offload {
        let problem = "the executor updates where weights are; on the host it is on paper only: leave it out";
        return Err(Failure::input(format!("{file}: `job.optimizer.offload` is true: {problem}")));
    }
    if let Some(sites) = plan.sites {
        let count = sites.count;
        let problem = "several sites are on paper only: a machine trains one; take the table `[sites]` out";
        return Err(Failure::input(format!("{file}: `sites.count` is {count}: {problem}")));
    }
    let (tp, kv_heads) = (plan.mesh.tp, plan.job.model.kv_heads);
    if plan.job.model.kv_copies(tp) > 1 {
        let problem = format!(
            "copies of the model's {kv_heads} `kv_heads` on several ranks are on paper only: {kv_heads} at most"
        );
        return Err(Failure::input(format!("{file}: `mesh.tp` is {tp}: {problem}")));
    }
    if let Some(tokens) = plan.job.window() {
        let problem = "kernels here see all tokens; within a window it is on paper only";
        return Err(Failure::input(format!("{file}: `job.model.family.window.tokens` is {tokens}: {problem}")));
    }
    let etp = plan.mesh.etp();
    if plan.job.model.experts().is_some() && etp > 1 && etp < tp {
        let problem =
            format!("experts of a part of tensor parallelism are on paper only: 1 leaves them whole, {tp} shares them");
        return Err(Failure::input(format!("{file}: `mesh.etp` is {etp}: {problem}")));
    }
    if let Some(experts) = plan.job.model.experts().filter(|experts| experts.is_dropless()) {
        let most = experts.count as f64 / experts.top_k as f64;
        let problem = format!("experts here have room for so many tokens; at {most} none is dropped");
        return Err(Failure::input(format!("{file}: `job.model.family.experts.capacity` is dropless: {problem}")));
    }
    if let Some(count) = plan.job.model.experts().and_then(|experts| experts.groups).map(|groups| groups.count) {
        let problem = "routers here choose among all experts; groups of them are on paper only";
        return Err(Failure::input(format!("{file}: `job.model.family.experts.groups.count` is {count}: {problem}")));
    }
    if plan.job.model.vocab < 256 {
        let vocab = plan.job.model.vocab;
        return Err(Failure::input(format!("{file}: `job.model.vocab` is {vocab}: bytes as tokens need 256 or more")));
    }
    Ok(())
}

/// What of this machine trains a plan, if a cluster is this machine and can run it.
pub fn trains_here(plan: &Plan, cluster: &Cluster) -> Option<Backend> {
    here(cluster).filter(|device| check_runnable("plan", plan, *device).is_ok())
}

/// Whether devices here train in a format.
pub fn runs_in(precision: Precision) -> bool {
    match precision {
        Precision::Fp32 | Precision::Bf16 | Precision::Fp16 => true,
        Precision::Tf32 | Precision::Fp8 | Precision::Fp4 | Precision::Int8 => false,
    }
}

/// The machine of a file, which may be another than this.
fn named(file: &str) -> Result<Machine, Failure> {
    if !file.ends_with(".toml") {
        return Err(Failure::input(format!(
            "--cluster is {file}: a run is predicted with this machine's profile, a .toml; `meshwright hardware calibrate` writes it, \
             and without --cluster it is measured"
        )));
    }
    let cluster = Cluster::parse(file)?;
    if here(&cluster).is_none() {
        answer::warn(&format!(
            "{file} is no calibration of this machine: what is predicted is for another, and so are MFU and errors"
        ));
    }
    one_pool(cluster)
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

/// What a job's model learns: decoders to go on, encoders to guess.
fn task(job: &Job) -> Task {
    let seq = job.seq;
    match job.target() {
        0 if job.model.causal() => Task::Next { seq },
        0 => Task::Masked { seq, masked: masked(seq), vocab: job.model.vocab },
        target => Task::Continue { seq, target },
    }
}

/// How a run is begun, saved and gone on with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Steps from one checkpoint to the next; 0 for none.
    pub checkpoint_every: usize,
    /// Whether to go on from the newest checkpoint.
    pub resume: bool,
    /// Whether the user named the text.
    pub named: bool,
}

/// Whether a plan can be trained here on a text: its settings, the text's length, the machine's memory.
///
/// # Errors
/// Code 2 for settings and text, 4 for memory.
pub fn ready(plan: &Plan, share: Share, corpus: &Corpus) -> Result<(), Failure> {
    train_config(plan, share.threads, None).check(&plan.mesh)?;
    corpus.check(task(&plan.job).tokens())?;
    check_memory(&lower(plan)?.program, share.device)?;
    Ok(())
}

/// Trains a plan into a run's folder. A signal ends it after a whole step, saved.
pub fn train(
    dir: &RunDir,
    plan: &Plan,
    share: Share,
    corpus: Corpus,
    options: Options,
) -> Result<TrainReport, Failure> {
    let (steps, unigram_entropy) = (plan.job.steps, corpus.unigram_entropy());
    let lowered = lower(plan)?;
    let program = Arc::new(lowered.program);
    let checkpoints = CheckpointConfig { dir: dir.file("checkpoints"), every: options.checkpoint_every, keep: 2 };
    let text = Some(TextId { crc32: corpus.crc32(), named: options.named });
    let config = train_config(plan, share.threads, Some(checkpoints));
    let config = TrainConfig { device: share.device, text, ..config };
    let source = corpus_source(corpus, plan.job.seed, task(&plan.job));
    let mut trainer = Trainer::new(Arc::clone(&program), lowered.params, config, source)?;
    trainer.on_warning(answer::warn);
    let first = if options.resume { trainer.resume()? } else { 0 };
    let mut log = MetricsLog::open(&dir.file("metrics.jsonl"), first)?;
    if options.resume && first == 0 {
        answer::warn("there is no checkpoint yet: training starts again from the first step");
    }
    if log.missing() > 0 {
        answer::warn(&format!("metrics.jsonl lacks {} of the {first} steps done before", log.missing()));
    }
    let watch = LoadWatch::start();
    let mut report = watched(&mut trainer, &mut log, steps, options.checkpoint_every)?;
    if report.losses.is_empty() {
        if dir.measured(&program).is_ok() {
            answer::progress(&format!("all {steps} steps were done before"));
            return Ok(report);
        }
        let lost = "all steps were done before, but their measurements are lost: some are run again to measure them";
        answer::note(lost);
        report = trainer.measure()?;
    }
    let busy = watch.busy();
    busy.iter().for_each(|busy| answer::warn(&busy.to_string()));
    let found = share.device.find()?;
    dir.write_measured(&Measured {
        step_time_s: report.trace.step_time().seconds().0,
        peak_memory_bytes: report.peak_memory_bytes,
        declared_bytes: program.roles.iter().map(|role| role.bytes()).max().unwrap_or(0),
        unigram_entropy,
        device: format!("{}: {}, {}, {}", found.name, found.title, share.words(), found.driver),
        emulated: share.emulated(),
        busy,
        trace: report.trace.clone(),
    })?;
    Ok(report)
}

/// The steps that are left, shown and logged, until one of the signals that end a process comes.
fn watched(
    trainer: &mut Trainer,
    log: &mut MetricsLog,
    steps: usize,
    checkpoint_every: usize,
) -> Result<TrainReport, Failure> {
    let signals = Signals::catch().map_err(|error| Failure::new(Exit::Failed, format!("signals: {error}")))?;
    let mut progress = TrainingProgress::new(steps);
    let mut unlogged = false;
    let report = trainer.train(|metrics| {
        progress.show(metrics);
        if let Err(error) = log.append(metrics)
            && !std::mem::replace(&mut unlogged, true)
        {
            answer::warn(&format!("{error}; training goes on, and lines are kept until they can be written"));
        }
        if signals.came().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.end();
    log.flush()?;
    let done = report.first_step + report.losses.len();
    match signals.came() {
        Some((number, name)) if done < steps => {
            let saved = match report.saved {
                Some(step) if step == done => "which is saved: go on with --resume".to_owned(),
                _ if checkpoint_every == 0 => "and nothing is saved, as --checkpoint-every is 0".to_owned(),
                _ => "whose loss or gradient is not finite, so that it is not saved".to_owned(),
            };
            let message = format!("{name}: training stopped after step {done} of {steps}, {saved}");
            Err(Failure::new(Exit::Signal(number), message))
        }
        _ => Ok(report),
    }
}

/// One line on stderr that says how far training is; without a terminal, a line every tenth of the way.
struct TrainingProgress {
    steps: usize,
    started: Instant,
    first: Option<usize>,
    terminal: bool,
}

impl TrainingProgress {
    fn new(steps: usize) -> Self {
        TrainingProgress {
            steps,
            started: Instant::now(),
            first: None,
            terminal: std::io::stderr().is_terminal() && !answer::is_quiet(),
        }
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
            return;
        }
        let tenth = done == 1 || done == total || done.is_multiple_of((total / 10).max(1));
        if (tenth || answer::is_verbose()) && !answer::is_quiet() {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal && self.first.is_some() {
            eprintln!();
        }
    }
}
