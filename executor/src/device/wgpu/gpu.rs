//! Adapters, and what all ranks on one share: its device, its queue and its compiled kernels.
//!
//! In: an adapter's number. Out: its description; its open device.
//!
//! Invariant: adapters are numbered alike in every run: discrete GPUs first, software last, else in the driver's order.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

use wgpu::{
    Adapter, Device, DeviceType, Features, Instance, InstanceDescriptor, InstanceFlags, Limits, Queue, SubmissionIndex,
};

use super::memory::Slice;
use super::pipeline::{Extras, Pipelines, Recorded};
use crate::device::{Found, device_info};

/// As `Cargo.toml` asks for it.
const LIBRARY: &str = "wgpu 30";
/// Bytes of parameters that a kernel is given as immediates.
pub(super) const PARAMS: u32 = 128;
/// Bindings of a kernel at most.
pub(super) const BINDINGS: u32 = 6;
/// What an adapter needs to keep time between dispatches.
const CLOCK: Features = Features::TIMESTAMP_QUERY.union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
/// Bytes of memory that a workgroup shares at most, and its invocations.
const WORKGROUP: (u32, u32) = (16 << 10, 256);

/// What kernels make use of where it is there.
pub(super) const EXTRAS: Features = Features::SHADER_I16.union(Features::SUBGROUP);

/// An open adapter.
pub(super) struct Gpu {
    pub device: Device,
    pub queue: Queue,
    pub limits: Limits,
    /// Whether it says when what it was told was done.
    pub keeps_time: bool,
    pub pipelines: Pipelines,
    /// What went wrong where nobody could be told.
    fault: Arc<Mutex<Option<String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The value of a future that native backends have at once.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("native backends answer at once"),
    }
}

fn enumerate() -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.flags = InstanceFlags::empty();
        let backends = descriptor.backends;
        let mut adapters = now(Instance::new(descriptor).enumerate_adapters(backends));
        adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        });
        adapters
    })
}

/// What an adapter with these limits lacks, if anything.
fn lacks(adapter: &Adapter, limits: &Limits) -> Option<String> {
    let (memory, invocations) = WORKGROUP;
    let needs = [
        ("max_immediate_size", limits.max_immediate_size, PARAMS),
        ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage, BINDINGS),
        ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size, memory),
        ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup, invocations),
    ];
    if !adapter.features().contains(Features::IMMEDIATES) {
        return Some("it has no immediates".to_owned());
    }
    let short = needs.into_iter().find(|(_, has, needed)| has < needed);
    short.map(|(limit, has, needed)| format!("its {limit} is {has}, kernels need {needed}"))
}

/// All adapters of this machine, or why there is none.
pub(super) fn adapters() -> Vec<Found> {
    let describe = |adapter: &Adapter| {
        let info = adapter.get_info();
        let driver = [info.backend.to_string(), info.driver, info.driver_info];
        let software = info.device_type == DeviceType::Cpu;
        let driver: Vec<String> = driver.into_iter().filter(|part| !part.is_empty()).collect();
        Found {
            title: info.name,
            driver: driver.join(", "),
            library: LIBRARY.to_owned(),
            software,
            memory_bytes: if software { device_info().memory_bytes } else { adapter.limits().max_buffer_size },
            problem: lacks(adapter, &adapter.limits()),
            ..Found::default()
        }
    };
    let adapters: Vec<Found> = enumerate().iter().map(describe).collect();
    let none = || vec![Found::absent("no adapter: no driver of Vulkan, Metal or D3D 12")];
    if adapters.is_empty() { none() } else { adapters }
}

/// An adapter's device with what it has of `extras`, opened once a process; `None` if there is no such adapter.
pub(super) fn open(number: usize, extras: Features) -> Option<Result<Arc<Gpu>, String>> {
    type Opened = HashMap<(usize, Features), Arc<Gpu>>;
    static OPEN: Mutex<Option<Opened>> = Mutex::new(None);
    let adapter = enumerate().get(number)?;
    let mut open = lock(&OPEN);
    let open = open.get_or_insert_default();
    if let Some(gpu) = open.get(&(number, extras)) {
        return Some(Ok(Arc::clone(gpu)));
    }
    let gpu = Gpu::new(adapter, adapter.limits(), extras).map(Arc::new);
    if let Ok(gpu) = &gpu {
        open.insert((number, extras), Arc::clone(gpu));
    }
    Some(gpu)
}

/// The first adapter's device, opened for a test alone, with lower limits than the adapter's.
#[cfg(test)]
pub(super) fn limited(lower: impl FnOnce(&mut Limits)) -> Result<Gpu, String> {
    let adapter = enumerate().first().expect("a wgpu adapter; scripts/test installs a software one");
    let mut limits = adapter.limits();
    lower(&mut limits);
    Gpu::new(adapter, limits, EXTRAS)
}

impl Gpu {
    fn new(adapter: &Adapter, limits: Limits, extras: Features) -> Result<Gpu, String> {
        if let Some(problem) = lacks(adapter, &limits) {
            return Err(problem);
        }
        let keeps_time = adapter.features().contains(CLOCK);
        let extras = extras & adapter.features();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("meshwright"),
            required_features: Features::IMMEDIATES | extras | if keeps_time { CLOCK } else { Features::empty() },
            required_limits: limits.clone(),
            ..Default::default()
        };
        let (device, queue) = now(adapter.request_device(&descriptor)).map_err(|e| e.to_string())?;
        let fault = Arc::new(Mutex::new(None));
        let (failed, lost) = (Arc::clone(&fault), Arc::clone(&fault));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&failed).get_or_insert(error.to_string());
        }));
        device.set_device_lost_callback(move |reason, message| {
            lock(&lost).get_or_insert(format!("it was lost ({reason:?}): {message}"));
        });
        let (short, subgroups) = (extras.contains(Features::SHADER_I16), extras.contains(Features::SUBGROUP));
        Ok(Gpu {
            pipelines: Pipelines::new(&device, Extras { short, subgroups }),
            device,
            queue,
            limits,
            keeps_time,
            fault,
        })
    }

    /// What has gone wrong so far, if anything.
    fn healthy(&self) -> Result<(), String> {
        lock(&self.fault).clone().map_or(Ok(()), Err)
    }

    /// Submits recorded dispatches and marks, then a copy; gives what to wait for.
    pub fn submit(
        &self,
        recorded: &mut Vec<Recorded>,
        copy: Option<(&Slice, &wgpu::Buffer)>,
    ) -> Result<SubmissionIndex, String> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut all = recorded.drain(..).peekable();
        while let Some(next) = all.next() {
            match next {
                Recorded::Mark(set, number) => encoder.write_timestamp(&set, number),
                Recorded::Dispatch(first) => {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    first.encode(&mut pass);
                    while let Some(Recorded::Dispatch(dispatch)) =
                        all.next_if(|next| matches!(next, Recorded::Dispatch(_)))
                    {
                        dispatch.encode(&mut pass);
                    }
                }
            }
        }
        drop(all);
        if let Some((from, to)) = copy {
            encoder.copy_buffer_to_buffer(&from.buffer, 4 * from.start, to, 0, 4 * from.elems);
        }
        let submitted = self.queue.submit([encoder.finish()]);
        self.healthy().map(|()| submitted)
    }

    /// Waits for a submission, and so for all before it.
    pub fn wait(&self, submitted: SubmissionIndex) -> Result<(), String> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submitted), timeout: None };
        self.device.poll(wait).map_err(|e| e.to_string())?;
        self.healthy()
    }

    /// Copies a staging buffer's first elements to `host` when a submission is done.
    pub fn read(
        &self,
        staging: &wgpu::Buffer,
        elems: usize,
        submitted: SubmissionIndex,
        host: &mut Vec<f32>,
    ) -> Result<(), String> {
        self.read_bytes(staging, 4 * elems as u64, submitted, |bytes| {
            host.clear();
            host.extend_from_slice(bytemuck::cast_slice(bytes));
        })
    }

    /// Shows a staging buffer's first bytes when a submission is done.
    pub fn read_bytes(
        &self,
        staging: &wgpu::Buffer,
        bytes: u64,
        submitted: SubmissionIndex,
        show: impl FnOnce(&[u8]),
    ) -> Result<(), String> {
        let slice = staging.slice(..bytes);
        let mapped = Arc::new(Mutex::new(Ok(())));
        let outcome = Arc::clone(&mapped);
        slice.map_async(wgpu::MapMode::Read, move |result| *lock(&outcome) = result);
        self.wait(submitted)?;
        lock(&mapped).clone().map_err(|e| e.to_string())?;
        let bytes = slice.get_mapped_range().map_err(|e| e.to_string())?;
        show(&bytes);
        drop(bytes);
        staging.unmap();
        Ok(())
    }

    /// Copies `host` to a slice, after what was submitted.
    pub fn write(&self, slice: &Slice, host: &[f32]) -> Result<SubmissionIndex, String> {
        self.queue.write_buffer(&slice.buffer, 4 * slice.start, bytemuck::cast_slice(host));
        // What the queue stages would else wait for the next batch, and memory with it.
        let submitted = self.queue.submit([]);
        self.healthy().map(|()| submitted)
    }
}
