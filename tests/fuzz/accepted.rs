//! What accepted inputs give: figures that mean something, or a refusal.
//!
//! In: a text that its reader takes. Out: nothing, or what is wrong with what follows from it.

use std::sync::Arc;

use meshwright::validate::predict as predict_run;
use meshwright::validate::table::read_table;
use meshwright_engines::engine::ENGINES;
use meshwright_engines::export::export;
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::LAUNCHERS;
use meshwright_hardware::profile::{Cluster, DeviceProfile, Machine, Stack, System};
use meshwright_planner::PlanError;
use meshwright_planner::job::{Fix, Job, Model};
use meshwright_planner::models;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Figures, predict_figures};
use meshwright_planner::search::search;

use crate::readers::{imported, no_fault_of_ours};

/// Ranks, and passes of microbatches through layers, of plans that are predicted: what a moment is enough for.
const SMALL: [usize; 2] = [64, 256];

fn sensible(figures: &Figures) -> Result<(), String> {
    let good = |value: f64| value.is_finite() && value > 0.0;
    let rates = [figures.step_time_s, figures.tokens_per_s, figures.tokens_per_s_per_device, figures.mfu];
    // By PaLM's convention attention counts without its mask: long sequences seem to take twice the peak.
    let shares = figures.mfu < 2.5 && (0.0..=1.0).contains(&figures.idle_fraction);
    if rates.into_iter().all(good) && shares && figures.peak_memory_bytes > 0 {
        return Ok(());
    }
    Err(format!("accepted, with figures that mean nothing: {figures:?}"))
}

fn figures(predicted: Result<Figures, PlanError>) -> Result<(), String> {
    match predicted {
        Ok(figures) => sensible(&figures),
        Err(error) => no_fault_of_ours(&error.to_string()),
    }
}

fn is_small(plan: &Plan) -> bool {
    let passes = plan.microbatches() * plan.job.model.depth();
    plan.mesh.ranks() <= SMALL[0] && passes <= SMALL[1] && plan.job.tokens_per_step() <= 1 << 24
}

/// A plan's figures on as many H100s as it is for, and its folder for each engine.
fn of_plan(plan: &Plan) -> Result<(), String> {
    for engine in ENGINES {
        // What an engine cannot express it says.
        let _ = export(&Launch::new(plan.clone(), None), *engine, LAUNCHERS[0], true);
    }
    let again =
        Plan::from_toml("plan.toml", &plan.to_toml()).map_err(|error| format!("written, it is refused: {error}"))?;
    // What is not a number equals nothing.
    if again != *plan {
        return Err("written and read it is another".to_owned());
    }
    if !is_small(plan) {
        return Ok(());
    }
    let ranks = plan.mesh.ranks();
    let cluster = match plan.site_count() {
        1 => format!("{ranks}x h100"),
        sites => format!("{sites}x({ranks}x h100) @ 10 Gbit/s 50 ms"),
    };
    Cluster::parse(&cluster).map_or(Ok(()), |cluster| figures(predict_figures(plan, &cluster)))
}

pub fn plan(text: &str) -> Result<(), String> {
    of_plan(&Plan::from_toml("plan.toml", text).map_err(|error| error.to_string())?)
}

fn of_job(job: Job) -> Result<(), String> {
    let small = job.model.depth() <= 8 && job.model.parameters(job.positions()) < 1_000_000_000;
    if small && job.global_batch <= 64 {
        let cluster = Cluster::parse("2x h100").map_err(|error| error.to_string())?;
        return match search(&job, &cluster, &Fix { microbatch: Some(1), ..job.fix.clone() }, 1) {
            Ok(found) => found.best.iter().try_for_each(|(_, figures)| sensible(figures)),
            Err(error) => no_fault_of_ours(&error.to_string()),
        };
    }
    // One sequence through one rank.
    let plan = Plan::single(Job { global_batch: 1, ..job }, 1);
    if plan.check().is_err() { Ok(()) } else { of_plan(&plan) }
}

pub fn job(text: &str) -> Result<(), String> {
    of_job(Job::from_toml("job.toml", text).map_err(|error| error.to_string())?)
}

fn of_model(model: Model) -> Result<(), String> {
    of_job(Job::of(model, 256, 8))
}

pub fn model(text: &str) -> Result<(), String> {
    of_model(models::parse("model.toml", text).map_err(|error| error.to_string())?)
}

pub fn configuration(text: &str) -> Result<(), String> {
    let counted = models::count_configuration("config.json", text, None).map_err(|error| error.to_string())?;
    match counted.model {
        Ok(model) => of_model(model),
        // It is only counted.
        Err(_) if counted.parameters >= 1.0 => Ok(()),
        Err(_) => Err(format!("internal error: {} parameters", counted.parameters)),
    }
}

/// A small plan's figures on all of a machine's devices.
fn of_machine(machine: Machine, stack: Arc<Stack>) -> Result<(), String> {
    let devices = machine.devices();
    if devices > SMALL[0] {
        return Ok(());
    }
    let mut plan =
        Plan::from_toml("plan.toml", include_str!("../cases/tiny.toml")).map_err(|error| error.to_string())?;
    plan.mesh.dp = devices;
    plan.job.global_batch = 2 * plan.microbatch * devices;
    figures(predict_figures(&plan, &Cluster::from(machine).under(stack)))
}

pub fn machine(text: &str) -> Result<(), String> {
    let machine = Machine::from_toml("machine.toml", text).map_err(|error| error.to_string())?;
    let again = Machine::from_toml("machine.toml", &machine.to_toml())
        .map_err(|error| format!("written, it is refused: {error}"))?;
    if again != machine {
        return Err("written and read it is another".to_owned());
    }
    of_machine(machine, Stack::ideal())
}

fn known() -> Machine {
    Cluster::parse("2x h100").expect("it is in the catalog").pools.remove(0)
}

pub fn device(text: &str) -> Result<(), String> {
    let device = DeviceProfile::from_toml("device.toml", text).map_err(|error| error.to_string())?;
    of_machine(Machine { device, ..known() }, Stack::ideal())
}

pub fn system(text: &str) -> Result<(), String> {
    let system = System::from_toml("system.toml", text).map_err(|error| error.to_string())?;
    of_machine(Machine { system, ..known() }, Stack::ideal())
}

pub fn stack(text: &str) -> Result<(), String> {
    let stack = Stack::from_toml("stack.toml", text).map_err(|error| error.to_string())?;
    of_machine(known(), Arc::new(stack))
}

pub fn table(text: &str) -> Result<(), String> {
    let (lines, _) = read_table("runs.csv", text).map_err(|failure| failure.message)?;
    for run in lines.iter().filter_map(|line| line.run.as_ref().ok()).filter(|run| run.plans.iter().all(is_small)) {
        match predict_run(run) {
            Ok(prediction) => sensible(&prediction.figures)?,
            Err(skip) => no_fault_of_ours(&skip.to_string())?,
        }
    }
    Ok(())
}

pub fn launch(text: &str) -> Result<(), String> {
    imported(text)?.plan.map_or(Ok(()), |plan| of_plan(&plan))
}
