//! Adapters of this machine, and what kernels need of them.
//!
//! In: what drivers tell. Out: adapters by number, described.
//!
//! Invariant: adapters are numbered alike in every run: discrete GPUs first, software last, else in the driver's order.

use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use wgpu::{Adapter, DeviceType, Features, Instance, InstanceDescriptor, InstanceFlags, Limits};

use crate::device::{LocalDevice, Memory, device_info};

/// As `Cargo.toml` asks for it.
const LIBRARY: &str = "wgpu 30";
/// Bytes of parameters that a kernel is given as immediates.
pub(super) const PARAMS: u32 = 128;
/// Bindings of a kernel at most.
pub(super) const BINDINGS: u32 = 6;
/// What an adapter needs to keep time between dispatches.
pub(super) const CLOCK: Features = Features::TIMESTAMP_QUERY.union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
/// Bytes of memory that a workgroup shares at most, and its invocations.
const WORKGROUP: (u32, u32) = (16 << 10, 256);

/// What kernels make use of where it is there.
pub(super) const EXTRAS: Features = Features::SHADER_I16.union(Features::SUBGROUP);

/// The value of a future that native backends have at once.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("native backends answer at once"),
    }
}

/// All of them, in their order.
pub(super) fn enumerate() -> &'static [Adapter] {
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
pub(super) fn lacks(adapter: &Adapter, limits: &Limits) -> Option<String> {
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

/// Bytes of the largest heap that is local to an adapter, where the interface is Vulkan: wgpu itself tells none.
#[cfg(not(target_vendor = "apple"))]
fn own_memory(adapter: &Adapter) -> Option<u64> {
    /// VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
    const LOCAL: u32 = 1;
    // SAFETY: the handles are asked, not kept, and the adapter outlives the call.
    let heaps = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let heaps = heaps.memory_heaps.iter().take(heaps.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & LOCAL != 0).map(|heap| heap.size).max()
}

/// Metal's GPUs mostly share the host's memory.
#[cfg(target_vendor = "apple")]
fn own_memory(_: &Adapter) -> Option<u64> {
    None
}

/// All adapters of this machine, or why there is none.
pub(super) fn adapters() -> Vec<LocalDevice> {
    let describe = |adapter: &Adapter| {
        let info = adapter.get_info();
        let driver = [info.backend.to_string(), info.driver, info.driver_info];
        let software = info.device_type == DeviceType::Cpu;
        let largest = adapter.limits().max_buffer_size;
        let (memory, memory_bytes) = match (info.device_type, own_memory(adapter)) {
            (DeviceType::Cpu | DeviceType::IntegratedGpu, _) => (Memory::Host, device_info().memory_bytes),
            (_, Some(bytes)) => (Memory::Own, bytes),
            (_, None) => (Memory::Untold, largest),
        };
        let driver: Vec<String> = driver.into_iter().filter(|part| !part.is_empty()).collect();
        LocalDevice {
            title: info.name,
            driver: driver.join(", "),
            library: LIBRARY.to_owned(),
            software,
            memory,
            memory_bytes,
            largest_buffer: Some(largest),
            problem: lacks(adapter, &adapter.limits()),
            ..LocalDevice::default()
        }
    };
    let adapters: Vec<LocalDevice> = enumerate().iter().map(describe).collect();
    let none = || vec![LocalDevice::absent("no adapter: no driver of Vulkan, Metal or D3D 12")];
    if adapters.is_empty() { none() } else { adapters }
}
