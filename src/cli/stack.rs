//! `--stack`, and `stacks`: the software that runs a plan, named in every answer.
//!
//! In: a name on the command line, in a job or a plan; else the cluster's devices. Out: the cluster under that stack.
//!
//! Invariant: whatever is predicted says with which stack, and on how many measured runs it stands on this accelerator.

use std::sync::Arc;

use clap::{Args, Subcommand};
use meshwright_engines::engine::of_stack;
use meshwright_hardware::profile::{Cluster, SharedBy, Stack, StackFigure, catalog};
use meshwright_planner::ability::Ability;
use meshwright_planner::job::Job;
use serde_json::json;

use super::fit_own::FitOwn;
use crate::answer;
use crate::failure::Failure;

/// Which software runs the plan.
#[derive(Args)]
pub struct StackArgument {
    /// Software that runs the plan (`meshwright stacks`), or a .toml of one's own; `ideal` is none: the hardware alone
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
}

impl StackArgument {
    /// As if given on the command line.
    pub fn named(stack: Option<String>) -> Self {
        StackArgument { stack }
    }

    /// The cluster under the stack that is named here, else in the job, else usual on its devices, with its layers launched as the
    /// job says. A measured machine has the stack that was measured.
    pub fn on(&self, cluster: Cluster, job: &Job) -> Result<Cluster, Failure> {
        let usual = cluster.usual_stack();
        let measured = cluster.pools.iter().any(|pool| !pool.device.curves.is_empty());
        if let (true, Some(name)) = (measured, self.stack.as_deref().filter(|name| *name != usual.name)) {
            return Err(Failure::input(format!(
                "--stack is {name}: the cluster was measured under {}, and its curves hold under no other; leave it out",
                usual.name
            )));
        }
        let named = self.stack.as_deref().or(job.stack.as_deref()).filter(|_| !measured);
        let stack = named.map_or_else(|| Ok(able(usual, &cluster, job)), Stack::named)?;
        Ok(cluster.under(Arc::new(job.runs_under(&stack))))
    }

    /// The same once more, for a command that is shown.
    pub fn again(&self) -> String {
        self.stack.as_ref().map_or_else(String::new, |name| format!(" --stack {name}"))
    }
}

/// The usual stack, or, where its engine has nothing like what the job asks for, the one with most runs on the device whose engine has.
fn able(usual: Arc<Stack>, cluster: &Cluster, job: &Job) -> Arc<Stack> {
    let lacks = |stack: &Stack| {
        let lost = of_stack(&stack.name)?.about().ability.lacks(job);
        lost.into_iter().find(|lost| lost.instead.is_none()).map(|lost| lost.what)
    };
    let Some(what) = lacks(&usual) else { return usual };
    let device = cluster.pools[0].device.name.as_str();
    let engines = catalog().stacks.iter().filter(|stack| of_stack(&stack.name).is_some() && !stack.functional_tests);
    let able = engines.filter(|stack| stack.runs_on(device) > 0 && lacks(stack).is_none());
    let Some(able) = able.max_by_key(|stack| stack.runs_on(device)) else { return usual };
    answer::note(&format!(
        "{} is usual here and has no {what}: {} instead; --stack says otherwise",
        usual.name, able.name
    ));
    Arc::clone(able)
}

/// What the engine that a cluster's stack is can express there; none where it is none, or spans no such cluster.
pub fn ability_on(cluster: &Cluster) -> Option<&'static Ability> {
    let engine = of_stack(cluster.stack.shipped()).filter(|_| is_spanned(cluster))?;
    Some(&engine.about().ability)
}

/// Whether engines span a cluster: of one pool, at one site.
pub fn is_spanned(cluster: &Cluster) -> bool {
    cluster.pools.len() == 1 && cluster.wan.is_none()
}

/// The stack of a prediction in a line, for people.
pub fn stack_line(cluster: &Cluster) -> String {
    let (stack, device) = (&cluster.stack, &cluster.pools[0].device);
    let others = || {
        let runs = stack.measured.keys().map(|device| format!("{} on {device}", stack.runs_on(device)));
        let runs = runs.collect::<Vec<_>>().join(", ");
        if runs.is_empty() { String::new() } else { format!(", {runs}") }
    };
    let stands = match stack.runs_on(&device.name) {
        _ if !device.curves.is_empty() => "as measured on this machine".to_owned(),
        _ if stack.is_ideal() => "a bound, nothing of its own is priced".to_owned(),
        _ if stack.name == Stack::EXECUTOR => "nothing of its own is priced".to_owned(),
        0 => format!("measured on no run on {}{}", device.name, others()),
        runs => format!("{runs} measured runs on {}", device.name),
    };
    if stack.title == stack.name {
        return format!("stack {}: {stands}", stack.name);
    }
    format!("stack {}, {}: {stands}", stack.name, stack.title)
}

/// The same for scripts.
pub fn stack_json(cluster: &Cluster) -> serde_json::Value {
    let (stack, device) = (&cluster.stack, &cluster.pools[0].device);
    json!({ "name": stack.name, "hash": stack.hash(), "measured_runs": stack.runs_on(&device.name) })
}

/// Arguments of `stacks`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Stacks {
    #[command(subcommand)]
    fit: Option<StacksCommand>,
    /// One stack, or a .toml of one's own, with its figures
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What else is done with stacks.
#[derive(Subcommand)]
enum StacksCommand {
    /// Make a stack of one's own of runs of one's own cluster (`validate --columns`)
    Fit(FitOwn),
}

impl Stacks {
    /// Prints.
    pub fn run(self) -> Result<(), Failure> {
        if let Some(StacksCommand::Fit(fit)) = &self.fit {
            return fit.run();
        }
        match &self.name {
            Some(name) => one(&*Stack::named(name)?, self.json),
            None if self.json => {
                answer::print("stacks", json!(catalog().stacks.iter().map(|s| &**s).collect::<Vec<_>>()))
            }
            None => all(),
        }
        Ok(())
    }
}

fn all() {
    println!("{:26} {:>5}  {:>14}  {:>14}  usual on", "stack", "runs", "error, %", "held out, %");
    for stack in &catalog().stacks {
        let [fitted, held] = match stack.errors {
            Some(errors) => [errors.fitted, errors.held_out].map(|[median, p90]| format!("{median:.1} / {p90:.1}")),
            None => ["", ""].map(str::to_owned),
        };
        let runs = stack.runs();
        let usual = stack.default_for.join(", ");
        println!("{:26} {runs:>5}  {fitted:>14}  {held:>14}  {usual}", stack.name);
    }
    println!(
        "\nerrors of the step, |predicted / measured - 1|: median / 90th percentile; held out: by fits without those rows"
    );
    let [everyone, families, stacks, devices] = catalog().fitted_figures();
    println!(
        "{} figures are fitted: {everyone} of all stacks, {families} of families, {stacks} of stacks alone, {devices} of devices",
        everyone + families + stacks + devices
    );
    println!("meshwright stacks NAME shows a stack's figures");
}

fn one(stack: &Stack, as_json: bool) {
    if as_json {
        return answer::print("stack", json!(stack));
    }
    println!("{}: {}", stack.name, stack.title);
    println!("   from {}", stack.source);
    if let Some(engine) = of_stack(stack.shipped()) {
        println!("   plans keep to what {} can express (`meshwright export --list`)", engine.about().title);
    }
    for (device, formats) in &stack.measured {
        for (precision, runs) in formats {
            println!("   {runs:>5} measured runs on {device} in {precision}");
        }
    }
    for (StackFigure { name, about, value, .. }, whose) in stack.figures(catalog()) {
        let whose = match whose {
            SharedBy::Own => "own",
            SharedBy::Family => stack.family.as_str(),
            SharedBy::Everyone => "all",
        };
        println!("   {name:14} {value:>10} {whose:14} {about}");
    }
}
