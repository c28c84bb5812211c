//! What adapters' limits do.

use super::*;
use crate::kernels::AdamW;
use meshwright_hardware::op::AttentionDims;
use meshwright_hardware::program::{Elem, Lifetime};

const AT: Coord = Coord::FIRST;

/// Bytes of the longest binding and of the longest buffer of a small adapter.
const SMALL: (u64, u64) = (1 << 16, 1 << 20);

fn step() -> StepArgs {
    let (lr, beta1, beta2, eps, weight_decay) = (0.1, 0.9, 0.9, 1e-8, 0.0);
    let adamw = AdamW { lr, beta1, beta2, eps, weight_decay, bias1: 1.0, bias2: 1.0, grad_scale: 1.0 };
    StepArgs { adamw, clip: 0.0, loss_scale: 1.0 }
}

/// A device on the first adapter, as if that were small.
fn small(elems: usize) -> Result<Wgpu, ExecutorError> {
    let buffer = Buffer { name: "weights".to_owned(), elems, lifetime: Lifetime::Persistent, elem: Elem::F32 };
    let mut gpu = gpu::alone(0);
    (gpu.limits.max_storage_buffer_binding_size, gpu.limits.max_buffer_size) = SMALL;
    gpu.limits.max_compute_workgroups_per_dimension = 6;
    Wgpu::on(Arc::new(gpu), Backend::Wgpu(0), 0, &[buffer])
}

fn region(start: usize, elems: usize) -> Region {
    Region { buffer: 0, start, elems }
}

#[test]
fn a_buffer_that_is_too_long_is_refused_with_the_limit() {
    let error = small(1 << 18 | 1).err().unwrap();
    assert_eq!(error.exit_code(), 4);
    for part in ["`weights`", "1048580 bytes", "max_buffer_size is 1048576"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn arguments_anywhere_in_a_long_buffer_are_bound_by_windows() {
    let mut device = small(1 << 18).unwrap();
    // Of 28 workgroups, more than fit one dimension here.
    let (from, to) = (region(3, 7000), region((1 << 18) - 7001, 7000));
    let fill = |host: &mut [f32]| {
        host.fill(2.5);
        Ok(())
    };
    device.write_host(from, &mut { fill }).unwrap();
    device.run(&Op::Accumulate { n: 7000 }, &[from, to], AT, &step()).unwrap();
    let mut check = |host: &mut [f32]| {
        assert!(host[1..7001].iter().all(|&x| x == 2.5) && host[0] == 0.0 && host[7001] == 0.0);
        Ok(())
    };
    device.read_host(region((1 << 18) - 7002, 7002), &mut check).unwrap();
    let error = device.run(&Op::Zero { n: 1 << 15 }, &[region(0, 1 << 15)], AT, &step()).unwrap_err();
    for part in ["131072 bytes", "max_storage_buffer_binding_size is 65536"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn heads_that_no_kernel_holds_are_refused() {
    let mut device = small(1 << 12).unwrap();
    let dims = AttentionDims { batch: 1, seq: 1, heads: 1, kv_heads: 1, head_dim: 257, causal: true };
    let regions = [region(0, 771), region(800, 257), region(1100, 1)];
    let error = device.run(&Op::Attention(dims), &regions, AT, &step()).unwrap_err();
    assert!(error.to_string().contains("257") && error.to_string().contains("256"), "{error}");
}
