//! What a thread has spent: its processor's time, which others on the machine do not change.
//!
//! In: the thread itself. Out: a clock that another thread reads; where the system has none, the time of day.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A thread's clock.
pub struct Spent {
    /// Linux's count of the thread's nanoseconds on a processor.
    counter: Option<PathBuf>,
    started: Instant,
}

impl Spent {
    /// That of the thread that asks.
    pub fn of_this_thread() -> Spent {
        let task = std::fs::read_link("/proc/thread-self").ok();
        let counter = task.map(|task| PathBuf::from("/proc").join(task).join("schedstat"));
        Spent { counter: counter.filter(|path| path.is_file()), started: Instant::now() }
    }

    /// Since the thread began.
    pub fn now(&self) -> Duration {
        let counted = || {
            let text = std::fs::read_to_string(self.counter.as_ref()?).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        };
        counted().unwrap_or_else(|| self.started.elapsed())
    }
}
