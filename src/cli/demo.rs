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

use super::report::of_run;
use super::show::print_figures;
use super::train::{Options, corpus, ready, train};
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
        println!("text: {:.1} MB of bytes, unigram entropy {entropy:.3} nats a byte", text.bytes.len() as f64 / 1e6);

        let share = Share::usual(self.device);
        eprintln!("1/4 measuring single ops on {}, about {} s …", share.words(), CALIBRATION.as_secs());
        let (machine, busy) = measure(share, Precision::Fp32, CALIBRATION)?;

        let cluster = Cluster::from(machine.clone());
        let (plan, considered) = self.plan(share, &cluster)?;
        println!("plan: {} (best of {considered} considered)", plan.summary());

        let output = self.output.unwrap_or_else(|| free_folder("demo"));
        ready(&plan, share, &text)?;
        let dir = RunDir::create(&output, &plan, &machine, false)?;
        eprintln!("3/4 training {} steps of {} tokens …", plan.job.steps, plan.job.tokens_per_step());
        let options = Options { checkpoint_every: plan.job.steps, resume: false, named: !self.data.is_empty() };
        let report = train(&dir, &plan, share, text, options)?;
        let last = &report.losses[report.losses.len().saturating_sub(10)..];
        let loss = last.iter().sum::<f64>() / last.len() as f64;
        println!(
            "loss: {:.3} at first, {loss:.3} over the last {} steps; unigram entropy {entropy:.3}",
            report.losses[0],
            last.len()
        );

        eprintln!("4/4 comparing …");
        let report = of_run(&dir.path)?;
        print!("\n{}", report.table());
        busy.iter().for_each(|busy| println!("\nwhile ops were measured {busy}"));
        println!("\nreport: {}", dir.file("report.html").display());
        println!("next: meshwright plan llama3-8b --cluster \"8x h100\" --seq 8192 --global-batch 128");
        Ok(())
    }

    fn plan(&self, share: Share, cluster: &Cluster) -> Result<(Plan, usize), Failure> {
        eprintln!("2/4 planning …");
        let optimizer = Optimizer { lr: 2e-3, min_lr: 2e-4, warmup_steps: 10, ..Optimizer::default() };
        let usual = Job::of(models::load("demo-10m")?, SEQ, 4.max(share.ranks));
        let job = Job { precision: Precision::Fp32, steps: 1, optimizer, ..usual };
        let found = search(&job, cluster, &Fix::default(), 1)?;
        let considered = found.considered;
        let (mut plan, figures) = found.best.into_iter().next().expect("a search that succeeds has a plan");
        println!("predicted:");
        print_figures(&plan, &figures, cluster);
        plan.job.steps = ((self.seconds / figures.step_time_s) as usize).max(5);
        Ok((plan, considered))
    }
}
