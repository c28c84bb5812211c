//! What several commands show of a plan, as text or JSON.
//!
//! In: figures, training, meetings of sites. Out: lines for people, values for scripts.
//!
//! Invariant: figures are those of [`FIGURES`] and [`TRAINING_FIGURES`], in their order.

use meshwright_hardware::exit::Exit;
use meshwright_hardware::price::host_capacity;
use meshwright_hardware::profile::{Cluster, Machine, Sourced, Support, assumed};
use meshwright_hardware::units::{Bytes, Seconds};
use meshwright_planner::goal::Offer;
use meshwright_planner::goodput::{TRAINING_FIGURES, Training, TrainingFigure};
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Beyond, DeviceMemory, FIGURES, Figures, Interval, Outer, Unit, beyond, interval};

use super::columns::folded;
use super::stack::stack_json;
use crate::failure::Failure;

/// Where what figures mean stands in a line.
const WORDS: usize = 26;

/// The figures of a plan with the plan and the stack that runs it, for scripts.
pub fn figures_json(plan: &Plan, figures: &Figures, cluster: &Cluster) -> serde_json::Value {
    let mut all = serde_json::to_value(figures).expect("figures are numbers");
    all["version"] = env!("CARGO_PKG_VERSION").into();
    all["stack"] = stack_json(cluster);
    add_support(&mut all, plan, figures, cluster);
    all["plan"] = serde_json::to_value(plan).expect("a plan is tables of strings and numbers");
    all
}

/// Adds to the figures of a plan, for scripts, how sure they are.
pub fn add_support(all: &mut serde_json::Value, plan: &Plan, figures: &Figures, cluster: &Cluster) {
    if let Some(interval) = interval(plan, figures, cluster) {
        let keys = serde_json::to_value(interval).expect("it is numbers and a name");
        all.as_object_mut().expect("figures are a table").extend(keys.as_object().cloned().unwrap_or_default());
    }
    if let Some(beyond) = beyond(plan, figures, cluster) {
        all["extrapolated"] = serde_json::to_value(beyond).expect("it is a number and a text");
    }
}

/// Adds to what training takes, for scripts, what it takes at the ends of the step's interval.
pub fn add_range(all: &mut serde_json::Value, plan: &Plan, (figures, training): (&Figures, &Training), on: &Cluster) {
    let Some(interval) = interval(plan, figures, on) else { return };
    for (end, longer) in ["low", "high"].into_iter().zip(interval.of_predicted(figures)) {
        all[format!("days_{end}")] = (training.days * longer).into();
        all[format!("dollars_{end}")] = training.dollars.map(|dollars| dollars * longer).into();
    }
}

/// A prediction for people: [`FIGURES`] in lines, the memory of each pool, and how sure that is.
pub fn print_figures(plan: &Plan, figures: &Figures, cluster: &Cluster) {
    let interval = interval(plan, figures, cluster);
    lines(figures, interval.as_ref()).lines().for_each(|line| println!("{}", folded(line, WORDS)));
    if let Some(DeviceMemory { allocated_bytes, reserved_bytes, taken_bytes }) = figures.device_memory {
        let [allocated, reserved, taken] = [allocated_bytes, reserved_bytes, taken_bytes].map(Bytes);
        let range = interval.as_ref().map_or_else(String::new, |interval| {
            format!(" ({} to {})", Bytes(interval.memory_low_bytes), Bytes(interval.memory_high_bytes))
        });
        let device = format!(
            "           {taken:>12}{range}   of its device, with {allocated} allocated and {reserved} reserved with fragments: \
             what has to fit"
        );
        println!("{}", folded(&device, WORDS));
    }
    for pool in &figures.pools {
        let (peak, left) = (Bytes(pool.peak_memory_bytes).to_string(), pool.headroom * 100.0);
        println!("           {peak:>12}   on {} × {}, {left:.1} % of its memory left", pool.ranks, pool.device);
    }
    if let Some(interval) = &interval {
        println!("{}", folded(&support_line(interval, beyond(plan, figures, cluster)), WORDS));
    }
}

/// How sure a prediction is, in a line.
fn support_line(Interval { support, at_risk, .. }: &Interval, beyond: Option<Beyond>) -> String {
    let because = match (support, beyond) {
        (_, Some(Beyond { reason, .. })) => reason,
        (Support::Measured, None) => "eight in ten measured runs lie within the brackets".to_owned(),
        (Support::Near, None) => "its stack was measured elsewhere, or its accelerators under others".to_owned(),
        (Support::Extrapolated, None) => {
            "neither its stack nor its accelerators in this format were measured".to_owned()
        }
    };
    let risk = if *at_risk { "; at risk: memory may not suffice" } else { "" };
    format!("   support {:>12}   {because}{risk}", support.name())
}

/// A line for each figure with a label, the ones without behind it; of the step its interval too.
fn lines(figures: &Figures, interval: Option<&Interval>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for figure in FIGURES {
        let ([label, words], value) = (figure.line, figure.unit.show((figure.get)(figures)));
        match lines.last_mut() {
            Some(line) if label.is_empty() => *line += &format!("   {value} {words}"),
            _ => lines.push(format!("   {label:<7} {value:>12}   {words}").trim_end().to_owned()),
        }
        if let (Some(interval), Some(line), "step_time_s") = (interval, lines.last_mut(), figure.key) {
            let [low, high] = [interval.step_time_low_s, interval.step_time_high_s].map(Seconds);
            *line += &format!("   ({low} to {high})");
        }
    }
    lines.join("\n")
}

/// Which figures that a prediction rests on are assumed, for people: a line for each device and system that has any.
pub fn assumed_text(cluster: &Cluster) -> String {
    let (mut text, mut seen) = (String::new(), Vec::new());
    for Machine { device, system, .. } in &cluster.pools {
        for (name, keys) in [(&device.name, assumed(device)), (&system.name, assumed(system))] {
            if !keys.is_empty() && !seen.contains(&name) {
                let all = format!("   assumed, all or in part, of {name}: {}", keys.join(", "));
                text += &format!("{}\n", folded(&all, 6));
                seen.push(name);
            }
        }
    }
    text
}

/// What a plan lacks that does not fit, and under which stack.
pub fn missing_memory(figures: &Figures, cluster: &Cluster) -> Option<String> {
    if figures.fits {
        return None;
    }
    let Ok(missing @ 1..) = u64::try_from(-figures.headroom_bytes) else {
        let (kept, room) = (Bytes(figures.host_bytes), host_capacity(cluster));
        return Some(format!("a rank keeps {kept} in its host's memory, which has {room} for each"));
    };
    let missing = Bytes(missing);
    let fullest = figures.pools.iter().min_by(|a, b| a.headroom.total_cmp(&b.headroom));
    let (peak, device) = match fullest {
        Some(pool) => (pool.peak_memory_bytes, pool.device.as_str()),
        None => (figures.peak_memory_bytes, cluster.pools.first()?.device.name.as_str()),
    };
    let stack = &cluster.stack.name;
    Some(format!(
        "a rank needs {} on `{device}`, {missing} more than can be used there under stack {stack}",
        Bytes(peak)
    ))
}

/// What a command ends with whose plan lacks memory: nothing else is wrong, but nobody can run it.
pub fn does_not_fit(missing: Option<String>) -> Result<(), Failure> {
    match missing {
        Some(missing) => {
            let help = "`meshwright plan` finds one that does, or says what would do";
            Err(Failure::new(Exit::Infeasible, format!("the plan does not fit: {missing}; {help}")))
        }
        None => Ok(()),
    }
}

/// What training by an offer takes, in a line for people; `known` where the user said how many steps.
pub fn print_training_line(offer: &Offer, known: bool) {
    let (training, tokens, pools) = (&offer.training, offer.plan.job.tokens(), &offer.cluster.pools);
    let price = pools.iter().any(|pool| pool.system.price.as_ref().is_some_and(Sourced::is_assumed));
    let power = pools.iter().any(|pool| pool.device.power.as_ref().is_some_and(Sourced::is_assumed));
    let columns = TRAINING_FIGURES.iter().filter(|figure| figure.column.is_some());
    let value = |figure: &TrainingFigure| {
        figure.show(training)
            + match figure.key {
                "dollars" if price => " at an assumed price",
                "energy_kwh" if power => " at an assumed power",
                _ => "",
            }
    };
    let mut values: Vec<String> = columns.map(value).collect();
    if let Some(interval) = interval(&offer.plan, &offer.figures, &offer.cluster) {
        let [low, high] = interval.of_predicted(&offer.figures).map(|longer| Unit::Days.show(training.days * longer));
        values[0] += &format!(" ({low} to {high})");
    }
    let yours = if known { "" } else { " (--tokens sets yours)" };
    let all = format!(
        "   train   {:>12}   {}; {tokens} in {} steps{yours}, failures included",
        values[0],
        values[1..].join(", "),
        training.steps
    );
    println!("{}", folded(&all, WORDS));
}

/// What training takes, with its failures and checkpoints, for people.
pub fn print_training(training: &Training, interval: Option<[f64; 2]>) {
    println!("\nfrom the first step to the last, {} steps, predicted", training.steps);
    println!("{}", training_lines(training));
    if let Some([low, high]) = interval.map(|ends| ends.map(|longer| Unit::Days.show(training.days * longer))) {
        println!("   {:<23}{low:>14} to {high}", "as steps are measured");
    }
    if let (Some(mtbf), Some(every)) = (training.mtbf_s, training.checkpoint_every_steps) {
        let (bytes, write) = (Bytes(training.checkpoint_bytes), Seconds(training.checkpoint_write_s));
        println!(
            "   a failure every {}, {} in all; restart in {}",
            Seconds(mtbf),
            brief(training.failures),
            Seconds(training.restart_s)
        );
        println!("   a checkpoint of {bytes} every {every} steps, written in {write}");
    }
    for assumption in &training.assumptions {
        println!("{}", folded(&format!("   assumed: {assumption}"), 6));
    }
}

/// A line a figure.
fn training_lines(training: &Training) -> String {
    let line = |figure: &TrainingFigure| format!("   {:<23}{:>14}", figure.title, figure.show(training));
    TRAINING_FIGURES.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What meetings of sites cost, for people.
pub fn print_sites(plan: &Plan, outer: &Outer) {
    let every = plan.sites.map_or(1, |sites| sites.every);
    println!("\nmeetings of {} sites every {every} steps, predicted", plan.site_count());
    println!(
        "   step    {:>12}   of which {} are the meetings' share",
        Seconds(outer.step_s).to_string(),
        Seconds(outer.step_s - outer.inner_step_s)
    );
    println!(
        "   link    {:>12}   an exchange; {} each way a period, in use {:.1} % of the time",
        Seconds(outer.exchange_s).to_string(),
        Bytes(outer.exchanged_bytes),
        100.0 * outer.link_busy
    );
    println!("   update  {:>12}   of outer weights, a fragment", Seconds(outer.update_s).to_string());
    println!("   {}", outer.assumption);
}

/// A count with as many digits as it deserves.
pub fn brief(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 1.0 => format!("{number:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{number:.3}"),
    }
}

/// Dollars, with as many digits as they deserve.
pub fn money(dollars: f64) -> String {
    let sign = if dollars < 0.0 { "-" } else { "" };
    match dollars.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{sign}${size:.0}"),
        size if size >= 0.01 => format!("{sign}${size:.2}"),
        size => format!("{sign}${size:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use meshwright_planner::goodput::days_to_train;
    use meshwright_planner::predict::predict;

    use super::*;

    #[test]
    fn every_figure_is_in_the_lines_and_in_json() {
        let plan = Plan::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml")).unwrap();
        let cluster = Cluster::parse("8x cpu-generic").unwrap();
        let figures = predict(&plan, &cluster).unwrap().figures;
        let (text, json) = (lines(&figures, None), figures_json(&plan, &figures, &cluster));
        for figure in FIGURES {
            let value = figure.unit.show((figure.get)(&figures));
            let [label, words] = figure.line;
            let shows = |line: &str| line.contains(label) && line.contains(&value) && line.contains(words);
            assert!(text.lines().any(shows), "{} in {text}", figure.title);
            assert!(json[figure.key] == figure.unit.json((figure.get)(&figures)), "{} in {json}", figure.key);
        }
    }

    #[test]
    fn every_figure_of_training_is_in_the_lines_and_in_json() {
        let plan = Plan::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/tiny.toml")).unwrap();
        let priced = Cluster::parse("1x dgx-h100").unwrap();
        for cluster in [priced, Cluster::parse("8x cpu-generic").unwrap()] {
            let training = days_to_train(Seconds(3600.0), 0.8, &plan.job, &cluster);
            let (text, json) = (training_lines(&training), serde_json::to_value(&training).unwrap());
            for figure in TRAINING_FIGURES {
                let (value, known) = (figure.show(&training), (figure.get)(&training));
                let shows = |line: &str| line.contains(figure.title) && line.ends_with(&value);
                assert!(!value.is_empty() && text.lines().any(shows), "{} in {text}", figure.title);
                assert_eq!(json[figure.key].as_f64(), known, "{} in {json}", figure.key);
            }
        }
    }
}
