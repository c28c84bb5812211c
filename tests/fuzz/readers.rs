//! Every reader of what a user gives.
//!
//! In: a text. Out: that it is read, or the refusal, whose words are held to what users need.

use std::str::FromStr;
use std::sync::LazyLock;

use meshwright::failure::Failure;
use meshwright::prices::PriceBook;
use meshwright::scenario::read_scenarios;
use meshwright::validate::table::read_table;
use meshwright_engines::engine::TextFile;
use meshwright_engines::import::{Imported, Knowledge, import};
use meshwright_engines::log::{self, StepSize};
use meshwright_executor::device::Backend;
use meshwright_hardware::profile::{Cluster, DeviceProfile, Machine, Stack, System};
use meshwright_hardware::units::{
    ByteRate, Bytes, Dollars, FlopRate, Flops, Parameters, Precision, Seconds, Tokens, Watts,
};
use meshwright_planner::job::{Job, Objective};
use meshwright_planner::models;
use meshwright_planner::plan::Plan;
use meshwright_planner::schedule::Schedule;

use crate::mutate::Form;
use crate::{accepted, seeds};

/// What an input leads to: nothing, or what is said of it.
pub type Answer = fn(&str) -> Result<(), String>;

/// What reads one kind of input.
pub struct Reader {
    pub name: &'static str,
    pub form: Form,
    pub seeds: Vec<String>,
    /// Of how many cases among all.
    pub weight: usize,
    /// Reads; the error is what a user is told.
    pub read: Answer,
    /// What else follows from what was read.
    pub predict: Option<Answer>,
    /// What a refusal names: the file.
    pub names: &'static str,
}

impl Reader {
    /// Whether a refusal helps: it names the file, is short, and is not our fault.
    pub fn refusal(&self, message: &str) -> Result<(), String> {
        no_fault_of_ours(message)?;
        if !message.contains(self.names) {
            return Err(format!("a refusal that does not name {}: {message}", self.names));
        }
        let shown = Failure::input(message).report(false);
        if shown.chars().any(|c| c.is_control() && c != '\n') {
            return Err(format!("a refusal with control characters: {shown}"));
        }
        Ok(())
    }
}

/// Whether a message is about the user's input.
pub fn no_fault_of_ours(message: &str) -> Result<(), String> {
    let lower = message.to_lowercase();
    let ours = ["internal error", "report it", "unsound"].iter().any(|words| lower.contains(words));
    if ours || message.trim().is_empty() { Err(format!("our fault: {message}")) } else { Ok(()) }
}

/// All of them.
pub fn readers() -> Vec<Reader> {
    let file = |name, names, seeds, weight, read, predict| Reader {
        name,
        form: Form::Toml,
        seeds,
        weight,
        read,
        predict: Some(predict),
        names,
    };
    let text =
        |name, seeds, weight, read| Reader { name, form: Form::Text, seeds, weight, read, predict: None, names: "" };
    vec![
        file("job", "job.toml:", seeds::jobs(), 3, job, accepted::job as Answer),
        file("model", "model.toml:", seeds::files(&["planner/models"]), 3, model, accepted::model),
        file("plan", "plan.toml:", seeds::plans(), 5, plan, accepted::plan),
        file("machine", "machine.toml:", seeds::machines(), 2, machine, accepted::machine),
        file("device", "device.toml:", seeds::files(&["hardware/profiles/devices"]), 2, device, accepted::device),
        file("system", "system.toml:", seeds::files(&["hardware/profiles/systems"]), 2, system, accepted::system),
        file("stack", "stack.toml:", seeds::files(&["hardware/profiles/stacks"]), 2, stack, accepted::stack),
        Reader {
            form: Form::Json,
            ..file("configuration", "config.json:", seeds::configurations(), 3, configuration, accepted::configuration)
        },
        Reader { form: Form::Text, ..file("table of runs", "runs.csv", seeds::tables(), 1, table, accepted::table) },
        Reader { form: Form::Text, ..file("launch files", "", seeds::launches(), 4, launch, accepted::launch) },
        Reader { predict: None, ..file("scenarios", "scenarios.toml", seeds::scenarios(), 1, scenarios, never) },
        Reader { predict: None, ..file("prices", "prices.toml", seeds::prices(), 1, prices, never) },
        text("cluster", seeds::clusters(), 2, cluster),
        text("log", seeds::logs(), 1, log),
        text("arguments", seeds::arguments(), 1, arguments),
        text("quantity", seeds::quantities(), 2, quantity),
    ]
}

fn never(_: &str) -> Result<(), String> {
    Ok(())
}

fn job(text: &str) -> Result<(), String> {
    Job::from_toml("job.toml", text).map(drop).map_err(|error| error.to_string())
}

fn model(text: &str) -> Result<(), String> {
    models::parse("model.toml", text).map(drop).map_err(|error| error.to_string())
}

fn plan(text: &str) -> Result<(), String> {
    Plan::from_toml("plan.toml", text).map(drop).map_err(|error| error.to_string())
}

fn configuration(text: &str) -> Result<(), String> {
    models::count_configuration("config.json", text, None).map(drop).map_err(|error| error.to_string())
}

fn machine(text: &str) -> Result<(), String> {
    Machine::from_toml("machine.toml", text).map(drop).map_err(|error| error.to_string())
}

fn device(text: &str) -> Result<(), String> {
    DeviceProfile::from_toml("device.toml", text).map(drop).map_err(|error| error.to_string())
}

fn system(text: &str) -> Result<(), String> {
    System::from_toml("system.toml", text).map(drop).map_err(|error| error.to_string())
}

fn stack(text: &str) -> Result<(), String> {
    Stack::from_toml("stack.toml", text).map(drop).map_err(|error| error.to_string())
}

fn table(text: &str) -> Result<(), String> {
    read_table("runs.csv", text).map(drop).map_err(|failure| failure.message)
}

fn scenarios(text: &str) -> Result<(), String> {
    read_scenarios("scenarios.toml", text).map(drop).map_err(|failure| failure.message)
}

fn prices(text: &str) -> Result<(), String> {
    static SHIPPED: LazyLock<PriceBook> = LazyLock::new(|| PriceBook::shipped().expect("tests read it"));
    SHIPPED.clone().over("prices.toml", text).map(drop).map_err(|failure| failure.message)
}

/// What launch files say; the first of the folder is what is started.
pub fn imported(text: &str) -> Result<Imported, String> {
    let part = |part: &str| part.split_once('\n').map(|(name, text)| TextFile::new(name, text));
    let files: Vec<TextFile> = text.split(seeds::FILE).filter_map(part).collect();
    let known = Knowledge { gpus: Some(8), ..Knowledge::default() };
    import(&files[..files.len().min(1)], &known, &|name| {
        let last = name.rsplit('/').next().unwrap_or(name);
        files.iter().find(|file| file.name == name || file.name == last).map(|file| file.text.clone())
    })
}

fn launch(text: &str) -> Result<(), String> {
    imported(text).map(drop)
}

fn cluster(text: &str) -> Result<(), String> {
    let cluster = Cluster::parse(text).map_err(|error| error.to_string())?;
    let again = Cluster::parse(&cluster.to_string())
        .map_err(|error| format!("internal error: shown, it is refused: {error}"))?;
    let all = (1..=Cluster::MOST_DEVICES).contains(&(cluster.devices() * cluster.sites()));
    if all && again == cluster { Ok(()) } else { Err(format!("internal error: {cluster} is not what was read")) }
}

fn log(text: &str) -> Result<(), String> {
    let logged = log::read(text)?;
    let size = StepSize { tokens: 65_536.0, samples: 64.0, devices: 8.0 };
    match logged.steady(size) {
        Some(steady) if !(steady.seconds.is_finite() && steady.seconds > 0.0) => {
            Err(format!("internal error: a step that is none: {steady:?}"))
        }
        _ => Ok(()),
    }
}

fn arguments(text: &str) -> Result<(), String> {
    let words = std::iter::once("meshwright").chain(text.lines());
    meshwright::cli::command().try_get_matches_from(words).map(drop).map_err(|error| error.to_string())
}

fn quantity(text: &str) -> Result<(), String> {
    let real = [
        unit::<Seconds>(text, |value| value.0, |value| value.exact()),
        unit::<ByteRate>(text, |value| value.0, |value| value.exact()),
        unit::<FlopRate>(text, |value| value.0, |value| value.exact()),
        unit::<Flops>(text, |value| value.0, |value| value.exact()),
        unit::<Watts>(text, |value| value.0, |value| value.exact()),
        unit::<Tokens>(text, |value| value.0, |value| value.exact()),
        unit::<Parameters>(text, |value| value.0, |value| value.exact()),
        unit::<Dollars>(text, |value| value.0, |value| value.exact()),
        unit::<Bytes>(text, |value| value.0 as f64, |value| value.exact()),
        Precision::from_str(text).map(drop).map_err(|error| error.to_string()),
        Objective::from_str(text).map(drop).map_err(|error| error.to_string()),
        Schedule::from_str(text).map(drop).map_err(|error| error.to_string()),
        Backend::from_str(text).map(drop).map_err(|error| error.to_string()),
    ];
    let read = real.iter().any(Result::is_ok);
    let worst = real.into_iter().filter_map(Result::err).max_by_key(|message| message.contains("internal error"));
    match worst {
        Some(message) if message.contains("internal error") || !read => Err(message),
        _ => Ok(()),
    }
}

/// A quantity that is read is finite, not below zero, and reads back as it is written.
fn unit<T: FromStr<Err: ToString> + Copy + PartialEq>(
    text: &str,
    number: fn(T) -> f64,
    written: fn(T) -> String,
) -> Result<(), String> {
    let value: T = text.parse().map_err(|error: T::Err| error.to_string())?;
    let again = written(value).parse::<T>();
    if number(value).is_finite() && number(value) >= 0.0 && again.is_ok_and(|again| again == value) {
        return Ok(());
    }
    Err(format!("internal error: `{text}` is read as {}", written(value)))
}
