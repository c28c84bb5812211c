//! Rooflines by hand, measured curves before them, and what has no price.

use std::sync::Arc;

use super::*;
use crate::op::{AttentionDims, Layout, NormKind};
use crate::profile::{AttentionKernel, Curve, EfficiencyCurve, Routing, Sample, Stack, TokenDispatch, catalog};
use crate::program::{Buffer, Lifetime, Stream, View};
use crate::units::Precision::{Bf16, Fp32, Int8};

/// An A100 that reaches all of its peaks and launches in a microsecond.
fn ideal() -> DeviceProfile {
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

/// An op whose floats are of a format where it takes any.
fn time_of(device: &DeviceProfile, op: &Op, precision: Precision) -> Result<Seconds, PriceError> {
    let elems = op.signature().into_iter().map(|param| param.takes.elem(Elem::of(precision)));
    op_time(device, &Stack::ideal(), op, op.traffic(elems), precision)
}

fn close(got: Seconds, want: f64) {
    assert!((got.0 / want - 1.0).abs() < 1e-9, "{} s, not {want} s", got.0);
}

#[test]
fn a_big_matmul_takes_its_flops_and_a_thin_one_its_bytes() {
    let device = ideal();
    let n = 4096.0_f64;
    close(time_of(&device, &matmul(4096, 4096, 4096), Bf16).unwrap(), 2.0 * n * n * n / 312e12 + 1e-6);
    let bandwidth = device.memory_bandwidth.value.0;
    close(time_of(&device, &matmul(1, 4096, 4096), Bf16).unwrap(), 2.0 * (n * n + 2.0 * n) / bandwidth + 1e-6);
}

/// The search's bound is no slower than what it bounds.
#[test]
fn products_in_fp32_outside_matrix_units_reach_nearly_their_peak_under_any_stack() {
    let cluster = Cluster::parse("dgx-1v").unwrap().under(std::sync::Arc::new(stack(Overheads::default())));
    let device = &cluster.pools[0].device;
    let seconds = op_time(device, cluster.stack.as_ref(), &matmul(4096, 4096, 4096), Bytes(0), Fp32).unwrap();
    let rate = 2.0 * 4096.0_f64.powi(3) / (seconds - device.launch.value).0;
    close(Seconds(rate), 0.95 * device.peak_in(Fp32).unwrap().0);
    let prices = Prices::new(&cluster, Mesh::ONE, Fp32).unwrap();
    assert!(prices.fastest_flops().unwrap() >= rate * (1.0 - 1e-12));
}

#[test]
fn a_matmul_pays_for_whole_tiles_and_a_tenth_of_an_idle_wave() {
    let gemm = catalog().device("a100-80gb").unwrap().gemm.clone().unwrap();
    let peak = crate::units::FlopRate(312e12);
    let time = |batch, m| super::gemm::time(&gemm, peak, Bf16, batch, m, 12.0 * 128.0, 8192.0).0;
    let wave = time(1.0, 9.0 * 128.0); // 108 tiles on 108 SMs
    close(Seconds(wave), 2.0 * 108.0 * 128.0 * 128.0 * 8292.0 / (312e12 * 0.85 * gemm.sustained.value));
    close(Seconds(time(1.0, 9.0 * 128.0 - 100.0)), wave);
    close(Seconds(time(1.0, 18.0 * 128.0)), 2.0 * wave);
    close(
        Seconds(time(1.0, 9.0 * 128.0 + 1.0)),
        wave * (1.0 + 12.0 / 108.0) * (1.0 + 0.1 * (2.0 / (120.0 / 108.0) - 1.0)),
    );
    close(Seconds(time(9.0, 1.0)), wave);
}

#[test]
fn formats_change_matmuls_and_what_is_of_them_but_not_statistics_and_state() {
    let device = ideal();
    let time = |op, precision| time_of(&device, &op, precision).unwrap().0 - 1e-6;
    let square = matmul(4096, 4096, 4096);
    assert!((time(square, Fp32) / time(square, Bf16) - 312.0 / 19.5).abs() < 1e-6);
    let add = Op::Add { rows: 4096, cols: 4096, bias: false };
    assert!((time(add, Fp32) / time(add, Bf16) - 2.0).abs() < 1e-6);
    // x, gain and y in two bytes, two statistics a row in four.
    let (rows, cols) = (4096, 512);
    let norm = Op::Norm { kind: NormKind::Rms, rows, cols };
    let bytes = 2 * (2 * rows * cols + cols) + 4 * 2 * rows;
    close(Seconds(time(norm, Bf16)), bytes as f64 / device.memory_bandwidth.value.0);
    // Norm, gradient, both moments and fp32 weights, and the rounded weights, written once.
    let n = 1 << 24;
    let update = Op::AdamW { n, decayed: n, shards: 1, axis: Axis::Dp, master: true };
    let bytes = 4 * (1 + n + 2 * 3 * n) + 2 * n;
    close(Seconds(time(update, Bf16)), bytes as f64 / device.memory_bandwidth.value.0);
}

/// A stack with these overheads, and else what the ideal one is.
fn stack(overheads: Overheads) -> Stack {
    Stack { name: "tried".to_owned(), overheads, ..Stack::clone(&Stack::ideal()) }
}

#[test]
fn a_stack_slows_kernels_by_kind_and_leaves_curves_alone() {
    let bare = Stack::ideal().overheads.clone();
    let slow = stack(Overheads { matmul: 0.5, stream: 3.0, attention: 0.25, ..bare.clone() });
    let mut device = ideal();
    let square = matmul(4096, 4096, 4096);
    let add = Op::Add { rows: 4096, cols: 4096, bias: false };
    let dims = AttentionDims { batch: 4, seq: 4096, heads: 16, kv_heads: 16, head_dim: 128, causal: true };
    let update = Op::Zero { n: 1 << 24 };
    let time = |device: &DeviceProfile, stack: &Stack, op: &Op| {
        let elems = op.signature().into_iter().map(|param| param.takes.elem(Elem::Bf16));
        op_time(device, stack, op, op.traffic(elems), Bf16).unwrap().0 - 1e-6
    };
    for (op, slower) in [(&square, 2.0), (&add, 3.0), (&Op::Attention(dims), 4.0), (&update, 1.0)] {
        close(Seconds(time(&device, &slow, op)), slower * time(&device, &Stack::ideal(), op));
    }
    // Scores that go through memory take longer than such as never do.
    let unfused = Stack { attention: AttentionKernel::Unfused, ..stack(bare) };
    assert!(time(&device, &unfused, &Op::Attention(dims)) > 2.0 * time(&device, &Stack::ideal(), &Op::Attention(dims)));
    let sample = Sample { dims: add.dims().to_vec(), work: add.work(), seconds: 5e-6 };
    device.curves.insert(add.class().to_owned(), Curve::new(vec![sample]).unwrap());
    close(Seconds(time(&device, &slow, &add)), time(&device, &Stack::ideal(), &add));
}

#[test]
fn hosts_issue_kernels_of_gpus_alone() {
    let slow = stack(Overheads { host: 20.0, host_experts: 300.0, step: 4.0, ..Stack::ideal().overheads.clone() });
    let of = |name: &str| catalog().device(name).unwrap();
    let routed = Op::Dispatch { rows: 64, cols: 64, top_k: 2, slots: 32 };
    close(issue_time(of("a100-80gb"), &slow, &matmul(64, 64, 64)), 20e-6);
    close(issue_time(of("a100-80gb"), &slow, &routed), 320e-6);
    assert_eq!(issue_time(of("tpu-v4"), &slow, &routed), Seconds(0.0));
}

/// DeepSeek-V3's tokens over 64 ranks in 8 nodes: 4,096 of a rank, 7,168 wide, in two bytes, to eight experts each. A copy to each
/// expert: seven eighths of the vector leave the node. A copy to each node: 3.18 of eight copies do (`Routing`), over 50 GB/s · 0.92; what
/// is spread inside, seven eighths of the vector over 200 GB/s · 0.8, is the shorter.
#[test]
fn tokens_leave_a_node_once_for_each_node_where_the_stack_sends_them_so() {
    let routing = Routing { experts: 256, top_k: 8, groups: 8, top_groups: 4 };
    let vector = Bytes(4096 * 8 * 7168 * 2);
    let exchange = |dispatch, bytes: Bytes| {
        let stack = Stack { dispatch, routing: Some(routing), ..stack(Stack::ideal().overheads.clone()) };
        let cluster = Cluster::parse("8x h800-8").unwrap().under(Arc::new(stack));
        let mesh = Mesh { dp: 64, ep: 64, ..Mesh::ONE };
        Prices::new(&cluster, mesh, Bf16).unwrap().collective(Collective::AllToAll, Axis::Ep, bytes).unwrap().0
    };
    let [copies, once] = [TokenDispatch::PerExpert, TokenDispatch::PerNode].map(|dispatch| exchange(dispatch, vector));
    let fabric = vector.0 as f64 / (50e9 * 0.92);
    assert!((copies / (fabric * 7.0 / 8.0) - 1.0).abs() < 0.02, "{copies}");
    assert!((once / (fabric * 3.175 / 8.0) - 1.0).abs() < 0.02, "{once}");
    let narrow = exchange(TokenDispatch::PerNode, Bytes(vector.0 / 2));
    assert!((narrow / once - 0.5).abs() < 0.02, "{narrow}");
}

/// A program of one role on eight ranks of data parallelism.
fn program(buffers: Vec<Buffer>, blocks: Vec<Block>, kinds: Vec<Kind>) -> Program {
    let instr = |kind| crate::program::Instr {
        kind,
        stream: Stream::Compute,
        waits: Vec::new(),
        microbatch: None,
        layer: None,
    };
    let instrs = kinds.into_iter().map(instr).collect();
    let mesh = Mesh { dp: 8, ..Mesh::ONE };
    Program { mesh, classes: crate::classes::Classes::ONE, blocks, roles: vec![RankProgram { buffers, instrs }] }
}

/// Buffers of the elements of a bf16 program, and a view of all of each.
fn of_each(elems: usize) -> (Vec<Buffer>, [View; 3]) {
    let buffer =
        |(name, elem): (&str, Elem)| Buffer { name: name.to_owned(), elems, lifetime: Lifetime::Persistent, elem };
    let buffers = [("weights", Elem::Bf16), ("grads", Elem::F32), ("ids", Elem::U32)].map(buffer);
    (buffers.into(), [0, 1, 2].map(|buffer| View { buffer, offset: 0, elems, shard: None }))
}

#[test]
fn gradients_in_fp32_take_twice_what_weights_in_bf16_take() {
    let mut cluster = Cluster::parse("1x dgx-a100-80gb").unwrap();
    cluster.pools[0].device = ideal();
    let n = 1 << 24;
    let (buffers, [weights, grads, _]) = of_each(n);
    let half = View { elems: n / 2, ..weights };
    let of = |op, view| Kind::Collective { op, axis: Axis::Dp, view };
    let (scatter, gather) = (Collective::ReduceScatter, Collective::AllGather);
    let zero = |view| Kind::Run { block: 0, phase: crate::program::Phase::Optimizer, args: vec![view] };
    let formal = crate::program::BlockParam { name: "x".to_owned(), elems: n };
    let call = Call { op: Op::Zero { n }, args: vec![crate::program::ArgView { param: 0, offset: 0 }] };
    let block = Block { name: "zero".to_owned(), params: vec![formal], calls: vec![call] };
    let kinds = vec![of(scatter, grads), of(gather, weights), of(gather, half), zero(grads), zero(weights)];
    let nanos = &price(&program(buffers, vec![block], kinds), &cluster, Bf16).unwrap().lanes[0].nanos;
    let [scattered, gathered, part, full, narrow] = nanos[..] else { panic!("{nanos:?}") };
    // What does not grow with bytes: twice the half less the whole.
    let fixed = 2 * part - gathered;
    let twice = (scattered - fixed) as f64 / (gathered - fixed) as f64;
    assert!((twice - 2.0).abs() < 1e-3, "{nanos:?}");
    // The same block on one buffer and on the other.
    let launch = cluster.pools[0].device.launch.value.nanos().0;
    assert!(((full - launch) as f64 / (narrow - launch) as f64 - 2.0).abs() < 1e-3, "{nanos:?}");
}

#[test]
fn curves_and_links_are_asked_at_the_bytes_of_buffers() {
    let mut cluster = Cluster::parse("1x dgx-a100-80gb").unwrap();
    let device = &mut cluster.pools[0].device;
    let n = 1 << 20;
    let (buffers, [weights, grads, ids]) = of_each(n);
    let mut measured = |class: &str, dims: &[f64], bytes: usize, seconds: f64| {
        let at = |by: f64| {
            let mut dims = dims.to_vec();
            dims.push(by * bytes as f64);
            Sample { dims, work: by * bytes as f64, seconds: by * seconds }
        };
        device.curves.insert(class.to_owned(), Curve::new(vec![at(0.5), at(1.0), at(4.0)]).unwrap());
    };
    measured("reduce-scatter", &[8.0], 4 * n, 0.25);
    measured("all-gather", &[8.0], 2 * n, 0.5);
    measured("send", &[], 4 * n, 0.75);
    measured("recv", &[], 4 * n, 0.125);
    let of = |op, view| Kind::Collective { op, axis: Axis::Dp, view };
    let (to, from, tag) = (0, 0, 0);
    let moved = |view| Kind::Move { from: view, to: view };
    let kinds = vec![
        of(Collective::ReduceScatter, grads),
        of(Collective::AllGather, weights),
        Kind::Send { to, tag, view: grads },
        Kind::Recv { from, tag, view: weights },
        moved(weights),
        moved(grads),
        moved(ids),
    ];
    let link = cluster.pools[0].device.host_link.as_ref().unwrap().value.0;
    let launch = cluster.pools[0].device.launch.value.0;
    let nanos = &price(&program(buffers, Vec::new(), kinds), &cluster, Bf16).unwrap().lanes[0].nanos;
    let over = |bytes: usize| bytes as f64 / link + launch;
    let wanted = [0.25, 0.5, 0.75, 0.0625, over(2 * n), over(4 * n), over(4 * n)];
    for (nanos, seconds) in nanos.iter().zip(wanted) {
        assert!((*nanos as f64 * 1e-9 / seconds - 1.0).abs() < 1e-4, "{nanos} ns, not {seconds} s");
    }
}

#[test]
fn causal_attention_costs_half() {
    let device = ideal();
    let dims = AttentionDims { batch: 8, seq: 4096, heads: 16, kv_heads: 16, head_dim: 128, causal: false };
    let whole = time_of(&device, &Op::Attention(dims), Bf16).unwrap().0;
    let causal = time_of(&device, &Op::Attention(AttentionDims { causal: true, ..dims }), Bf16).unwrap().0;
    assert!((whole / causal - 2.0).abs() < 0.01, "{whole} {causal}");
}

#[test]
fn a_measured_curve_comes_before_the_roofline() {
    let mut device = ideal();
    let op = Op::Zero { n: 1000 };
    let sample = Sample { dims: op.dims().to_vec(), work: op.work(), seconds: 0.25 };
    device.curves.insert(op.class().to_owned(), Curve::new(vec![sample]).unwrap());
    close(time_of(&device, &op, Fp32).unwrap(), 0.25);
}

#[test]
fn what_cannot_be_priced_is_refused() {
    let mut device = ideal();
    device.peak.retain(|precision, _| *precision == Int8);
    let error = time_of(&device, &matmul(8, 8, 8), Bf16).unwrap_err();
    assert_eq!(
        error,
        PriceError::NoPeak { device: "a100-80gb".to_owned(), precision: Bf16, formats: "int8".to_owned() }
    );
    let error = time_of(&ideal(), &matmul(8, 8, 8), Precision::Fp8).unwrap_err();
    assert!(error.to_string().contains("`a100-80gb` does not multiply fp8; its formats are "), "{error}");
    let cluster = Cluster::parse("2x dgx-a100-80gb").unwrap();
    let error = Prices::new(&cluster, Mesh { dp: 17, pp: 1, tp: 1, ..Mesh::ONE }, Bf16).err().unwrap();
    assert_eq!(error, PriceError::TooFew { ranks: 17, devices: 16 });
}

#[test]
fn a_group_over_nodes_is_slower_than_one_inside_and_a_group_of_one_is_free() {
    let cluster = Cluster::parse("2x dgx-a100-80gb").unwrap();
    let time = |dp, tp| {
        let mut prices = Prices::new(&cluster, Mesh { dp, pp: 1, tp, ..Mesh::ONE }, Bf16).unwrap();
        prices.collective(Collective::AllReduce, Axis::Dp, Bytes(1 << 30)).unwrap().0
    };
    assert_eq!(time(1, 8), 0.0);
    assert!(time(2, 8) > time(2, 1), "one rank a node goes over the network, two of one node do not");
}

/// Blocks of six ranks on nodes of eight: some lie inside a node, others on two.
#[test]
fn a_group_waits_for_the_slowest_of_its_axis() {
    let (one, several) = (Cluster::parse("1x dgx-a100-80gb").unwrap(), Cluster::parse("3x dgx-a100-80gb").unwrap());
    let mesh = |pp| Mesh { dp: 3, pp, tp: 2, ..Mesh::ONE };
    let sum = |cluster, mesh, stage, axis| {
        at(cluster, mesh, stage).collective(Collective::AllReduce, axis, Bytes(1 << 28)).unwrap()
    };
    let (inside, across) = (sum(&one, mesh(1), 0, Axis::Dp), sum(&several, mesh(4), 0, Axis::Dp));
    assert_eq!(inside, sum(&several, mesh(1), 0, Axis::Dp));
    assert!(across.0 > 1.5 * inside.0, "{across} for {inside}");
    assert!((1..4).all(|stage| sum(&several, mesh(4), stage, Axis::Dp) == across));
    assert_eq!(sum(&several, mesh(4), 1, Axis::Tp), sum(&one, mesh(1), 0, Axis::Tp), "pairs lie inside in any case");
    // Of the first stage's ranks 2 to 5 send to the next node.
    let sent = |cluster, mesh, to| at(cluster, mesh, 0).message(true, Bytes(1 << 28), 0, to).unwrap();
    assert_eq!(sent(&several, mesh(4), 1), sent(&several, mesh(4), 3));
    assert!(sent(&several, mesh(4), 1) > sent(&one, Mesh { pp: 2, tp: 4, ..Mesh::ONE }, 1));
}

/// Prices of the place of a stage and class on two pools.
fn at(cluster: &Cluster, mesh: Mesh, stage: usize) -> Prices<'_> {
    let all = rank_groups(cluster, mesh, &crate::classes::Classes::ONE).unwrap();
    let place = all.iter().find(|place| place.stage == stage).unwrap();
    Prices::at(cluster, mesh, Bf16, place).unwrap()
}

#[test]
fn a_stage_is_priced_by_the_pool_it_sits_on_and_a_message_by_both() {
    let parse = |text: &str| Cluster::parse(text).unwrap();
    let (both, fast, slow) = (parse("2x dgx-h100 + 2x dgx-a100-80gb"), parse("4x dgx-h100"), parse("4x dgx-a100-80gb"));
    let mesh = Mesh { dp: 2, pp: 2, tp: 8, ..Mesh::ONE };
    let op = |cluster, stage| at(cluster, mesh, stage).op(&matmul(4096, 4096, 4096), [Elem::Bf16; 3]).unwrap();
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
    let op = |cluster| at(cluster, whole, 0).op(&matmul(4096, 4096, 4096), [Elem::Bf16; 3]).unwrap();
    assert_eq!(op(&both), op(&slow));
}

/// Exchanges beside kernels of 40, of which software shows a fifth.
#[test]
fn a_pass_hides_no_more_than_its_kernels_last() {
    let shows = |kernels: f64, sent: f64| sent * (1.0 - 0.8 * overlap::hiding(kernels, 0.8 * sent));
    close(Seconds(shows(40.0, 20.0)), 4.0);
    // 80 of 100 could hide, but there are 40 of kernels: the pass takes as long as its link, 100.
    close(Seconds(shows(40.0, 100.0)), 60.0);
    close(Seconds(shows(0.0, 100.0)), 100.0);
    let cluster = Cluster::parse("2x dgx-h100").unwrap();
    let hides = |name: &str| {
        let cluster = cluster.clone().under(catalog().stack(name).unwrap().clone());
        let prices = Prices::new(&cluster, Mesh { dp: 16, ..Mesh::ONE }, Bf16).unwrap();
        [Axis::Tp, Axis::Ep, Axis::Dp].map(|axis| prices.hidden(axis))
    };
    assert_eq!(hides("ideal"), [1.0, 1.0, 0.0], "all that kernels of a pass can hide");
    assert_eq!(hides("meshwright"), [0.0; 3], "the executor runs one after the other");
}
