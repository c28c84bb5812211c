//! The table of functions that the executor finds in this library.
//!
//! In: calls through the C ABI. Out: calls of [`TorchRank`].
//!
//! Invariant: nobody unwinds out of a function here; a panic is told like any other problem.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use meshwright_executor::device::torch::abi::{ABI, Declared, Description, Handle, NO_CLOCK, NO_KERNEL, Sink, Table};
use meshwright_executor::device::{Region, StepArgs};
use meshwright_hardware::mesh::Coord;

use crate::torch::TorchRank;
use crate::view::Outcome;
use crate::{cuda, ffi, ops};

static TABLE: Table = Table {
    abi: ABI,
    cuda_devices,
    describe,
    open,
    close,
    op,
    run,
    address,
    read,
    write,
    sync,
    mark,
    marks,
    buffer_bytes,
    scratch_bytes,
};

/// The table.
#[unsafe(no_mangle)]
pub extern "C" fn meshwright_torch() -> *const Table {
    &TABLE
}

/// What `body` gives, or none with its problem told.
fn told<T>(problem: Sink, body: impl FnOnce() -> Outcome<T>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(outcome)) => Some(outcome),
        Ok(Err(error)) => {
            problem.put(&words(&error.to_string()));
            None
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            problem.put(&format!("a bug: {}", text.unwrap_or("a panic without a message")));
            None
        }
    }
}

/// The first line of libtorch's message: the others say where in libtorch.
fn words(message: &str) -> String {
    message.lines().next().unwrap_or("libtorch failed without a word").to_owned()
}

/// The device of a handle.
///
/// # Safety
/// The handle must be open, and nobody else may use it meanwhile.
unsafe fn torch<'a>(handle: Handle) -> &'a mut TorchRank {
    // SAFETY: `open` made it of a box.
    unsafe { &mut *handle.cast() }
}

unsafe extern "C" fn cuda_devices() -> u32 {
    cuda::devices()
}

unsafe extern "C" fn describe(device: i32, text: Sink) -> bool {
    let described = told(text, || {
        if device < 0 {
            let driver = "oneDNN and MKL".to_owned();
            return Ok(Description { driver, ..Description::default() });
        }
        let (title, driver, runtime) = cuda::describe(device)?;
        let (_, memory_bytes) = ffi::cuda_bytes(device)?;
        let version = |number: i32| format!("{}.{}", number / 1000, number % 1000 / 10);
        let driver = format!("CUDA {} by a driver for CUDA {}", version(runtime), version(driver));
        Ok(Description { title, driver, memory_bytes })
    });
    let json = described.and_then(|description| serde_json::to_string(&description).ok());
    json.inspect(|json| text.put(json)).is_some()
}

unsafe extern "C" fn open(
    device: i32,
    threads: usize,
    buffers: *const Declared,
    count: usize,
    problem: Sink,
) -> Handle {
    // SAFETY: there are `count`, though none may lie nowhere.
    let declared = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(buffers, count) } };
    let opened = told(problem, || TorchRank::open(device, threads, declared));
    opened.map_or(std::ptr::null_mut(), |torch| Box::into_raw(Box::new(torch)).cast())
}

unsafe extern "C" fn close(handle: Handle) {
    // SAFETY: `open` made it, and this is its last use.
    let torch = unsafe { Box::from_raw(handle.cast::<TorchRank>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(torch)));
}

unsafe extern "C" fn op(handle: Handle, json: *const u8, len: usize, problem: Sink) -> i64 {
    // SAFETY: there are `len` bytes, and the handle is open.
    let (json, torch) = unsafe { (std::slice::from_raw_parts(json, len), torch(handle)) };
    match serde_json::from_slice(json) {
        Ok(op) if !ops::has(&op) => NO_KERNEL,
        Ok(op) => torch.number(op) as i64,
        Err(error) => {
            problem.put(&format!("an op of another version: {error}"));
            -1
        }
    }
}

unsafe extern "C" fn run(
    handle: Handle,
    op: u32,
    regions: *const Region,
    count: usize,
    at: *const Coord,
    step: *const StepArgs,
    problem: Sink,
) -> bool {
    // SAFETY: all of them live as long as the call.
    let (torch, regions, at, step) =
        unsafe { (torch(handle), std::slice::from_raw_parts(regions, count), *at, &*step) };
    told(problem, || torch.run(op as usize, regions, at, step)).is_some()
}

unsafe extern "C" fn address(handle: Handle, region: *const Region) -> *mut c_void {
    // SAFETY: both live as long as the call.
    let (torch, region) = unsafe { (torch(handle), &*region) };
    torch.address(region).unwrap_or(std::ptr::null_mut())
}

unsafe extern "C" fn read(handle: Handle, region: *const Region, lie: bool, to: *mut c_void, problem: Sink) -> bool {
    // SAFETY: all of them live as long as the call, and `to` holds the region.
    told(problem, || unsafe { torch(handle).read(&*region, lie, to) }).is_some()
}

unsafe extern "C" fn write(
    handle: Handle,
    region: *const Region,
    lie: bool,
    from: *const c_void,
    problem: Sink,
) -> bool {
    // SAFETY: all of them live as long as the call, and `from` holds the region.
    told(problem, || unsafe { torch(handle).write(&*region, lie, from) }).is_some()
}

unsafe extern "C" fn sync(handle: Handle, problem: Sink) -> bool {
    // SAFETY: the handle is open.
    told(problem, || unsafe { torch(handle) }.sync()).is_some()
}

unsafe extern "C" fn mark(handle: Handle, problem: Sink) -> i64 {
    // SAFETY: the handle is open.
    let mark = told(problem, || unsafe { torch(handle) }.mark());
    mark.map_or(-1, |mark| mark.map_or(NO_CLOCK, |mark| mark as i64))
}

unsafe extern "C" fn marks(handle: Handle, ago: *mut u64, count: usize, problem: Sink) -> bool {
    // SAFETY: the handle is open; there is room for `count`, though none may lie nowhere.
    let (torch, ago) =
        unsafe { (torch(handle), if count == 0 { &mut [][..] } else { std::slice::from_raw_parts_mut(ago, count) }) };
    told(problem, || torch.marks(ago)).is_some()
}

unsafe extern "C" fn buffer_bytes(handle: Handle) -> u64 {
    // SAFETY: the handle is open.
    unsafe { torch(handle) }.buffer_bytes()
}

unsafe extern "C" fn scratch_bytes(handle: Handle) -> u64 {
    // SAFETY: the handle is open.
    unsafe { torch(handle) }.scratch_bytes()
}
