//! How fast the planner's inner loops are: instructions simulated a second, and a whole prediction of GPT-3 on 1,024
//! A100s. `cargo bench --bench simulate`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::price::price;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::simulate::simulate;
use meshwright_hardware::trace::Origin;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Job, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::predict::predict;

fn plan() -> Plan {
    let model = models::load("gpt3-175b").expect("it is embedded");
    let optimizer = Optimizer::default();
    let job = Job { steps: 1, optimizer, ..Job::of(model, 2048, 1536) };
    let stages = vec![Stage { layers: 12, full: 0, selective: 0, offload: 0 }; 8];
    Plan { zero: 1, mesh: Mesh { dp: 16, pp: 8, tp: 8, ..Mesh::ONE }, stages, ..Plan::single(job, 1) }
}

fn benches(criterion: &mut Criterion) {
    let (plan, cluster) = (plan(), Cluster::parse("128x dgx-a100-80gb").expect("it is in the catalog"));
    let program = lower(&plan).expect("the plan is sound").program;
    let durations = price(&program, &cluster, Precision::Bf16).expect("an A100 has a bf16 peak");
    let mut group = criterion.benchmark_group("gpt3-175b on 1024 a100");
    group.sample_size(10).throughput(Throughput::Elements(program.instrs() as u64));
    group.bench_function("simulate", |b| b.iter(|| simulate(&program, &durations, true, Origin::Predicted)));
    group.bench_function("lower, verify, price and simulate", |b| b.iter(|| predict(&plan, &cluster)));
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
