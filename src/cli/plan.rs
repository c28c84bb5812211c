//! `plan` and `simulate`: search and prediction, as text or JSON.

use clap::Args;
use meshwright_engines::engine::Engine;
use meshwright_engines::import::Imported;
use meshwright_engines::setting::shell_word;
use meshwright_executor::device::Backend;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Precision;
use meshwright_planner::PlanError;
use meshwright_planner::error::Fault;
use meshwright_planner::explain::explain;
use meshwright_planner::goal::{Case, Chosen, advise, advise_limits, choose, missed};
use meshwright_planner::job::Job;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{outer, predict};
use meshwright_planner::search::Progress;
use serde_json::json;

use super::columns::folded;
use super::export::{ExportTarget, Exported, engine_line};
use super::fix::{FixArguments, check_fix};
use super::goal::{GoalArguments, Names, Solver, advice_text, chosen_json, print_front, print_gap, print_partition};
use super::keys::print_keys;
use super::launch_file::{KnownArguments, engine_of, is_launch, job_of, launch_on, plan_of, print_words};
use super::plan_page::PlanPage;
use super::progress::ProgressLine;
use super::show::{
    assumed_text, does_not_fit, figures_json, missing_memory, print_figures, print_sites, print_training_line,
};
use super::stack::{StackArgument, is_spanned, stack_line};
use super::train::trains_here;
use super::usual_job::{ModelArguments, read_job};
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;

/// Arguments of `plan`.
#[derive(Args)]
pub struct PlanCommand {
    /// A model's name (`meshwright models`), a model file, a job file with a [model] table, or another engine's launch file
    #[arg(required_unless_present = "keys")]
    job: Option<String>,
    /// `512x dgx-a100-80gb`, `8x h100`, or a calibrated machine's .toml
    #[arg(long, required_unless_present = "keys")]
    cluster: Option<String>,
    /// List the keys of a job file
    #[arg(long, exclusive = true)]
    keys: bool,
    #[command(flatten)]
    model: ModelArguments,
    #[arg(long, help = format!("Format of matmuls: {}", Precision::names()))]
    precision: Option<Precision>,
    /// Steps to train
    #[arg(long)]
    steps: Option<usize>,
    #[command(flatten)]
    fix: FixArguments,
    #[command(flatten)]
    stack: StackArgument,
    #[command(flatten)]
    known: KnownArguments,
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
    /// Where to write a page of the best plan: the front, a step's timeline, time and memory by stage, what else there is
    #[arg(long, value_name = "FILE")]
    html: Option<std::path::PathBuf>,
    /// Also plans that the stack's engine, or that of --to, cannot express
    #[arg(long)]
    any_engine: bool,
    /// Print JSON
    #[arg(long)]
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
        if self.top == 0 {
            return Err(Failure::input("--top is 0: how many plans to show is 1 or more"));
        }
        let mut cluster = Cluster::parse(text)?;
        let imported = launch_on(job, &self.known, &cluster)?;
        let (mut job, known) = self.job(job, imported.as_ref())?;
        cluster = self.stack.on(cluster, &job)?;
        job.stack = Some(cluster.stack.name.clone());
        self.goal.amend(&mut cluster)?;
        self.goal.check_prices(&job.goal, &cluster)?;
        let fix = self.fix.over(&job.fix);
        check_fix(&job, &cluster, &fix)?;
        let theirs = imported.as_ref().and_then(|imported| engine_of(&imported.draft)).filter(|_| !self.any_engine);
        let engine = theirs.or(self.engine(&cluster)?);
        let ability = engine.map(|engine| &engine.about().ability);
        let case = Case { job: job.clone(), cluster: cluster.clone(), fix, engine: ability };
        let (case, mut chosen) = self.choose(case)?;
        let decided = self.solver.decide(&case, &mut chosen)?;
        let first = &chosen.best[0];
        if let Some(path) = &self.output {
            write_whole(path, &first.plan.to_toml())?;
        }
        let names = Names { whole: &cluster, text };
        if let Some(path) = &self.html {
            let explained = explain(&first.plan, &first.cluster, false)?;
            let page = PlanPage { plan: &first.plan, cluster: &first.cluster, explained: &explained };
            write_whole(path, &page.html(&chosen.front, |cluster| names.of(cluster))?)?;
        }
        let on = Some((&first.cluster, Some(first.figures.clone())));
        let exported = self.export.as_ref().map(|folder| self.target.write(&first.plan, on, folder)).transpose()?;
        if self.json {
            let mut all = chosen_json(&chosen, &case.job.goal, &names, decided.as_ref());
            all["engine"] = json!(engine.map(|engine| engine.about().name));
            if let Some(exported) = &exported {
                all["exported"] = exported.json();
            }
            answer::print("plan", all);
        } else {
            self.print((&case.job, engine), known, &chosen, &names);
            if self.solver == Solver::Milp {
                print_partition(decided.as_ref(), &chosen.best[0].plan);
            }
            let cluster = names.of(&first.cluster);
            match &self.output {
                Some(path) => {
                    let stack = self.stack.again();
                    let path = shell_word(&path.display().to_string());
                    println!("\nnext: meshwright simulate {path} --cluster \"{cluster}\"{stack}")
                }
                None if self.export.is_some() => println!(),
                None => println!("\nnext: add -o plan.toml to keep the best one"),
            }
        }
        if let Some(imported) = imported.as_ref().filter(|_| !self.json) {
            print_words(imported, &first.plan, &first.cluster);
        }
        exported.iter().filter(|_| !self.json).for_each(Exported::print);
        Ok(())
    }

    /// Searches, first for plans that leave a margin of memory. Where nothing fits, or nothing keeps the limits, the failure says what
    /// would do.
    fn choose(&self, case: Case) -> Result<(Case, Chosen), Failure> {
        let line = ProgressLine::new();
        let watch = |cluster: &Cluster, progress: &Progress| line.show(cluster, progress);
        if let Some(roomy) = case.with_margin().filter(|_| !self.goal.says_headroom()) {
            match choose(&roomy, self.top, &watch) {
                Ok(chosen) if !chosen.best.is_empty() => return Ok((roomy, chosen)),
                Ok(_) | Err(PlanError::Infeasible { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Case { job, cluster, .. } = &case;
        let help = "looking for what would do …";
        let (message, rejected, advice) = match choose(&case, self.top, &watch) {
            Ok(chosen) if !chosen.best.is_empty() => return Ok((case, chosen)),
            Ok(chosen) => {
                line.say(help);
                let advice = advise_limits(&case, &chosen);
                (missed(job, &chosen), chosen.rejected, advice)
            }
            Err(PlanError::Infeasible { considered, rejected }) => {
                line.say(help);
                let advice = advise(&case);
                let error = PlanError::Infeasible { considered, rejected: rejected.clone() };
                (error.to_string(), rejected, advice)
            }
            Err(error) => return Err(error.into()),
        };
        drop(line);
        if self.json {
            answer::print("plan", json!({ "error": message, "rejected": rejected, "advice": advice }));
        }
        let stack = stack_line(cluster);
        Err(Failure::new(Exit::Infeasible, format!("{message}\n{stack}{}", advice_text(&advice, job))))
    }

    /// The engine that plans are for: none with several pools or sites, which none spans.
    fn engine(&self, cluster: &Cluster) -> Result<Option<&'static dyn Engine>, Failure> {
        let engine = self.target.known_engine(Some(cluster.stack.shipped()))?;
        Ok(engine.filter(|_| is_spanned(cluster) && !self.any_engine))
    }

    fn print(&self, (job, engine): (&Job, Option<&'static dyn Engine>), known: bool, chosen: &Chosen, names: &Names) {
        let parameters = job.model.parameters(job.positions()) as f64 / 1e9;
        let idle = names.idle(&chosen.best[0]);
        let trained = if job.tuning.is_some() {
            format!(", frozen, and {:.3} M trained", job.trained_parameters() as f64 / 1e6)
        } else {
            String::new()
        };
        let head = format!(
            "{} ({parameters:.3} B parameters{trained}), {} sequences of {} tokens a step, {}, on {} ({} devices){idle}",
            job.model.name,
            job.global_batch,
            job.seq,
            job.precision,
            names.text,
            names.devices()
        );
        println!("{}", folded(&head, 3));
        println!("{}", stack_line(names.whole));
        if let Some(line) = engine_line(engine, job) {
            println!("{line}");
        }
        if let Some(share) = Some(job.goal.headroom).filter(|share| *share > 0.0 && !self.goal.says_headroom()) {
            let free = 100.0 * share;
            let why = "one run in ten needs more than predicted";
            println!("{}", folded(&format!("{free:.1} % of memory stays free (--headroom 0 leaves none): {why}"), 3));
        }
        let in_part = chosen.best.iter().any(|offer| offer.ranks() < names.devices());
        for (place, offer) in chosen.best.iter().enumerate() {
            println!("\n{}", folded(&format!("{}. {}", place + 1, offer.plan.summary()), 3));
            if in_part {
                let devices = format!("{} devices", offer.ranks());
                println!("   on      {devices:>12}   {}", names.of(&offer.cluster));
            }
            print_figures(&offer.plan, &offer.figures, &offer.cluster);
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

    /// The job, and whether it is known how long to train.
    fn job(&self, name: &str, imported: Option<&Imported>) -> Result<(Job, bool), Failure> {
        let (mut job, known) = match imported {
            Some(imported) => {
                let mut job = job_of(imported, name)?;
                job.seq = self.model.seq.unwrap_or(job.seq);
                job.global_batch = self.model.global_batch.unwrap_or(job.global_batch);
                (job, !imported.draft.lacks("steps"))
            }
            None => read_job(name, &self.model)?,
        };
        job.precision = self.precision.unwrap_or(job.precision);
        job.goal = self.goal.over(&job.goal);
        settle(&mut job, self.steps)?;
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

/// Checks a job with its goal, and takes its length in steps: these, or those of its goal's tokens.
pub(super) fn settle(job: &mut Job, steps: Option<usize>) -> Result<(), Failure> {
    let fault = |f: Fault| Failure::input(f.to_string());
    job.goal.check().map_err(fault)?;
    match steps {
        Some(steps) => job.steps = steps,
        None => job.settle(),
    }
    // Steps say it from here on.
    job.goal.tokens = None;
    job.check().map_err(fault)
}

/// Arguments of `simulate`.
#[derive(Args)]
pub struct Simulate {
    /// A plan file, or another engine's launch file
    plan: String,
    #[command(flatten)]
    known: KnownArguments,
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
        let cluster = Cluster::parse(&self.cluster)?;
        let (plan, imported) = plan_of(&self.plan, &self.known, &cluster)?;
        let cluster = self.stack.on(cluster, &plan.job)?;
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
            answer::print("simulate", figures_json(&plan, figures, &cluster));
        } else {
            if let Some(missing) = &missing {
                println!("does not fit: {missing}\n");
            }
            println!("{}\n{}", folded(&plan.summary(), 3), stack_line(&cluster));
            print_figures(&plan, figures, &cluster);
            print!("{}", assumed_text(&cluster));
            imported.iter().flat_map(|imported| &imported.draft.notes).for_each(|note| println!("note: {note}"));
            if let Some(outer) = outer(&plan, &cluster, predicted.trace.step_time().seconds())? {
                print_sites(&plan, &outer);
            }
            if missing.is_none() {
                self.print_next(&plan, &cluster);
            }
        }
        does_not_fit(missing)
    }

    /// Trained is what is for this machine; elsewhere there is more to know.
    fn print_next(&self, plan: &Plan, cluster: &Cluster) {
        let (file, on) = (shell_word(&self.plan), &self.cluster);
        match trains_here(plan, cluster).filter(|_| !is_launch(&self.plan)) {
            Some(device) => {
                let device = if device == Backend::CPU { String::new() } else { format!(" --device {device}") };
                println!(
                    "\nnext: meshwright run {file} --cluster {}{device} to train it on this machine",
                    shell_word(on)
                );
            }
            None => println!("\nnext: meshwright explain {file} --cluster \"{on}\"{}", self.stack.again()),
        }
    }
}
