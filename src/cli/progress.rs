//! How far what takes long is: one line on a terminal, written over and over.
//!
//! In: what a search tells, counts, or a budget of time. Out: a line on stderr, after a second, as wide as the terminal.
//!
//! Invariant: nothing is left of it when that has ended, and nothing is written where stderr is no terminal unless `--verbose`
//! asks for it.

use crate::answer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use meshwright_planner::search::Progress;

/// Before the first line.
const PATIENCE: Duration = Duration::from_secs(1);

/// The line on a terminal.
pub struct ProgressLine {
    bar: ProgressBar,
    started: Instant,
    /// Whole seconds after the start at which it was last written where stderr is no terminal.
    written: AtomicU64,
}

impl ProgressLine {
    /// Nothing yet.
    pub fn new() -> Self {
        let bar = if answer::is_quiet() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let style = ProgressStyle::with_template("{wide_msg}").expect("the template is one of indicatif's");
        ProgressLine { bar: bar.with_style(style), started: Instant::now(), written: AtomicU64::new(0) }
    }

    /// Shows how far the search on a cluster is.
    pub fn show(&self, cluster: &Cluster, progress: &Progress) {
        if self.bar.is_hidden() {
            let now = self.started.elapsed().as_secs();
            if answer::is_verbose() && self.written.swap(now, Ordering::Relaxed) < now {
                eprintln!("{}", words(cluster, progress));
            }
        } else if self.started.elapsed() >= PATIENCE {
            self.bar.set_message(words(cluster, progress));
        }
    }

    /// Shows how many of so many are done, and how long the rest may take.
    pub fn count(&self, done: usize, all: usize, what: &str) {
        let left = self.started.elapsed().as_secs_f64() * (all.saturating_sub(done)) as f64 / done.max(1) as f64;
        let share = 100 * done / all.max(1);
        self.bar.set_message(format!("{done} of {all} {what}, {share} %, about {} left", Seconds(left.round())));
    }

    /// Does what takes about so long, and shows how long it has taken.
    pub fn during<T>(what: &str, budget: Duration, work: impl FnOnce() -> T) -> T {
        let line = ProgressLine::new();
        let of = format!("{{msg}}: {{elapsed}} of about {} s", budget.as_secs_f64().ceil());
        line.bar.set_style(ProgressStyle::with_template(&of).expect("the template is one of indicatif's"));
        line.say(what);
        line.bar.enable_steady_tick(Duration::from_millis(250));
        work()
    }

    /// Shows what is being done.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One line for an instant of a search.
fn words(cluster: &Cluster, progress: &Progress) -> String {
    let Progress { considered, simulated, best, bound } = *progress;
    let best = match best {
        None => "no plan yet".to_owned(),
        Some(best) => {
            let gap = 100.0 * (1.0 - bound / best).max(0.0);
            format!("best step {}, gap {gap:.1} %", Seconds(best))
        }
    };
    format!("{cluster}: {considered} considered, {simulated} simulated, {best}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_and_how_good() {
        let cluster = Cluster::parse("2x dgx-h100").unwrap();
        let progress = Progress { considered: 1200, simulated: 3, best: Some(2.0), bound: 1.9 };
        assert_eq!(words(&cluster, &progress), "2x dgx-h100: 1200 considered, 3 simulated, best step 2 s, gap 5.0 %");
        let none = words(&cluster, &Progress { best: None, ..progress });
        assert!(none.ends_with("no plan yet"), "{none}");
    }
}
