//! Scenarios: what is trained where, by which software, at whose price.
//!
//! In: a file of `[[scenario]]` tables, with `[defaults]` that all of them share, a `[sweep]` of lists, and figures of `[own]`. Out:
//! [`Asked`]: [`Scenario`]s.
//!
//! Invariant: every combination of a sweep's values stands once, in the same order each time; no key is passed over.

use std::path::Path;

use clap::Args;
use meshwright_hardware::input::InputError;
use meshwright_hardware::profile::Plausible;
use meshwright_hardware::units::{Dollars, Precision, Seconds, Tokens};
use meshwright_planner::job::Objective;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::{Table, Value};

use crate::failure::Failure;

/// One way to train. What it leaves open is the job's to say, and else usual.
#[derive(Args, Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it is called.
    #[arg(skip)]
    pub name: String,
    /// A model's name, a model file or a job file.
    #[arg(skip)]
    pub job: String,
    /// As `512x dgx-h100`.
    #[arg(skip)]
    pub cluster: String,
    /// Instead of a cluster: a device's name, and how many of them.
    #[arg(skip)]
    pub device: Option<String>,
    /// How many of `device`.
    #[arg(skip)]
    pub count: Option<usize>,
    /// Software that runs the plans (`meshwright stacks`)
    #[arg(long, requires = "cluster")]
    pub stack: Option<String>,
    /// Whose price: `list`, the profile's; `own`; or a cloud or `any` and a term, as `aws on-demand` (`meshwright prices list`)
    #[arg(long, requires = "cluster", conflicts_with = "price")]
    pub pricing: Option<String>,
    /// Instead of a pricing: a cloud; where only a term is said, any.
    #[arg(skip)]
    pub cloud: Option<String>,
    /// Instead of a pricing: on-demand, which is usual, 1y, 3y, spot or own.
    #[arg(skip)]
    pub term: Option<String>,
    /// Where a cloud's rent must hold, as `us-east`
    #[arg(long, requires = "cluster")]
    pub region: Option<String>,
    /// Price of a device-hour, as `$2.50`, instead of its system's
    #[arg(long, requires = "cluster")]
    pub price: Option<Dollars>,
    /// time, cost or energy
    #[arg(long, requires = "cluster")]
    pub objective: Option<Objective>,
    /// Tokens a sequence
    #[arg(long, requires = "cluster")]
    pub seq: Option<usize>,
    /// Sequences a step
    #[arg(long, requires = "cluster")]
    pub global_batch: Option<usize>,
    /// Format of matmuls.
    #[arg(long, requires = "cluster", help = format!("Format of matmuls: {}", Precision::names()))]
    pub precision: Option<Precision>,
    /// Tokens to train on, as `300G` or `15T`, instead of --steps
    #[arg(long, requires = "cluster", conflicts_with = "steps")]
    pub tokens: Option<Tokens>,
    /// Steps to train
    #[arg(long, requires = "cluster")]
    pub steps: Option<usize>,
    /// From the first step to the last, failures included, as `30d`
    #[arg(long, requires = "cluster")]
    pub deadline: Option<Seconds>,
    /// For all devices over that time, as `$500k`
    #[arg(long, requires = "cluster")]
    pub budget: Option<Dollars>,
    /// Let prices decide that are secondary or assumed
    #[arg(long, requires = "cluster")]
    pub any_price: bool,
}

/// What a file asks.
#[derive(Default)]
pub struct Asked {
    /// All combinations.
    pub scenarios: Vec<Scenario>,
    /// Figures of owning that stand before those known.
    pub own: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    scenario: Vec<Table>,
    #[serde(default)]
    sweep: Table,
    #[serde(default)]
    own: Table,
}

/// The scenarios of a file: each `[[scenario]]` over `[defaults]`, once for every combination of the sweep's values.
///
/// # Errors
/// Unknown keys and values, by name; a scenario without job or cluster; a swept key that a scenario says itself.
pub fn read_scenarios(file: &str, text: &str) -> Result<Asked, Failure> {
    let of_file = toml::from_str::<ScenarioFile>(text).map_err(|error| InputError::of_toml(file, text, &error))?;
    let ScenarioFile { defaults, mut scenario, sweep, own } = of_file;
    if scenario.is_empty() {
        scenario.push(Table::new());
    }
    let combinations = combinations(file, &sweep)?;
    let mut scenarios = Vec::new();
    for (said, number) in scenario.iter().zip(1..) {
        let at = format!("{file}: scenario {number}");
        if let Some(key) = sweep.keys().find(|key| said.contains_key(*key)) {
            return Err(Failure::input(format!("{at}: `{key}` is swept already: say it in one of the two places")));
        }
        for swept in &combinations {
            let mut table = defaults.clone();
            table.extend(said.clone());
            table.extend(swept.clone());
            let mut scenario: Scenario = Value::Table(table)
                .try_into()
                .map_err(|error: toml::de::Error| Failure::input(format!("{at}: {}", error.message())))?;
            complete(&mut scenario, swept, &at)?;
            scenario.job = beside(file, scenario.job);
            scenario.cluster = beside(file, scenario.cluster);
            scenarios.push(scenario);
        }
    }
    Ok(Asked { scenarios, own })
}

/// Every choice of one value a key; one choice of nothing where nothing is swept.
fn combinations(file: &str, sweep: &Table) -> Result<Vec<Table>, Failure> {
    const MOST: usize = 10_000;
    let sizes = sweep.values().filter_map(Value::as_array).map(Vec::len);
    if sizes.fold(1, usize::saturating_mul) > MOST {
        return Err(Failure::input(format!("{file}: [sweep] makes more than {MOST} scenarios: leave values out")));
    }
    let mut all = vec![Table::new()];
    for (key, values) in sweep {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(Failure::input(format!("{file}: [sweep] `{key}`: must be a list of values")));
        };
        let with = |chosen: Table| {
            values.iter().map(move |value| {
                let mut chosen = chosen.clone();
                chosen.insert(key.clone(), value.clone());
                chosen
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    Ok(all)
}

/// Names a scenario by what it is swept over, and checks that it says enough.
fn complete(scenario: &mut Scenario, swept: &Table, at: &str) -> Result<(), Failure> {
    join(scenario).map_err(|problem| Failure::input(format!("{at}: {problem}")))?;
    for (key, value) in [("job", &scenario.job), ("cluster", &scenario.cluster)] {
        if value.is_empty() {
            return Err(Failure::input(format!("{at}: `{key}` is missing: say it there, in [defaults] or in [sweep]")));
        }
    }
    if let Some(Err(problem)) = scenario.price.map(Plausible::check) {
        return Err(Failure::input(format!("{at}: `price` of a device-hour: {problem}")));
    }
    if scenario.price.is_some() && scenario.pricing.is_some() {
        return Err(Failure::input(format!("{at}: `price` and `pricing` both say what a device costs: leave one out")));
    }
    if scenario.steps.is_some() && scenario.tokens.is_some() {
        return Err(Failure::input(format!("{at}: `steps` and `tokens` both say how long to train: leave one out")));
    }
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let parts: Vec<String> = [scenario.name.clone()].into_iter().chain(swept.values().map(value)).collect();
    scenario.name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    if scenario.name.is_empty() {
        scenario.name.clone_from(&scenario.cluster);
    }
    Ok(())
}

/// Device and count as a cluster, cloud and term as a pricing.
fn join(scenario: &mut Scenario) -> Result<(), &'static str> {
    match (scenario.device.take(), scenario.count.take()) {
        (None, None) => {}
        (Some(_), _) if !scenario.cluster.is_empty() => {
            return Err("`cluster` and `device` both say what it runs on: leave one out");
        }
        (Some(device), Some(count)) => scenario.cluster = format!("{count}x {device}"),
        _ => return Err("`device` and `count` go together, as \"h100\" and 1024"),
    }
    let (cloud, term) = (scenario.cloud.take(), scenario.term.take());
    if cloud.is_none() && term.is_none() {
        return Ok(());
    }
    if scenario.pricing.is_some() || scenario.price.is_some() {
        return Err("`cloud` and `term` say what a device costs, and so does `pricing` or `price`: leave one out");
    }
    let term = term.as_deref().unwrap_or("on-demand");
    scenario.pricing = Some(match &cloud {
        None if term == "own" => term.to_owned(),
        Some(_) if term == "own" => return Err("`term` is own: leave `cloud` out"),
        cloud => format!("{} {term}", cloud.as_deref().unwrap_or("any")),
    });
    Ok(())
}

/// A file that a scenario names lies beside the scenario's own, or where the command runs.
fn beside(file: &str, name: String) -> String {
    let beside = Path::new(file).parent().unwrap_or(Path::new("")).join(&name);
    if name.ends_with(".toml") && beside.is_file() { beside.display().to_string() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_every_combination_over_what_all_share() {
        let text = "[defaults]\njob = \"m\"\nsteps = 9\n[[scenario]]\nname = \"a\"\n[[scenario]]\nname = \"b\"\nsteps = 5\n\
                    [sweep]\ncluster = [\"1x h100\", \"2x h100\"]\nseq = [1024, 2048]\n";
        let all = read_scenarios("s.toml", text).unwrap().scenarios;
        let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        let one = ["1x h100, 1024", "1x h100, 2048", "2x h100, 1024", "2x h100, 2048"];
        let expected: Vec<String> = ["a", "b"].iter().flat_map(|n| one.map(|rest| format!("{n}, {rest}"))).collect();
        assert_eq!(names, expected);
        assert_eq!((all[0].steps, all[4].steps, all[7].seq), (Some(9), Some(5), Some(2048)));
    }

    #[test]
    fn devices_and_terms_are_swept() {
        let text = "[defaults]\njob = \"m\"\ndevice = \"h100\"\n[sweep]\ncount = [8, 16]\nterm = [\"1y\", \"own\"]\n[own]\npue = 1.1\n";
        let Asked { scenarios, own } = read_scenarios("s.toml", text).unwrap();
        let said: Vec<_> = scenarios.iter().map(|s| (s.cluster.as_str(), s.pricing.as_deref().unwrap())).collect();
        assert_eq!(said, [("8x h100", "any 1y"), ("8x h100", "own"), ("16x h100", "any 1y"), ("16x h100", "own")]);
        assert_eq!(own["pue"].as_float(), Some(1.1));
    }

    #[test]
    fn keys_are_refused_by_name() {
        for (text, says) in [
            ("[[scenario]]\njob = \"m\"\ncluster = \"c\"\nregions = \"x\"\n", "regions"),
            ("[defaults]\njob = \"m\"\ncluster = \"c\"\n[sweep]\nbatch = [1]\n", "batch"),
            ("[[scenario]]\njob = \"m\"\n", "`cluster` is missing"),
            ("[[scenario]]\njob = \"m\"\ncluster = \"c\"\n[sweep]\ncluster = [\"d\"]\n", "swept already"),
            ("[defaults]\njob = \"m\"\ncluster = \"c\"\n[sweep]\nseq = 1024\n", "list of values"),
            ("[[scenario]]\njob = \"m\"\ncluster = \"c\"\ndevice = \"d\"\n", "`cluster` and `device`"),
            ("[[scenario]]\njob = \"m\"\ndevice = \"d\"\n", "`count`"),
            ("[[scenario]]\njob = \"m\"\ncluster = \"c\"\nterm = \"1y\"\npricing = \"list\"\n", "`term`"),
        ] {
            let message = read_scenarios("s.toml", text).err().unwrap().message;
            assert!(message.contains(says) && message.contains("s.toml"), "{message}");
        }
    }
}
