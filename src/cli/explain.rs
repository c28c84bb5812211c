//! `explain`: where a plan's time and bytes go, what binds, what more is worth, what loses, as tables or JSON.

use clap::Args;
use meshwright_engines::engine::fit;
use meshwright_engines::import::Imported;
use meshwright_engines::launch::Launch;
use meshwright_engines::setting::shell_word;
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_hardware::units::{ByteRate, Bytes, Seconds};
use meshwright_planner::explain::{Alternative, Cause, Decided, Explanation, Limit, ShadowPrice, StageTime, explain};
use meshwright_planner::goal::{Case, choose};
use meshwright_planner::goodput::Training;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{interval, predict_figures};

use super::against::{MeasuredStep, print_measured};
use super::columns::{folded, width};
use super::goal::given;
use super::launch_file::{KnownArguments, changes, engine_of, plan_of};
use super::plan_page::PlanPage;
use super::show::{
    add_range, add_support, assumed_text, does_not_fit, missing_memory, money, print_figures, print_sites,
    print_training,
};
use super::stack::{StackArgument, stack_json, stack_line};
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;

/// Arguments of `explain`.
#[derive(Args)]
pub struct ExplainCommand {
    /// A plan file, or another engine's launch file
    plan: String,
    #[command(flatten)]
    known: KnownArguments,
    /// `512x dgx-a100-80gb`, `8x h100`, `4x(16x dgx-h100) @ 10 Gbit/s 50 ms`, or a calibrated machine's .toml
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    stack: StackArgument,
    /// Do not search again for what a node or memory more would be worth to the best plan
    #[arg(long)]
    no_search: bool,
    /// Mean time between failures of one device, as `50000 h`, instead of its profile's
    #[arg(long)]
    mtbf: Option<Seconds>,
    /// What a device writes of a checkpoint, as `150 MB/s`, instead of its system's
    #[arg(long)]
    storage: Option<ByteRate>,
    /// From a failure to reading the checkpoint, as `10 min`, instead of its system's
    #[arg(long)]
    restart: Option<Seconds>,
    #[command(flatten)]
    measured: MeasuredStep,
    /// Where to write the same as a page, with the step's timeline
    #[arg(long, value_name = "FILE")]
    html: Option<std::path::PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExplainCommand {
    /// Explains and prints.
    pub fn run(self) -> Result<(), Failure> {
        let cluster = Cluster::parse(&self.cluster)?;
        let (plan, imported) = plan_of(&self.plan, &self.known, &cluster)?;
        let mut cluster = self.stack.on(cluster, &plan.job)?;
        self.amend(&mut cluster)?;
        let explained = explain(&plan, &cluster, !self.no_search)?;
        self.check_training(&explained.training)?;
        let missing = missing_memory(&explained.figures, &cluster);
        let measured = self.measured.against(&plan, &explained.figures, &cluster)?;
        if let Some(path) = &self.html {
            let page = PlanPage { plan: &plan, cluster: &cluster, explained: &explained };
            write_whole(path, &page.html(&[], |_| self.cluster.clone())?)?;
        }
        if self.json {
            let mut all = serde_json::to_value(&explained).expect("an explanation is numbers and text");
            add_range(&mut all["training"], &plan, (&explained.figures, &explained.training), &cluster);
            add_support(&mut all, &plan, &explained.figures, &cluster);
            if let Some(measured) = &measured {
                all["measured"] = serde_json::to_value(measured).expect("it is numbers and names");
            }
            all["version"] = env!("CARGO_PKG_VERSION").into();
            all["stack"] = stack_json(&cluster);
            all["plan"] = serde_json::to_value(&plan).expect("a plan is tables of strings and numbers");
            answer::print("explain", all);
        } else {
            if let Some(missing) = &missing {
                println!("does not fit: {missing}\n");
            }
            let (model, stack) = (&plan.job.model.name, stack_line(&cluster));
            println!("{model} on {}, predicted\n{stack}\n\n{}", self.cluster, folded(&plan.summary(), 3));
            print_figures(&plan, &explained.figures, &cluster);
            measured.iter().for_each(print_measured);
            print!("{}", assumed_text(&cluster));
            print_time(&explained);
            print_memory(&explained);
            print_binding(&explained);
            print_prices(&explained.shadow_prices, &cluster);
            print_alternatives(&explained.alternatives);
            let ends = interval(&plan, &explained.figures, &cluster).map(|i| i.of_predicted(&explained.figures));
            print_training(&explained.training, ends);
            if let Some(outer) = &explained.sites {
                print_sites(&plan, outer);
            }
            if let Some(imported) = &imported {
                self.print_changes(imported, &plan, &cluster, explained.figures.step_time_s)?;
            } else if missing.is_none() {
                self.print_next(&explained);
            }
        }
        does_not_fit(missing)
    }

    /// Where restarts take longer than failures leave, no step is ever done.
    fn check_training(&self, training: &Training) -> Result<(), Failure> {
        if (training.days * 86400.0).is_finite() {
            return Ok(());
        }
        let mtbf = Seconds(training.mtbf_s.unwrap_or_default());
        let given = self.mtbf.map_or(String::new(), |mtbf| format!("--mtbf is {mtbf}: "));
        Err(Failure::input(format!(
            "{given}all devices together fail every {mtbf}, and a restart takes {}: training never ends; give a longer --mtbf \
             or a shorter --restart",
            Seconds(training.restart_s)
        )))
    }

    /// What the user knows better than the profiles.
    fn amend(&self, cluster: &mut Cluster) -> Result<(), Failure> {
        let mtbf = given("--mtbf", self.mtbf)?;
        let (storage, restart) = (given("--storage", self.storage)?, given("--restart", self.restart)?);
        let amend = |machine: &mut Machine| {
            let (device, system) = (&mut machine.device, &mut machine.system);
            device.mtbf = mtbf.clone().or(device.mtbf.take());
            system.storage = storage.clone().or(system.storage.take());
            system.restart = restart.clone().or(system.restart.take());
        };
        cluster.pools.iter_mut().for_each(amend);
        Ok(())
    }

    /// What to change in a launch file, in its engine's own words.
    fn print_changes(&self, imported: &Imported, plan: &Plan, cluster: &Cluster, step_s: f64) -> Result<(), Failure> {
        imported.draft.notes.iter().for_each(|note| println!("note: {note}"));
        let Some(engine) = engine_of(&imported.draft).filter(|_| !self.no_search) else { return Ok(()) };
        let mut job = plan.job.clone();
        job.stack = Some(cluster.stack.name.clone());
        let case = Case { engine: Some(&engine.about().ability), ..Case::of(&job, cluster) };
        let best = match choose(&case, 1, &|_, _| {}) {
            Ok(chosen) => chosen.best.into_iter().next(),
            Err(_) => None,
        };
        let title = engine.about().title;
        let Some(best) = best.filter(|best| best.ranks() == plan.mesh.ranks()) else {
            println!("\nnext: nothing that fits all of these devices is known to be faster");
            return Ok(());
        };
        // As the engine can run it.
        let near = fit(engine, &Launch::new(best.plan, Some((cluster, None)))).0;
        let step = near.check().ok().and_then(|()| predict_figures(&near, cluster).ok()).filter(|figures| figures.fits);
        let faster = step.map(|figures| 1.0 - figures.step_time_s / step_s).filter(|share| *share > 0.001);
        let Some(share) = faster else {
            println!("\nnext: no plan that {title} can run was found to be faster");
            return Ok(());
        };
        println!("\nnext: a step {:.1} % shorter by {}; in {title}'s words", 100.0 * share, near.summary());
        changes(engine, plan, &near, cluster).iter().for_each(|line| println!("{line}"));
        Ok(())
    }

    fn print_next(&self, explained: &Explanation) {
        let faster = explained.alternatives.first().filter(|best| best.slower.is_some_and(|slower| slower < -0.001));
        match faster {
            Some(Alternative { change, slower: Some(slower), .. }) => {
                let share = -100.0 * slower;
                println!("\nnext: edit {}: {change} makes a step {share:.1} % shorter", self.plan);
            }
            _ => {
                let (plan, cluster, stack) = (shell_word(&self.plan), &self.cluster, self.stack.again());
                println!("\nnext: meshwright simulate {plan} --cluster \"{cluster}\"{stack} --trace trace.json")
            }
        }
    }
}

/// Stages that stand in a table: all, or the first and last ones with those that bind.
fn shown(explained: &Explanation) -> Vec<usize> {
    const MOST: usize = 5;
    let count = explained.stages.len();
    if count <= MOST {
        return (0..count).collect();
    }
    let binding = &explained.binding;
    let mut stages = vec![0, binding.bottleneck_stage, binding.memory_stage, count - 2, count - 1];
    stages.sort_unstable();
    stages.dedup();
    stages
}

/// The heads of columns; of places, where a stage has several.
fn heading(explained: &Explanation, shown: &[usize], width: usize) -> String {
    let what = if has_places(explained) { "place" } else { "stage" };
    shown.iter().map(|at| format!("{:>width$}", format!("{what} {at}"))).collect()
}

/// Whether some stage has replicas that are unlike, so that it has several columns.
fn has_places(explained: &Explanation) -> bool {
    explained.places.iter().enumerate().any(|(at, place)| at != place.stage)
}

/// A column's stage, and where it is one of several, its replicas and devices.
fn name(explained: &Explanation, at: usize) -> String {
    let place = &explained.places[at];
    match has_places(explained) {
        true => format!("stage {} of {} replicas on {}", place.stage, place.replicas, place.device),
        false => format!("stage {at}"),
    }
}

fn print_time(explained: &Explanation) {
    let stages = shown(explained);
    println!("\nwhere a step's time goes, predicted");
    println!("{:<14}{:>9}{:>8}{}", "", "mean", "share", heading(explained, &stages, 9));
    for cause in Cause::ALL {
        let mean = StageTime::mean(&explained.stages, cause);
        if explained.stages.iter().all(|stage| stage.nanos(cause) == 0) {
            continue;
        }
        let of = |&stage: &usize| format!("{:>9}", Seconds(explained.stages[stage].seconds(cause)).to_string());
        let share = 100.0 * mean / explained.figures.step_time_s;
        let name = if cause.is_exposed() { format!("{} exposed", cause.name()) } else { cause.name().to_owned() };
        let each: String = stages.iter().map(of).collect();
        println!("{name:<14}{:>9}{share:>6.1} %{each}", Seconds(mean).to_string());
    }
    if has_places(explained) {
        stages.iter().for_each(|&at| println!("   place {at}: {}", name(explained, at)));
    }
}

fn print_memory(explained: &Explanation) {
    let stages = shown(explained);
    println!("\nwhere a rank's bytes go, predicted");
    println!("{:<14}{}", "", heading(explained, &stages, 10));
    let row = |name: &str, of: &dyn Fn(usize) -> u64| {
        let each: String = stages.iter().map(|&stage| format!("{:>10}", Bytes(of(stage)).to_string())).collect();
        println!("{name:<14}{each}");
    };
    for (at, (name, _)) in explained.memory[0].uses().iter().enumerate() {
        if explained.memory.iter().any(|memory| memory.uses()[at].1 > 0) {
            row(name, &|stage| explained.memory[stage].uses()[at].1);
        }
    }
    row("declared", &|stage| explained.memory[stage].total());
    row("usable", &|stage| explained.usable_memory_bytes[stage]);
    if explained.memory.iter().any(|memory| memory.host > 0) {
        row("on the host", &|stage| explained.memory[stage].host);
    }
}

fn print_binding(explained: &Explanation) {
    let binding = &explained.binding;
    let limit = match binding.limit {
        Limit::Compute => "compute",
        Limit::Communication => "exposed communication",
        Limit::Bubble => "waiting for other stages",
    };
    println!("\nwhat binds, predicted");
    let busy = Seconds(binding.busy_s);
    println!(
        "   {} sets the pace: busy for {busy} of a step, most of it {limit}",
        name(explained, binding.bottleneck_stage)
    );
    let left = Bytes(binding.headroom_bytes.unsigned_abs());
    let fullest = name(explained, binding.memory_stage);
    match binding.headroom_bytes {
        0.. => println!("   memory: {fullest} has least left, {left}"),
        _ => println!("   memory: {fullest} does not fit: it needs {left} more"),
    }
    if let Some(link) = binding.link {
        let exposed = Seconds(link.exposed_s);
        println!("   link: {exposed} of a step wait for {}, over {}", link.axis, link.tier);
    }
}

fn print_prices(prices: &[ShadowPrice], cluster: &Cluster) {
    println!("\nwhat more is worth, predicted");
    for pool in &cluster.pools {
        if let Some(price) = &pool.system.price {
            println!("{}", folded(&format!("   at {} a device-hour: {}", price.value, price.source), 6));
        }
    }
    println!("{:<30}{:<9}{:>10}{:>9}{:>11}{:>11}", "", "decided", "tokens/s", "$/hour", "$/M tokens", "$ a job");
    for price in prices {
        let decided = match price.decided {
            Decided::Held => "held",
            Decided::Refitted => "refitted",
            Decided::Searched => "searched",
        };
        let cell = |value: Option<f64>| value.map_or("–".to_owned(), money);
        let (hour, token, job) = (price.dollars_per_hour, price.dollars_per_m_tokens, price.job_dollars);
        let more = &price.more;
        // A long name has a line of its own.
        if more.chars().count() >= 30 {
            println!("{more}");
        }
        println!(
            "{:<30}{decided:<9}{:>+10.0}{:>9}{:>11}{:>11}",
            if more.chars().count() >= 30 { "" } else { more },
            price.tokens_per_s,
            cell(hour),
            cell(token),
            cell(job)
        );
        if !price.note.is_empty() {
            println!("{}", folded(&format!("   {}", price.note), 6));
        }
    }
    let all = "   $/hour: what the gain is worth; $/M tokens and $ a job: what it saves, a node's own price paid";
    println!("{}", folded(all, 3));
}

/// How much longer a step takes, in words.
fn slower_or_faster(share: f64) -> String {
    match 100.0 * share {
        percent if percent.abs() < 0.05 => "as fast".to_owned(),
        percent if percent < 0.0 => format!("{:.1} % faster", -percent),
        percent => format!("{percent:.1} % slower"),
    }
}

fn print_alternatives(all: &[Alternative]) {
    println!("\none decision changed, predicted");
    println!("{:<34}{:>9}   {:<14}   why", "", "step", "");
    for alternative in all {
        let Alternative { change, step_time_s, slower, why, .. } = alternative;
        let (step, than) = match step_time_s.zip(*slower) {
            Some((step, slower)) => (Seconds(step).to_string(), slower_or_faster(slower)),
            None => ("–".to_owned(), "does not run".to_owned()),
        };
        let line = format!("{change:<34}{step:>9}   {than:<14}   {why}");
        if line.chars().count() <= width() {
            println!("{line}");
        } else {
            println!("{}", line[..line.len() - why.len()].trim_end());
            println!("{}", folded(&format!("   {why}"), 6));
        }
    }
}
