//! The comparison as text for a terminal.
//!
//! In: a [`Report`]. Out: two aligned tables: figures, then where the time of a step goes.

use meshwright_hardware::units::{Bytes, Seconds};

use super::{Figures, Report, error_pct};

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
        let all = [&self.predicted, &self.replayed, &self.measured];
        let mut line = |label: &str, figure: &dyn Fn(&Figures) -> f64, show: &dyn Fn(f64) -> String| {
            let [predicted, replayed, measured] = all.map(figure);
            let (p, r, m) = (show(predicted), show(replayed), show(measured));
            text += &format!("{label:<26} {p:>12} {r:>12} {m:>12} {:>+7.1} %\n", error_pct(predicted, measured));
        };
        line("step time", &|f| f.step_time_s, &|x| Seconds(x).to_string());
        line("tokens/s", &|f| f.tokens_per_s, &|x| format!("{x:.0}"));
        line("MFU", &|f| f.mfu, &|x| format!("{:.1} %", x * 100.0));
        line("peak memory of a rank", &|f| f.peak_memory_bytes as f64, &|x| Bytes(x as u64).to_string());
        if let Some(spread) = self.spread {
            let [low, half, high] = [spread.p5_s, spread.median_s, spread.p95_s].map(|x| Seconds(x).to_string());
            text += &format!("of {} steps, half took less than {half}, nine in ten {low} to {high}\n", spread.steps);
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
