//! Rooflines by hand, measured curves before them, and what has no price.

use super::*;
use crate::op::{AttentionDims, Layout};
use crate::profile::{Curve, EfficiencyCurve, Sample, catalog};
use crate::units::Precision::{Bf16, Fp32, Int8};

/// An A100 that reaches all of its peaks and launches in a microsecond.
fn ideal() -> Device {
    let mut device = catalog().device("a100-80gb").unwrap().clone();
    let whole = || EfficiencyCurve { points: vec![(1.0, 1.0)], source: "by definition".to_owned() };
    device.efficiency.matmul = whole();
    device.efficiency.memory = whole();
    device.efficiency.attention = whole();
    device.launch.value = Seconds(1e-6);
    device.gemm = None;
    device
}

fn matmul(m: usize, n: usize, k: usize) -> Op {
    Op::Matmul { layout: Layout::Nt, m, n, k, bias: false, accumulate: false }
}

fn close(got: Seconds, want: f64) {
    assert!((got.0 / want - 1.0).abs() < 1e-9, "{} s, not {want} s", got.0);
}

#[test]
fn a_big_matmul_takes_its_flops_and_a_thin_one_its_bytes() {
    let device = ideal();
    let n = 4096.0_f64;
    close(op_time(&device, &matmul(4096, 4096, 4096), Bf16).unwrap(), 2.0 * n * n * n / 312e12 + 1e-6);
    let bandwidth = device.memory_bandwidth.value.0;
    close(op_time(&device, &matmul(1, 4096, 4096), Bf16).unwrap(), 2.0 * (n * n + 2.0 * n) / bandwidth + 1e-6);
}

#[test]
fn a_matmul_pays_for_whole_tiles_and_half_of_an_idle_wave() {
    let gemm = catalog().device("a100-80gb").unwrap().gemm.clone().unwrap();
    let peak = crate::units::FlopRate(312e12);
    let time = |batch, m| super::gemm::time(&gemm, peak, Bf16, batch, m, 12.0 * 128.0, 8192.0).0;
    let wave = time(1.0, 9.0 * 128.0); // 108 tiles on 108 SMs
    close(Seconds(wave), 2.0 * 108.0 * 128.0 * 128.0 * 8292.0 / (312e12 * 0.85 * gemm.sustained.value));
    close(Seconds(time(1.0, 9.0 * 128.0 - 100.0)), wave);
    close(Seconds(time(1.0, 18.0 * 128.0)), 2.0 * wave);
    close(
        Seconds(time(1.0, 9.0 * 128.0 + 1.0)),
        wave * (1.0 + 12.0 / 108.0) * (1.0 + 0.5 * (2.0 / (120.0 / 108.0) - 1.0)),
    );
    close(Seconds(time(9.0, 1.0)), wave);
}

#[test]
fn formats_change_matmuls_and_activations_but_not_the_optimizer() {
    let device = ideal();
    let time = |op, precision| op_time(&device, &op, precision).unwrap().0 - 1e-6;
    let square = matmul(4096, 4096, 4096);
    assert!((time(square, Fp32) / time(square, Bf16) - 312.0 / 19.5).abs() < 1e-6);
    let add = Op::Add { rows: 4096, cols: 4096, bias: false };
    assert!((time(add, Fp32) / time(add, Bf16) - 2.0).abs() < 1e-6);
    let zero = Op::Zero { n: 1 << 24 };
    assert_eq!(time(zero, Fp32), time(zero, Bf16));
}

#[test]
fn causal_attention_costs_half() {
    let device = ideal();
    let dims = AttentionDims { batch: 8, seq: 4096, heads: 16, kv_heads: 16, head_dim: 128, causal: false };
    let whole = op_time(&device, &Op::Attention(dims), Bf16).unwrap().0;
    let causal = op_time(&device, &Op::Attention(AttentionDims { causal: true, ..dims }), Bf16).unwrap().0;
    assert!((whole / causal - 2.0).abs() < 0.01, "{whole} {causal}");
}

#[test]
fn a_measured_curve_comes_before_the_roofline() {
    let mut device = ideal();
    let op = Op::Zero { n: 1000 };
    let sample = Sample { dims: op.dims().to_vec(), work: op.work(), seconds: 0.25 };
    device.curves.insert(op.class().to_owned(), Curve::new(vec![sample]).unwrap());
    close(op_time(&device, &op, Fp32).unwrap(), 0.25);
}

#[test]
fn what_cannot_be_priced_is_refused() {
    let mut device = ideal();
    device.peak.retain(|precision, _| *precision == Int8);
    let error = op_time(&device, &matmul(8, 8, 8), Bf16).unwrap_err();
    assert_eq!(error, PriceError::NoPeak { device: "a100-80gb".to_owned(), precision: Bf16 });
    let cluster = Cluster::parse("2x dgx-a100-80gb").unwrap();
    let error = Prices::new(&cluster, Mesh { dp: 17, pp: 1, tp: 1, ..Mesh::ONE }, Bf16).err().unwrap();
    assert_eq!(error, PriceError::TooFew { ranks: 17, devices: 16 });
}

#[test]
fn a_group_over_nodes_is_slower_than_one_inside_and_a_group_of_one_is_free() {
    let cluster = Cluster::parse("2x dgx-a100-80gb").unwrap();
    let time = |dp, tp| {
        let prices = Prices::new(&cluster, Mesh { dp, pp: 1, tp, ..Mesh::ONE }, Bf16).unwrap();
        prices.collective(Collective::AllReduce, Axis::Dp, Bytes(1 << 30)).unwrap().0
    };
    assert_eq!(time(1, 8), 0.0);
    assert!(time(2, 8) > time(2, 1), "one rank a node goes over the network, two of one node do not");
}

/// Prices of the place of a stage and class on two pools.
fn at(cluster: &Cluster, mesh: Mesh, stage: usize) -> Prices<'_> {
    let all = places(cluster, mesh, &crate::classes::Classes::ONE).unwrap();
    let place = all.iter().find(|place| place.stage == stage).unwrap();
    Prices::at(cluster, mesh, Bf16, place).unwrap()
}

#[test]
fn a_stage_is_priced_by_the_pool_it_sits_on_and_a_message_by_both() {
    let parse = |text: &str| Cluster::parse(text).unwrap();
    let (both, fast, slow) = (parse("2x dgx-h100 + 2x dgx-a100-80gb"), parse("4x dgx-h100"), parse("4x dgx-a100-80gb"));
    let mesh = Mesh { dp: 2, pp: 2, tp: 8, ..Mesh::ONE };
    let op = |cluster, stage| at(cluster, mesh, stage).op(&matmul(4096, 4096, 4096)).unwrap();
    assert_eq!([op(&both, 0), op(&both, 1)], [op(&fast, 0), op(&slow, 1)]);
    assert!(op(&both, 0) < op(&both, 1));
    for (axis, kind) in [(Axis::Tp, Collective::AllReduce), (Axis::Dp, Collective::ReduceScatter)] {
        let sum = |cluster, stage| at(cluster, mesh, stage).collective(kind, axis, Bytes(1 << 28)).unwrap();
        assert_eq!([sum(&both, 0), sum(&both, 1)], [sum(&fast, 0), sum(&slow, 1)], "{axis:?}");
    }
    let message = |cluster, stage, to| at(cluster, mesh, stage).message(true, Bytes(1 << 28), stage, to).unwrap();
    let launch = |cluster: &Cluster| cluster.pools[0].device.launch.value.0;
    let slower = message(&fast, 0, 1).0.max(message(&slow, 0, 1).0 + launch(&fast) - launch(&slow));
    close(message(&both, 0, 1), slower);
}

#[test]
fn a_group_over_two_pools_is_as_fast_as_its_slower_nodes() {
    let parse = |text: &str| Cluster::parse(text).unwrap();
    let (both, fast, slow) = (parse("1x dgx-h100 + 1x dgx-a100-80gb"), parse("2x dgx-h100"), parse("2x dgx-a100-80gb"));
    let mesh = Mesh { dp: 2, tp: 8, ..Mesh::ONE };
    let sum = |cluster, mesh| at(cluster, mesh, 0).collective(Collective::AllReduce, Axis::Dp, Bytes(1 << 30)).unwrap();
    assert!(sum(&both, mesh) >= sum(&slow, mesh) && sum(&slow, mesh) > sum(&fast, mesh));
    // One replica's matmuls on both pools end with the slower.
    let whole = Mesh { tp: 16, ..Mesh::ONE };
    let op = |cluster| at(cluster, whole, 0).op(&matmul(4096, 4096, 4096)).unwrap();
    assert_eq!(op(&both), op(&slow));
}
