//! The page's scatter of scenarios.
//!
//! In: [`ScenarioRow`]s. Out: SVG.

use super::super::chart;
use super::rows::ScenarioRow;

/// Cost against time, with the front of what no scenario beats in both.
pub fn scatter(all: &[ScenarioRow]) -> String {
    let point = |(at, row): (usize, &ScenarioRow)| {
        let (days, usd) = (row.number("days")?, row.number("usd")?);
        days.is_finite().then_some((at, days, usd))
    };
    let points: Vec<(usize, f64, f64)> = all.iter().enumerate().filter_map(point).collect();
    if points.is_empty() {
        return "<p>No scenario has both a plan and a price.</p>".to_owned();
    }
    chart::scatter(&points, |at| all[at].text("scenario").to_string())
}
