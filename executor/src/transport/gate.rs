//! Where threads wait for each other.
//!
//! In: threads that come. Out: they go on together, or what they wait for is true.
//!
//! Invariant: nobody passes a gate before all of its members have come; to wait can be given up, to have passed cannot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long a waiting rank looks before it sleeps: about what a sleep and a wake-up cost.
const SPIN: Duration = Duration::from_micros(50);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where threads wait for something to become true.
#[derive(Default)]
pub(super) struct Bell {
    lock: Mutex<()>,
    ringing: Condvar,
}

impl Bell {
    /// To be called after what others wait for became true.
    pub fn ring(&self) {
        // Whoever found it untrue either has not taken the lock yet and will look again, or sleeps by now.
        drop(lock(&self.lock));
        self.ringing.notify_all();
    }

    /// Looks for a while, giving way to others on a crowded machine, then sleeps until rung.
    pub fn wait_until(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..16 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            thread::yield_now();
        }
        let mut guard = lock(&self.lock);
        while !ready() {
            guard = self.ringing.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
    }
}

/// A barrier that can be given up.
pub(super) struct Gate {
    members: u64,
    /// `round · ROUND + members that have arrived in it`.
    state: AtomicU64,
    pub bell: Bell,
}

const ROUND: u64 = 1 << 16;

impl Gate {
    pub fn new(members: usize) -> Gate {
        Gate { members: members as u64, state: AtomicU64::new(0), bell: Bell::default() }
    }

    /// Waits for all members, or until `aborted`: then false, and the gate stays shut for the others too.
    pub fn pass(&self, aborted: Option<&AtomicBool>) -> bool {
        let arrive = |state: u64| {
            let last = state % ROUND + 1 == self.members;
            Some(if last { (state / ROUND + 1) * ROUND } else { state + 1 })
        };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, arrive).expect("always some");
        if before % ROUND + 1 == self.members {
            self.bell.ring();
            return true;
        }
        let open = |state: u64| state / ROUND != before / ROUND;
        let gone = || aborted.is_some_and(|aborted| aborted.load(Ordering::Acquire));
        self.bell.wait_until(|| open(self.state.load(Ordering::Acquire)) || gone());
        // To leave is to take one's arrival back, unless the last member came meanwhile.
        let leave = |state: u64| if open(state) { None } else { Some(state - 1) };
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave).is_err()
    }
}
