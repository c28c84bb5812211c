//! When an adapter did what it was told, by its own clock.
//!
//! In: places between dispatches. Out: moments of the host's clock.
//!
//! The two clocks differ by an offset, which every reading narrows: what is done was submitted before and is known after.
//!
//! Invariant: a moment lies between the submission of its mark and its reading.

use std::time::Instant;

use wgpu::{BufferUsages, QuerySet};

use super::dispatch::Recorded;
use super::gpu::Gpu;

/// Marks that are held at once.
const MOST: u32 = 4096;
/// Bytes of a mark.
const TICK: u64 = 8;

/// A rank's marks on an adapter.
pub(super) struct Marks {
    set: QuerySet,
    /// Ticks as the adapter writes them, and where the host reads them.
    ticks: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// What the host's nanoseconds are counted from.
    start: Instant,
    /// The host's nanoseconds less the adapter's.
    offset: f64,
    /// Marks in the set.
    held: u32,
    /// When the first of them was submitted.
    submitted: Option<Instant>,
    /// Moments of those before.
    known: Vec<Instant>,
}

impl Marks {
    /// None yet; reads both clocks once.
    pub fn new(gpu: &Gpu) -> Result<Marks, String> {
        let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: MOST,
        });
        let buffer = |usage| {
            let size = TICK * u64::from(MOST);
            gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let mut marks = Marks {
            set,
            ticks: buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
            staging: buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
            period: f64::from(gpu.queue.get_timestamp_period()),
            start: Instant::now(),
            offset: f64::NAN,
            held: 0,
            submitted: None,
            known: Vec::new(),
        };
        let (_, mark) = marks.next(gpu)?;
        marks.submitting();
        let submitted = gpu.submit(&mut vec![mark], None)?;
        gpu.wait(submitted)?;
        marks.take(gpu)?;
        Ok(marks)
    }

    /// Whether the next mark needs the others to be read, which must be done by then.
    pub fn full(&self) -> bool {
        self.held == MOST
    }

    /// A mark's number, and what records it.
    pub fn next(&mut self, gpu: &Gpu) -> Result<(usize, Recorded), String> {
        if self.full() {
            self.read(gpu)?;
        }
        let number = self.held;
        self.held += 1;
        Ok((self.known.len() + number as usize, Recorded::Mark(self.set.clone(), number)))
    }

    /// Marks so far are submitted now, if they were not before.
    pub fn submitting(&mut self) {
        if self.held > 0 {
            self.submitted.get_or_insert_with(Instant::now);
        }
    }

    /// The moments of all marks, which must be done.
    pub fn take(&mut self, gpu: &Gpu) -> Result<Vec<Instant>, String> {
        self.read(gpu)?;
        Ok(std::mem::take(&mut self.known))
    }

    /// Moves the marks in the set to `self.known`.
    fn read(&mut self, gpu: &Gpu) -> Result<(), String> {
        let (held, done) = (std::mem::take(&mut self.held), Instant::now());
        let Some(submitted) = self.submitted.take().filter(|_| held > 0) else { return Ok(()) };
        let bytes = TICK * u64::from(held);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&self.set, 0..held, &self.ticks, 0);
        encoder.copy_buffer_to_buffer(&self.ticks, 0, &self.staging, 0, bytes);
        let reading = gpu.queue.submit([encoder.finish()]);
        let mut ticks: Vec<u64> = Vec::new();
        gpu.read_bytes(&self.staging, bytes, reading, |bytes| ticks.extend_from_slice(bytemuck::cast_slice(bytes)))?;
        let nanos: Vec<f64> = ticks.iter().map(|&tick| tick as f64 * self.period).collect();
        let host = |moment: Instant| moment.saturating_duration_since(self.start).as_nanos() as f64;
        let (least, most) = (host(submitted) - nanos[0], host(done) - nanos[nanos.len() - 1]);
        // At first the middle; later as little as has to be. Clocks that drift apart may cross over.
        self.offset = if self.offset.is_nan() { (least + most) / 2.0 } else { self.offset.max(least).min(most) };
        let moment =
            |nanos: &f64| self.start + std::time::Duration::from_nanos((nanos + self.offset).max(0.0).round() as u64);
        self.known.extend(nanos.iter().map(moment));
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.ticks.size() + self.staging.size()
    }
}
