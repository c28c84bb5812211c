//! The same losses where stages have no layers, chunks take turns after uneven groups, or ZeRO shards over a part of the replicas.

use super::*;

/// Embedding and head on stages of their own, in every schedule.
fn without_layers(model: &Model) -> Vec<Plan> {
    let of = |(schedule, chunks), layers: &[usize], dp| {
        let stage = |&layers: &usize| Stage { layers, full: 0, selective: layers.min(1), offload: 0 };
        let (mesh, stages) = (mesh(dp, layers.len() / chunks, 1), layers.iter().map(stage).collect());
        Plan { schedule, mesh, chunks, stages, ..Plan::single(job(model.clone()), 1) }
    };
    let each = |form| [of(form, &[0, 2, 2, 0], 1), of(form, &[0, 1, 3, 0], 2)];
    let mut plans: Vec<Plan> = Schedule::forms(2).flat_map(each).collect();
    plans.push(Plan { zero: 3, ..of((Schedule::default(), 1), &[0, 4, 0], 2) });
    plans.push(of((Schedule::default(), 1), &[4, 0], 1));
    plans
}

#[test]
fn stages_without_layers_train_alike() {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let model = model(architecture);
        all_agree(&model, without_layers(&model));
    }
}

/// Microbatches that are no whole rounds of the stages.
#[test]
fn interleaved_chunks_train_alike_in_groups_of_any_size() {
    let model = Model { layers: 6, ..model(Architecture::Llama) };
    let of = |pp, chunks: usize, global_batch| {
        let layers = 6 / (pp * chunks);
        let stages = vec![Stage { layers, full: 0, selective: 0, offload: 0 }; pp * chunks];
        let job = Job { global_batch, ..job(model.clone()) };
        Plan { mesh: mesh(1, pp, 1), chunks, stages, ..Plan::single(job, 1) }
    };
    for (pp, chunks, global_batch) in [(3, 2, 5), (3, 2, 7), (3, 2, 8), (2, 3, 5)] {
        let wanted = losses(&of(1, 1, global_batch));
        for (ours, wanted) in losses(&of(pp, chunks, global_batch)).iter().zip(&wanted) {
            let error = (ours - wanted).abs() / wanted;
            assert!(error < 1e-4, "pp {pp}, {chunks} chunks, {global_batch} microbatches: {ours} for {wanted}");
        }
    }
}

/// ZeRO over groups of neighbours, which sum gradients with each other.
fn hybrid(model: &Model) -> Vec<Plan> {
    let of = |mesh: Mesh, shard, zero, microbatch| {
        let mesh = Mesh { shard: Some(shard), ..mesh };
        Plan { zero, ..plan(model, mesh, 1, microbatch, (0, 1)) }
    };
    let cp = Mesh { cp: 2, ..mesh(2, 1, 1) };
    let mut plans: Vec<Plan> = [1, 2, 3].map(|zero| of(mesh(4, 1, 1), 2, zero, 1)).to_vec();
    plans.extend([1, 3].map(|zero| of(cp, 2, zero, 2)));
    plans.push(of(mesh(4, 2, 1), 2, 3, 1));
    plans.push(of(mesh(4, 1, 2), 2, 2, 1));
    plans.push(Plan { chunks: 2, stages: plans[0].stages.repeat(4), ..of(mesh(4, 2, 1), 2, 2, 1) });
    plans.last_mut().unwrap().stages.iter_mut().for_each(|stage| (stage.layers, stage.selective) = (1, 0));
    plans.push(Plan { schedule: Schedule::ZeroBubble, ..of(mesh(4, 2, 1), 2, 1, 1) });
    plans.push(of(Mesh { order: Order::PpDataTp, ..mesh(4, 1, 2) }, 2, 3, 2));
    plans
}

#[test]
fn hybrid_sharding_trains_alike() {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let model = model(architecture);
        all_agree(&model, hybrid(&model));
    }
    let spread = mixture(experts());
    let of = |mesh: Mesh, shard, zero| Plan {
        zero,
        sequence_parallel: mesh.etp.is_some(),
        ..plan(&spread, Mesh { shard: Some(shard), ..mesh }, 1, 1, (0, 0))
    };
    let ep = |ep, mesh| Mesh { ep, ..mesh };
    // Experts sharded within a group, whole there, and spread over tensor ranks.
    let mut plans = [1, 2, 3].map(|zero| of(ep(2, mesh(8, 1, 1)), 4, zero)).to_vec();
    plans.extend([1, 3].map(|zero| of(ep(2, mesh(4, 1, 1)), 2, zero)));
    plans.push(of(Mesh { etp: Some(1), ..ep(2, mesh(4, 1, 2)) }, 2, 3));
    all_agree(&spread, plans);
}
