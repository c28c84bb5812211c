//! What the user has fixed of recomputation and of the host's memory.

use super::*;
use crate::plan::Recompute;

/// Eight layers whose activations do not fit beside their state.
fn tight() -> (Job, Cluster) {
    let model = Model { layers: 8, hidden: 512, ffn: 2048, ..tiny_model(Architecture::Llama) };
    let job = Job { seq: 512, global_batch: 64, ..tiny_job(model) };
    let mut cluster = cluster("4x h100");
    cluster.pools[0].device.memory.value = meshwright_hardware::units::Bytes(400 << 20);
    (job, cluster)
}

#[test]
fn no_plan_recomputes_or_moves_what_is_not_permitted() {
    let (job, cluster) = tight();
    let step = |fix: &Fix| {
        let found = search(&job, &cluster, fix, 5).unwrap();
        assert!(found.best.iter().flat_map(|(plan, _)| &plan.stages).all(|stage| stage.is_permitted(fix)), "{fix:?}");
        found.best[0].1.step_time_s
    };
    let free = step(&Fix::default());
    for kinds in [&[Recompute::Full][..], &[Recompute::Selective], &[Recompute::None, Recompute::Full]] {
        for offload in [None, Some(false)] {
            let fix = Fix { recompute: Some(kinds.to_vec()), offload, ..Fix::default() };
            let limited = step(&fix);
            assert!(limited >= free * (1.0 - TOLERANCE), "{kinds:?}: {limited} s, without limits {free} s");
        }
    }
}

#[test]
fn full_recomputation_of_all_layers_is_what_it_is_called() {
    let (job, cluster) = tight();
    let fix = Fix { recompute: Some(vec![Recompute::Full]), chunks: Some(2), pp: Some(2), ..Fix::default() };
    let found = search(&job, &cluster, &fix, 1).unwrap();
    assert!(found.best[0].0.stages.iter().all(|stage| stage.full == stage.layers), "{:?}", found.best[0].0.stages);
}

#[test]
fn what_fits_nowhere_is_counted_by_reason() {
    let mut model = tiny_model(Architecture::Llama);
    (model.hidden, model.ffn, model.vocab) = (8192, 32768, 1 << 20);
    let error = search(&tiny_job(model), &cluster("1x cpu-generic"), &Fix::default(), 1).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let message = error.to_string();
    assert!(message.contains("out of memory"), "{message}");
}
