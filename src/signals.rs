//! Signals that ask a process to end: so that training ends with a whole step and a checkpoint.
//!
//! In: SIGINT, SIGTERM and, on Unix, SIGHUP. Out: which of them came first, for whoever asks.
//!
//! Invariant: the second one ends the process at once; one that is ignored, as SIGHUP under `nohup`, stays so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Signals that are caught, with their names.
const CAUGHT: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// Catches signals as long as the process runs.
#[derive(Debug)]
pub struct Signals {
    /// The latest one's number; none is 0.
    latest: Arc<AtomicUsize>,
}

impl Signals {
    /// Catches them from here on.
    ///
    /// # Errors
    /// What the system says if it does not let a signal be caught.
    pub fn catch() -> std::io::Result<Signals> {
        let (latest, came) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let ignored = ignored();
        for (signal, _) in CAUGHT.into_iter().filter(|(signal, _)| ignored >> (signal - 1) & 1 == 0) {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came))?;
            flag::register(signal, Arc::clone(&came))?;
            flag::register_usize(signal, Arc::clone(&latest), signal as usize)?;
        }
        Ok(Signals { latest })
    }

    /// The number and the name of one that came.
    pub fn came(&self) -> Option<(u8, &'static str)> {
        let latest = self.latest.load(Ordering::Relaxed);
        CAUGHT.into_iter().find(|(signal, _)| *signal as usize == latest).map(|(signal, name)| (signal as u8, name))
    }
}

/// Signals that whoever started this process has set to be ignored, a bit each, where the system tells.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
