//! What all ranks on an adapter share: its device, its queue and its compiled kernels.
//!
//! In: an adapter's number. Out: its open device.
//!
//! Invariant: an adapter is opened once a process for what kernels may make use of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use wgpu::{Adapter, Device, Features, Limits, Queue, SubmissionIndex};

use super::adapters::{CLOCK, enumerate, lacks, now};
use super::pipeline::{Extras, Pipelines};

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
    Gpu::new(adapter, limits, super::adapters::EXTRAS)
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
    pub fn healthy(&self) -> Result<(), String> {
        lock(&self.fault).clone().map_or(Ok(()), Err)
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
}
