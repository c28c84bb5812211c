//! The library that links CUDA's libraries: streams and graphs, the functions of `cpp/cuda.cpp`.
//!
//! In: calls. Out: calls of a library that the executor opened for all to see, or that it is not open.
//!
//! Invariant: functions are found by name at run time, so that this library needs nothing of CUDA.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use tch::TchError;

use crate::ffi::outcome;

/// The functions of a library that links CUDA's, which the executor opened for all to see.
struct CudaLibrary {
    problem: unsafe extern "C" fn() -> *const c_char,
    devices: unsafe extern "C" fn() -> u32,
    describe: unsafe extern "C" fn(i32, *mut c_char, usize, *mut i32, *mut i32) -> bool,
    rank: unsafe extern "C" fn(i32, *mut i64, *mut u64) -> bool,
    stream: unsafe extern "C" fn(i32, i64) -> bool,
    sync: unsafe extern "C" fn() -> bool,
    begin: unsafe extern "C" fn(*const u64) -> *mut c_void,
    end: unsafe extern "C" fn(*mut c_void) -> bool,
    replay: unsafe extern "C" fn(*mut c_void) -> bool,
    free: unsafe extern "C" fn(*mut c_void),
    event: unsafe extern "C" fn() -> *mut c_void,
    record: unsafe extern "C" fn(*mut c_void) -> bool,
    elapsed: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut f32) -> bool,
    free_event: unsafe extern "C" fn(*mut c_void),
    launch: unsafe extern "C" fn(*const c_char, i32, *const c_char, *const u32, *mut *mut c_void) -> bool,
}

fn library() -> Result<&'static CudaLibrary, TchError> {
    static LIBRARY: OnceLock<Option<CudaLibrary>> = OnceLock::new();
    let find = || {
        // SAFETY: the names are those of `cpp/cuda.cpp`, with its types.
        unsafe {
            Some(CudaLibrary {
                problem: function(c"ffi_cuda_problem")?,
                devices: function(c"ffi_cuda_devices")?,
                describe: function(c"ffi_cuda_describe")?,
                rank: function(c"ffi_cuda_rank")?,
                stream: function(c"ffi_cuda_stream")?,
                sync: function(c"ffi_cuda_sync")?,
                begin: function(c"ffi_graph_begin")?,
                end: function(c"ffi_graph_end")?,
                replay: function(c"ffi_graph_replay")?,
                free: function(c"ffi_graph_free")?,
                event: function(c"ffi_event")?,
                record: function(c"ffi_event_record")?,
                elapsed: function(c"ffi_event_elapsed")?,
                free_event: function(c"ffi_event_free")?,
                launch: function(c"ffi_cuda_launch")?,
            })
        }
    };
    let missing = || TchError::Torch("the library that links CUDA's libraries is not open".to_owned());
    LIBRARY.get_or_init(find).as_ref().ok_or_else(missing)
}

/// A function that some opened library has.
///
/// # Safety
/// `F` must be its type.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    // SAFETY: looking up a name runs nothing.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: `F` is a function pointer, by the caller's word.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

/// How many CUDA devices there are.
pub fn devices() -> u32 {
    // SAFETY: it takes nothing.
    library().map_or(0, |library| unsafe { (library.devices)() })
}

/// A CUDA device's name and capability, and the versions of driver and runtime, as `1000·major + 10·minor`.
pub fn describe(device: i32) -> Result<(String, i32, i32), TchError> {
    let library = library()?;
    let (mut text, mut driver, mut runtime) = ([0; 256], 0, 0);
    // SAFETY: `text` has room for as many bytes as it says.
    let done = unsafe { (library.describe)(device, text.as_mut_ptr(), text.len(), &mut driver, &mut runtime) };
    outcome(done, library.problem)?;
    // SAFETY: it ends with a zero.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    Ok((text, driver, runtime))
}

/// What a rank has of a CUDA device: a stream, and a pool of memory that its graphs share.
#[derive(Clone, Copy, Debug)]
pub struct CudaRank {
    device: i32,
    stream: i64,
    pool: [u64; 2],
}

impl CudaRank {
    pub fn new(device: i32) -> Result<CudaRank, TchError> {
        let library = library()?;
        let (mut stream, mut pool) = (0, [0; 2]);
        // SAFETY: `pool` has room for two; libtorch checks the number of the device.
        outcome(unsafe { (library.rank)(device, &mut stream, pool.as_mut_ptr()) }, library.problem)?;
        Ok(CudaRank { device, stream, pool })
    }

    /// The device's number.
    pub fn device(self) -> i32 {
        self.device
    }

    /// Makes its stream this thread's.
    pub fn enter(self) -> Result<(), TchError> {
        let library = library()?;
        // SAFETY: the stream is of this device.
        outcome(unsafe { (library.stream)(self.device, self.stream) }, library.problem)
    }
}

/// Waits for this thread's stream.
pub fn sync() -> Result<(), TchError> {
    let library = library()?;
    // SAFETY: it takes nothing.
    outcome(unsafe { (library.sync)() }, library.problem)
}

/// Runs a kernel of a source, in the format of this number, on this thread's stream: as many blocks by x and y and threads of
/// each as `shape` says.
///
/// # Safety
/// `arguments` must point to the kernel's, of its types, and what they point to must be of this thread's device.
pub unsafe fn launch(
    source: &CStr,
    format: i32,
    name: &CStr,
    shape: [u32; 4],
    arguments: &mut [*mut c_void],
) -> Result<(), TchError> {
    let library = library()?;
    // SAFETY: the caller's word; texts end with a zero.
    let done =
        unsafe { (library.launch)(source.as_ptr(), format, name.as_ptr(), shape.as_ptr(), arguments.as_mut_ptr()) };
    outcome(done, library.problem)
}

/// A moment between kernels.
pub struct Event(*mut c_void);

// SAFETY: CUDA keeps no state of a thread's in an event.
unsafe impl Send for Event {}

impl Event {
    /// On this thread's device.
    pub fn new() -> Result<Event, TchError> {
        let library = library()?;
        // SAFETY: it takes nothing.
        let event = unsafe { (library.event)() };
        outcome(!event.is_null(), library.problem).map(|()| Event(event))
    }

    /// Has this thread's stream note the moment at which what was asked for before is done, in a graph at every replay.
    pub fn record(&self) -> Result<(), TchError> {
        let library = library()?;
        // SAFETY: the event is alive.
        outcome(unsafe { (library.record)(self.0) }, library.problem)
    }

    /// Nanoseconds from here to a later event; both have to be over.
    pub fn until(&self, later: &Event) -> Result<u64, TchError> {
        let (library, mut ms) = (library()?, 0.0);
        // SAFETY: both are alive.
        outcome(unsafe { (library.elapsed)(self.0, later.0, &mut ms) }, library.problem)?;
        Ok((f64::from(ms) * 1e6) as u64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(library) = library() {
            // SAFETY: nobody has it after this.
            unsafe { (library.free_event)(self.0) }
        }
    }
}

/// A sequence of CUDA kernels that starts with one call.
pub struct Graph(*mut c_void);

// SAFETY: libtorch keeps no state of a thread's in a graph.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `body` asks of this thread's stream; nothing of it runs.
    pub fn capture(rank: CudaRank, body: impl FnOnce() -> Result<(), TchError>) -> Result<Graph, TchError> {
        let library = library()?;
        // SAFETY: the pool has two numbers.
        let graph = Graph(unsafe { (library.begin)(rank.pool.as_ptr()) });
        outcome(!graph.0.is_null(), library.problem)?;
        let recorded = catch_unwind(AssertUnwindSafe(body));
        // SAFETY: the graph is being captured. A capture has to end even if it failed.
        let ended = outcome(unsafe { (library.end)(graph.0) }, library.problem);
        recorded.unwrap_or_else(|panic| resume_unwind(panic)).and(ended).map(|()| graph)
    }

    /// Runs it on this thread's stream.
    pub fn replay(&self) -> Result<(), TchError> {
        let library = library()?;
        // SAFETY: the graph was captured.
        outcome(unsafe { (library.replay)(self.0) }, library.problem)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let (false, Ok(library)) = (self.0.is_null(), library()) {
            // SAFETY: nobody has it after this.
            unsafe { (library.free)(self.0) }
        }
    }
}
