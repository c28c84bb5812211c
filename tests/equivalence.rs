//! The same numbers whatever the plan: ranks as threads reproduce the single-rank loss curve.

use std::sync::Arc;

use meshwright::runs::train_config;
use meshwright_executor::train::Trainer;
use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, Experts, Family, Job, Latent, Model, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, RecomputeModule, Stage};
use meshwright_planner::schedule::Schedule;

#[path = "equivalence/gradients.rs"]
mod gradients;
#[path = "equivalence/layouts.rs"]
mod layouts;
mod learnable;
#[path = "equivalence/losses.rs"]
mod losses;
mod tiny;

use tiny::model;

const STEPS: usize = 20;

fn job(model: Model) -> Job {
    let optimizer = Optimizer { lr: 3e-3, min_lr: 3e-4, warmup_steps: 3, ..Optimizer::default() };
    Job {
        target_seq: model.family.as_ref().is_some_and(|family| family.decoder_layers.is_some()).then_some(6),
        precision: Precision::Fp32,
        steps: STEPS,
        seed: 3,
        optimizer,
        ..Job::of(model, 16, 8)
    }
}

/// Experts with room for every token, so that nothing depends on who shares a microbatch with whom.
fn mixture(experts: Experts) -> Model {
    Model { family: Some(Family { experts: Some(experts), ..Family::default() }), ..model(Architecture::Llama) }
}

fn experts() -> Experts {
    Experts {
        count: 4,
        top_k: 2,
        groups: None,
        ffn: 32,
        shared_ffn: 0,
        dense_layers: 0,
        every: 1,
        capacity: 4.0,
        balance: 0.0,
    }
}

fn sample(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    learnable::sample(64, step, index)
}

/// Few different sequences, of which an encoder has to guess what is masked.
fn masked(_: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, _) = sample(0, index % 2);
    let mut targets = vec![u32::MAX; tokens.len()];
    for at in [3 + index % 4, 11] {
        targets[at] = tokens[at];
        tokens[at] = 63;
    }
    (tokens, targets)
}

/// A sequence, and the beginning of its continuation for a decoder to write.
fn answered(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    let (tokens, targets) = sample(step, index);
    (tokens, targets[10..].to_vec())
}

fn losses(plan: &Plan) -> Vec<f64> {
    let source = match plan.job.target() {
        0 if plan.job.model.causal() => sample,
        0 => masked,
        _ => answered,
    };
    losses_on(plan, source)
}

fn losses_on(plan: &Plan, source: fn(usize, usize) -> (Vec<u32>, Vec<u32>)) -> Vec<f64> {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    let lowered = lower(plan).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()));
    let config = train_config(plan, 1, None);
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(source)).unwrap();
    (0..STEPS).map(|_| trainer.step().unwrap().loss).collect()
}

/// A plan on a mesh, with layers spread over stages and chunks, of which some recompute (full, selective).
fn plan(model: &Model, mesh: Mesh, chunks: usize, microbatch: usize, (full, selective): (usize, usize)) -> Plan {
    let layers = [vec![], vec![4], vec![3, 1], vec![], vec![1; 4]][mesh.pp * chunks].clone();
    let stage = |layers: usize| {
        let full = full.min(layers);
        Stage { layers, full, selective: selective.min(layers - full), offload: 0 }
    };
    Plan {
        mesh,
        chunks,
        stages: layers.into_iter().map(stage).collect(),
        ..Plan::single(job(model.clone()), microbatch)
    }
}

/// The plan with every module that its model has made again.
fn making_again(plan: Plan) -> Plan {
    let modules = RecomputeModule::ALL.into_iter().filter(|module| module.is_of(&plan.job.model)).collect();
    Plan { recompute_modules: modules, ..plan }
}

fn mesh(dp: usize, pp: usize, tp: usize) -> Mesh {
    Mesh { dp, pp, tp, ..Mesh::ONE }
}

fn all_agree(model: &Model, plans: Vec<Plan>) {
    agree_in(Precision::Fp32, 1e-4, model, plans);
}

/// Every plan, in a precision, has the losses of one rank in fp32.
fn agree_in(precision: Precision, tolerance: f64, model: &Model, plans: Vec<Plan>) {
    let single = Plan::single(job(model.clone()), 8);
    let wanted = losses(&single);
    assert!(wanted[STEPS - 1] < wanted[0] - 0.3, "it learns: {wanted:?}");
    for mut plan in plans {
        plan.job.precision = precision;
        for (step, (ours, wanted)) in losses(&plan).iter().zip(&wanted).enumerate() {
            let error = (ours - wanted).abs() / wanted;
            assert!(error < tolerance, "{} in {precision}: step {step}: {ours} for {wanted}", plan.summary());
        }
    }
}

/// Data, pipeline and tensor parallelism, with ZeRO and recomputation.
fn classic(model: &Model) -> Vec<Plan> {
    let of = |mesh, microbatch, zero, again| Plan { zero, ..plan(model, mesh, 1, microbatch, again) };
    vec![
        of(mesh(1, 1, 1), 2, 0, (0, 0)),
        of(mesh(1, 1, 1), 4, 0, (2, 1)),
        of(mesh(2, 1, 1), 2, 0, (0, 0)),
        of(mesh(2, 1, 1), 1, 1, (0, 4)),
        making_again(of(mesh(1, 2, 2), 2, 0, (1, 1))),
        of(mesh(4, 1, 1), 1, 1, (0, 0)),
        of(mesh(1, 2, 1), 2, 0, (0, 0)),
        of(mesh(1, 4, 1), 1, 0, (0, 0)),
        of(mesh(1, 4, 1), 2, 0, (1, 0)),
        of(mesh(1, 1, 2), 8, 0, (0, 0)),
        of(mesh(2, 1, 2), 2, 1, (4, 0)),
        of(mesh(1, 2, 2), 2, 0, (0, 2)),
        of(mesh(2, 2, 2), 1, 1, (1, 1)),
        // Ranks laid out otherwise.
        of(Mesh { order: Order::TpPpData, ..mesh(2, 2, 2) }, 1, 1, (0, 0)),
        of(Mesh { order: Order::DataPpTp, ..mesh(2, 2, 2) }, 2, 0, (0, 0)),
    ]
}

/// Every schedule of the registry, with one chunk a stage and with two where it can have them.
fn schedules(model: &Model) -> Vec<Plan> {
    let of = |(schedule, chunks), mesh, microbatch, zero, again| Plan {
        schedule,
        zero,
        ..plan(model, mesh, chunks, microbatch, again)
    };
    let each = |form| {
        [
            of(form, mesh(1, 2, 1), 1, 0, (0, 0)),
            of(form, mesh(1, 4 / form.1, 1), 2, 0, (1, 0)),
            of(form, mesh(2, 2, 2), 1, 1, (0, 1)),
        ]
    };
    Schedule::forms(2).flat_map(each).collect()
}

/// Gradients and weights sharded over data parallelism.
fn sharded(model: &Model) -> Vec<Plan> {
    let of = |mesh, chunks, microbatch, zero, again| Plan { zero, ..plan(model, mesh, chunks, microbatch, again) };
    vec![
        of(mesh(2, 1, 1), 1, 2, 2, (0, 0)),
        of(mesh(2, 1, 1), 1, 1, 3, (0, 0)),
        of(mesh(4, 1, 1), 1, 1, 3, (2, 1)),
        of(mesh(2, 2, 1), 1, 2, 3, (0, 0)),
        of(mesh(2, 1, 2), 1, 2, 2, (4, 0)),
        of(mesh(2, 2, 1), 2, 1, 3, (0, 0)),
    ]
}

/// Tokens sharded over tensor and context parallelism.
fn tokens(model: &Model) -> Vec<Plan> {
    let of = |mesh, microbatch, zero, sequence_parallel, ring, again| Plan {
        zero,
        sequence_parallel,
        ring,
        ..plan(model, mesh, 1, microbatch, again)
    };
    let cp = |cp, mesh| Mesh { cp, ..mesh };
    vec![
        of(mesh(1, 1, 2), 2, 0, true, false, (0, 0)),
        of(mesh(2, 2, 2), 1, 1, true, false, (1, 1)),
        of(mesh(2, 1, 2), 1, 3, true, false, (0, 2)),
        of(cp(2, mesh(1, 1, 1)), 2, 0, false, false, (0, 0)),
        of(cp(2, mesh(2, 1, 1)), 2, 1, false, true, (0, 0)),
        of(cp(4, mesh(1, 1, 1)), 1, 3, false, true, (2, 1)),
        of(cp(2, mesh(1, 2, 2)), 2, 0, true, false, (1, 1)),
        of(cp(2, mesh(1, 1, 2)), 1, 1, true, true, (0, 4)),
        of(Mesh { order: Order::PpDataTp, ..cp(2, mesh(1, 2, 2)) }, 1, 3, true, true, (0, 0)),
        Plan { schedule: Schedule::ZeroBubble, ..of(cp(2, mesh(1, 2, 2)), 1, 1, true, true, (0, 0)) },
    ]
}

/// Experts spread over ranks.
fn spread(model: &Model) -> Vec<Plan> {
    let of = |mesh, ep, microbatch, zero| Plan { zero, ..plan(model, Mesh { ep, ..mesh }, 1, microbatch, (0, 0)) };
    vec![
        of(mesh(1, 1, 1), 1, 2, 0),
        of(mesh(1, 1, 2), 1, 2, 0),
        of(mesh(2, 1, 1), 2, 2, 0),
        of(mesh(4, 1, 1), 2, 1, 1),
        of(mesh(4, 1, 1), 4, 1, 2),
        of(mesh(2, 2, 1), 2, 1, 3),
        Plan { sequence_parallel: true, ..of(mesh(2, 1, 2), 2, 1, 1) },
        Plan { ring: true, ..of(Mesh { cp: 2, ..mesh(2, 1, 1) }, 4, 2, 1) },
        Plan { schedule: Schedule::ZeroBubble, ..of(mesh(2, 2, 1), 2, 1, 1) },
        making_again(of(mesh(2, 1, 1), 2, 1, 1)),
        Plan { stages: vec![Stage { layers: 4, full: 2, selective: 1, offload: 0 }], ..of(mesh(2, 1, 1), 2, 1, 1) },
    ]
}

/// Whole experts spread over tensor ranks and data, which share tokens.
fn whole(model: &Model) -> Vec<Plan> {
    let of = |mesh, ep, microbatch, zero, again| Plan {
        zero,
        sequence_parallel: true,
        ..plan(model, Mesh { ep, etp: Some(1), ..mesh }, 1, microbatch, again)
    };
    let cp = |mesh| Mesh { cp: 2, ..mesh };
    vec![
        of(mesh(1, 1, 2), 1, 2, 0, (0, 0)),
        of(mesh(1, 1, 2), 2, 2, 0, (2, 1)),
        of(mesh(2, 1, 2), 2, 1, 1, (0, 0)),
        of(mesh(2, 1, 2), 4, 1, 0, (0, 0)),
        of(mesh(2, 1, 2), 4, 2, 3, (0, 1)),
        of(mesh(1, 2, 2), 2, 1, 0, (1, 0)),
        of(mesh(4, 1, 2), 4, 1, 2, (0, 0)),
        of(cp(mesh(1, 1, 2)), 4, 2, 1, (0, 0)),
        Plan { schedule: Schedule::ZeroBubble, ..of(mesh(2, 2, 2), 4, 1, 1, (0, 0)) },
        Plan { shares: vec![3, 3, 1, 1], ..of(mesh(4, 1, 2), 4, 1, 1, (0, 0)) },
    ]
}

/// Activations on the host.
fn away(model: &Model) -> Vec<Plan> {
    let of = |mut plan: Plan, offload: usize| {
        plan.stages.iter_mut().for_each(|stage| stage.offload = offload.min(stage.layers));
        plan
    };
    vec![
        of(plan(model, mesh(1, 1, 1), 1, 2, (0, 0)), 3),
        of(plan(model, mesh(1, 2, 1), 1, 1, (1, 1)), 4),
        of(Plan { zero: 3, ..plan(model, mesh(2, 2, 1), 2, 1, (0, 0)) }, 1),
    ]
}

#[test]
fn activations_on_the_host_leave_losses_alone_where_tensors_fill_no_cache_line() {
    fn short(step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
        let (tokens, targets) = sample(step, index);
        (tokens[..15].to_vec(), targets[..15].to_vec())
    }
    for precision in [Precision::Fp32, Precision::Bf16] {
        for plan in away(&model(Architecture::Llama)) {
            let mut away = Plan { job: Job { seq: 15, precision, ..plan.job.clone() }, ..plan };
            let found = losses_on(&away, short);
            away.stages.iter_mut().for_each(|stage| stage.offload = 0);
            assert_eq!(found, losses_on(&away, short), "{}", away.summary());
        }
    }
}

/// Replicas that take unlike shares of the batch.
fn unlike(model: &Model) -> Vec<Plan> {
    let of = |mesh: Mesh, chunks, microbatch, shares: &[usize], again| Plan {
        shares: shares.to_vec(),
        ..plan(model, mesh, chunks, microbatch, again)
    };
    let zb = Schedule::ZeroBubble;
    vec![
        of(mesh(2, 1, 1), 1, 2, &[3, 1], (0, 0)),
        Plan { zero: 1, ..of(mesh(4, 1, 1), 1, 1, &[1, 3, 3, 1], (0, 2)) },
        of(mesh(2, 2, 1), 1, 1, &[7, 1], (0, 0)),
        Plan { zero: 1, sequence_parallel: true, ..of(mesh(2, 2, 2), 1, 1, &[3, 5], (1, 1)) },
        Plan { schedule: Schedule::GPipe, ..of(mesh(2, 2, 1), 1, 2, &[1, 3], (0, 0)) },
        of(mesh(2, 2, 1), 2, 1, &[6, 2], (0, 0)),
        Plan { zero: 1, schedule: zb, ..of(mesh(2, 2, 1), 1, 1, &[2, 6], (0, 0)) },
        Plan { schedule: Schedule::DualPipeV, ..of(mesh(2, 2, 1), 2, 1, &[5, 3], (0, 0)) },
        Plan { ring: true, ..of(Mesh { cp: 2, ..mesh(2, 1, 1) }, 1, 2, &[3, 1], (0, 0)) },
    ]
}

#[test]
fn unlike_shares_train_alike() {
    for architecture in [Architecture::Gpt2, Architecture::Llama] {
        let model = model(architecture);
        all_agree(&model, unlike(&model));
    }
    let spread = mixture(experts());
    let of = |mesh, shares: &[usize]| Plan { shares: shares.to_vec(), ..plan(&spread, mesh, 1, 1, (0, 0)) };
    let experts = |ep, mesh| Mesh { ep, ..mesh };
    let plans = [of(experts(2, mesh(4, 1, 1)), &[3, 3, 1, 1]), of(experts(2, mesh(4, 2, 1)), &[1, 1, 3, 3])];
    all_agree(&spread, plans.map(|plan| Plan { zero: 1, ..plan }).to_vec());
}

#[test]
fn gpt2_trains_alike_under_every_plan() {
    let model = model(Architecture::Gpt2);
    all_agree(&model, [classic(&model), schedules(&model), sharded(&model), tokens(&model), away(&model)].concat());
}

/// Where ranks of tensor parallelism do not divide the vocabulary: of two, the second has three words, or none.
#[test]
fn odd_vocabularies_train_alike_under_every_plan() {
    for (architecture, vocab, tied) in
        [(Architecture::Gpt2, 131, true), (Architecture::Gpt2, 131, false), (Architecture::Llama, 67, false)]
    {
        let model = Model { vocab, tied, ..model(architecture) };
        all_agree(&model, [classic(&model), sharded(&model), losses::in_parts(&model)].concat());
        agree_in(Precision::Bf16, 2e-2, &model, classic(&model).split_off(8));
    }
}

/// Rounding to 8 and 11 digits: what a plan adds to it is of its size.
#[test]
fn two_bytes_train_alike_under_every_plan() {
    let gpt2 = model(Architecture::Gpt2);
    let llama = model(Architecture::Llama);
    let latent = Latent { q_rank: 12, kv_rank: 8, nope: 8, rope: 4, value: 8 };
    let family = Family { latent: Some(latent), experts: Some(experts()), ..Family::default() };
    let mixture = Model { family: Some(family), kv_heads: 4, ..model(Architecture::Llama) };
    for (precision, tolerance) in [(Precision::Bf16, 2e-2), (Precision::Fp16, 4e-3)] {
        agree_in(precision, tolerance, &gpt2, [classic(&gpt2), away(&gpt2)].concat());
        agree_in(precision, tolerance, &llama, [schedules(&llama), sharded(&llama), tokens(&llama)].concat());
        agree_in(precision, tolerance, &mixture, [spread(&mixture), away(&mixture)].concat());
    }
}

#[test]
fn llama_trains_alike_under_every_plan() {
    let model = model(Architecture::Llama);
    all_agree(&model, [classic(&model), schedules(&model), sharded(&model), tokens(&model)].concat());
}

#[test]
fn mixtures_of_experts_train_alike_under_every_plan() {
    let all = mixture(experts());
    all_agree(&all, [spread(&all), whole(&all)].concat());
    let some = mixture(Experts { top_k: 1, shared_ffn: 32, dense_layers: 1, ..experts() });
    all_agree(&some, [spread(&some), whole(&some)].concat());
}

#[test]
fn latent_attention_trains_alike_under_every_plan() {
    let latent = Latent { q_rank: 12, kv_rank: 8, nope: 8, rope: 4, value: 8 };
    let family = Family { latent: Some(latent), experts: Some(experts()), ..Family::default() };
    let model = Model { family: Some(family), kv_heads: 4, ..model(Architecture::Llama) };
    all_agree(&model, [schedules(&model), sharded(&model), tokens(&model), spread(&model)].concat());
}

#[test]
fn encoder_decoders_train_alike_under_every_plan() {
    let mixed = || Some(Experts { every: 2, ..experts() });
    // Learned positions are of both halves; lines have 16 elements, of which 36 fill none.
    for (learned, hidden, experts) in [(false, 32, None), (true, 36, None), (false, 32, mixed()), (true, 36, mixed())] {
        let family = Family { decoder_layers: Some(2), learned_positions: Some(learned), experts, ..Family::default() };
        let model = Model { layers: 2, hidden, family: Some(family), ..model(Architecture::Gpt2) };
        let mut plans = [classic(&model), schedules(&model), sharded(&model), tokens(&model)].concat();
        if model.experts().is_some() {
            plans = [spread(&model), whole(&model)].concat();
        }
        all_agree(&model, plans.into_iter().filter(|plan| plan.mesh.cp == 1).collect());
    }
}

#[test]
fn encoders_train_alike_under_every_plan() {
    let family = Family { bidirectional: true, ..Family::default() };
    let model = Model { family: Some(family), ..model(Architecture::Gpt2) };
    all_agree(&model, [schedules(&model), tokens(&model)].concat());
}

#[test]
fn parallel_blocks_train_alike_under_every_plan() {
    let family = Family { parallel_block: true, head_dim: Some(16), gated: Some(false), ..Family::default() };
    let model = Model { family: Some(family), ..model(Architecture::Llama) };
    all_agree(&model, [schedules(&model), sharded(&model), tokens(&model)].concat());
}
