//! Threads that stay: a parallel `for` cheap enough for kernels of a few microseconds.
//!
//! In: a number of tasks and a body. Out: the body has run once for every task. Workers spin briefly between jobs and
//! then park; the caller works too. Which thread takes which task is left to chance, so a body must write only what its
//! task owns; then results do not depend on the number of threads.
//!
//! Invariant: when [`Team::run`] returns or unwinds, no worker holds a reference into the caller's frame.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread spins before it parks: longer than the gap between two kernels, shorter than a time slice.
const SPIN: Duration = Duration::from_micros(40);
/// `state` is `epoch · EPOCH + OPEN? + workers inside`.
const EPOCH: usize = 1 << 16;
const OPEN: usize = 1 << 15;
const INSIDE: usize = OPEN - 1;

/// A cache line of floats: scratch is made of these, so that it is aligned for the widest vectors.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code)] [f32; 16]); // read through pointers only

/// Reused working memory of one owner at a time.
#[derive(Default)]
struct Scratch(UnsafeCell<Vec<CacheLine>>);

// SAFETY: a scratch is resized between jobs by the caller and used during a job by its owner alone.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// Makes room for `floats`. Nobody may be using the scratch.
    unsafe fn reserve(&self, floats: usize) {
        // SAFETY: exclusive by this function's contract.
        let lines = unsafe { &mut *self.0.get() };
        if lines.len() < floats.div_ceil(16) {
            lines.resize(floats.div_ceil(16), CacheLine([0.0; 16]));
        }
    }

    /// The first `floats` floats, holding whatever was there. The caller must be the only user.
    #[allow(clippy::mut_from_ref)] // the owner is unique by contract
    unsafe fn slice(&self, floats: usize) -> &mut [f32] {
        // SAFETY: exclusive by contract; `CacheLine` is 16 floats without padding.
        unsafe {
            let lines = &mut *self.0.get();
            assert!(floats <= 16 * lines.len());
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), floats)
        }
    }

    fn bytes(&self) -> usize {
        // SAFETY: called between jobs only.
        unsafe { (*self.0.get()).capacity() * size_of::<CacheLine>() }
    }
}

/// What the workers are to do: `body(task, worker)` for every task.
#[derive(Clone)]
struct TeamJob {
    body: *const (dyn Fn(usize, usize) + Sync),
    tasks: usize,
    caller: Thread,
}

struct TeamState {
    state: AtomicUsize,
    next: AtomicUsize,
    quit: AtomicBool,
    job: UnsafeCell<Option<TeamJob>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    scratch: Vec<Scratch>,
}

// SAFETY: `job` is written only while closed and nobody is inside, and read only by those inside.
unsafe impl Sync for TeamState {}
// SAFETY: the raw pointer in `job` points to a `Sync` closure that outlives the job.
unsafe impl Send for TeamState {}

impl TeamState {
    /// Takes tasks until none is left; a panic ends the job for all and is kept for the caller.
    fn work(&self, job: &TeamJob, worker: usize) {
        // SAFETY: the caller keeps the closure alive until everybody has left.
        let body = unsafe { &*job.body };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= job.tasks {
                    return;
                }
                body(task, worker);
            }
        }));
        if let Err(payload) = outcome {
            self.next.store(job.tasks, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(payload);
        }
    }

    /// A worker's life.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if self.quit.load(Ordering::Relaxed) {
                return;
            }
            if state & OPEN == 0 || state / EPOCH == seen {
                wait_until(|| {
                    let now = self.state.load(Ordering::Relaxed);
                    self.quit.load(Ordering::Relaxed) || (now & OPEN != 0 && now / EPOCH != seen)
                });
                continue;
            }
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            seen = state / EPOCH;
            // SAFETY: inside an open job, which the caller does not replace before everybody has left.
            let job = unsafe { (*self.job.get()).clone().expect("an open job") };
            self.work(&job, worker);
            let left = self.state.fetch_sub(1, Ordering::AcqRel) - 1;
            if left & (OPEN | INSIDE) == 0 {
                job.caller.unpark();
            }
        }
    }
}

/// Spins, then parks, until `ready`; whoever makes it ready unparks this thread.
fn wait_until(ready: impl Fn() -> bool) {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            break;
        }
    }
    while !ready() {
        thread::park();
    }
}

/// A set of threads for kernels, one caller at a time.
pub struct Team {
    shared: Arc<TeamState>,
    workers: Vec<JoinHandle<()>>,
    common: Scratch,
    common_taken: Cell<bool>,
    one_caller: PhantomData<Cell<()>>,
}

impl Team {
    /// A team of `threads` threads (at least one), the caller of [`Team::run`] included.
    pub fn new(threads: usize) -> Team {
        let threads = threads.clamp(1, INSIDE);
        let shared = Arc::new(TeamState {
            state: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            scratch: (0..threads).map(|_| Scratch::default()).collect(),
        });
        let spawn = |worker| {
            let shared = Arc::clone(&shared);
            let name = format!("kernel-{worker}");
            thread::Builder::new().name(name).spawn(move || shared.serve(worker)).ok()
        };
        // Where the system gives no more threads, those there are do all of it.
        let workers = (1..threads).map_while(spawn).collect();
        Team { shared, workers, common: Scratch::default(), common_taken: Cell::new(false), one_caller: PhantomData }
    }

    /// Threads at work, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Bytes of working memory held (they grow to what the largest kernel so far needed).
    pub fn scratch_bytes(&self) -> usize {
        self.common.bytes() + self.shared.scratch.iter().map(Scratch::bytes).sum::<usize>()
    }

    /// Runs `body(task)` for every task below `tasks`, in any order, on all threads.
    ///
    /// # Panics
    /// With the body's panic, after all threads have stopped.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        self.launch(tasks, &|task, _| body(task));
    }

    /// As [`Team::run`], and gives each call `floats` floats of its thread's working memory, 64-byte aligned and
    /// holding whatever was there.
    pub(super) fn run_with(&self, tasks: usize, floats: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
        for scratch in &self.shared.scratch {
            // SAFETY: between jobs; nobody uses it.
            unsafe { scratch.reserve(floats) };
        }
        let scratch = &self.shared.scratch;
        // SAFETY: a worker runs one task at a time and uses its own scratch.
        self.launch(tasks, &|task, worker| body(task, unsafe { scratch[worker].slice(floats) }));
    }

    /// Runs `body` over consecutive ranges of `0..n`, each of `grain` items (the last may be shorter).
    pub(super) fn ranges(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        self.run(n.div_ceil(grain), |task| body(task * grain..n.min((task + 1) * grain)));
    }

    /// Lends `floats` floats that all tasks can share, 64-byte aligned and holding whatever was there.
    pub(super) fn with_common<R>(&self, floats: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
        assert!(!self.common_taken.replace(true), "the common scratch is lent already");
        // SAFETY: not lent, as just checked; `Team` is not `Sync`, so nobody else can be here.
        let slice = unsafe {
            self.common.reserve(floats);
            self.common.slice(floats)
        };
        let result = catch_unwind(AssertUnwindSafe(|| body(slice)));
        self.common_taken.set(false);
        result.unwrap_or_else(|payload| resume_unwind(payload))
    }

    fn launch(&self, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(|task| body(task, 0));
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; this function waits until nobody is inside before it returns.
        let body = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync), *const (dyn Fn(usize, usize) + Sync + 'static)>(
                body,
            )
        };
        let job = TeamJob { body, tasks, caller: thread::current() };
        // SAFETY: the last job is closed and everybody has left it.
        unsafe { *shared.job.get() = Some(job.clone()) };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = shared.state.load(Ordering::Relaxed) / EPOCH;
        shared.state.store(epoch.wrapping_add(1).wrapping_mul(EPOCH) | OPEN, Ordering::SeqCst);
        self.workers.iter().take(tasks - 1).for_each(|worker| worker.thread().unpark());
        shared.work(&job, 0);
        // Closing means that a worker which has not woken yet is not waited for.
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_until(|| shared.state.load(Ordering::Acquire) & INSIDE == 0);
        if let Some(payload) = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take() {
            resume_unwind(payload);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so it ends well.
            let _ = worker.join();
        }
    }
}

/// A mutable slice that tasks split among themselves.
pub(super) struct Split<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `Split::part`, whose contract keeps them disjoint.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Split { start: slice.as_mut_ptr(), len: slice.len(), of: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that overlaps may be alive.
    #[allow(clippy::mut_from_ref)] // disjoint by contract
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the assertion, disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first element, for tasks whose parts are strided.
    pub(super) fn pointer(&self) -> *mut T {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn many_short_jobs_all_finish_whether_workers_spin_or_sleep() {
        let team = Team::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..3000 {
            team.run(3, |task| {
                sum.fetch_add(task + 1, Ordering::Relaxed);
            });
            if round % 1000 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(sum.into_inner(), 3000 * 6);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_works_on() {
        let team = Team::new(3);
        let panicked = catch_unwind(AssertUnwindSafe(|| team.run(50, |task| assert!(task != 30, "task thirty"))));
        let message = panicked.unwrap_err();
        assert_eq!(message.downcast_ref::<&str>().copied(), Some("task thirty"));
        let sum = AtomicUsize::new(0);
        team.run(10, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn scratch_is_private_to_a_task_and_counted() {
        let team = Team::new(3);
        assert_eq!(team.scratch_bytes(), 0);
        team.run_with(100, 1000, |task, scratch| {
            scratch.fill(task as f32);
            thread::yield_now();
            assert!(scratch.iter().all(|&x| x == task as f32));
        });
        assert!(team.scratch_bytes() >= 3 * 4000);
    }

    #[test]
    fn a_team_can_move_to_another_thread() {
        let team = Team::new(2);
        let sum = thread::spawn(move || {
            let sum = AtomicUsize::new(0);
            team.run(4, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            sum.into_inner()
        });
        assert_eq!(sum.join().unwrap(), 6);
    }
}
