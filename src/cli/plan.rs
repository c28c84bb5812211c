//! `plan` and `simulate`: search and prediction, as text or JSON.

use clap::Args;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::read_text;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Precision;
use meshwright_planner::error::Fault;
use meshwright_planner::goal::{Chosen, advise, advise_limits, choose, missed};
use meshwright_planner::job::{Fix, Job, is_job, says_length};
use meshwright_planner::plan::{Plan, check_tp};
use meshwright_planner::predict::{outer, predict};
use meshwright_planner::{PlanError, models};
use serde_json::json;

use super::export::ExportTarget;
use super::goal::{GoalArguments, Names, Solver, advice_text, chosen_json, print_front, print_gap, print_partition};
use super::keys::print_keys;
use super::progress::ProgressLine;
use super::show::{
    assumed_text, does_not_fit, figures_json, missing_memory, print_beyond, print_figures, print_sites,
    print_training_line,
};
use super::stack::{StackArgument, stack_line};
use crate::failure::Failure;
use crate::out::write_whole;

/// Arguments of `plan`.
#[derive(Args)]
pub struct PlanCommand {
    /// A model's name (`meshwright models`), a model file, or a job file with a [model] table
    #[arg(required_unless_present = "keys")]
    job: Option<String>,
    /// `512x dgx-a100-80gb`, `8x h100`, or a calibrated machine's .toml
    #[arg(long, required_unless_present = "keys")]
    cluster: Option<String>,
    /// List the keys of a job file
    #[arg(long, exclusive = true)]
    keys: bool,
    /// Tokens a sequence
    #[arg(long)]
    seq: Option<usize>,
    /// Sequences a step
    #[arg(long)]
    global_batch: Option<usize>,
    #[arg(long, help = format!("Format of matmuls: {}", Precision::names()))]
    precision: Option<Precision>,
    /// Steps to train
    #[arg(long)]
    steps: Option<usize>,
    /// Only plans with this data parallelism
    #[arg(long)]
    dp: Option<usize>,
    /// Only plans with this many pipeline stages
    #[arg(long)]
    pp: Option<usize>,
    /// Only plans with this tensor parallelism
    #[arg(long)]
    tp: Option<usize>,
    /// Only plans with this context parallelism
    #[arg(long)]
    cp: Option<usize>,
    /// Only plans with this expert parallelism
    #[arg(long)]
    ep: Option<usize>,
    /// Only plans with this ZeRO stage
    #[arg(long)]
    zero: Option<u8>,
    /// Only plans whose ZeRO shards over this many ranks; the others hold the same shards (HSDP)
    #[arg(long)]
    shard: Option<usize>,
    /// Only plans with at most this tensor parallelism
    #[arg(long)]
    max_tp: Option<usize>,
    /// Only plans with this many sequences a microbatch
    #[arg(long)]
    microbatch: Option<usize>,
    #[command(flatten)]
    stack: StackArgument,
    #[command(flatten)]
    goal: GoalArguments,
    /// What decides which layers go to which stage, and what stages recompute
    #[arg(long, value_enum, default_value_t = Solver::Paths)]
    solver: Solver,
    /// How many plans to show
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// Where to write the best plan
    #[arg(short, long)]
    output: Option<std::path::PathBuf>,
    /// Folder to write the best plan to as an engine runs it (`meshwright export`)
    #[arg(long, value_name = "DIR")]
    export: Option<std::path::PathBuf>,
    #[command(flatten)]
    target: ExportTarget,
    /// Print JSON
    #[arg(long, conflicts_with = "export")]
    json: bool,
}

impl PlanCommand {
    /// Searches and prints.
    pub fn run(self) -> Result<(), Failure> {
        // Only `--keys` leaves them out.
        let (Some(job), Some(text)) = (&self.job, &self.cluster) else {
            print_keys();
            return Ok(());
        };
        let (mut job, known) = self.job(job)?;
        let mut cluster = self.stack.on(Cluster::parse(text)?, &job)?;
        job.stack = Some(cluster.stack.name.clone());
        self.goal.amend(&mut cluster);
        let fix = self.fix(&job.fix);
        check_fix(&job, &cluster, &fix)?;
        let mut chosen = self.choose(&job, &cluster, &fix)?;
        let decided = self.solver.decide(&job, &mut chosen)?;
        let first = &chosen.best[0];
        if let Some(path) = &self.output {
            write_whole(path, &first.plan.to_toml())?;
        }
        let names = Names { whole: &cluster, text };
        if self.json {
            println!("{}", chosen_json(&chosen, &job.goal, &names, decided.as_ref()));
        } else {
            self.print(&job, known, &chosen, &names);
            if self.solver == Solver::Milp {
                print_partition(decided.as_ref());
            }
            let cluster = names.of(&first.cluster);
            match &self.output {
                Some(path) => {
                    let stack = self.stack.again();
                    println!("\nnext: meshwright simulate {} --cluster \"{cluster}\"{stack}", path.display())
                }
                None if self.export.is_some() => println!(),
                None => println!("\nnext: add -o plan.toml to keep the best one"),
            }
        }
        match &self.export {
            Some(folder) => self.target.write(&first.plan, Some((&first.cluster, Some(first.figures.clone()))), folder),
            None => Ok(()),
        }
    }

    /// Searches. Where nothing fits, or nothing keeps the limits, the failure says what would do.
    fn choose(&self, job: &Job, cluster: &Cluster, fix: &Fix) -> Result<Chosen, Failure> {
        let line = ProgressLine::new();
        let help = "looking for what would do …";
        let (message, rejected, advice) =
            match choose(job, cluster, fix, self.top, &|cluster, progress| line.show(cluster, progress)) {
                Ok(chosen) if !chosen.best.is_empty() => return Ok(chosen),
                Ok(chosen) => {
                    line.say(help);
                    let advice = advise_limits(job, cluster, fix, &chosen);
                    (missed(job, &chosen), chosen.rejected, advice)
                }
                Err(PlanError::Infeasible { considered, rejected }) => {
                    line.say(help);
                    let advice = advise(job, cluster, fix);
                    let error = PlanError::Infeasible { considered, rejected: rejected.clone() };
                    (error.to_string(), rejected, advice)
                }
                Err(error) => return Err(error.into()),
            };
        drop(line);
        if self.json {
            println!("{}", json!({ "error": message, "rejected": rejected, "advice": advice }));
        }
        let stack = stack_line(cluster);
        Err(Failure::new(Exit::Infeasible, format!("{message}\n{stack}{}", advice_text(&advice, job))))
    }

    fn print(&self, job: &Job, known: bool, chosen: &Chosen, names: &Names) {
        let parameters = job.model.parameters(job.positions()) as f64 / 1e9;
        let idle = names.idle(&chosen.best[0]);
        let trained = if job.tuning.is_some() {
            format!(", frozen, and {:.3} M trained", job.trained_parameters() as f64 / 1e6)
        } else {
            String::new()
        };
        println!(
            "{} ({parameters:.3} B parameters{trained}), {} sequences of {} tokens a step, {}, on {}{idle}",
            job.model.name, job.global_batch, job.seq, job.precision, names.text
        );
        println!("{}", stack_line(names.whole));
        let in_part = chosen.best.iter().any(|offer| offer.ranks() < names.devices());
        for (place, offer) in chosen.best.iter().enumerate() {
            println!("\n{}. {}", place + 1, offer.plan.summary());
            if in_part {
                let devices = format!("{} devices", offer.ranks());
                println!("   on      {devices:>12}   {}", names.of(&offer.cluster));
            }
            print_figures(&offer.figures);
            print_beyond(&offer.plan, &offer.figures, &offer.cluster);
            print_training_line(offer, known);
        }
        let assumed = assumed_text(names.whole);
        if !assumed.is_empty() {
            print!("\n{assumed}");
        }
        println!("\n{} considered, {} simulated, {:.2} s", chosen.considered, chosen.simulated, chosen.seconds);
        print_gap(chosen, &job.goal);
        let mut reasons: Vec<_> = chosen.rejected.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons {
            println!("  {count:>6} {reason}");
        }
        print_front(chosen, names);
    }

    /// What the job fixes, and the command line over it.
    fn fix(&self, job: &Fix) -> Fix {
        Fix {
            dp: self.dp.or(job.dp),
            pp: self.pp.or(job.pp),
            tp: self.tp.or(job.tp),
            cp: self.cp.or(job.cp),
            ep: self.ep.or(job.ep),
            zero: self.zero.or(job.zero),
            shard: self.shard.or(job.shard),
            max_tp: self.max_tp.or(job.max_tp),
            microbatch: self.microbatch.or(job.microbatch),
            ..job.clone()
        }
    }

    /// The job, and whether it is known how long to train.
    fn job(&self, name: &str) -> Result<(Job, bool), Failure> {
        let (mut job, known) = read_job(name, self.seq, self.global_batch)?;
        job.precision = self.precision.unwrap_or(job.precision);
        job.goal = self.goal.over(&job.goal);
        let fault = |f: Fault| Failure::input(f.to_string());
        job.goal.check().map_err(fault)?;
        match self.steps {
            Some(steps) => (job.steps, job.goal.tokens) = (steps, None),
            None => job.settle(),
        }
        // Steps say it from here on.
        job.goal.tokens = None;
        job.check().map_err(fault)?;
        let known = known || self.steps.is_some() || self.goal.says_tokens();
        if job.goal.limits_training() && !known {
            let what = if job.goal.deadline.is_some() { "deadline" } else { "budget" };
            return Err(Failure::input(format!(
                "a {what} is for a whole training run: give --tokens, as `300G`, or --steps"
            )));
        }
        Ok((job, known))
    }
}

/// A job of a job file, or of a model and two figures; and whether it says how long to train.
fn read_job(name: &str, seq: Option<usize>, global_batch: Option<usize>) -> Result<(Job, bool), Failure> {
    if name.ends_with(".toml") {
        let text = read_text(name).map_err(Failure::io(name))?;
        if is_job(&text) {
            let mut job = Job::from_toml(name, &text)?;
            job.seq = seq.unwrap_or(job.seq);
            job.global_batch = global_batch.unwrap_or(job.global_batch);
            return Ok((job, says_length(&text)));
        }
    }
    let (model, notes) = models::load_noted(name)?;
    notes.iter().for_each(|note| eprintln!("note: {name}: {note}"));
    let needs = |what: &str| Failure::input(format!("`{name}` is a model, not a job: give --{what}"));
    let (seq, batch) = (seq.ok_or_else(|| needs("seq"))?, global_batch.ok_or_else(|| needs("global-batch"))?);
    Ok((Job::of(model, seq, batch), false))
}

/// A fixed decision that can never be is the user's mistake, not an empty search.
fn check_fix(job: &Job, cluster: &Cluster, fix: &Fix) -> Result<(), Failure> {
    // A job file's were checked as it was read: these are the command line's.
    fix.check().map_err(|Fault { key, value, problem }| {
        Failure::input(format!("--{} is {value}: {problem}", key.replace('_', "-")))
    })?;
    let devices = cluster.devices();
    let axes = [("--dp", fix.dp), ("--pp", fix.pp), ("--tp", fix.tp), ("--cp", fix.cp), ("--shard", fix.shard)];
    for (key, size) in axes {
        if let Some(n) = size.filter(|n| *n > devices) {
            return Err(Failure::input(format!("{key} is {n}: the cluster has {devices} devices")));
        }
    }
    if let (Some(shard), Some(0)) = (fix.shard, fix.zero) {
        return Err(Failure::input(format!(
            "--shard is {shard}: ZeRO-0 shards nothing; leave one of --shard and --zero 0 out"
        )));
    }
    let experts = job.model.experts().map_or(1, |experts| experts.count);
    if let Some(ep) = fix.ep.filter(|ep| !experts.is_multiple_of(*ep)) {
        return Err(Failure::input(format!("--ep is {ep}: it must divide the model's experts, {experts}")));
    }
    if let Some(tp) = fix.tp {
        let model = &job.model.name;
        check_tp(job, tp).map_err(|problem| Failure::input(format!("--tp is {tp}: {problem} (`{model}`)")))?;
    }
    Ok(())
}

/// Arguments of `simulate`.
#[derive(Args)]
pub struct Simulate {
    /// A plan file
    plan: String,
    /// `512x dgx-a100-80gb`, `8x h100`, or a calibrated machine's .toml
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    stack: StackArgument,
    /// Where to write the trace, for Perfetto or chrome://tracing
    #[arg(long)]
    trace: Option<std::path::PathBuf>,
    /// Where to write the program's listing
    #[arg(long)]
    program: Option<std::path::PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Simulate {
    /// Predicts and prints.
    pub fn run(self) -> Result<(), Failure> {
        let plan = Plan::read(&self.plan)?;
        let cluster = self.stack.on(Cluster::parse(&self.cluster)?, &plan.job)?;
        let predicted = predict(&plan, &cluster)?;
        if let Some(path) = &self.trace {
            write_whole(path, &predicted.trace.to_chrome_json(&predicted.lowered.program))?;
        }
        if let Some(path) = &self.program {
            write_whole(path, &meshwright_hardware::text::print(&predicted.lowered.program))?;
        }
        let figures = &predicted.figures;
        let missing = missing_memory(figures, &cluster);
        if self.json {
            println!("{}", figures_json(&plan, figures, &cluster));
        } else {
            if let Some(missing) = &missing {
                println!("does not fit: {missing}\n");
            }
            println!("{}\n{}", plan.summary(), stack_line(&cluster));
            print_figures(figures);
            print_beyond(&plan, figures, &cluster);
            print!("{}", assumed_text(&cluster));
            if let Some(outer) = outer(&plan, &cluster, predicted.trace.step_time().seconds())? {
                print_sites(&plan, &outer);
            }
            if missing.is_none() {
                self.print_next(&plan);
            }
        }
        does_not_fit(missing)
    }

    fn print_next(&self, plan: &Plan) {
        // A calibrated machine's file may be this machine's; a catalog's name is of devices that are hardly here.
        if self.cluster.ends_with(".toml") && plan.site_count() == 1 {
            println!("\nnext: meshwright run {} to train it on this machine", self.plan);
        } else {
            println!("\nnext: meshwright explain {} --cluster \"{}\"{}", self.plan, self.cluster, self.stack.again());
        }
    }
}
