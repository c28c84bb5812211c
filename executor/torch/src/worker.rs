//! A thread that does a rank's work on CUDA, whichever thread asks: cuBLAS and cuDNN keep handles, plans and working memory by
//! thread, and a graph must be captured by the one that warmed them up.
//!
//! In: closures. Out: what they give.
//!
//! Invariant: one closure runs at a time, and whoever asks waits until it is done.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

type Thunk = Box<dyn FnOnce() + Send>;

/// What is handed from one thread to another that waits for it.
struct Handed<T>(T);

// SAFETY: one of the two threads waits while the other has it; libtorch's tensors, CUDA's streams, graphs and events belong
// to no thread.
unsafe impl<T> Send for Handed<T> {}

impl<T> Handed<T> {
    fn take(self) -> T {
        self.0
    }
}

/// The thread, until it is dropped.
pub struct Worker {
    jobs: Option<Sender<Thunk>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn new() -> Worker {
        let (jobs, asked) = channel::<Thunk>();
        let work = move || asked.into_iter().for_each(|job| job());
        let thread = Builder::new().name("cuda".to_owned()).spawn(work).expect("a thread can be started");
        Worker { jobs: Some(jobs), thread: Some(thread) }
    }

    /// What `body` gives on the thread; its panic goes on here.
    pub fn call<R>(&self, body: impl FnOnce() -> R) -> R {
        let (tell, told) = sync_channel(1);
        let body = Handed(body);
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
            let outcome = Handed(catch_unwind(AssertUnwindSafe(body.take())));
            // Whoever asked waits.
            let _ = tell.send(outcome);
        });
        // SAFETY: `recv` returns when the job has run or was dropped, so what it borrows outlives it.
        let job = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Thunk>(job) };
        self.jobs.as_ref().expect("it is open").send(job).expect("the thread waits for jobs");
        match told.recv().expect("jobs are run").take() {
            Ok(outcome) => outcome,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A job's panic was handed on already.
            let _ = thread.join();
        }
    }
}
