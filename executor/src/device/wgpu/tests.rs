//! What adapters' limits do.

use super::*;
use crate::kernels::AdamWSettings;
use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ActivationKind, AttentionDims, DtypeClass, Layout, NormKind};
use meshwright_hardware::program::{Elem, Lifetime};

const AT: Coord = Coord::FIRST;

/// Bytes of the longest binding and of the longest buffer of a small adapter.
const SMALL: (u64, u64) = (1 << 16, 1 << 20);

fn step() -> StepArgs {
    let (lr, beta1, beta2, eps, weight_decay) = (0.1, 0.9, 0.9, 1e-8, 0.0);
    let adamw = AdamWSettings { lr, beta1, beta2, eps, weight_decay, bias1: 1.0, bias2: 1.0, grad_scale: 1.0 };
    StepArgs { adamw, clip: 0.0, loss_scale: 1.0 }
}

/// A device on the first adapter, with limits as low as these: bytes of a binding, bytes of a buffer, workgroups a dimension.
fn limited((binding, bytes, groups): (u64, u64, u32), elems: usize) -> Result<Wgpu, ExecutorError> {
    let buffer = Buffer { name: "weights".to_owned(), elems, lifetime: Lifetime::Persistent, elem: Elem::F32 };
    let lower = |limits: &mut ::wgpu::Limits| {
        (limits.max_storage_buffer_binding_size, limits.max_buffer_size) = (binding, bytes);
        limits.max_compute_workgroups_per_dimension = groups;
    };
    let gpu = gpu::limited(lower).expect("the adapter can be used");
    Wgpu::on(Arc::new(gpu), "wgpu".parse().unwrap(), 0, &[buffer])
}

/// As if the adapter were small.
fn small(elems: usize) -> Result<Wgpu, ExecutorError> {
    limited((SMALL.0, SMALL.1, 6), elems)
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
    device.with_host(from, Access::Write, &mut { fill }).unwrap();
    device.run(&Op::Accumulate { n: 7000 }, &[from, to], AT, &step()).unwrap();
    let mut check = |host: &mut [f32]| {
        assert!(host[1..7001].iter().all(|&x| x == 2.5) && host[0] == 0.0 && host[7001] == 0.0);
        Ok(())
    };
    device.with_host(region((1 << 18) - 7002, 7002), Access::Read, &mut check).unwrap();
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

/// One of each kind of kernel: tiles, rows, scattered sums, sums by parts in working memory, state.
fn kinds() -> Vec<Op> {
    let (rows, cols, batch, seq, heads) = (40, 72, 2, 40, 3);
    let dims = AttentionDims { batch, seq, heads, kv_heads: 1, head_dim: 32, causal: true };
    let matmul = |layout| Op::Matmul { layout, m: rows, n: cols, k: 65, bias: false, accumulate: layout == Layout::Tn };
    vec![
        matmul(Layout::Nt),
        matmul(Layout::Nn),
        matmul(Layout::Tn),
        Op::Norm { kind: NormKind::Layer, rows, cols },
        Op::NormGrad { kind: NormKind::Layer, rows, cols, accumulate: true },
        Op::Attention(dims),
        Op::AttentionGrad(dims),
        Op::Activation { kind: ActivationKind::SwiGlu, rows, cols },
        Op::BiasGrad { rows: 700, cols },
        Op::Add { rows: 300, cols, bias: false },
        Op::LossStats { rows, vocab: cols, words: cols, shards: 1 },
        Op::SquaredNorm { n: 20_000, whole: 20_000, copies: 1, replicas: 1, shards: 1, axis: Axis::Data },
        Op::AdamW { n: 9000, decayed: 4000, shards: 1, axis: Axis::Data, master: false },
        Op::Accumulate { n: 40_000 },
    ]
}

/// All of the buffer after an op over operands that begin where it says.
fn after(device: &mut Wgpu, op: &Op, elems: usize) -> Result<Vec<u32>, ExecutorError> {
    let fill = &mut |host: &mut [f32]| {
        host.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 2053 % 4099) as f32 / 4099.0);
        Ok(())
    };
    device.with_host(region(0, elems), Access::Write, fill)?;
    let mut start = 5;
    let mut regions = Vec::new();
    for param in op.signature() {
        if param.takes == DtypeClass::Ids {
            device.with_host(region(start, param.elems), Access::Write, &mut |host| {
                host.fill(f32::from_bits(3));
                Ok(())
            })?;
        }
        regions.push(region(start, param.elems));
        start += param.elems + 3;
    }
    device.run(op, &regions, AT, &step())?;
    let mut bits = Vec::new();
    device.with_host(region(0, elems), Access::Read, &mut |host| {
        bits = host.iter().map(|x| x.to_bits()).collect();
        Ok(())
    })?;
    Ok(bits)
}

#[test]
fn under_low_limits_ops_are_right_or_refused_by_the_limits_name() {
    let elems = 100_000;
    let mut whole = limited((1 << 27, 1 << 28, 65535), elems).unwrap();
    let (mut right, mut refused) = (0, 0);
    // Bindings of 512, 64, 8 and 128 KiB; many workgroups a dimension, or few.
    let all = [(1 << 19, 1 << 19, 65535), (1 << 16, 1 << 19, 3), (1 << 13, 1 << 19, 65535), (1 << 17, 1 << 19, 1)];
    for limits in all {
        let mut device = limited(limits, elems).unwrap();
        for op in kinds() {
            match after(&mut device, &op, elems) {
                Ok(bits) => {
                    assert!(bits == after(&mut whole, &op, elems).unwrap(), "{op:?} under {limits:?}");
                    right += 1;
                }
                Err(error) => {
                    let words = error.to_string();
                    assert!(error.exit_code() == 4 && words.contains("max_"), "{op:?} under {limits:?}: {words}");
                    refused += 1;
                    // An op that was refused leaves the device as it was.
                    let zero = Op::Zero { n: 100 };
                    assert!(after(&mut device, &zero, elems).unwrap()[5..105].iter().all(|&bits| bits == 0));
                }
            }
        }
    }
    assert!(right > 10 && refused > 10, "{right} were right, {refused} were refused");
}

#[test]
fn an_adapter_with_too_little_memory_of_a_workgroup_or_too_few_threads_is_refused() {
    type Lower = fn(&mut ::wgpu::Limits);
    let lower: [(&str, Lower); 4] = [
        ("max_compute_workgroup_storage_size", |limits| limits.max_compute_workgroup_storage_size = 8 << 10),
        ("max_compute_invocations_per_workgroup", |limits| limits.max_compute_invocations_per_workgroup = 128),
        ("max_storage_buffers_per_shader_stage", |limits| limits.max_storage_buffers_per_shader_stage = 4),
        ("max_immediate_size", |limits| limits.max_immediate_size = 64),
    ];
    for (limit, lower) in lower {
        let problem = gpu::limited(lower).err().unwrap();
        assert!(problem.contains(limit) && problem.contains("kernels need"), "{problem}");
    }
}

#[test]
fn marks_are_passed_in_order_between_their_asking_and_their_reading() {
    let mut device = limited((1 << 27, 1 << 28, 65535), 1 << 20).unwrap();
    if !device.gpu.keeps_time {
        assert_eq!(device.mark().unwrap(), None);
        return;
    }
    for _ in 0..2 {
        let before = Instant::now();
        // More than a set holds.
        let numbers: Vec<usize> = (0..5000).map(|_| device.mark().unwrap().unwrap()).collect();
        assert!(numbers.iter().copied().eq(0..5000));
        device.run(&Op::Zero { n: 1 << 20 }, &[region(0, 1 << 20)], AT, &step()).unwrap();
        device.mark().unwrap();
        let marks = device.marks().unwrap();
        assert!(marks.len() == 5001 && marks.is_sorted());
        assert!(before <= marks[0] && marks[5000] <= Instant::now() && marks[4999] < marks[5000]);
    }
}
