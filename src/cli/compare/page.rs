//! The comparison as one page that stands alone, for who decides.
//!
//! In: [`ScenarioRow`]s. Out: HTML with its style inside, no script, no network needed.
//!
//! Invariant: every text from outside is escaped; charts show at most [`MOST`] scenarios, the cheapest, and the page says so.

use std::path::Path;

use super::super::chart::{Bars, STYLE};
use super::super::page_table::{FIGURE, NAME, PageTable};
use super::chart::scatter;
use super::rows::ScenarioRow;
use super::sensitivity::{flips, variations};
use super::table::{dollars, least, over};
use crate::report::{escape, fill};

/// Scenarios in a chart of bars.
const MOST: usize = 24;

/// Parts of a cost, with their columns.
const PARTS: [(&str, &str); 7] = [
    ("rent", "usd_rent"),
    ("servers, network, storage, racks", "usd_hardware"),
    ("interest", "usd_interest"),
    ("electricity", "usd_electricity"),
    ("space", "usd_space"),
    ("staff", "usd_staff"),
    ("maintenance, taxes", "usd_maintenance"),
];

/// The page of these scenarios.
pub fn page(input: &str, all: &[ScenarioRow]) -> String {
    let name = Path::new(input).file_name().map_or(input.into(), |name| name.to_string_lossy());
    let shown = cheapest_first(all);
    let of = |value: &dyn Fn(&ScenarioRow) -> Option<f64>| -> Vec<(usize, f64)> {
        shown.iter().filter_map(|&at| Some((at, value(&all[at])?))).collect()
    };
    let (fewer, doubtful) = (shown.len() < all.iter().filter(|row| row.is_planned()).count(), marked(all));
    let legend = [
        (doubtful, "* at a price that is old, or that no seller lists."),
        (fewer, "Charts below show the cheapest alone."),
    ];
    let legend: Vec<&str> = legend.iter().filter(|(holds, _)| *holds).map(|(_, words)| *words).collect();
    let values = [
        ("title", escape(&format!("Scenarios of {name}"))),
        ("style", STYLE.to_owned()),
        ("verdict", verdict(all)),
        ("scatter", scatter(all)),
        ("rows", table(all)),
        ("legend", legend.join(" ")),
        ("costs", costs(all, &of(&|row| row.number("usd")))),
        ("days", days(all, &of(&|row| row.number("days")))),
        (
            "memory",
            memory(all, &of(&|row| Some(row.number("peak_memory_bytes")? / row.number("device_memory_bytes")?))),
        ),
        ("tornado", tornado(all)),
        ("flips", flip_list(all)),
        ("unplanned", unplanned(all)),
        ("sources", sources(all)),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    fill(include_str!("page.html"), &values)
}

/// Which scenarios charts show, cheapest first; without prices the fastest first.
fn cheapest_first(all: &[ScenarioRow]) -> Vec<usize> {
    let value = |at: usize| {
        let number = |name: &str| all[at].number(name).unwrap_or(f64::INFINITY);
        (number("usd"), number("days"))
    };
    let mut planned: Vec<usize> = (0..all.len()).filter(|&at| all[at].is_planned()).collect();
    planned.sort_by(|&a, &b| {
        let (a, b) = (value(a), value(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    planned.truncate(MOST);
    planned
}

fn is_doubtful(row: &ScenarioRow) -> bool {
    row.number("usd").is_some() && !row.text("price_doubt").is_empty()
}

fn marked(all: &[ScenarioRow]) -> bool {
    all.iter().any(is_doubtful)
}

/// A scenario's number and name.
fn label(all: &[ScenarioRow], at: usize) -> String {
    format!("{}. {}", at + 1, escape(&all[at].text("scenario")))
}

/// A figure with its interval, where one is known.
fn sure(row: &ScenarioRow, name: &str, show: impl Fn(f64) -> String) -> Option<String> {
    let of = |end: &str| row.number(&format!("{name}{end}")).map(&show);
    let interval = of("_low").zip(of("_high")).map_or(String::new(), |(low, high)| format!(" ({low} to {high})"));
    Some(of("")? + &interval)
}

/// What is decided, in sentences.
fn verdict(all: &[ScenarioRow]) -> String {
    let days = |at: usize| sure(&all[at], "days", |days| format!("{days:.1}")).unwrap_or_default() + " days";
    let cost = |at: usize| sure(&all[at], "usd", dollars).unwrap_or("no known price".to_owned());
    let on = |at: usize| format!("on {} devices", all[at].text("devices_paid"));
    let mut text = String::new();
    if let Some(at) = least(all, "usd") {
        let (name, cost, days, on) = (label(all, at), cost(at), days(at), on(at));
        text += &format!("<p>Cheapest: <b>{name}</b>, {cost} in {days} {on}.</p>");
        if is_doubtful(&all[at]) {
            let doubt = escape(&all[at].text("price_doubt"));
            text += &format!("<p>Its price is {doubt}: confirm it before it decides.</p>");
        }
        if all[at].text("support") == "extrapolated" {
            text += "<p>No measured run is like it: its prediction is extrapolated.</p>";
        }
    }
    if let Some(at) = least(all, "days") {
        text += &format!("<p>Fastest: <b>{}</b>, {} {} for {}.</p>", label(all, at), days(at), on(at), cost(at));
    }
    let count = |holds: &dyn Fn(&ScenarioRow) -> bool| all.iter().filter(|row| holds(row)).count();
    let (planned, priced) = (count(&ScenarioRow::is_planned), count(&|row| row.number("usd").is_some()));
    let counts = format!("{} scenarios; {planned} have a plan, of {priced} the cost is known.", all.len());
    text + &format!("<p class=\"dim\">{counts}</p>")
}

/// All scenarios with the figures that decide.
fn table(all: &[ScenarioRow]) -> String {
    let figures = [
        "days",
        "cost",
        "over the first",
        "devices",
        "$/device-hour",
        "9 in 10 below, days",
        "$/M tokens",
        "MFU",
        "support",
    ];
    let heads = figures.map(|head| (head, FIGURE));
    let mut table = PageTable::new([("", FIGURE), ("scenario", NAME)].into_iter().chain(heads));
    for (at, row) in all.iter().enumerate() {
        let named = [((at + 1).to_string(), ""), (escape(&row.text("scenario")), "")];
        let figures = if row.is_planned() { line(all, at, row) } else { vec![("no plan".to_owned(), "dim")] };
        table.row(&named.into_iter().chain(figures).collect::<Vec<_>>());
    }
    table.html()
}

fn line(all: &[ScenarioRow], at: usize, row: &ScenarioRow) -> Vec<(String, &'static str)> {
    let best = |name: &str| if least(all, name) == Some(at) { "best" } else { "" };
    let number =
        |name: &str, digits: usize| row.number(name).map_or(String::new(), |value| format!("{value:.digits$}"));
    let mark = if is_doubtful(row) { "*" } else { "" };
    let cost = row.number("usd").map_or("no price".to_owned(), |usd| dollars(usd) + mark);
    let each = row.number("usd").zip(row.number("tokens")).map(|(usd, tokens)| usd / tokens * 1e6);
    let first = all.first().filter(|first| at > 0 && first.is_planned());
    vec![
        (number("days", 1), best("days")),
        (cost, best("usd")),
        (first.map_or(String::new(), |first| over(row, first)), ""),
        (row.text("devices_paid"), ""),
        (number("usd_per_device_hour", 2), ""),
        (number("days_p90", 1), ""),
        (each.map_or(String::new(), |each| format!("{each:.3}")), ""),
        (row.number("mfu").map_or(String::new(), |mfu| format!("{:.0} %", 100.0 * mfu)), ""),
        (escape(&row.text("support")), ""),
    ]
}

fn costs(all: &[ScenarioRow], shown: &[(usize, f64)]) -> String {
    let used = PARTS
        .iter()
        .enumerate()
        .filter(|(_, (_, column))| shown.iter().any(|(at, _)| all[*at].number(column).is_some()));
    let keys: String =
        used.map(|(colour, (name, _))| format!("<span><i class=\"c{colour}\"></i>{name}</span>")).collect();
    let most = shown.iter().map(|(_, usd)| *usd).fold(0.0, f64::max);
    let mut bars = Bars::default();
    for &(at, _) in shown {
        let parts: Vec<(usize, f64)> = PARTS
            .iter()
            .enumerate()
            .filter_map(|(colour, (_, column))| Some((colour, all[at].number(column)? / most)))
            .collect();
        let value = sure(&all[at], "usd", dollars).unwrap_or_default();
        bars.add(&label(all, at), &parts, &[], &value);
    }
    if shown.is_empty() {
        return "<p>No price is known.</p>".to_owned();
    }
    format!("<p class=\"keys\">{keys}</p>{}", bars.html())
}

fn days(all: &[ScenarioRow], shown: &[(usize, f64)]) -> String {
    let ends = |at: usize| ["days_low", "days_high"].into_iter().filter_map(move |name| all[at].number(name));
    let most = shown.iter().flat_map(|(at, days)| ends(*at).chain([*days])).fold(0.0, f64::max);
    let mut bars = Bars::default();
    for &(at, days) in shown {
        let marks: Vec<f64> = ends(at).map(|end| end / most).collect();
        let value = sure(&all[at], "days", |days| format!("{days:.1}")).unwrap_or_default();
        bars.add(&label(all, at), &[(0, days / most)], &marks, &value);
    }
    bars.html()
}

fn memory(all: &[ScenarioRow], shown: &[(usize, f64)]) -> String {
    let mut bars = Bars::default();
    for &(at, share) in shown {
        let bytes = all[at].number("peak_memory_bytes").unwrap_or(0.0);
        let of = all[at].number("device_memory_bytes").unwrap_or(0.0);
        let gib = |bytes: f64| bytes / f64::from(1 << 30);
        bars.add(&label(all, at), &[(3, share)], &[], &format!("{:.0} of {:.0} GiB", gib(bytes), gib(of)));
    }
    bars.html()
}

/// What the cheapest one's cost hangs on, most first: bars from the lower cost to the higher.
fn tornado(all: &[ScenarioRow]) -> String {
    let Some(at) = least(all, "usd") else { return "<p>No price is known.</p>".to_owned() };
    let usd = all[at].number("usd").unwrap_or(0.0);
    let variations = variations(&all[at]);
    let all_usd = || variations.iter().flat_map(|one| one.usd);
    let (least, most) = (all_usd().fold(usd, f64::min), all_usd().fold(usd, f64::max));
    // Half as much room below the least as there is above it.
    let from = (least - (most - least) / 2.0).max(0.0);
    let share = |usd: f64| (usd - from) / (most - from);
    let mut bars = Bars::default();
    for one in &variations {
        let (low, high) = (one.usd[0].min(one.usd[1]), one.usd[0].max(one.usd[1]));
        let [down, up] = &one.to;
        let what = format!("{}: {down}, {up}", one.what);
        let span = format!("{} to {}", dollars(low), dollars(high));
        bars.add_span(&escape(&what), [share(low), share(high)], share(usd), &span);
    }
    let (name, cost) = (label(all, at), dollars(usd));
    let about = format!("{name}: {cost}, the mark. Each alone, the plan left as it is; bars do not begin at zero.");
    format!("<p class=\"dim\">{about}</p>{}", bars.html())
}

fn flip_list(all: &[ScenarioRow]) -> String {
    let all = least(all, "usd").map(|at| flips(all, at)).unwrap_or_default();
    if all.is_empty() {
        return "<p>None of these alone.</p>".to_owned();
    }
    let more = all.len().saturating_sub(MOST);
    let items: String = all.iter().take(MOST).map(|one| format!("<li>{}</li>", escape(one))).collect();
    let rest = if more > 0 { format!("<p class=\"dim\">and {more} more</p>") } else { String::new() };
    format!("<ul>{items}</ul>{rest}")
}

fn unplanned(all: &[ScenarioRow]) -> String {
    let none = all.iter().enumerate().filter(|(_, row)| !row.is_planned());
    let items: String =
        none.map(|(at, row)| format!("<li>{}: {}</li>", label(all, at), escape(&row.text("reason")))).collect();
    if items.is_empty() { items } else { format!("<h2>Scenarios without a plan</h2><ul>{items}</ul>") }
}

/// Prices with the scenarios that they are of; the same price once.
fn sources(all: &[ScenarioRow]) -> String {
    let mut known: Vec<([String; 5], Vec<String>)> = Vec::new();
    for (at, row) in all.iter().enumerate() {
        let Some(price) = row.number("usd_per_device_hour") else { continue };
        let where_ = [row.text("price_cloud"), row.text("price_region")];
        let where_ = where_.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        let doubt = if is_doubtful(row) { "*" } else { "" };
        let kind = row.text("price_kind") + doubt;
        let key = [format!("{price:.2}"), kind, row.text("price_date"), where_, row.text("price_source")];
        match known.iter_mut().find(|(other, _)| *other == key) {
            Some((_, places)) => places.push((at + 1).to_string()),
            None => known.push((key, vec![(at + 1).to_string()])),
        }
    }
    let row = |(key, places): &([String; 5], Vec<String>)| {
        let [price, kind, date, where_, source] = key.each_ref().map(|text| escape(text));
        let said = [kind, date, where_].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        format!("<li>{}: <b>${price}</b>, {said}. <span class=\"dim\">{source}</span></li>\n", places.join(", "))
    };
    known.iter().map(row).collect()
}
