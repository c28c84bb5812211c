//! Tokens a second of the CPU executor, over the sizes of `benches/pytorch_train.py`, which `benches/compare` runs beside
//! it. `cargo bench --bench train_step`.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshwright::runs::train_config;
use meshwright_executor::train::Trainer;
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Job, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};

fn trainer(dp: usize, threads_per_rank: usize) -> Trainer {
    let model = models::load("demo-10m").expect("it is embedded");
    let optimizer = Optimizer { warmup_steps: 10, ..Optimizer::default() };
    let job = Job { precision: Precision::Fp32, optimizer, ..Job::of(model, 256, 4) };
    let stages = vec![Stage { layers: 6, full: 0, selective: 0, offload: 0 }];
    let zero = u8::from(dp > 1);
    let plan = Plan { zero, mesh: Mesh { dp, ..Mesh::ONE }, stages, ..Plan::single(job, 2) };
    let lowered = lower(&plan).expect("the plan is sound");
    let config = train_config(&plan, threads_per_rank, None);
    let source = |step: usize, index: usize| {
        let ids: Vec<u32> = (0..256).map(|i| ((step * 31 + index * 7 + i * i) % 256) as u32).collect();
        let targets = ids.iter().map(|id| (id + 1) % 256).collect();
        (ids, targets)
    };
    Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(source)).expect("it fits this machine")
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("demo-10m, 4 sequences of 256");
    group.sample_size(20).throughput(Throughput::Elements(1024));
    for (name, dp, threads) in [("1 rank of 2 threads", 1, 2), ("2 ranks of 1 thread, ZeRO-1", 2, 1)] {
        let mut trainer = trainer(dp, threads);
        group.bench_function(name, |b| b.iter(|| trainer.step().expect("it trains")));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
