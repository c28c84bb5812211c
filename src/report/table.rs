//! The comparison as text for a terminal.
//!
//! In: a [`Report`]. Out: two aligned tables: figures, then where the time of a step goes.

use meshwright_hardware::units::Seconds;
use meshwright_planner::predict::FIGURES;

use super::{Report, error_pct};

/// Names shown one by one; what is left is summed.
const SHOWN: usize = 16;

impl Report {
    /// The tables.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for (label, value) in &self.subtitle {
            text += &format!("  {label:<7} {value}\n");
        }
        text += &format!("\n{:<26} {:>12} {:>12} {:>12} {:>9}\n", "", "predicted", "replayed", "measured", "error");
        for figure in FIGURES {
            let (values, error) = self.compared(figure);
            let [predicted, replayed, measured] = values.map(|value| figure.unit.show(value));
            let error = error.map_or_else(String::new, |error| format!("{error:>+7.1} %"));
            text += &format!("{:<26} {predicted:>12} {replayed:>12} {measured:>12} {error:>9}", figure.title);
            text = text.trim_end().to_owned() + "\n";
        }
        if let Some(spread) = self.spread {
            text += &format!("{}\n", spread.words());
        }
        text += "\nwhere a step's time goes, all stages together (mean over a stage's ranks)\n";
        let (shown, rest) = self.groups.split_at(self.groups.len().min(SHOWN));
        let waits = shown.iter().any(|group| group.waits && group.nanos[2] > 0.0);
        for group in shown {
            let mark = if group.waits { "*" } else { "" };
            text += &group_line(&format!("{}{mark}", group.name), Some(group.count), group.nanos);
        }
        if !rest.is_empty() {
            let sum = |i: usize| rest.iter().map(|group| group.nanos[i]).sum::<f64>();
            text += &group_line("all else", None, [sum(0), sum(1), sum(2)]);
        }
        if waits {
            text += "* waiting for other ranks included\n";
        }
        text
    }
}

fn group_line(name: &str, count: Option<usize>, nanos: [f64; 3]) -> String {
    let times = count.map(|count| format!("× {count}")).unwrap_or_default();
    let [p, r, m] = nanos.map(|nanos| Seconds(nanos / 1e9).to_string());
    format!("{name:<18} {times:>7} {p:>12} {r:>12} {m:>12} {:>+7.1} %\n", error_pct(nanos[0], nanos[2]))
}
