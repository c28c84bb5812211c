//! Kernels compiled once a process, and calls of them made ready to be submitted.
//!
//! In: a kernel, its arguments, dims and numbers. Out: a dispatch.
//!
//! Invariant: dims are parameters, so a kernel is compiled once for its arguments' elements; matmuls once a size of tiles,
//! attention once a width of heads. What an adapter has beyond WGSL's promises changes how elements lie and how workgroups
//! sum, not what kernels say.

use std::collections::HashMap;
use std::sync::Mutex;

use wgpu::{BindGroup, BindGroupLayout, ComputePass, ComputePipeline, PipelineLayout, ShaderStages};

use meshwright_hardware::program::Elem;

use super::elements::accessors;
use super::gpu::{BINDINGS, Gpu, PARAMS, now};
use super::memory::Slice;

/// An entry point of a WGSL module.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    entry: &'static str,
    source: &'static str,
    bindings: usize,
    /// The arguments that it writes, but for ids.
    writes: &'static [usize],
}

macro_rules! module {
    ($($file:literal),+) => {
        concat!(include_str!("kernels/prelude.wgsl"), $(include_str!(concat!("kernels/", $file, ".wgsl"))),+)
    };
}

/// Sums over a workgroup, without subgroups and with them.
const SUMS: [&str; 2] = [include_str!("kernels/sums.wgsl"), include_str!("kernels/sums_subgroups.wgsl")];
/// How entry points learn which thread they are, and what those add that note where it stands among subgroups.
const ENTRY: &str = "@builtin(local_invocation_index) t: u32) {";
const NOTED: &str = "@builtin(local_invocation_index) t: u32, @builtin(subgroup_id) subgroup: u32, \
    @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_invocation_id) lane: u32) { \
    stand = vec3<u32>(subgroup, subgroups, lane);";

const ELEMENTWISE: &str = module!("elementwise");
const EMBED: &str = module!("embed");
const NORM: &str = module!("norm");
const LOSS: &str = module!("loss");
const OPTIMIZER: &str = module!("optimizer");
const EXPERTS: &str = module!("experts");
const CONTEXT: &str = module!("context");
const LATENT: &str = module!("latent");
const FORWARD: &str = module!("attention", "attention_forward");
const BACKWARD: &str = module!("attention", "attention_grad");

macro_rules! kernels {
    ($($name:ident = $entry:literal, $source:expr, $bindings:literal, $writes:expr;)+) => {
        $(pub(super) const $name: Kernel =
            Kernel { entry: $entry, source: $source, bindings: $bindings, writes: &$writes };)+
    };
}

// Entry point, module, bindings, and the arguments that are written.
kernels! {
    ADD = "add", ELEMENTWISE, 4, [2];
    ZERO = "zero", ELEMENTWISE, 1, [0];
    ACCUMULATE = "accumulate", ELEMENTWISE, 2, [1];
    COPY = "copy", ELEMENTWISE, 2, [1];
    COLUMNS = "columns", ELEMENTWISE, 2, [1];
    GELU = "gelu", ELEMENTWISE, 2, [1];
    GELU_GRAD = "gelu_grad", ELEMENTWISE, 3, [2];
    SWIGLU = "swiglu", ELEMENTWISE, 2, [1];
    SWIGLU_GRAD = "swiglu_grad", ELEMENTWISE, 3, [2];
    ROPE = "rope", ELEMENTWISE, 2, [0];
    EMBEDDING = "embed", EMBED, 3, [2];
    CHAIN = "chain", EMBED, 2, [];
    EMBEDDING_GRAD = "embed_grad", EMBED, 4, [3];
    POSITIONS = "positions", EMBED, 2, [1];
    POSITIONS_GRAD = "positions_grad", EMBED, 2, [1];
    NORMALISE = "norm", NORM, 5, [3, 4];
    NORM_GRAD = "norm_grad", NORM, 5, [4];
    NORM_SUMS = "norm_sums", NORM, 4, [3];
    ROW_SUMS = "row_sums", NORM, 2, [1];
    FOLD = "fold", NORM, 2, [1];
    LOSS_STATS = "loss_stats", LOSS, 3, [2];
    LOSS_ROWS = "loss", LOSS, 4, [2, 3];
    TOTAL = "total", LOSS, 2, [1];
    SQUARES = "squares", OPTIMIZER, 2, [1];
    ADAMW = "adamw", OPTIMIZER, 6, [2, 3, 4, 5];
    MATMUL = "matmul", module!("matmul"), 4, [2];
    ATTENTION = "attention", FORWARD, 3, [1, 2];
    ROUTE = "route", EXPERTS, 3, [1, 2];
    CHOICES = "choices", EXPERTS, 2, [];
    TAKE_SLOTS = "take_slots", EXPERTS, 2, [];
    PULLS = "pulls", EXPERTS, 2, [1];
    ROUTE_GRAD = "route_grad", EXPERTS, 5, [3];
    DISPATCH = "dispatch", EXPERTS, 3, [2];
    DISPATCH_GRAD = "dispatch_grad", EXPERTS, 3, [2];
    COMBINE = "combine", EXPERTS, 4, [3];
    COMBINE_GRAD = "combine_grad", EXPERTS, 4, [3];
    SHARES_GRAD = "shares_grad", EXPERTS, 4, [3];
    LATENT_PACK = "latent_pack", LATENT, 5, [3];
    LATENT_GRAD = "latent_grad", LATENT, 5, [1, 2, 3];
    CONTEXT_FORWARD = "context", CONTEXT, 4, [2, 3];
    CONTEXT_DELTAS = "context_deltas", CONTEXT, 3, [2];
    CONTEXT_DQ = "context_dq", CONTEXT, 6, [5];
    CONTEXT_DKV = "context_dkv", CONTEXT, 6, [5];
    DELTAS = "deltas", BACKWARD, 3, [2];
    ATTENTION_DQ = "attention_dq", BACKWARD, 5, [4];
    ATTENTION_DKV = "attention_dkv", BACKWARD, 5, [4];
}

/// Names and values that a kernel is compiled with.
pub(super) type Constants = Vec<(&'static str, usize)>;

/// A kernel with what it is called with.
pub(super) struct Call {
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
    Dispatch(Dispatch),
    /// The moment at which what comes before is done, into this place of a set.
    Mark(wgpu::QuerySet, u32),
}

/// A call that can be submitted.
pub(super) struct Dispatch {
    pipeline: ComputePipeline,
    bindings: BindGroup,
    params: [u32; PARAMS as usize / 4],
    groups: (u32, u32),
}

impl Dispatch {
    /// Puts the call into a pass.
    pub fn encode(self, pass: &mut ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(&self.params));
        pass.dispatch_workgroups(self.groups.0, self.groups.1, 1);
    }
}

/// What a pipeline is compiled for: an entry point, its constants, its arguments' elements.
type Key = (&'static str, Constants, Vec<Elem>);

/// What an adapter has that WGSL does not promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extras {
    /// Words of 16 bits.
    pub short: bool,
    /// Operations of subgroups.
    pub subgroups: bool,
}

/// What is compiled so far.
pub(super) struct Pipelines {
    extras: Extras,
    /// By number of bindings, from one.
    layouts: Vec<(BindGroupLayout, PipelineLayout)>,
    compiled: Mutex<HashMap<Key, ComputePipeline>>,
}

impl Pipelines {
    pub fn new(device: &wgpu::Device, extras: Extras) -> Pipelines {
        // One buffer may hold several arguments, of which a binding that only reads would exclude one that writes.
        let ty = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let entry =
            |binding| wgpu::BindGroupLayoutEntry { binding, visibility: ShaderStages::COMPUTE, ty, count: None };
        let layout = |bindings: u32| {
            let entries: Vec<_> = (0..bindings).map(entry).collect();
            let group =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: PARAMS,
            });
            (group, pipeline)
        };
        Pipelines { extras, layouts: (1..=BINDINGS).map(layout).collect(), compiled: Mutex::default() }
    }

    /// A kernel's pipeline, compiled at its first call.
    fn get(
        &self,
        device: &wgpu::Device,
        kernel: Kernel,
        constants: Constants,
        elems: Vec<Elem>,
    ) -> Result<ComputePipeline, String> {
        // Held while compiling: another rank would compile the same.
        let mut compiled = self.compiled.lock().unwrap_or_else(|e| e.into_inner());
        let key = (kernel.entry, constants, elems);
        if let Some(pipeline) = compiled.get(&key) {
            return Ok(pipeline.clone());
        }
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let pipeline = self.compile(device, kernel, &key.1, &key.2);
        match now(scope.pop()) {
            Some(error) => Err(format!("kernel {}: {error}", kernel.entry)),
            None => Ok(compiled.entry(key).or_insert(pipeline).clone()),
        }
    }

    fn compile(&self, device: &wgpu::Device, kernel: Kernel, constants: &Constants, elems: &[Elem]) -> ComputePipeline {
        let Extras { short, subgroups } = self.extras;
        let mut source = accessors(elems, kernel.writes, short) + SUMS[usize::from(subgroups)] + kernel.source;
        if subgroups {
            source = source.replace(ENTRY, NOTED);
        }
        if short {
            source = format!("enable wgpu_int16;\n{source}");
        }
        let source = wgpu::ShaderSource::Wgsl(source.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.entry), source };
        // SAFETY: kernels index only what `Device::run` has checked, every loop ends, and dims divided by are not 0.
        let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let constants: Vec<(&str, f64)> = constants.iter().map(|&(name, value)| (name, value as f64)).collect();
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.entry),
            layout: Some(&self.layouts[kernel.bindings - 1].1),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Kernels write shared memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}

impl Gpu {
    /// Makes a call ready.
    pub fn prepare(&self, call: Call) -> Result<Dispatch, String> {
        let Call { kernel, args, dims, numbers, groups, constants } = call;
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
            layout: &self.pipelines.layouts[kernel.bindings - 1].0,
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
        Ok(Dispatch { pipeline, bindings, params, groups: (wide as u32, high as u32) })
    }
}
