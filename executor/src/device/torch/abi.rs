//! The C ABI between the executor and the library that links libtorch, which is opened at run time.
//!
//! In: declared buffers, then ops by number with their regions. Out: what is there, or a problem in words.
//!
//! Both sides are built from this file; [`ABI`] is compared first, so that a library of another version is refused.
//!
//! Invariant: nothing crosses but C types, structs of C layout, and text through a [`Sink`]; nobody unwinds across.

use std::ffi::c_void;

use meshwright_hardware::mesh::Coord;

use crate::device::{Region, StepArgs};

/// The name of the function that gives the table: `extern "C" fn() -> *const Table`.
pub const SYMBOL: &str = "meshwright_torch";

/// The version of this file, and the sizes of what crosses.
pub const ABI: u64 = {
    let sizes = [size_of::<Declared>(), size_of::<Region>(), size_of::<Coord>(), size_of::<StepArgs>()];
    (5 << 48) + ((sizes[0] << 36) + (sizes[1] << 24) + (sizes[2] << 12) + sizes[3]) as u64
};

/// What an element of a buffer is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// fp32, or a number of a token or place.
    Word = 0,
    /// bf16.
    Bf16 = 1,
    /// fp16.
    F16 = 2,
}

/// A declared buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Number of elements.
    pub elems: usize,
    /// What an element is.
    pub format: Format,
    /// Whether it stands for memory of the host beside that of the device.
    pub hosted: bool,
}

/// Where text goes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sink {
    to: *mut c_void,
    put: unsafe extern "C" fn(*mut c_void, *const u8, usize),
}

impl Sink {
    /// One that adds to `text`, which must outlive it.
    pub fn to(text: &mut String) -> Sink {
        unsafe extern "C" fn put(to: *mut c_void, bytes: *const u8, len: usize) {
            // SAFETY: `to` is the string of `Sink::to`, and the caller gives `len` bytes.
            let (text, bytes) = unsafe { (&mut *to.cast::<String>(), std::slice::from_raw_parts(bytes, len)) };
            text.push_str(&String::from_utf8_lossy(bytes));
        }
        Sink { to: std::ptr::from_mut(text).cast(), put }
    }

    /// Adds to it.
    pub fn put(self, text: &str) {
        // SAFETY: whoever made the sink keeps its string, and copies what it is given.
        unsafe { (self.put)(self.to, text.as_ptr(), text.len()) }
    }
}

/// What `mark` gives for a device whose ops run at once.
pub const NO_CLOCK: i64 = i64::MAX;

/// What `op` gives for an op that the library cannot run.
pub const NO_KERNEL: i64 = i64::MAX;

/// A rank's buffers on a device of torch's.
pub type Handle = *mut c_void;

/// What the library can do. A function that gives `false`, a null handle or a negative number said why to its sink.
#[repr(C)]
pub struct Table {
    /// [`ABI`] as the library was built with it.
    pub abi: u64,
    /// How many CUDA devices libtorch sees; after its CUDA part was opened.
    pub cuda_devices: unsafe extern "C" fn() -> u32,
    /// What a device is, as [`Description`] in JSON; −1 is the CPU, others are CUDA's.
    pub describe: unsafe extern "C" fn(device: i32, text: Sink) -> bool,
    /// Allocates buffers, all zeros. `threads` are the CPU's.
    pub open: unsafe extern "C" fn(
        device: i32,
        threads: usize,
        buffers: *const Declared,
        count: usize,
        problem: Sink,
    ) -> Handle,
    /// Frees them.
    pub close: unsafe extern "C" fn(Handle),
    /// The number of an op, given in JSON; [`NO_KERNEL`] if the library has none for it.
    pub op: unsafe extern "C" fn(Handle, json: *const u8, len: usize, problem: Sink) -> i64,
    /// Runs an op on regions that were checked.
    pub run: unsafe extern "C" fn(
        Handle,
        op: u32,
        regions: *const Region,
        count: usize,
        at: *const Coord,
        step: *const StepArgs,
        problem: Sink,
    ) -> bool,
    /// Where a region lies, if the host can reach it there; else null.
    pub address: unsafe extern "C" fn(Handle, region: *const Region) -> *mut c_void,
    /// Copies a region to the host after all that was asked for, as words, narrower floats widened, or as elements `lie`.
    pub read: unsafe extern "C" fn(Handle, region: *const Region, lie: bool, to: *mut c_void, problem: Sink) -> bool,
    /// Copies from the host to a region after all that was asked for, words that are rounded to its elements, or what is to
    /// `lie` there.
    pub write:
        unsafe extern "C" fn(Handle, region: *const Region, lie: bool, from: *const c_void, problem: Sink) -> bool,
    /// Waits for all that was asked for.
    pub sync: unsafe extern "C" fn(Handle, problem: Sink) -> bool,
    /// Notes a moment in line with ops; its number since `marks`, [`NO_CLOCK`] if the device keeps no time.
    pub mark: unsafe extern "C" fn(Handle, problem: Sink) -> i64,
    /// How many nanoseconds ago each of `count` marks was passed, which are all there are and are forgotten; waits for them.
    pub marks: unsafe extern "C" fn(Handle, ago: *mut u64, count: usize, problem: Sink) -> bool,
    /// Bytes of declared buffers.
    pub buffer_bytes: unsafe extern "C" fn(Handle) -> u64,
    /// Bytes of working memory that kernels held besides at most.
    pub scratch_bytes: unsafe extern "C" fn(Handle) -> u64,
}

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// What it calls itself; empty for the CPU.
    pub title: String,
    /// What runs its ops, with versions.
    pub driver: String,
    /// Bytes of its memory; zero for the host's.
    pub memory_bytes: u64,
}
