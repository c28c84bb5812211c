//! Buffers on an adapter.
//!
//! In: how many elements. Out: memory of zeros, and slices of it as kernels' bindings.
//!
//! Invariant: a binding is a window of its buffer that begins where the adapter allows, and is never longer than it allows.

use meshwright_hardware::program::{Buffer, Elem};
use wgpu::{BufferDescriptor, BufferUsages};

use super::adapters::now;
use super::gpu::Gpu;

/// What kernels and copies do with a buffer.
const KERNELS: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

/// One buffer.
pub(super) struct GpuBuffer {
    pub buffer: wgpu::Buffer,
    elems: u64,
    elem: Elem,
}

/// A part of a buffer, in elements.
#[derive(Clone)]
pub(super) struct Slice {
    pub buffer: wgpu::Buffer,
    pub start: u64,
    pub elems: u64,
    pub elem: Elem,
}

impl GpuBuffer {
    /// Zeros for a declared buffer.
    pub fn declared(gpu: &Gpu, buffer: &Buffer) -> Result<GpuBuffer, String> {
        GpuBuffer::allocate(gpu, (buffer.elems, buffer.elem), KERNELS, &format!("buffer `{}`", buffer.name))
    }

    /// Zeros in fp32 that kernels and copies can use.
    pub fn zeroed(gpu: &Gpu, elems: usize, name: &str) -> Result<GpuBuffer, String> {
        GpuBuffer::allocate(gpu, (elems, Elem::F32), KERNELS, name)
    }

    fn allocate(gpu: &Gpu, (elems, elem): (usize, Elem), usage: BufferUsages, name: &str) -> Result<GpuBuffer, String> {
        let (elems, most) = (elems.max(1) as u64, gpu.limits.max_buffer_size);
        // Whole words: two halves share one.
        let size = (elem.bytes() * elems).next_multiple_of(4);
        if size > most {
            return Err(format!("{name} takes {size} bytes, the adapter's max_buffer_size is {most}"));
        }
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer =
            gpu.device.create_buffer(&BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        match now(scope.pop()) {
            None => Ok(GpuBuffer { buffer, elems, elem }),
            Some(error) => Err(format!("{name} of {size} bytes cannot be allocated: {error}")),
        }
    }

    /// The memory in `place`, made longer where it is shorter than `elems`.
    pub fn at_least<'a>(
        place: &'a mut Option<GpuBuffer>,
        gpu: &Gpu,
        elems: usize,
        name: &str,
    ) -> Result<&'a GpuBuffer, String> {
        if place.as_ref().is_none_or(|memory| memory.elems < elems as u64) {
            // The old one first: both may not fit.
            *place = None;
            *place = Some(GpuBuffer::zeroed(gpu, elems, name)?);
        }
        Ok(place.as_ref().expect("it was just made"))
    }

    /// As [`GpuBuffer::at_least`], for memory that the host can read.
    pub fn staging<'a>(place: &'a mut Option<GpuBuffer>, gpu: &Gpu, elems: usize) -> Result<&'a wgpu::Buffer, String> {
        if place.as_ref().is_none_or(|memory| memory.elems < elems as u64) {
            *place = None;
            let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
            *place = Some(GpuBuffer::allocate(gpu, (elems, Elem::F32), usage, "staging memory")?);
        }
        Ok(&place.as_ref().expect("it was just made").buffer)
    }

    /// A part, if it lies inside.
    pub fn slice(&self, start: usize, elems: usize) -> Option<Slice> {
        let inside = start.checked_add(elems).is_some_and(|end| end as u64 <= self.elems);
        inside.then(|| Slice { buffer: self.buffer.clone(), start: start as u64, elems: elems as u64, elem: self.elem })
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }
}

impl Slice {
    /// A part of it.
    pub fn part(&self, start: usize, elems: usize) -> Slice {
        Slice { start: self.start + start as u64, elems: elems as u64, ..self.clone() }
    }

    /// The words that it touches.
    pub fn words(&self) -> Slice {
        let width = self.elem.bytes();
        let (start, end) = (self.start * width / 4, ((self.start + self.elems) * width).div_ceil(4));
        Slice { buffer: self.buffer.clone(), start, elems: end - start, elem: Elem::U32 }
    }

    /// The window of the buffer that a binding of this slice takes, and where in the window the slice begins.
    pub fn window(&self, gpu: &Gpu) -> Result<(wgpu::BufferBinding<'_>, u32), String> {
        let line = u64::from(gpu.limits.min_storage_buffer_offset_alignment);
        let width = self.elem.bytes();
        let (start, most) = (width * self.start, gpu.limits.max_storage_buffer_binding_size);
        let offset = start / line * line;
        let size = (start - offset + width * self.elems).next_multiple_of(4).max(4);
        if size > most {
            let problem =
                "an op's argument takes that many bytes of a buffer, the adapter's max_storage_buffer_binding_size";
            return Err(format!("{size} bytes are too many: {problem} is {most}; split it over more ranks"));
        }
        let size = wgpu::BufferSize::new(size);
        Ok((wgpu::BufferBinding { buffer: &self.buffer, offset, size }, ((start - offset) / width) as u32))
    }
}
