//! Whatever a file or an argument says, it is read or refused: nothing panics, hangs or takes the machine's memory, and what is
//! read has figures that mean something.
//!
//! A case is a valid input of some kind, changed ([`mutate`]); it follows from a seed and its number alone. 20,000 are tried with
//! the other tests; `MESHWRIGHT_FUZZ_CASES=1000000` tries more, `MESHWRIGHT_FUZZ_SEED=7` others, and `MESHWRIGHT_FUZZ_CASE=123`
//! one, which it prints. Where the process dies, `fuzz-worker-N` in the tests' folder has the number of each worker's last case.

mod accepted;
mod mutate;
mod nonsense;
mod readers;
mod seeds;
mod tables;
mod time;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mutate::{Random, mutated};
use readers::{Reader, readers};
use time::Spent;

/// What all cases together may hold at a time, in bytes.
const MEMORY: usize = 2 << 30;
/// What a case may take of a processor.
const LIMIT: Duration = Duration::from_secs(10);
/// By the clock, where it waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(600);
/// As the thread has that a command runs on.
const STACK: usize = 8 << 20;
/// What an accepted input gives is predicted of one in so many.
const PREDICTED: usize = 8;

/// Counts what is allocated, and gives no more than [`MEMORY`].
struct Bounded(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded(AtomicUsize::new(0));

// SAFETY: all of it is the system's; more than is allowed counts as memory that the system does not have.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let before = self.0.fetch_add(layout.size(), Ordering::Relaxed);
        if before + layout.size() > MEMORY {
            self.0.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

/// What was found: a line by what happened and where, the first case of it, and how often.
type Found = BTreeMap<String, (usize, String, usize)>;

/// What all workers share.
struct Cases {
    readers: Vec<Reader>,
    /// A reader's number, as often as its weight says.
    turns: Vec<usize>,
    seed: u64,
    end: usize,
    next: AtomicUsize,
    found: Mutex<Found>,
    accepted: AtomicUsize,
}

impl Cases {
    fn reader(&self, case: usize) -> &Reader {
        &self.readers[self.turns[case % self.turns.len()]]
    }

    fn text(&self, case: usize) -> String {
        let mut random = Random::of(self.seed, case as u64);
        let reader = self.reader(case);
        let seed = &reader.seeds[random.below(reader.seeds.len())];
        mutated(seed, reader.form, &mut random)
    }

    /// What is wrong with how a case was answered, if anything is.
    fn trouble(&self, case: usize) -> Option<String> {
        let (reader, text) = (self.reader(case), self.text(case));
        let tried = || {
            let answer = (reader.read)(&text);
            if answer.is_ok() {
                self.accepted.fetch_add(1, Ordering::Relaxed);
            }
            match (answer, reader.predict) {
                (Ok(()), Some(predict)) if case.is_multiple_of(PREDICTED) => predict(&text),
                (answer, _) => answer.or_else(|message| reader.refusal(&message)),
            }
        };
        match catch_unwind(AssertUnwindSafe(tried)) {
            Ok(answer) => answer.err(),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
                Some(format!("panic {}: {}", last_panic(), said.unwrap_or_default()))
            }
        }
    }

    fn keep(&self, case: usize, trouble: &str) {
        // Figures differ from case to case.
        let kind: String = trouble.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = format!("{}: {kind}", self.reader(case).name);
        let entry = found.entry(kind).or_insert_with(|| (case, trouble.chars().take(400).collect(), 0));
        entry.2 += 1;
    }
}

/// Where the last panic of this thread was.
fn last_panic() -> String {
    PANIC.with_borrow(Clone::clone)
}

thread_local! {
    static PANIC: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// A worker's case, when it began and what the worker had spent then, in milliseconds; and its clock.
#[derive(Default)]
struct Now {
    case: AtomicUsize,
    since: AtomicU64,
    spent: AtomicU64,
    clock: OnceLock<Spent>,
}

impl Now {
    /// What the case has taken so far: of a processor, and by the clock; nothing where there is none.
    fn taken(&self, started: Instant) -> Option<[Duration; 2]> {
        let [since, spent] = [&self.since, &self.spent].map(|count| count.load(Ordering::Relaxed));
        let less = |now: Duration, then: u64| now.saturating_sub(Duration::from_millis(then));
        (since < u64::MAX).then_some(())?;
        Some([less(self.clock.get()?.now(), spent), less(started.elapsed(), since)])
    }
}

fn work(cases: &Cases, now: &Now, started: Instant, worker: usize) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-worker-{worker}"));
    let mut last = File::create(path).unwrap();
    let clock = now.clock.get_or_init(Spent::of_this_thread);
    loop {
        let case = cases.next.fetch_add(1, Ordering::Relaxed);
        if case >= cases.end {
            now.since.store(u64::MAX, Ordering::Relaxed);
            return;
        }
        last.rewind().and_then(|()| write!(last, "{case:>12}")).unwrap();
        now.case.store(case, Ordering::Relaxed);
        now.spent.store(clock.now().as_millis() as u64, Ordering::Relaxed);
        now.since.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
        if let Some(trouble) = cases.trouble(case) {
            cases.keep(case, &trouble);
        }
    }
}

/// Runs all cases; ends with the first that takes too long.
fn try_all(cases: &Arc<Cases>) {
    let started = Instant::now();
    let workers: Vec<Arc<Now>> = (0..2).map(|_| Arc::default()).collect();
    let spawn = |(worker, now): (usize, &Arc<Now>)| {
        let (cases, now) = (Arc::clone(cases), Arc::clone(now));
        let run = move || work(&cases, &now, started, worker);
        std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
    };
    let threads: Vec<_> = workers.iter().enumerate().map(spawn).collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(50));
        for now in &workers {
            let case = now.case.load(Ordering::Relaxed);
            let Some([spent, waited]) = now.taken(started) else { continue };
            // It may have ended meanwhile.
            assert!(
                spent < LIMIT && waited < PATIENCE || now.case.load(Ordering::Relaxed) != case,
                "case {case} of {} takes over {LIMIT:?} of a processor, or waits for {waited:?}: {}",
                cases.reader(case).name,
                shown(cases, case)
            );
        }
    }
}

/// A case's text, cut.
fn shown(cases: &Cases, case: usize) -> String {
    let text = cases.text(case);
    let cut = &text[..text.floor_char_boundary(4000)];
    format!("\n{}", cut.escape_debug().to_string().replace("\\n", "\n"))
}

fn of_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[test]
fn no_input_panics_hangs_or_is_read_as_nonsense() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        PANIC.set(place.clone());
        if std::thread::current().name().is_some() {
            eprintln!("{panic}");
        }
    }));
    let readers = readers();
    let turns = readers.iter().enumerate().flat_map(|(at, reader)| std::iter::repeat_n(at, reader.weight)).collect();
    let cases = Arc::new(Cases {
        readers,
        turns,
        seed: of_environment("MESHWRIGHT_FUZZ_SEED").unwrap_or(1) as u64,
        end: of_environment("MESHWRIGHT_FUZZ_CASES").unwrap_or(20_000),
        next: AtomicUsize::new(0),
        found: Mutex::default(),
        accepted: AtomicUsize::new(0),
    });
    if let Some(case) = of_environment("MESHWRIGHT_FUZZ_CASE") {
        println!("{}: {}", cases.reader(case).name, shown(&cases, case));
        assert_eq!(cases.trouble(case), None);
        return;
    }
    let pairs = cases.readers.iter().flat_map(|reader| reader.seeds.iter().map(move |seed| (reader, seed)));
    let refused = pairs.filter_map(|(reader, seed)| Some((reader.name, (reader.read)(seed).err()?)));
    let refused: Vec<(&str, String)> = refused.collect();
    assert!(refused.is_empty(), "seeds that are not valid: {refused:#?}");
    try_all(&cases);
    let found = cases.found.lock().unwrap_or_else(PoisonError::into_inner);
    let line = |(kind, (case, trouble, times)): (&String, &(usize, String, usize))| {
        format!("{times}x, first case {case}: {kind}\n    {trouble}")
    };
    let all: Vec<String> = found.iter().map(line).collect();
    assert!(all.is_empty(), "{} kinds\n{}", all.len(), all.join("\n"));
    let (accepted, end) = (cases.accepted.load(Ordering::Relaxed), cases.end);
    assert!(
        (end / 20..end / 2).contains(&accepted),
        "{accepted} of {end} cases are read: what is changed is too little or too much"
    );
}
