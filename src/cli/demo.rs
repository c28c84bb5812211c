//! `demo`: the main job on this machine, without set-up: measure, plan, train on real text, compare.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use meshwright_executor::device::Backend;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Fix, Job, Optimizer};
use meshwright_planner::models;
use meshwright_planner::plan::Plan;
use meshwright_planner::search::search;

use super::progress::ProgressLine;
use super::report::of_run;
use super::show::print_figures;
use super::train::{Options, corpus, ready, train};
use crate::answer;
use crate::failure::Failure;
use crate::machine::{Share, measure};
use crate::runs::{RunDir, free_folder};

/// Tokens a sequence.
const SEQ: usize = 256;
/// How long the machine is measured.
const CALIBRATION: Duration = Duration::from_secs(18);

/// Arguments of `demo`.
#[derive(Args)]
pub struct Demo {
    #[arg(long, default_value_t, help = super::devices("What to run on"))]
    device: Backend,
    /// Files or folders of text to train on; else source text found on this machine
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// About how long to train
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// The run's folder
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Demo {
    /// Does all of it.
    pub fn run(self) -> Result<(), Failure> {
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            return Err(Failure::input(format!(
                "--seconds is {}: it must be above 0, and a day at most",
                self.seconds
            )));
        }
        let text = corpus(&self.data)?;
        text.check(SEQ)?;
        let entropy = text.unigram_entropy();
        let bytes = text.bytes.len();
        if !self.json {
            println!("text: {:.1} MB of bytes, unigram entropy {entropy:.3} nats a byte", bytes as f64 / 1e6);
        }

        let share = Share::usual(self.device);
        answer::progress(&format!(
            "1/4 measuring single ops on {}, about {} s …",
            share.words(),
            CALIBRATION.as_secs()
        ));
        let (machine, busy) =
            ProgressLine::during("measuring", CALIBRATION, || measure(share, Precision::Fp32, CALIBRATION))?;

        let cluster = Cluster::from(machine.clone());
        let (plan, considered) = self.plan(share, &cluster)?;
        if !self.json {
            println!("plan: {} (best of {considered} considered)", plan.summary());
        }

        let output = self.output.clone().unwrap_or_else(|| free_folder("demo"));
        ready(&plan, share, &text)?;
        let dir = RunDir::create(&output, &plan, &machine, false)?;
        answer::progress(&format!("3/4 training {} steps of {} tokens …", plan.job.steps, plan.job.tokens_per_step()));
        let options = Options { checkpoint_every: plan.job.steps, resume: false, named: !self.data.is_empty() };
        let report = train(&dir, &plan, share, text, options)?;
        let last = &report.losses[report.losses.len().saturating_sub(10)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        let first = report.losses[0];
        if !self.json {
            println!(
                "loss: {first:.3} at first, {loss:.3} over the last {} steps; unigram entropy {entropy:.3}",
                last.len()
            );
        }

        answer::progress("4/4 comparing …");
        let report = of_run(&dir.path)?;
        if self.json {
            let mut all = report.json();
            all["plan"] = serde_json::to_value(&plan).expect("a plan is tables of strings and numbers");
            all["considered"] = considered.into();
            all["text_bytes"] = bytes.into();
            all["first_loss"] = first.into();
            all["last_loss"] = loss.into();
            all["busy"] = serde_json::to_value(busy).expect("it is numbers");
            all["dir"] = dir.path.display().to_string().into();
            answer::print("demo", all);
            return Ok(());
        }
        print!("\n{}", report.table());
        busy.iter().for_each(|busy| println!("\nwhile ops were measured {busy}"));
        println!("\nreport: {}", dir.file("report.html").display());
        println!("next: meshwright plan llama3-8b --cluster \"8x h100\" --seq 8192 --global-batch 128");
        Ok(())
    }

    fn plan(&self, share: Share, cluster: &Cluster) -> Result<(Plan, usize), Failure> {
        answer::progress("2/4 planning …");
        let optimizer = Optimizer { lr: 2e-3, min_lr: 2e-4, warmup_steps: 10, ..Optimizer::default() };
        let usual = Job::of(models::load("demo-10m")?, SEQ, 4.max(share.ranks));
        let job = Job { precision: Precision::Fp32, steps: 1, optimizer, ..usual };
        let found = search(&job, cluster, &Fix::default(), 1)?;
        let considered = found.considered;
        let (mut plan, figures) = found.best.into_iter().next().expect("a search that succeeds has a plan");
        if !self.json {
            println!("predicted:");
            print_figures(&plan, &figures, cluster);
        }
        plan.job.steps = ((self.seconds / figures.step_time_s) as usize).max(5);
        Ok((plan, considered))
    }
}
