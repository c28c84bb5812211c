//! A plan as one page that stands alone: what it is, what else there is, where its step's time and its memory go.
//!
//! In: a plan, its cluster and its [`Explanation`], and the front of a search. Out: HTML with its style inside, no script, no network
//! needed.
//!
//! Invariant: every text from outside is escaped; figures are those of the command line, in their order.

use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::{Bytes, Dollars, Seconds};
use meshwright_planner::explain::{Cause, Explanation, StageTime};
use meshwright_planner::goal::Offer;
use meshwright_planner::goodput::TRAINING_FIGURES;
use meshwright_planner::plan::{LEGEND, Plan};
use meshwright_planner::predict::{FIGURES, interval, predict};

use super::chart::{Bars, STYLE, scatter};
use super::page_table::{FIGURE, NAME, PageTable, WHY};
use super::show::assumed_text;
use super::stack::stack_line;
use super::step_chart::{KINDS, timeline};
use crate::failure::Failure;
use crate::report::{escape, fill};

/// Stages in a chart; of more the first and the last.
const MOST: usize = 16;

/// Colours of causes, in their order: those of the timeline where it has them.
const CAUSES: [usize; Cause::ALL.len()] = [0, 2, 1, 6, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 15, 14];

/// What a page is of.
pub struct PlanPage<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// What it runs on.
    pub cluster: &'a Cluster,
    /// Where its time and memory go, and what else there is.
    pub explained: &'a Explanation,
}

impl PlanPage<'_> {
    /// The page; `front` are offers that no other beats, `name` says on which cluster.
    ///
    /// # Errors
    /// Where the plan cannot be predicted.
    pub fn html(&self, front: &[Offer], name: impl Fn(&Cluster) -> String) -> Result<String, Failure> {
        let predicted = predict(self.plan, self.cluster)?;
        let title = format!("{} on {}", self.plan.job.model.name, name(self.cluster));
        let values = [
            ("title", escape(&title)),
            ("style", STYLE.to_owned()),
            ("verdict", self.verdict()),
            ("figures", self.figures()),
            ("front", front_part(front, name)),
            ("timeline", timeline(&predicted.trace, &predicted.lowered.program)),
            ("kinds", keys(&KINDS[..KINDS.len() - 1].iter().copied().enumerate().collect::<Vec<_>>(), "k")),
            ("time", self.time()),
            ("memory", self.memory()),
            ("alternatives", self.alternatives()),
            ("worth", self.worth()),
            ("training", self.training()),
            ("assumed", escape(&assumed_text(self.cluster)).replace('\n', "<br>")),
            ("plan", escape(&self.plan.to_toml())),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Ok(fill(include_str!("plan_page.html"), &values))
    }

    fn verdict(&self) -> String {
        let figures = &self.explained.figures;
        let fits = if figures.fits { "" } else { "<p><b>It does not fit.</b></p>" };
        let step = match interval(self.plan, figures, self.cluster) {
            Some(of) => {
                let [low, high] = [of.step_time_low_s, of.step_time_high_s].map(Seconds);
                format!("{} ({low} to {high})", Seconds(figures.step_time_s))
            }
            None => Seconds(figures.step_time_s).to_string(),
        };
        let days = escape(&TRAINING_FIGURES[0].show(&self.explained.training));
        let cost = self.explained.training.dollars.map_or(String::new(), |dollars| format!(", {}", Dollars(dollars)));
        format!(
            "{fits}<p><b>{}</b></p><p>{}</p><p>A step takes <b>{step}</b>; {} steps <b>{days}{cost}</b>.</p><p class=\"dim\">{}</p>",
            escape(&self.plan.code()),
            escape(&self.plan.summary()),
            self.explained.training.steps,
            escape(&stack_line(self.cluster)),
        )
    }

    fn figures(&self) -> String {
        let row = |figure: &meshwright_planner::predict::Figure| {
            let value = figure.unit.show((figure.get)(&self.explained.figures));
            format!("<tr><th class=\"name\">{}</th><td>{}</td></tr>", escape(figure.title), escape(&value))
        };
        FIGURES.iter().map(row).collect()
    }

    /// Which stages are shown.
    fn stages(&self) -> Vec<usize> {
        let count = self.explained.stages.len();
        if count <= MOST { (0..count).collect() } else { (0..MOST / 2).chain(count - MOST / 2..count).collect() }
    }

    fn label(&self, at: usize) -> String {
        let place = &self.explained.places[at];
        escape(&format!("stage {} on {}", place.stage, place.device))
    }

    fn time(&self) -> String {
        let all = &self.explained.stages;
        let used: Vec<Cause> =
            Cause::ALL.into_iter().filter(|&cause| all.iter().any(|stage| stage.nanos(cause) > 0)).collect();
        let colour = |cause: Cause| CAUSES[Cause::ALL.iter().position(|&other| other == cause).unwrap_or(0)];
        let names: Vec<(usize, &str)> = used.iter().map(|&cause| (colour(cause), cause.name())).collect();
        let step = self.explained.figures.step_time_s;
        let parts = |of: &dyn Fn(Cause) -> f64| -> Vec<(usize, f64)> {
            used.iter().map(|&cause| (colour(cause), of(cause) / step)).collect()
        };
        let mut bars = Bars::default();
        bars.add("mean of all stages", &parts(&|cause| StageTime::mean(all, cause)), &[], "");
        for at in self.stages() {
            let busy = Seconds(all[at].busy() as f64 / 1e9).to_string();
            bars.add(&self.label(at), &parts(&|cause| all[at].seconds(cause)), &[], &format!("{busy} busy"));
        }
        format!("<p class=\"keys\">{}</p>{}", keys(&names, "c"), bars.html())
    }

    fn memory(&self) -> String {
        let all = &self.explained.memory;
        let most = self.explained.usable_memory_bytes.iter().copied().chain(all.iter().map(|of| of.total())).max();
        let share = |bytes: u64| bytes as f64 / most.unwrap_or(1).max(1) as f64;
        let names: Vec<(usize, &str)> = all[0].uses().iter().map(|(name, _)| *name).enumerate().collect();
        let mut bars = Bars::default();
        for at in self.stages() {
            let usable = self.explained.usable_memory_bytes[at];
            let parts: Vec<(usize, f64)> =
                all[at].uses().iter().enumerate().map(|(colour, (_, bytes))| (colour, share(*bytes))).collect();
            let value = format!("{} of {}", Bytes(all[at].total()), Bytes(usable));
            bars.add(&self.label(at), &parts, &[share(usable)], &value);
        }
        format!("<p class=\"keys\">{}</p>{}", keys(&names, "c"), bars.html())
    }

    fn alternatives(&self) -> String {
        let row = |other: &meshwright_planner::explain::Alternative| {
            let step = other.step_time_s.map_or("–".to_owned(), |step| Seconds(step).to_string());
            let slower = other.slower.map_or("does not run".to_owned(), |share| format!("{:+.1} %", 100.0 * share));
            let [change, why] = [&other.change, &other.why].map(|text| escape(text));
            [(change, ""), (step, ""), (slower, ""), (why, "")]
        };
        let mut table = PageTable::new([("", NAME), ("step", FIGURE), ("longer", FIGURE), ("why", WHY)]);
        self.explained.alternatives.iter().for_each(|other| table.row(&row(other)));
        table.html()
    }

    fn worth(&self) -> String {
        let row = |price: &meshwright_planner::explain::ShadowPrice| {
            let money = [price.dollars_per_hour, price.job_dollars].map(|value| (dollars(value), ""));
            let [hour, job] = money;
            let more = format!("{:+.0}", price.tokens_per_s);
            [(escape(&price.more), ""), (more, ""), hour, job, (escape(&price.note), "dim")]
        };
        let figures = ["tokens/s", "$/hour", "$ a job"].map(|head| (head, FIGURE));
        let mut table = PageTable::new([("", NAME)].into_iter().chain(figures).chain([("", WHY)]));
        self.explained.shadow_prices.iter().for_each(|price| table.row(&row(price)));
        table.html()
    }

    fn training(&self) -> String {
        let row = |figure: &meshwright_planner::goodput::TrainingFigure| {
            let value = escape(&figure.show(&self.explained.training));
            format!("<tr><th class=\"name\">{}</th><td>{value}</td></tr>", escape(figure.title))
        };
        TRAINING_FIGURES.iter().map(row).collect()
    }
}

/// What colours mean.
fn keys(names: &[(usize, &str)], class: &str) -> String {
    let key =
        |(colour, name): &(usize, &str)| format!("<span><i class=\"{class}{colour}\"></i>{}</span>", escape(name));
    names.iter().map(key).collect()
}

/// Dollars that may be lost.
fn dollars(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(lost) if lost < 0.0 => format!("-{}", Dollars(-lost)),
        Some(won) => Dollars(won).to_string(),
    }
}

/// The front: a chart where prices are known, and a table.
fn front_part(front: &[Offer], name: impl Fn(&Cluster) -> String) -> String {
    if front.len() < 2 {
        return String::new();
    }
    let label = |at: usize| format!("{}: {}", name(&front[at].cluster), front[at].plan.code());
    let points: Vec<(usize, f64, f64)> = front
        .iter()
        .enumerate()
        .filter_map(|(at, offer)| Some((at, offer.training.days, offer.training.dollars?)))
        .filter(|(_, days, dollars)| days.is_finite() && dollars.is_finite())
        .collect();
    let chart = if points.is_empty() { String::new() } else { scatter(&points, label) };
    let columns = || TRAINING_FIGURES.iter().filter(|figure| figure.column.is_some());
    let heads = columns().map(|figure| (figure.column.unwrap_or_default(), FIGURE));
    let mut table = PageTable::new([("", FIGURE)].into_iter().chain(heads).chain([("free", FIGURE), ("plan", WHY)]));
    for (at, offer) in front.iter().enumerate() {
        let figures = columns().map(|figure| (escape(&figure.show(&offer.training)), ""));
        let rest = [(format!("{:.1} %", 100.0 * offer.headroom), ""), (escape(&label(at)), "")];
        let all: Vec<(String, &str)> = [((at + 1).to_string(), "")].into_iter().chain(figures).chain(rest).collect();
        table.row(&all);
    }
    format!(
        "<h2>The front</h2><p class=\"dim\">No plan that was found beats one of these in time, cost, energy and memory left free \
         at once.</p>{chart}{}<p class=\"dim\">{}</p>",
        table.html(),
        escape(LEGEND)
    )
}
