//! The comparison as one page that stands alone: figures, curves by step, timelines of the traces, table by instruction, the plan.
//!
//! In: a [`Report`]. Out: HTML with its style and script inside, no network needed.
//!
//! Invariant: every text from outside is escaped; spans are kept to `MOST` a trace, the longest first.

use meshwright_hardware::trace::Trace;
use meshwright_planner::predict::{FIGURES, Figure};
use serde_json::{Value, json};

use super::{InstrTimes, Report, StepCurve, error_pct};

/// Spans drawn of one trace; shorter ones beyond are left out, and the page says so.
const MOST: usize = 20_000;

impl Report {
    /// The page.
    pub fn html(&self) -> String {
        let level = self.unigram_entropy.map(|entropy| ("unigram entropy", entropy));
        let loss = StepCurve { title: "loss, nats a token", points: self.losses.clone(), level };
        let curves: Vec<&StepCurve> = std::iter::once(&loss).chain(&self.curves).collect();
        let traces = self.traces.each_ref().map(|trace| self.lanes(trace));
        let data = json!({ "traces": traces, "curves": curves, "plan": self.plan });
        let data = data.to_string().replace('<', "\\u003c");
        let subtitle: String = self
            .subtitle
            .iter()
            .map(|(label, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(label), escape(value)))
            .collect();
        let values = [
            ("title", escape(&self.title)),
            ("subtitle", subtitle),
            ("figures", self.figure_rows()),
            ("spread", self.spread_line()),
            ("groups", self.group_rows()),
            ("plan", escape(&self.plan)),
            ("data", data),
        ];
        fill(include_str!("page.html"), &values)
    }

    fn figure_rows(&self) -> String {
        let row = |figure: &Figure| {
            let (values, error) = self.compared(figure);
            let cells = values.map(|value| format!("<td>{}</td>", figure.unit.show(value))).concat();
            let error = error.map_or_else(String::new, |error| format!("{error:+.1} %"));
            format!("<tr><th>{}</th>{cells}<td>{error}</td></tr>\n", figure.title)
        };
        FIGURES.iter().map(row).collect()
    }

    fn spread_line(&self) -> String {
        self.spread.map_or_else(String::new, |spread| format!("Measured, {}.", spread.words()))
    }

    fn group_rows(&self) -> String {
        let row = |group: &super::InstrGroup| {
            let cells: String = group.nanos.iter().map(|nanos| format!("<td>{:.3}</td>", nanos / 1e6)).collect();
            let mark = if group.waits { " *" } else { "" };
            let (name, error) = (escape(&group.name), error_pct(group.nanos[0], group.nanos[2]));
            format!("<tr><th>{name}{mark}</th><td>{}</td>{cells}<td>{error:+.1}</td></tr>\n", group.count)
        };
        self.groups.iter().map(row).collect()
    }

    /// A trace for drawing: per lane its rank and `[start µs, length µs, row]` spans.
    fn lanes(&self, trace: &Trace) -> Value {
        let mut shortest = 0;
        let mut lengths: Vec<u64> =
            trace.lanes.iter().flat_map(|lane| &lane.spans).map(|span| span.duration().0).collect();
        if lengths.len() > MOST {
            lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
            shortest = lengths[MOST];
        }
        let lanes = trace.lanes.iter().map(|lane| {
            let rows = self.rows.iter().filter(|row| row.role == lane.role);
            let spans = rows.filter_map(|row| {
                let span = lane.spans[row.index];
                let length = span.duration().0;
                let micros = |nanos: u64| (nanos as f64 / 10.0).round() / 100.0;
                (length > shortest).then(|| json!([micros(span.start.0), micros(length), phase(row), label(row)]))
            });
            json!({ "rank": lane.rank, "spans": spans.collect::<Vec<_>>() })
        });
        json!({ "name": trace.origin.name(), "lanes": lanes.collect::<Vec<_>>() })
    }
}

/// The page with a value in each `{{place}}`; what values hold stays as it is.
pub(crate) fn fill(page: &str, values: &[(&str, String)]) -> String {
    let mut parts = page.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let found = values.iter().find_map(|(name, value)| Some((value, part.strip_prefix(name)?.strip_prefix("}}")?)));
        match found {
            Some((value, rest)) => filled += &format!("{value}{rest}"),
            None => filled += &format!("{{{{{part}"),
        }
    }
    filled
}

/// The index of a row's colour.
fn phase(row: &InstrTimes) -> usize {
    let names = ["forward", "recompute", "backward", "optimizer"];
    names.iter().position(|name| *name == row.phase).unwrap_or(names.len())
}

fn label(row: &InstrTimes) -> String {
    let of = |name: &str, number: Option<u32>| number.map(|n| format!(", {name} {n}")).unwrap_or_default();
    format!("{}{}{}", row.name, of("microbatch", row.microbatch), of("layer", row.layer))
}

/// A text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_filled_once() {
        let values = [("title", "a {{data}} b".to_owned()), ("data", "[1]".to_owned())];
        assert_eq!(fill("<h1>{{title}}</h1>{{data}} {{x}}", &values), "<h1>a {{data}} b</h1>[1] {{x}}");
    }
}
