//! How far a search is: one line on a terminal, written over and over.
//!
//! In: what a search tells. Out: text on stderr, after a second, if stderr is a terminal.
//!
//! Invariant: nothing is left of it when the search has ended.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use meshwright_planner::search::Progress;

/// Before the first line.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between lines.
const EVERY: Duration = Duration::from_millis(100);

/// The line on a terminal.
pub struct Line {
    terminal: bool,
    started: Instant,
    /// When it was written last, and how wide.
    written: Mutex<(Option<Instant>, usize)>,
}

impl Line {
    /// Nothing yet.
    pub fn new() -> Self {
        Line { terminal: std::io::stderr().is_terminal(), started: Instant::now(), written: Mutex::new((None, 0)) }
    }

    /// Shows how far the search on a cluster is.
    pub fn show(&self, cluster: &Cluster, progress: &Progress) {
        if self.terminal && self.started.elapsed() >= PATIENCE {
            self.write(|| words(cluster, progress));
        }
    }

    /// Shows what is being done.
    pub fn say(&self, what: &str) {
        if self.terminal {
            self.write(|| what.to_owned());
        }
    }

    fn write(&self, words: impl FnOnce() -> String) {
        let Ok(mut written) = self.written.try_lock() else { return };
        if written.0.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        let words = words();
        let width = words.chars().count();
        eprint!("\r{words}{}", " ".repeat(written.1.saturating_sub(width)));
        *written = (Some(Instant::now()), width);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let width = self.written.get_mut().map_or(0, |written| written.1);
        if width > 0 {
            eprint!("\r{}\r", " ".repeat(width));
        }
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
