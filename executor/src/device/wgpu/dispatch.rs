//! Calls of kernels made ready, and submitted.
//!
//! In: a kernel, its arguments, dims and numbers. Out: a dispatch, which is submitted with others.
//!
//! Invariant: dispatches and marks reach the adapter in the order in which they were recorded.

use wgpu::{BindGroup, ComputePass, ComputePipeline, SubmissionIndex};

use super::adapters::PARAMS;
use super::gpu::Gpu;
use super::memory::Slice;
use super::pipeline::{Constants, Kernel};

/// A kernel with what it is called with.
pub(super) struct KernelCall {
    pub kernel: Kernel,
    /// One a binding; an argument that the kernel does not look at is any other one.
    pub args: Vec<Slice>,
    /// `d0 ..` of the parameters, as many as it needs.
    pub dims: Vec<usize>,
    /// `f0 ..` of the parameters.
    pub numbers: Vec<f32>,
    /// Workgroups.
    pub groups: usize,
    /// Values of the module's `override`s.
    pub constants: Constants,
}

/// What can be submitted.
pub(super) enum Recorded {
    Dispatch(PreparedCall),
    /// The moment at which what comes before is done, into this place of a set.
    Mark(wgpu::QuerySet, u32),
}

/// A call that can be submitted.
pub(super) struct PreparedCall {
    pipeline: ComputePipeline,
    bindings: BindGroup,
    params: [u32; PARAMS as usize / 4],
    groups: (u32, u32),
}

impl PreparedCall {
    /// Puts the call into a pass.
    pub fn encode(self, pass: &mut ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(&self.params));
        pass.dispatch_workgroups(self.groups.0, self.groups.1, 1);
    }
}

impl Gpu {
    /// Makes a call ready.
    pub fn prepare(&self, call: KernelCall) -> Result<PreparedCall, String> {
        let KernelCall { kernel, args, dims, numbers, groups, constants } = call;
        let mut params = [0; PARAMS as usize / 4];
        let elems = args.iter().map(|slice| slice.elem).collect();
        let mut entries = Vec::with_capacity(args.len());
        for (binding, slice) in args.iter().enumerate() {
            let (window, start) = slice.window(self)?;
            params[binding] = start;
            entries.push(wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(window),
            });
        }
        for (to, dim) in params[8..24].iter_mut().zip(&dims) {
            *to = u32::try_from(*dim).map_err(|_| format!("{}: a dim of {dim} is too large", kernel.entry))?;
        }
        params[24..].iter_mut().zip(&numbers).for_each(|(to, number)| *to = number.to_bits());
        let pipeline = self.pipelines.get(&self.device, kernel, constants, elems)?;
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: self.pipelines.layout(kernel),
            entries: &entries,
        });
        let most = self.limits.max_compute_workgroups_per_dimension as usize;
        let wide = groups.clamp(1, most);
        let high = groups.div_ceil(wide);
        if high > most {
            return Err(format!(
                "{}: {groups} workgroups are too many, the adapter's max_compute_workgroups_per_dimension is {most}",
                kernel.entry
            ));
        }
        Ok(PreparedCall { pipeline, bindings, params, groups: (wide as u32, high as u32) })
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

    /// Copies `host` to a slice, after what was submitted.
    pub fn write(&self, slice: &Slice, host: &[f32]) -> Result<SubmissionIndex, String> {
        self.queue.write_buffer(&slice.buffer, 4 * slice.start, bytemuck::cast_slice(host));
        // What the queue stages would else wait for the next batch, and memory with it.
        let submitted = self.queue.submit([]);
        self.healthy().map(|()| submitted)
    }
}
