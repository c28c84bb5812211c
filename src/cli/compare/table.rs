//! The table of `compare` on a terminal: 80 columns, what is least marked, differences from the first.
//!
//! In: [`Planned`]. Out: text.
//!
//! Invariant: no line is longer than 80 characters; a scenario without a price has no dollars and is never the cheapest.

use meshwright_hardware::units::Seconds;
use meshwright_planner::goal::Offer;

use super::super::stack::stack_line;
use super::planned::Planned;

const WIDTH: usize = 80;

/// All scenarios, then which is the cheapest and which the fastest.
pub fn table(all: &[Planned]) -> String {
    let cheapest = least(all, |offer| offer.training.dollars);
    let fastest = least(all, |offer| Some(offer.training.days));
    let baseline = all.first().and_then(|planned| planned.offer.as_ref().ok());
    let mut text = format!(
        "{:>3}   {:<27} {:>7} {:>9} {:>9} {:>18}\n",
        "", "scenario", "devices", "time", "cost", "over the first"
    );
    for (place, planned) in all.iter().enumerate() {
        let marks = [(cheapest, '$'), (fastest, '*')].map(|(at, mark)| if at == Some(place) { mark } else { ' ' });
        let head = format!("{:>3}{}{}{:<27}", place + 1, marks[0], marks[1], both_ends(&planned.scenario.name, 27));
        let line = match &planned.offer {
            Err(reason) => format!("{head}  no plan: {}", reason.split_whitespace().collect::<Vec<_>>().join(" ")),
            Ok(offer) => {
                let devices = offer.cluster.devices() * offer.cluster.sites();
                let (time, cost) = (Seconds(offer.training.days * 86400.0).to_string(), offer.training.dollars);
                let cost = cost.map_or("no price".to_owned(), dollars);
                let over = baseline.filter(|_| place > 0).map_or(String::new(), |first| over(offer, first));
                format!("{head} {devices:>8} {time:>9} {cost:>9} {over:>18}")
            }
        };
        text += short(&line, WIDTH).trim_end();
        text.push('\n');
    }
    let legend: Vec<&str> = [(cheapest, "$ cheapest"), (fastest, "* fastest")]
        .iter()
        .filter(|(at, _)| at.is_some())
        .map(|of| of.1)
        .collect();
    if !legend.is_empty() {
        text += &format!("\n{}; all devices paid first step to last, failures included\n", legend.join(", "));
    }
    text += &uncertain(all);
    text += &stacks(all);
    text
}

/// The software that each is predicted under, and on what that stands.
fn stacks(all: &[Planned]) -> String {
    let mut by_line: Vec<(String, Vec<String>)> = Vec::new();
    for (place, planned) in (1..).zip(all) {
        let line = stack_line(&planned.case.cluster);
        match by_line.iter_mut().find(|(other, _)| *other == line) {
            Some((_, places)) => places.push(place.to_string()),
            None => by_line.push((line, vec![place.to_string()])),
        }
    }
    let line = |(line, places): &(String, Vec<String>)| {
        short(&format!("{}: {line}", short(&places.join(", "), WIDTH / 4)), WIDTH) + "\n"
    };
    by_line.iter().map(line).collect()
}

/// Which prices are no seller's.
fn uncertain(all: &[Planned]) -> String {
    let doubtful = |planned: &Planned| ["secondary", "assumed"].iter().any(|kind| planned.origin.kind.contains(kind));
    let places: Vec<String> =
        (1..).zip(all).filter(|(_, planned)| doubtful(planned)).map(|(place, _)| place.to_string()).collect();
    if places.is_empty() {
        return String::new();
    }
    let line = format!("prices that no seller lists (secondary or assumed): {}", places.join(", "));
    format!("{}\n", short(&line, WIDTH))
}

/// Where something is least; the first of equals.
fn least(all: &[Planned], get: fn(&Offer) -> Option<f64>) -> Option<usize> {
    let known = all.iter().enumerate().filter_map(|(place, p)| Some((place, get(p.offer.as_ref().ok()?)?)));
    known.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}

/// The difference in dollars; in time where a price is unknown.
fn over(offer: &Offer, first: &Offer) -> String {
    let percent = |value: f64, first: f64| format!("{:+.0} %", 100.0 * (value / first - 1.0));
    match (offer.training.dollars, first.training.dollars) {
        (Some(cost), Some(before)) => {
            let sign = if cost < before { '-' } else { '+' };
            format!("{sign}{} ({})", dollars((cost - before).abs()), percent(cost, before))
        }
        _ => format!("{} time", percent(offer.training.days, first.training.days)),
    }
}

/// Dollars in three digits and a letter.
fn dollars(dollars: f64) -> String {
    let (scale, letter) = [(1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(scale, _)| dollars >= 0.9995 * scale)
        .unwrap_or((1.0, ""));
    let scaled = dollars / scale;
    let digits = if scaled >= 99.95 { 0 } else { 2 - usize::from(scaled >= 9.995) };
    format!("${scaled:.digits$}{letter}")
}

/// At most so many characters.
fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// At most so many characters, cut in the middle: a sweep's names differ at either end.
fn both_ends(text: &str, most: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= most {
        return text.to_owned();
    }
    let tail = (most - 1) / 2;
    let head = most - 1 - tail;
    all[..head].iter().chain(&['…']).chain(&all[all.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_both_ends() {
        let name = both_ends("128x dgx-a100-80gb, aws on-demand", 27);
        assert!(
            name.chars().count() == 27 && name.starts_with("128x dgx-a100") && name.ends_with("on-demand"),
            "{name}"
        );
        assert_eq!(both_ends("8x h100", 27), "8x h100");
    }

    #[test]
    fn dollars_have_three_digits() {
        let shown = [0.5, 9.999, 743.2, 999.7, 12_345.0, 743_000.0, 1_234_000.0, 2.5e9].map(dollars);
        assert_eq!(shown, ["$0.50", "$10.0", "$743", "$1.00k", "$12.3k", "$743k", "$1.23M", "$2.50G"]);
    }
}
