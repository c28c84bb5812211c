//! How long a full search takes: GPT-3 on 4,096 and 16,384 A100s, LLaMA-3 405B on 16,384 H100s, DeepSeek-V3 on 2,048 H800s,
//! LLaMA-2 70B on two unlike pools.
//! `cargo bench --bench search`; combinations considered a second are criterion's throughput.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshwright_hardware::profile::Cluster;
use meshwright_planner::job::{Fix, Job};
use meshwright_planner::models;
use meshwright_planner::search::search;

const CASES: [(&str, &str, usize, usize); 5] = [
    ("gpt3-175b", "512x dgx-a100-80gb", 2048, 1536),
    ("gpt3-175b", "2048x dgx-a100-80gb", 2048, 1536),
    ("llama3-405b", "2048x dgx-h100", 8192, 2048),
    ("deepseek-v3", "256x h800-8", 4096, 15360),
    ("llama2-70b", "8x dgx-h100 + 16x dgx-a100-80gb", 4096, 1024),
];

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    group.sample_size(10);
    for (name, text, seq, global_batch) in CASES {
        let model = models::load(name).expect("it is embedded");
        let job = Job { steps: 1, ..Job::of(model, seq, global_batch) };
        let cluster = Cluster::parse(text).expect("it is in the catalog");
        let found = search(&job, &cluster, &Fix::default(), 1).expect("it fits");
        println!("{name} on {text}: {} considered, gap {:.2} %", found.considered, found.gap() * 100.0);
        group.throughput(Throughput::Elements(found.considered as u64));
        group.bench_function(format!("{name} on {text}"), |b| b.iter(|| search(&job, &cluster, &Fix::default(), 1)));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
