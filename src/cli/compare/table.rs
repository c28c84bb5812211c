//! The table of `compare` on a terminal: 80 columns, what is least marked, differences from the first.
//!
//! In: [`ScenarioRow`]s. Out: text.
//!
//! Invariant: no line is longer than 80 characters; a scenario without a price has no dollars and is never the cheapest.

use meshwright_hardware::units::Seconds;

pub use super::super::chart::dollars;
use super::rows::ScenarioRow;

const WIDTH: usize = 80;

/// All scenarios, then which is the cheapest and which the fastest; `stacks` has a line for each.
pub fn table(all: &[ScenarioRow], stacks: &[String]) -> String {
    let (cheapest, fastest) = (least(all, "usd"), least(all, "days"));
    let baseline = all.first().filter(|row| row.is_planned());
    let mut text = format!(
        "{:>3}   {:<27} {:>7} {:>9} {:>9} {:>18}\n",
        "", "scenario", "devices", "time", "cost", "over the first"
    );
    for (place, row) in all.iter().enumerate() {
        let marks = [(cheapest, '$'), (fastest, '>')].map(|(at, mark)| if at == Some(place) { mark } else { ' ' });
        let head = format!("{:>3}{}{}{:<27}", place + 1, marks[0], marks[1], both_ends(&row.text("scenario"), 27));
        let line = if row.is_planned() {
            let days = row.number("days").unwrap_or(f64::INFINITY);
            let (devices, time) = (row.text("devices_paid"), Seconds(days * 86400.0).to_string());
            let cost = row.number("usd").map_or("no price".to_owned(), dollars);
            let doubt = if row.number("usd").is_some() && !row.text("price_doubt").is_empty() { '*' } else { ' ' };
            let over = baseline.filter(|_| place > 0).map_or(String::new(), |first| over(row, first));
            format!("{head} {devices:>8} {time:>9} {cost:>9}{doubt}{over:>18}")
        } else {
            let reason = row.text("reason");
            format!("{head}  no plan: {}", reason.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        text += short(&line, WIDTH).trim_end();
        text.push('\n');
    }
    let legend: Vec<&str> = [(cheapest, "$ cheapest"), (fastest, "> fastest")]
        .iter()
        .filter(|(at, _)| at.is_some())
        .map(|of| of.1)
        .collect();
    if !legend.is_empty() {
        text += &format!("\n{}; all devices paid first step to last, failures included\n", legend.join(", "));
    }
    text + &doubtful(all, cheapest) + &by_stack(stacks)
}

/// The software that each is predicted under, and on what that stands.
fn by_stack(stacks: &[String]) -> String {
    let mut by_line: Vec<(&String, Vec<String>)> = Vec::new();
    for (place, line) in (1..).zip(stacks) {
        match by_line.iter_mut().find(|(other, _)| *other == line) {
            Some((_, places)) => places.push(place.to_string()),
            None => by_line.push((line, vec![place.to_string()])),
        }
    }
    let line = |(line, places): &(&String, Vec<String>)| {
        short(&format!("{}: {line}", short(&places.join(", "), WIDTH / 4)), WIDTH) + "\n"
    };
    by_line.iter().map(line).collect()
}

/// What the mark behind a cost means; and that the cheapest is so by such a price.
fn doubtful(all: &[ScenarioRow], cheapest: Option<usize>) -> String {
    let mut kinds: Vec<String> =
        all.iter().map(|row| row.text("price_doubt")).filter(|doubt| !doubt.is_empty()).collect();
    kinds.sort();
    kinds.dedup();
    if kinds.is_empty() {
        return String::new();
    }
    let decides = cheapest.is_some_and(|at| !all[at].text("price_doubt").is_empty());
    let decides = if decides { "; it decides which is cheapest" } else { "" };
    format!("{}\n", short(&format!("* at a price that is {}{decides}", kinds.join(", or ")), WIDTH))
}

/// Where a number is least; the first of equals.
pub fn least(all: &[ScenarioRow], name: &str) -> Option<usize> {
    let known = all.iter().enumerate().filter_map(|(place, row)| Some((place, row.number(name)?)));
    known.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}

/// The difference in dollars; in time where a price is unknown.
pub fn over(row: &ScenarioRow, first: &ScenarioRow) -> String {
    let percent = |value: f64, first: f64| format!("{:+.0} %", 100.0 * (value / first - 1.0));
    let days = |row: &ScenarioRow| row.number("days").unwrap_or(f64::INFINITY);
    match (row.number("usd"), first.number("usd")) {
        (Some(cost), Some(before)) => {
            let sign = if cost < before { '-' } else { '+' };
            format!("{sign}{} ({})", dollars((cost - before).abs()), percent(cost, before))
        }
        _ => format!("{} time", percent(days(row), days(first))),
    }
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
