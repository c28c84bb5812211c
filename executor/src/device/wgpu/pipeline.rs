//! Kernels compiled once a process.
//!
//! In: a kernel, its constants and its arguments' elements. Out: a pipeline.
//!
//! Invariant: dims are parameters, so a kernel is compiled once for its arguments' elements; matmuls once a size of tiles,
//! attention once a width of heads. What an adapter has beyond WGSL's promises changes how elements lie and how workgroups
//! sum, not what kernels say.

use std::collections::HashMap;
use std::sync::Mutex;

use wgpu::{BindGroupLayout, ComputePipeline, PipelineLayout, ShaderStages};

use meshwright_hardware::program::Elem;

use super::adapters::{BINDINGS, PARAMS, now};
use super::elements::accessors;

/// An entry point of a WGSL module.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub entry: &'static str,
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

    /// How a kernel's arguments are bound.
    pub fn layout(&self, kernel: Kernel) -> &BindGroupLayout {
        &self.layouts[kernel.bindings - 1].0
    }

    /// A kernel's pipeline, compiled at its first call.
    pub fn get(
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
