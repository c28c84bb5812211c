//! Whether others used this machine while it was measured.
//!
//! In: the system's counts of processor time (`/proc/stat`, `/proc/self/stat`), before and after; where there are none, how long a
//! fixed piece of work takes over and over. Out: nothing, or [`Busy`], which says so.
//!
//! Invariant: what this process does itself never counts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Of the cores' time, what others may take before times measured meanwhile are said to be disturbed.
const QUIET: f64 = 0.1;
/// In less time counts of hundredths of a second say nothing.
const SHORTEST: Duration = Duration::from_millis(500);

/// A machine that others used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Busy {
    /// Processes that wanted a core, the mean of the last minute, this one's included; none where the system does not say.
    pub load: Option<f64>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Share of these cores' time that others took, and that a hypervisor gave to other machines.
    pub taken: f64,
}

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Busy { load, cores, taken } = self;
        let load = load.map_or(String::new(), |load| format!("load {load:.0} on "));
        write!(
            f,
            "this machine was busy ({load}{cores} cores, of whose time others took {:.0} %): compare with care",
            100.0 * taken
        )
    }
}

/// Processor time so far, in the system's ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    /// Of all cores that this process may use.
    all: u64,
    /// In which they worked.
    worked: u64,
    /// That a hypervisor gave away.
    stolen: u64,
    /// Of this process.
    own: u64,
}

impl Ticks {
    fn now() -> Option<Ticks> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let status = read("/proc/self/status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Ticks::of(&read("/proc/stat")?, &read("/proc/self/stat")?, allowed.trim())
    }

    /// Of the tables of all cores and of this process, and a list such as `0-3,8`.
    fn of(stat: &str, own: &str, allowed: &str) -> Option<Ticks> {
        let may = |core: usize| {
            allowed.split(',').any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let ends = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
                ends.is_some_and(|(first, last)| (first..=last).contains(&core))
            })
        };
        let mut ticks = Ticks { all: 0, worked: 0, stolen: 0, own: 0 };
        let mut cores = 0;
        for line in stat.lines() {
            let mut words = line.split_whitespace();
            let core = words.next().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
            if !core.is_some_and(may) {
                continue;
            }
            // user, nice, system, idle, iowait, irq, softirq, steal; guests count as user.
            let times: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
            let [user, nice, system, idle, wait, irq, softirq, stolen] = times[..] else { continue };
            let worked = user + nice + system + irq + softirq;
            (ticks.all, ticks.worked) = (ticks.all + worked + idle + wait + stolen, ticks.worked + worked);
            (ticks.stolen, cores) = (ticks.stolen + stolen, cores + 1);
        }
        // The process's name, in brackets, may hold spaces; user and system time are the 12th and 13th word behind it.
        let words: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        ticks.own = words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?;
        (cores > 0).then_some(ticks)
    }

    /// Share of the cores' time since then that was not this process's.
    fn taken(self, since: Ticks) -> f64 {
        let of = |part: fn(Ticks) -> u64| part(self).saturating_sub(part(since)) as f64;
        let others = (of(|ticks| ticks.worked) - of(|ticks| ticks.own)).max(0.0);
        (others + of(|ticks| ticks.stolen)) / of(|ticks| ticks.all).max(1.0)
    }
}

/// Watches what others do from when it is made.
pub struct LoadWatch {
    since: Instant,
    ticks: Option<Ticks>,
}

impl LoadWatch {
    /// From now on.
    pub fn start() -> LoadWatch {
        LoadWatch { since: Instant::now(), ticks: Ticks::now() }
    }

    /// Whether others used the machine until now.
    pub fn busy(&self) -> Option<Busy> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split_whitespace().next()?.parse().ok());
        let taken = match self.ticks.zip(Ticks::now()) {
            Some(_) if self.since.elapsed() < SHORTEST => return None,
            Some((since, now)) => now.taken(since),
            None => waited(cores),
        };
        (taken > QUIET).then_some(Busy { load, cores, taken })
    }
}

/// Share of its time for which a piece of work that takes milliseconds waits, on as many threads as there are cores: the middle of
/// many beside the quickest.
fn waited(cores: usize) -> f64 {
    const PIECES: usize = 25;
    let piece = || {
        let start = Instant::now();
        black_box((0..2_000_000_u64).fold(1_u64, |sum, i| black_box(sum.wrapping_mul(31) ^ i)));
        start.elapsed().as_secs_f64()
    };
    let of_thread = || {
        let mut times: Vec<f64> = (0..PIECES).map(|_| piece()).collect();
        times.sort_by(f64::total_cmp);
        1.0 - times[0] / (times.iter().sum::<f64>() / PIECES as f64)
    };
    let shares: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(of_thread)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two cores of three; the process's name has a bracket and spaces.
    fn ticks(stat: &str, own: u64) -> Ticks {
        let own = format!("7 (a b) c) S 1 1 1 0 -1 4194560 1 0 0 0 {own} 5 0 0 20 0 1 0 9 9 9");
        Ticks::of(stat, &own, "0-1").unwrap()
    }

    #[test]
    fn what_others_take_of_ones_own_cores_counts_and_nothing_else() {
        let before = ticks(
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 0 100 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\ncpu2 9 0 0 0 0 0 0 0 0 0\n",
            0,
        );
        assert_eq!(before, Ticks { all: 110, worked: 10, stolen: 0, own: 5 });
        // 200 ticks of two cores: 120 worked, of which 100 its own; 10 stolen. What the third core does is no matter.
        let after =
            ticks("cpu0 60 0 10 130 0 0 0 10 0 0\ncpu1 60 0 0 40 0 0 0 0 0 0\ncpu2 9999 0 0 0 0 0 0 0 0 0\n", 100);
        assert!((after.taken(before) - 0.15).abs() < 1e-9, "{}", after.taken(before));
        assert_eq!(before.taken(before), 0.0);
        assert_eq!(Ticks::of("intr 5\n", "7 (a) S 1 1", "0"), None);
    }

    #[test]
    fn a_busy_machine_is_told_with_its_load() {
        let busy = Busy { load: Some(14.2), cores: 2, taken: 0.853 };
        let said = "this machine was busy (load 14 on 2 cores, of whose time others took 85 %): compare with care";
        assert_eq!(busy.to_string(), said);
        let none = Busy { load: None, ..busy };
        assert!(none.to_string().starts_with("this machine was busy (2 cores, "), "{none}");
    }

    #[test]
    fn without_the_systems_counts_ones_own_timings_tell() {
        let share = waited(1);
        assert!((0.0..1.0).contains(&share), "{share}");
    }
}
