//! What a scenario's cost hangs on: each assumption varied alone, the one that moves it most first; and which of them would make
//! another scenario the cheapest.
//!
//! In: [`ScenarioRow`]s. Out: [`Variation`]s of one, and sentences.
//!
//! Steps and days are those of the row's plan, which is not searched again: a step as much longer as MFU is lower, and days by
//! Daly's formula at his interval between checkpoints (`planner/src/goodput/failing.rs`). What an owner pays whether devices are
//! used or not goes with 1 / utilisation, electricity with PUE (`src/prices/owning.rs`).
//!
//! Invariant: an assumption left as it is leaves the cost as it is.

use meshwright_hardware::units::Seconds;
use meshwright_planner::goodput::Failing;

use super::rows::ScenarioRow;

/// An assumption varied alone, and what training then costs.
#[derive(Clone, Debug)]
pub struct Variation {
    /// What is varied.
    pub what: &'static str,
    /// Down and up, in words.
    pub to: [String; 2],
    /// Dollars, in the same order.
    pub usd: [f64; 2],
}

/// By how much prices go up and down, as a share: neoclouds and hyperscalers differ by more.
const PRICE: f64 = 0.2;
/// And MFU, beside what measured runs say of the step.
const MFU: f64 = 0.1;
/// And utilisation and PUE, as they are.
const STEP: f64 = 0.15;

impl Variation {
    /// How far apart the two are.
    pub fn span(&self) -> f64 {
        (self.usd[1] - self.usd[0]).abs()
    }
}

/// What moves a scenario's cost, most first; nothing where there is none.
pub fn variations(row: &ScenarioRow) -> Vec<Variation> {
    let (Some(usd), Some(days)) = (row.number("usd"), row.number("days")) else { return Vec::new() };
    let mut all = Vec::new();
    let percent = |share: f64| [format!("{:.0} % less", 100.0 * share), format!("{:.0} % more", 100.0 * share)];
    let capital = ["usd_hardware", "usd_interest"].iter().filter_map(|name| row.number(name)).sum::<f64>();
    let (what, of) = if capital > 0.0 { ("price of servers", capital) } else { ("price of a device-hour", usd) };
    all.push(Variation { what, to: percent(PRICE), usd: [usd - PRICE * of, usd + PRICE * of] });
    let at = |step: f64, failures: f64| usd * days_at(row, step, failures) / days;
    all.push(Variation {
        what: "MFU",
        to: percent(MFU),
        usd: [at(1.0 / (1.0 - MFU), 1.0), at(1.0 / (1.0 + MFU), 1.0)],
    });
    if let (Some(low), Some(high)) = (row.number("usd_low"), row.number("usd_high")) {
        let to = ["at the low end of its interval".to_owned(), "at the high end".to_owned()];
        all.push(Variation { what: "step time", to, usd: [low, high] });
    }
    if row.number("mtbf_s").is_some() {
        let to = ["half as often".to_owned(), "twice as often".to_owned()];
        all.push(Variation { what: "failures", to, usd: [at(1.0, 0.5), at(1.0, 2.0)] });
    }
    let electricity = row.number("usd_electricity").unwrap_or(0.0);
    if let Some(share) = row.number("utilisation") {
        let ends = [(share - STEP).max(share / 2.0), (share + STEP).min(1.0)];
        let usd = ends.map(|end| electricity + (usd - electricity) * share / end);
        all.push(Variation { what: "utilisation", to: ends.map(|end| format!("{:.0} %", 100.0 * end)), usd });
    }
    if let Some(pue) = row.number("pue") {
        let ends = [(pue - STEP).max(1.0), pue + STEP];
        let usd = ends.map(|end| usd + electricity * (end / pue - 1.0));
        all.push(Variation { what: "PUE", to: ends.map(|end| format!("{end:.2}")), usd });
    }
    all.sort_by(|a, b| b.span().total_cmp(&a.span()));
    all
}

/// Days of a row where steps take `step` times as long, and failures come `failures` times as often.
fn days_at(row: &ScenarioRow, step: f64, failures: f64) -> f64 {
    let figure = |name: &str| row.number(name).unwrap_or(0.0);
    let (length, steps) = (Seconds(figure("step_s") * step), figure("steps"));
    let work = length * steps;
    let Some(mtbf) = row.number("mtbf_s") else { return work.0 / 86400.0 };
    let failing = Failing {
        mtbf: Seconds(mtbf / failures),
        write: Seconds(figure("checkpoint_write_s")),
        restart: Seconds(figure("restart_s")),
    };
    let every = (failing.daly().0 / length.0).round().clamp(1.0, steps);
    failing.expected(work, length * every).0 / 86400.0
}

/// Which assumption would make another scenario the cheapest: of the cheapest, or of another.
pub fn flips(all: &[ScenarioRow], cheapest: usize) -> Vec<String> {
    let Some(least) = all[cheapest].number("usd") else { return Vec::new() };
    let others = || all.iter().enumerate().filter(|(at, row)| *at != cheapest && row.number("usd").is_some());
    let next = others().min_by(|a, b| a.1.number("usd").unwrap_or(0.0).total_cmp(&b.1.number("usd").unwrap_or(0.0)));
    let Some((_, next)) = next else { return Vec::new() };
    let second = next.number("usd").unwrap_or(f64::INFINITY);
    let mut found = Vec::new();
    for variation in variations(&all[cheapest]) {
        for (to, usd) in variation.to.iter().zip(variation.usd) {
            if usd > second {
                let (own, other) = (all[cheapest].text("scenario"), next.text("scenario"));
                found.push(format!("{own} is dearer than {other} with its {} {to}", variation.what));
            }
        }
    }
    for (_, row) in others() {
        for variation in variations(row) {
            for (to, usd) in variation.to.iter().zip(variation.usd) {
                if usd < least {
                    let (name, what) = (row.text("scenario"), variation.what);
                    found.push(format!("{name} is cheaper with its {what} {to}"));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::planned::ready;
    use super::super::together::plan_together;
    use super::*;
    use crate::prices::PriceBook;
    use crate::scenario::read_scenarios;

    fn rows(sweep: &str) -> Vec<ScenarioRow> {
        let job = "job = \"llama3-8b\"\nseq = 8192\nglobal_batch = 512\ntokens = \"1T\"\ncluster = \"16x dgx-h100\"\n";
        let asked = read_scenarios("s.toml", &format!("[defaults]\n{job}[sweep]\n{sweep}\n")).unwrap();
        let book = PriceBook::shipped().unwrap();
        let all: Vec<_> = asked.scenarios.into_iter().map(|one| ready(one, &book, None).unwrap()).collect();
        let rows = std::sync::Mutex::new(Vec::new());
        let named: Vec<usize> = (0..all.len()).collect();
        plan_together(&all, &named, &|at, planned| rows.lock().unwrap().push((at, ScenarioRow::of(&planned))));
        let mut rows = rows.into_inner().unwrap();
        rows.sort_by_key(|(at, _)| *at);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    #[test]
    fn what_is_left_as_it_is_changes_nothing_and_worse_costs_more() {
        let rows = rows("pricing = [\"own\", \"aws on-demand\"]");
        for row in &rows {
            let (days, usd) = (row.number("days").unwrap(), row.number("usd").unwrap());
            assert!((days_at(row, 1.0, 1.0) / days - 1.0).abs() < 1e-9, "{} {days}", days_at(row, 1.0, 1.0));
            let all = variations(row);
            assert!(all.windows(2).all(|two| two[0].span() >= two[1].span()));
            for one in all {
                let rises = matches!(one.what, "failures" | "PUE") || one.what.starts_with("price");
                let [down, up] = one.usd;
                if one.what == "step time" {
                    assert!(down < up, "an interval need not hold what is predicted: {one:?}");
                    continue;
                }
                assert!(if rises { down < usd && usd < up } else { down > usd && usd > up }, "{one:?} of {usd}");
            }
        }
        let what = |row: &ScenarioRow| variations(row).iter().map(|one| one.what).collect::<Vec<_>>();
        assert!(what(&rows[0]).contains(&"PUE") && !what(&rows[1]).contains(&"PUE"), "a rent holds the building");
    }

    #[test]
    fn an_assumption_that_makes_another_the_cheapest_is_named() {
        let rows = rows("price = [\"$2\", \"$2.1\", \"$9\"]");
        let said = flips(&rows, 0);
        assert!(
            said.iter().any(|one| one.contains("price of a device-hour 20 % more") && one.contains("$2.1")),
            "{said:?}"
        );
        assert!(
            said.iter().any(|one| one.starts_with("$2.1 is cheaper")) && !said.iter().any(|one| one.contains("$9"))
        );
    }
}
