//! Sums are exact, causes are the right ones, more is never worth less than nothing.

use super::refit::{fit, spread, usable};
use super::*;
use crate::job::{Architecture, Job};
use crate::models;
use crate::plan::{Sites, Stage};
use crate::schedule::Schedule;
use crate::testing::{tiny_job, tiny_model};
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use proptest::prelude::*;

fn cluster(text: &str) -> Cluster {
    Cluster::parse(text).unwrap()
}

/// A job on which matmuls weigh something.
fn job(layers: usize, global_batch: usize) -> Job {
    let mut model = tiny_model(Architecture::Llama);
    (model.layers, model.hidden, model.ffn, model.heads, model.kv_heads) = (layers, 1024, 4096, 16, 16);
    model.vocab = 1024;
    Job { seq: 1024, global_batch, precision: Precision::Bf16, ..tiny_job(model) }
}

fn plan(job: Job, mesh: Mesh, schedule: Schedule, chunks: usize, zero: u8) -> Plan {
    spread(Plan { mesh, schedule, chunks, zero, stages: Vec::new(), ..Plan::single(job, 1) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn times_sum_to_the_step_and_bytes_to_those_declared(
        dp in 0usize..3, pp in 0usize..3, tp in 0usize..3, cp in 0usize..2, which in 0..Schedule::forms(2).count(), zero in 0u8..4,
        full in 0usize..2, selective in 0usize..2, offload in 0usize..2, sp: bool, machine in 0usize..3, sites: bool,
    ) {
        let (schedule, chunks) = Schedule::forms(2).nth(which).unwrap();
        let mesh = Mesh { dp: 1 << dp, pp: 1 << pp, tp: 1 << tp, cp: 1 << cp, ..Mesh::ONE };
        let mut job = job(8, 64);
        (job.seq, job.model.hidden, job.model.ffn) = (64, 64, 128);
        let mut plan = Plan { sequence_parallel: sp, ..plan(job, mesh, schedule, chunks, zero) };
        plan.sites = sites.then_some(Sites { every: 7, ..Sites::usual(2) });
        for stage in &mut plan.stages {
            (stage.full, stage.selective, stage.offload) = (full, selective.min(stage.layers - full), offload);
        }
        prop_assume!(plan.check().is_ok());
        let name = ["16x dgx-h100", "32x dgx-1v", "16x cpu-host"][machine];
        prop_assume!(machine != 2 || mesh.ranks() <= 8);
        let text = if sites { format!("2x({name}) @ 1 Gbit/s 10 ms") } else { name.to_owned() };
        plan.job.precision = if machine == 2 { Precision::Fp32 } else { Precision::Bf16 };
        let cluster = cluster(&text);
        let seen = see(&plan, &cluster);
        prop_assume!(!matches!(seen, Err(PlanError::Price(_))));
        let seen = seen.unwrap();
        let step = (seen.figures.step_time_s * 1e9).round() as i64;
        for time in &seen.time {
            // A nanosecond of rounding where sites' share of a period is added.
            prop_assert!((time.total() as i64 - step).abs() <= i64::from(sites), "{} {step}", time.total());
        }
        let predicted = predict(&plan, &cluster).unwrap();
        for (memory, role) in seen.memory.iter().zip(&predicted.lowered.program.roles) {
            prop_assert_eq!(memory.total(), role.bytes());
            prop_assert_eq!(memory.host, role.hosted_bytes());
        }
        // What only some decisions can bring stands nowhere else.
        let has = |cause| seen.time.iter().any(|time| time.nanos(cause) > 0);
        prop_assert!(!has(Cause::Ep) && (has(Cause::Tp) == (mesh.tp > 1)) && (has(Cause::Sites) == sites));
        prop_assert!(mesh.pp > 1 || (!has(Cause::Pp) && !has(Cause::Bubble)));
        prop_assert!(mesh.dp * mesh.cp > 1 || !has(Cause::Data));
        prop_assert_eq!(has(Cause::Weights), schedule.splits());
        // What was gathered over tokens is not kept, and gathered again.
        prop_assert!(full + selective > 0 || plan.shards_tokens() || mesh.cp > 1 || !has(Cause::Recompute));
    }
}

/// A pipeline without communication to speak of: the bubble of 1F1B is (p − 1)/(m + p − 1) (Narayanan et al. 2021, §2.2).
#[test]
fn the_bubble_is_that_of_the_schedule() {
    let mut job = job(64, 8);
    job.model.vocab = 64;
    let mesh = Mesh { pp: 4, ..Mesh::ONE };
    let seen = see(&plan(job, mesh, Schedule::OneFOneB, 1, 0), &cluster("1x dgx-h100")).unwrap();
    let (bubble, step) = (StageTime::mean(&seen.time, Cause::Bubble), seen.figures.step_time_s);
    let optimizer = StageTime::mean(&seen.time, Cause::Optimizer);
    let share = bubble / (step - optimizer);
    assert!((share - 3.0 / 11.0).abs() < 0.05, "{share}");
    assert!(bubble <= seen.figures.idle_fraction * step * 1.001, "exposed communication is no bubble here");
}

#[test]
fn what_is_exposed_shrinks_with_faster_links_and_is_found() {
    let plan = plan(job(4, 32), Mesh { dp: 4, tp: 8, ..Mesh::ONE }, Schedule::OneFOneB, 1, 1);
    let slow = see(&plan, &cluster("4x dgx-1v")).unwrap();
    let fast = see(&plan, &cluster("4x dgx-h100")).unwrap();
    assert!(fast.time[0].nanos(Cause::Tp) < slow.time[0].nanos(Cause::Tp));
    let cluster = cluster("4x dgx-h100");
    let explained = explain(&plan, &cluster, false).unwrap();
    let link = explained.binding.link.unwrap();
    assert!(
        (link.axis, link.tier) == ("tp", "scale-up") || (link.axis, link.tier) == ("data", "scale-out"),
        "{link:?}"
    );
    let price = |more: &str| explained.shadow_prices.iter().find(|price| price.more.contains(more)).unwrap();
    for name in ["FLOP/s", "memory bandwidth", "scale-up", "scale-out"] {
        assert!(price(name).tokens_per_s >= 0.0 && price(name).dollars_per_hour.unwrap() >= 0.0, "{name}");
    }
    // Ten per cent more of everything is worth no more than ten per cent, and all parts together not much less.
    let gains: f64 =
        ["FLOP/s", "memory bandwidth", "scale-up", "scale-out"].map(|name| price(name).tokens_per_s).iter().sum();
    assert!(gains < 0.101 * explained.figures.tokens_per_s, "{gains} of {}", explained.figures.tokens_per_s);
}

fn price_of_memory(plan: &Plan, cluster: &Cluster) -> ShadowPrice {
    let prices = shadow::shadow_prices(plan, cluster, &see(plan, cluster).unwrap(), false).unwrap();
    prices.into_iter().find(|price| price.more.contains("memory") && price.decided == Decided::Refitted).unwrap()
}

#[test]
fn memory_is_worth_something_where_it_binds_and_nothing_where_it_does_not() {
    let job = Job {
        seq: 2048,
        global_batch: 512,
        precision: Precision::Bf16,
        ..tiny_job(models::load("gpt3-175b").unwrap())
    };
    let a100 = cluster("16x dgx-a100-80gb");
    let mesh = Mesh { dp: 2, pp: 8, tp: 8, ..Mesh::ONE };
    let tight = Plan { microbatch: 4, ..plan(job, mesh, Schedule::OneFOneB, 1, 1) };
    let tight = fit(tight.clone(), &usable(&tight, &a100).unwrap()).unwrap();
    assert!(tight.stages.iter().any(|stage: &Stage| stage.selective + stage.full > 0), "{}", tight.summary());
    let price = price_of_memory(&tight, &a100);
    assert!(price.tokens_per_s > 0.0 || price.note.contains("GB more give"), "{price:?}");
    let loose = plan(self::job(4, 32), Mesh { dp: 2, ..Mesh::ONE }, Schedule::OneFOneB, 1, 0);
    let price = price_of_memory(&loose, &a100);
    assert!(price.tokens_per_s == 0.0 && price.note.contains("does not bind"), "{price:?}");
    let small = cluster("16x dgx-a100-40gb");
    let huge = Plan { zero: 0, ..tight };
    assert!(price_of_memory(&huge, &small).note.contains("not even full recompute fits"));
}

#[test]
fn refitting_recomputes_no_more_than_it_must() {
    let job = Job {
        seq: 2048,
        global_batch: 512,
        precision: Precision::Bf16,
        ..tiny_job(models::load("gpt3-175b").unwrap())
    };
    let mesh = Mesh { dp: 2, pp: 8, tp: 8, ..Mesh::ONE };
    let plan = Plan { microbatch: 4, ..plan(job, mesh, Schedule::OneFOneB, 1, 1) };
    let usable = usable(&plan, &cluster("16x dgx-a100-80gb")).unwrap();
    let fitted = fit(plan, &usable).unwrap();
    let bytes = |plan: &Plan| see(plan, &cluster("16x dgx-a100-80gb")).unwrap().memory;
    for (stage, memory) in bytes(&fitted).iter().enumerate() {
        assert!(memory.total() <= usable[stage]);
        let mut less = fitted.clone();
        let decided = &mut less.stages[stage];
        match (decided.full, decided.selective) {
            (0, 0) => continue,
            (0, _) => decided.selective -= 1,
            _ => (decided.full, decided.selective) = (decided.full - 1, decided.selective + 1),
        }
        assert!(bytes(&less)[stage].total() > usable[stage], "stage {stage} could recompute less");
    }
}

#[test]
fn alternatives_change_one_thing_and_say_why_they_lose() {
    let job = Job {
        seq: 2048,
        global_batch: 512,
        precision: Precision::Bf16,
        ..tiny_job(models::load("gpt3-175b").unwrap())
    };
    let mesh = Mesh { dp: 4, pp: 8, tp: 4, ..Mesh::ONE };
    let cluster = cluster("16x dgx-a100-80gb");
    let plan = plan(job, mesh, Schedule::OneFOneB, 1, 1);
    let plan = fit(plan.clone(), &usable(&plan, &cluster).unwrap()).unwrap();
    let all = explain(&plan, &cluster, false).unwrap().alternatives;
    let find = |name: &str| all.iter().find(|a| a.change.contains(name)).unwrap_or_else(|| panic!("{name} in {all:?}"));
    for name in
        ["tp 4 → 8", "tp 4 → 2", "pp 8 → 16", "microbatch 1 → 2", "gpipe", "zb-h1", "ZeRO-1 → 3", "sequence", "full"]
    {
        let alternative = find(name);
        assert!(!alternative.why.is_empty());
        assert_eq!(alternative.step_time_s.is_some(), alternative.slower.is_some());
    }
    assert!(find("ZeRO-1 → 0").why.contains("needs"), "{:?}", find("ZeRO-1 → 0"));
    let mut times = all.iter().filter_map(|a| a.step_time_s);
    let mut before = 0.0;
    assert!(times.all(|time| std::mem::replace(&mut before, time) <= time), "fastest first");
}
