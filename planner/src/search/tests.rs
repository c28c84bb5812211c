use std::sync::Arc;

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::profile::{GradientSums, Overheads, Stack, TokenDispatch};
use meshwright_hardware::units::Precision;

use super::bound::{Whole, least_ratio};
use super::cached_prices::CachedPrices;
use super::cost::ShapeWork;
use super::space::Space;
use super::stages::Undecided;
use super::times::Costs;
use super::*;
use crate::job::{Architecture, Model};
use crate::lower::{InFlight, PieceSizes};
use crate::plan::Stage;
use crate::schedule::{Action, Pipeline, PipelineSchedule, Schedule};
use crate::testing::{tiny_job, tiny_model};

mod fixed;
mod jobs;
mod parts;
mod pools;
mod shapes;

fn cluster(text: &str) -> Cluster {
    Cluster::parse(text).unwrap()
}

#[test]
fn the_best_plan_is_the_best_of_all_candidates() {
    let (job, cluster) = (tiny_job(tiny_model(Architecture::Llama)), cluster("8x cpu-generic"));
    let all = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
    let best = search(&job, &cluster, &Fix::default(), 1).unwrap();
    let least = all.best.iter().map(|(_, figures)| figures.step_time_s).fold(f64::INFINITY, f64::min);
    assert_eq!(best.best[0].1.step_time_s, least);
    assert!(all.best.len() > 20 && best.simulated < all.simulated, "{} of {}", best.simulated, all.simulated);
}

#[test]
fn every_candidate_is_kept_or_counted() {
    let (job, cluster) = (tiny_job(tiny_model(Architecture::Gpt2)), cluster("8x cpu-generic"));
    for top in [1, 5] {
        let found = search(&job, &cluster, &Fix::default(), top).unwrap();
        assert_eq!(found.best.len() + found.rejected.values().sum::<usize>(), found.considered);
    }
}

/// Devices that do not help may be idle.
#[test]
fn more_devices_are_never_slower() {
    let model = Model { layers: 6, hidden: 512, ffn: 2048, ..tiny_model(Architecture::Llama) };
    let mut idle = 0;
    for (machine, batch) in [("dgx-h100", 48), ("dgx-h100", 53), ("h100", 12)] {
        let job = Job { seq: 512, global_batch: batch, precision: Precision::Bf16, ..tiny_job(model.clone()) };
        let mut fastest = f64::INFINITY;
        for count in 1..=7 {
            let cluster = cluster(&format!("{count}x {machine}"));
            let found = search(&job, &cluster, &Fix::default(), 1).unwrap();
            let (plan, figures) = &found.best[0];
            let step = figures.step_time_s;
            assert!(
                step <= fastest * (1.0 + TOLERANCE),
                "{count}x {machine}: {step} for {fastest}, {}",
                plan.summary()
            );
            assert!(found.bound <= fastest * (1.0 + 1e-9), "{count}x {machine}: {} above {fastest}", found.bound);
            fastest = fastest.min(step);
            idle += usize::from(plan.mesh.ranks() < cluster.devices());
        }
    }
    assert!(idle > 4, "{idle}");
}

/// A prime batch goes through one replica's pipeline alone; its programs are those of a few microbatches.
#[test]
fn a_prime_batch_is_searched_as_quickly_as_others() {
    let model = Model { layers: 8, ..tiny_model(Architecture::Llama) };
    let found = |batch: usize| {
        let job = Job { global_batch: batch, ..tiny_job(model.clone()) };
        search(&job, &cluster("8x cpu-generic"), &Fix::default(), 1).unwrap()
    };
    let (prime, usual) = (found(1009), found(1024));
    assert!(prime.considered <= usual.considered, "{} for {}", prime.considered, usual.considered);
    assert!(prime.simulated <= 4 * usual.simulated.max(4), "{} for {}", prime.simulated, usual.simulated);
    assert!(prime.gap() < 0.02, "{}", prime.gap());
}

/// A schedule that says no more of itself than it must.
struct Plain(&'static dyn PipelineSchedule);

impl PipelineSchedule for Plain {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        self.0.orders(pipeline)
    }

    fn splits(&self) -> bool {
        self.0.splits()
    }
}

/// The bound of decided stages, the floor of the combination, and the passes' floor of every schedule.
fn bounds(plan: &Plan, cluster: &Cluster) -> (f64, f64, f64) {
    let plan = &plan.under(&cluster.stack);
    let mut links = CachedPrices::new(pool_assignment::prices(cluster, plan.job.precision).unwrap().remove(0));
    let work = ShapeWork::of(plan, &mut links.prices).unwrap();
    let sizes = PieceSizes::of(plan, &work.frames);
    let costs = Costs::of(plan, &work, &sizes, &mut links).unwrap();
    let ratio = least_ratio(&plan.pipeline(), &mut Default::default());
    let (pipeline, whole) = (plan.pipeline(), Whole::of(plan, &costs));
    let plain = Plain(pipeline.schedule.order()).floor(&whole.work(&pipeline, ratio));
    (timeline::step(plan, &vec![&costs; plan.mesh.pp]), whole.floor(&pipeline, ratio), plain)
}

/// A plan in each schedule that goes with its other decisions: a search leaves out those that can be no better.
fn with_other_schedules(plan: &Plan) -> Vec<Plan> {
    let as_is = |schedule: Schedule| {
        schedule == plan.schedule || (plan.mesh.pp > 1 && schedule.splits() == plan.schedule.splits())
    };
    let all = Schedule::ALL.iter().filter(|&&schedule| as_is(schedule));
    all.map(|&schedule| Plan { schedule, ..plan.clone() }).filter(|plan| plan.check().is_ok()).collect()
}

#[test]
fn no_bound_is_above_its_simulation() {
    let both = |architecture| [Precision::Fp32, Precision::Bf16].map(|precision| (architecture, precision));
    let jobs = [Architecture::Gpt2, Architecture::Llama].into_iter().flat_map(both);
    // In nodes, over their borders, and in blocks of six ranks, of which some lie on two nodes.
    let clusters = [("8x cpu-generic", 8), ("1x dgx-a100-80gb", 8), ("2x dgx-h100", 8), ("3x dgx-a100-80gb", 12)];
    let mut schedules = std::collections::BTreeSet::new();
    for (job, (text, global_batch)) in jobs.flat_map(|job| clusters.map(|cluster| (job, cluster))) {
        let ((architecture, precision), cluster) = (job, cluster(text));
        // GPT-2's vocabulary is padded for tensor parallelism.
        let vocab = if architecture == Architecture::Gpt2 { 67 } else { 64 };
        let model = Model { vocab, ..tiny_model(architecture) };
        let job = Job { precision, global_batch, ..tiny_job(model) };
        let found = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
        assert!(found.best.len() > 60, "{}", found.best.len());
        for plan in found.best.iter().flat_map(|(plan, _)| with_other_schedules(plan)) {
            let simulated = crate::predict::predict_figures(&plan, &cluster).unwrap().step_time_s;
            let (bound, floor, plain) = bounds(&plan, &cluster);
            assert!(bound <= simulated * (1.0 + 1e-6), "{text}, {}: {bound} above {simulated}", plan.summary());
            assert!(floor <= bound * (1.0 + 1e-9), "{text}, {}: {floor} above {bound}", plan.summary());
            assert!(plain <= bound * (1.0 + 1e-9), "{text}, {}: {plain} above {bound}", plan.summary());
            schedules.insert(plan.schedule);
        }
    }
    assert_eq!(schedules.len(), Schedule::ALL.len(), "{schedules:?}");
}

/// In hybrid sharding weights are gathered inside a node: a shorter step for more memory. No bound is above it.
#[test]
fn shards_over_a_node_save_time_for_memory() {
    for stack in [Stack::ideal(), heavy()] {
        let cluster = cluster("4x dgx-h100").under(stack);
        let job = Job { precision: Precision::Bf16, ..job_of_eight(64) };
        let fix = |shard| Fix { tp: Some(1), cp: Some(1), shard, ..Fix::default() };
        let found = search(&job, &cluster, &fix(Some(8)), usize::MAX).unwrap();
        let mut hybrid = 0;
        for (plan, figures) in &found.best {
            plan.check().unwrap();
            let ((bound, floor, plain), simulated) = (bounds(plan, &cluster), figures.step_time_s);
            assert!(bound <= simulated * (1.0 + 1e-6), "{}: {bound} above {simulated}", plan.summary());
            assert!(floor.max(plain) <= bound * (1.0 + 1e-9), "{}: {floor} above {bound}", plan.summary());
            hybrid += usize::from(plan.summary().contains("over 8 of"));
        }
        assert!(hybrid > 3, "{hybrid} of {}", found.best.len());
    }
    // Few links between nodes and few tokens a microbatch, so that gathers are what a step waits for.
    let model = crate::models::load("llama3-8b").unwrap();
    let job = Job { seq: 512, global_batch: 256, precision: Precision::Bf16, ..tiny_job(model) };
    let [group, all] = [Some(8), None].map(|shard| {
        let plan = Plan { zero: 3, mesh: Mesh { dp: 32, shard, ..Mesh::ONE }, ..Plan::single(job.clone(), 1) };
        crate::predict::predict_figures(&plan, &cluster("4x dgx-1v").under(Stack::ideal())).unwrap()
    });
    assert!(group.step_time_s < 0.9 * all.step_time_s, "{} for {}", group.step_time_s, all.step_time_s);
    assert!(group.peak_memory_bytes > all.peak_memory_bytes);
}

/// Embedding and head on stages of their own: a search does not propose them, but plays what it is given.
#[test]
fn no_played_step_of_stages_without_layers_is_above_its_simulation() {
    let cluster = cluster("2x dgx-a100-80gb");
    for ((schedule, chunks), zero) in Schedule::forms(2).flat_map(|form| [0, 1, 3].map(|zero| (form, zero))) {
        for held in [[0, 4, 4, 0], [0, 2, 1, 5], [3, 4, 1, 0]] {
            let stages = held.map(|layers| Stage { layers, full: 0, selective: layers.min(1), offload: 0 }).to_vec();
            let mesh = Mesh { dp: 2, pp: 4 / chunks, ..Mesh::ONE };
            let plan = Plan { schedule, chunks, zero, mesh, stages, ..Plan::single(job_of_eight(32), 1) };
            if zero > 1 && schedule.splits() {
                continue;
            }
            plan.check().unwrap();
            let simulated = crate::predict::predict_figures(&plan, &cluster).unwrap().step_time_s;
            let bound = bounds(&plan, &cluster).0;
            assert!(bound <= simulated * (1.0 + 1e-6), "{held:?}, {}: {bound} above {simulated}", plan.summary());
            assert!(bound >= simulated * 0.9, "{held:?}, {}: {bound} far below {simulated}", plan.summary());
        }
    }
}

/// A stack of which every figure bears on a small job.
fn heavy() -> Arc<Stack> {
    let overheads = Overheads {
        matmul: 0.6,
        stream: 2.0,
        host: 20.0,
        tp: 1.5,
        dp: 0.8,
        ep: 1.2,
        step: 0.5,
        ..Overheads::default()
    };
    let ideal = Stack::clone(&Stack::ideal());
    let formats = Stack { gradients: GradientSums::Narrow, casts: true, keeps_narrow: true, ..ideal };
    Arc::new(Stack { overheads, ..formats })
}

/// As [`no_bound_is_above_its_simulation`], where hosts issue kernels and collectives take from what runs beside them.
#[test]
fn no_bound_is_above_its_simulation_under_a_stack() {
    let typical = meshwright_hardware::profile::catalog().stack(Stack::TYPICAL).unwrap().clone();
    for (text, stack, precision) in [
        ("1x dgx-a100-80gb", typical, Precision::Bf16),
        ("1x dgx-h100", heavy(), Precision::Bf16),
        ("1x dgx-h100", heavy(), Precision::Fp8),
        ("2x dgx-a100-80gb", heavy(), Precision::Bf16),
    ] {
        let job = Job { precision, ..job_of_eight(32) };
        let cluster = cluster(text).under(stack);
        let found = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
        assert!(found.best.len() > 50, "{}", found.best.len());
        for (plan, figures) in &found.best {
            let ((bound, floor, plain), simulated) = (bounds(plan, &cluster), figures.step_time_s);
            assert!(bound <= simulated * (1.0 + 1e-6), "{text}, {}: {bound} above {simulated}", plan.summary());
            assert!(floor <= bound * (1.0 + 1e-9), "{text}, {}: {floor} above {bound}", plan.summary());
            assert!(plain <= bound * (1.0 + 1e-9), "{text}, {}: {plain} above {bound}", plan.summary());
        }
    }
}

/// So many sequences of 512 tokens for a model of 8 layers, whose kernels take longer than they wait.
fn job_of_eight(global_batch: usize) -> Job {
    let mut model = tiny_model(Architecture::Llama);
    (model.layers, model.hidden, model.ffn) = (8, 512, 2048);
    Job { seq: 512, global_batch, ..tiny_job(model) }
}

/// Plans of which each stage keeps some layers' activations on the host.
#[test]
fn what_moves_to_the_host_is_played_as_it_is_simulated() {
    // Tensors whose elements fill whole cache lines, and such that do not.
    for seq in [512, 511] {
        what_moves_is_played(Job { seq, ..job_of_eight(32) });
    }
}

fn what_moves_is_played(job: Job) {
    let (cluster, fix) = (cluster("1x dgx-h100"), Fix::default());
    let space = Space { job: &job, devices: 8, idle: None, fix: &fix, pools: false, within: None };
    let mut looked = 0;
    for shape in space.shapes(&mut BTreeMap::new()).into_iter().filter(|shape| shape.microbatch == 1 && !shape.splits) {
        for of in space.combinations(&shape).filter(|of| of.pp <= 4 && of.chunks == 1) {
            let layers = 8 / of.pp;
            for offload in [1, layers] {
                let stage = Stage { layers, full: 0, selective: 0, offload };
                let plan = Plan { stages: vec![stage; of.pp], ..space.plan(&shape, &of) };
                let simulated = crate::predict::predict(&plan, &cluster).unwrap().figures.step_time_s;
                let bound = bounds(&plan, &cluster).0;
                assert!(bound <= simulated * (1.0 + 1e-6), "{}: {bound} above {simulated}", plan.summary());
                looked += 1;
            }
        }
    }
    assert!(looked > 50, "{looked}");
}

#[test]
fn no_plan_that_hardly_fits_is_below_its_floor_by_memory() {
    let (job, cluster, fix) = (job_of_eight(16), cluster("1x dgx-h100"), Fix::default());
    let mut links = CachedPrices::new(pool_assignment::prices(&cluster, job.precision).unwrap().remove(0));
    let space = Space { job: &job, devices: 8, idle: None, fix: &fix, pools: false, within: None };
    let (mut looked, mut higher) = (0, 0);
    for shape in space.shapes(&mut BTreeMap::new()).into_iter().filter(|shape| shape.microbatch <= 2) {
        for of in space.combinations(&shape) {
            let plan = space.plan(&shape, &of);
            let work = ShapeWork::of(&plan, &mut links.prices).unwrap();
            let sizes = PieceSizes::of(&plan, &work.frames);
            let costs = Costs::of(&plan, &work, &sizes, &mut links).unwrap();
            let flights = InFlight::all(&plan.pipeline());
            let even = crate::plan::layers_of(8, of.pp * of.chunks);
            let bytes = |full: bool| {
                let stage =
                    |&layers: &usize| Stage { layers, full: if full { layers } else { 0 }, selective: 0, offload: 0 };
                let plan = Plan { stages: even.iter().map(stage).collect(), ..plan.clone() };
                (0..of.pp).map(|stage| sizes.stage(&plan, &flights[stage], stage)).max().unwrap()
            };
            let (most, least) = (bytes(false), bytes(true).min(bytes(false)));
            let capacity = least + (most - least) / 4;
            let all = vec![&costs; of.pp];
            let undecided = Undecided {
                plan: &plan,
                costs: &all,
                sizes: &sizes,
                flights: &flights,
                capacity: &vec![capacity; of.pp],
                orders: Default::default(),
                within: None,
                fix: &fix,
            };
            let trade = memory_bound::Trade::of(&plan, &mut links.prices, None).unwrap();
            let kind = trade.kind;
            let hulls = trade.hulls(&plan.mesh, &mut links).unwrap();
            let (layer, size) = (costs.layer(kind), &sizes.layers[&kind][0]);
            let layer_capacity = memory_bound::LayerCapacity::of((&trade, hulls), layer, size, (capacity, costs.shown));
            let (whole, pipeline) = (Whole::of(&plan, &costs), plan.pipeline());
            let plain = whole.floor(&pipeline, least_ratio(&pipeline, &mut Default::default()));
            let beside = memory_bound::StepRest::of(&job.model, &costs, &whole, (of.pp, kind));
            let floor = match of.chunks {
                1 => memory_bound::floor(&pipeline, |_| &layer_capacity, &beside, (plain, f64::INFINITY)),
                _ => {
                    let again = |stage| memory_bound::again(&pipeline, stage, &layer_capacity, &flights[stage], &even);
                    let layers = [(kind, Arc::new(even.clone()))];
                    even_bound::floor(&pipeline, |_| &costs, &layers, again)
                }
            };
            let Some((stages, _)) = undecided.decide() else { continue };
            let step = timeline::step(&Plan { stages, ..plan.clone() }, &all);
            assert!(floor <= step * (1.0 + 1e-9), "{shape:?} {of:?}: {floor} above {step}");
            looked += 1;
            higher += usize::from(floor > plain);
        }
    }
    assert!(looked > 300 && higher > 50, "{higher} of {looked}");
}

/// All ways to partition `layers` over `stages`, at least one each.
fn spreadings(layers: usize, stages: usize) -> Vec<Vec<usize>> {
    if stages == 1 {
        return vec![vec![layers]];
    }
    let first = |held: usize| {
        let with = move |rest: Vec<usize>| [vec![held], rest].concat();
        spreadings(layers - held, stages - 1).into_iter().map(with)
    };
    (1..=layers + 1 - stages).flat_map(first).collect()
}

#[test]
fn no_spreading_of_layers_is_below_its_floor() {
    let mut model = tiny_model(Architecture::Llama);
    model.layers = 7;
    let mut job = tiny_job(model);
    job.global_batch = 24;
    let cluster = cluster("2x dgx-h100");
    let mut links = CachedPrices::new(pool_assignment::prices(&cluster, job.precision).unwrap().remove(0));
    let space = Space { job: &job, devices: 16, idle: None, fix: &Fix::default(), pools: false, within: None };
    let mut looked = 0;
    for shape in space.shapes(&mut BTreeMap::new()).into_iter().filter(|shape| shape.microbatch <= 2) {
        for of in space.combinations(&shape).filter(|of| of.pp > 1 && of.chunks == 1) {
            let plan = space.plan(&shape, &of);
            let work = ShapeWork::of(&plan, &mut links.prices).unwrap();
            let costs = Costs::of(&plan, &work, &PieceSizes::of(&plan, &work.frames), &mut links).unwrap();
            let (all, model) = (vec![&costs; of.pp], &job.model);
            let any = |_: usize, _: usize| Some(Default::default());
            let floor = partition_bound::floor(model, &plan.pipeline(), &all, &any, f64::INFINITY);
            let play = |held: Vec<usize>| {
                let stage = |&layers: &usize| Stage { layers, full: 0, selective: 0, offload: 0 };
                let stages = held.iter().map(stage).collect();
                (timeline::step(&Plan { stages, ..plan.clone() }, &all), held)
            };
            let played: Vec<(f64, Vec<usize>)> = spreadings(7, of.pp).into_iter().map(play).collect();
            let least = played.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
            let at = (shape, of);
            let near = 1.02 * least;
            let found = earliest_finish::all(model, &plan.pipeline(), &all, &any, (near, usize::MAX)).unwrap();
            for (seconds, held) in played.iter().filter(|(seconds, _)| *seconds < near) {
                assert!(found.contains(held), "{at:?}: {held:?} ends at {seconds}");
            }
            assert!(earliest_finish::all(model, &plan.pipeline(), &all, &any, (near, found.len() - 1)).is_none());
            assert!(floor <= least * (1.0 + 1e-9), "{at:?}: {floor} above {least}");
            assert!(
                earliest_finish::may_end(model, &plan.pipeline(), &all, &any, least * (1.0 + 1e-6)).is_some(),
                "{at:?} at {least}"
            );
            assert!(
                earliest_finish::may_end(model, &plan.pipeline(), &all, &any, floor * 0.9).is_none(),
                "{at:?} below {floor}"
            );
            looked += 1;
        }
    }
    assert!(looked > 50, "{looked}");
}
