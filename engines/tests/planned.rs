//! What a search finds for an engine is exported without a refusal, and is no faster than what it finds for any.

use meshwright_engines::engine::find;
use meshwright_engines::export::export;
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::LAUNCHERS;
use meshwright_hardware::profile::{Cluster, catalog};
use meshwright_planner::job::{Fix, Job};
use meshwright_planner::models;
use meshwright_planner::search::{SearchOptions, TOLERANCE, search_with};

/// Models of each engine's own, on clusters where some of them only just fit.
const JOBS: &[(&str, &str, usize, usize)] = &[
    ("llama2-7b", "8x a100-80gb", 4096, 64),
    ("llama3-8b", "8x h100", 8192, 32),
    ("llama3-8b", "4x dgx-h100", 16384, 48),
    ("llama2-70b", "8x dgx-h100", 4096, 96),
    ("llama3.2-1b", "8x a100-40gb", 8192, 24),
    ("mixtral-8x7b", "4x dgx-a100-80gb", 4096, 64),
];

/// Engines, and a stack of each.
const ENGINES: &[(&str, &str)] =
    &[("megatron-lm", "megatron-core"), ("torchtitan", "torchtitan"), ("deepspeed", "megatron-deepspeed-2023")];

#[test]
fn what_is_planned_for_an_engine_can_be_exported_to_it() {
    let mut found = 0;
    for &(name, stack) in ENGINES {
        let engine = find(name).unwrap();
        let ability = &engine.about().ability;
        for &(model, cluster, seq, batch) in JOBS {
            let mut job = Job::of(models::load(model).unwrap(), seq, batch);
            job.stack = Some(stack.to_owned());
            let cluster = Cluster::parse(cluster).unwrap().under(catalog().stack(stack).unwrap().clone());
            let of = |engine| {
                let options = SearchOptions { engine, ..SearchOptions::FULL };
                search_with(&job, &cluster, &Fix::default(), 2, &options)
            };
            let lacks = ability.lacks(&job);
            let (Ok(planned), Ok(any)) = (of(Some(ability)), of(None)) else { continue };
            let (step, fastest) = (planned.best[0].1.step_time_s, any.best[0].1.step_time_s);
            assert!(step >= fastest * (1.0 - TOLERANCE), "{name}, {model}: {step} s, {fastest} s for any engine");
            for (plan, figures) in &planned.best {
                assert!(figures.fits && ability.can(plan, &lacks), "{name}: {}", plan.summary());
            }
            if lacks.is_empty() {
                let launch = Launch::new(planned.best[0].0.clone(), Some((&cluster, None)));
                let refusal = export(&launch, engine, LAUNCHERS[0], false).err();
                assert!(refusal.is_none(), "{name}, {model}: {refusal:?}");
                found += 1;
            }
        }
    }
    assert!(found >= 14, "{found} plans");
}
