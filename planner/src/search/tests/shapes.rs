//! What is known of a shape before anything of it is made is no more than its priced passes, and not much less.

use super::times::Times;
use super::*;
use crate::models;

/// Each pass of a shape by its own ops, and by its tapes; the shapes are every `step`-th.
fn floors(model: &str, precision: Precision, stack: Arc<Stack>, step: usize) {
    let job = Job { seq: 4096, global_batch: 512, precision, ..tiny_job(models::load(model).unwrap()) };
    floors_of(&job, stack, step, 0.6);
}

/// The same of a job; floors are this share of passes at least.
fn floors_of(job: &Job, stack: Arc<Stack>, step: usize, least: f64) {
    let (model, precision) = (&job.model.name, job.precision);
    let cluster = cluster("16x dgx-h100").under(stack);
    let mut links = CachedPrices::new(pool_assignment::prices(&cluster, precision).unwrap().remove(0));
    let space = Space { job, devices: 128, idle: None, fix: &Fix::default(), pools: false, within: None };
    let (mut looked, mut share) = (0, 0.0);
    for shape in space.shapes(&mut BTreeMap::new()).into_iter().step_by(step) {
        let of = space.combinations(&shape).next().unwrap();
        let plan = space.plan(&shape, &of);
        let floor = shape_bound::ShapeFloors::of(job).passes(&shape, &mut links).unwrap();
        let work = ShapeWork::quick(&plan, &mut links.prices).unwrap();
        let priced = Whole::of(&plan, &work.passes(&plan, &mut links).unwrap());
        let passes = |whole: &Whole| {
            let Times { forward, backward, weights, .. } = whole.times;
            [("forward", forward), ("backward", backward), ("weights", weights), ("a layer", whole.layer.total())]
        };
        for ((what, floor), (_, priced)) in passes(&floor).into_iter().zip(passes(&priced)) {
            let at = format!("{model} in {precision}, {shape:?}");
            assert!(floor <= priced * (1.0 + 1e-9), "{at}: {what} is {priced}, below {floor}");
        }
        share += floor.times.total() / priced.times.total();
        looked += 1;
    }
    let share = share / f64::from(looked);
    assert!(looked > 20 && share > least, "{model} in {precision}: {share} of {looked}");
}

#[test]
fn no_floor_of_a_shape_is_above_its_passes() {
    for stack in [Stack::ideal(), heavy()] {
        floors("llama3-8b", Precision::Bf16, stack.clone(), 40);
        floors("mixtral-8x7b", Precision::Fp8, stack.clone(), 60);
        floors("deepseek-v3", Precision::Bf16, stack, 200);
    }
}

/// Frozen weights have no gradients, and packed ones are made wide for their products; what that takes, and adapters, is in no
/// floor.
#[test]
fn no_floor_of_fine_tuning_is_above_its_passes() {
    for (base, stack) in ["model", "fp8", "nf4"].into_iter().zip([Stack::ideal(), heavy(), Stack::ideal()]) {
        let tuning: crate::job::Tuning =
            toml::from_str(&format!("method = 'lora'\nrank = 8\nbase = '{base}'")).unwrap();
        for (model, precision, step) in [("llama3-8b", Precision::Bf16, 40), ("mixtral-8x7b", Precision::Fp8, 60)] {
            let job = Job { seq: 4096, global_batch: 512, precision, ..tiny_job(models::load(model).unwrap()) };
            floors_of(&Job { tuning: Some(tuning.clone()), ..job }, stack.clone(), step, 0.5);
        }
    }
}

#[test]
fn no_floor_of_tokens_sent_once_a_node_is_above_its_passes() {
    let model = models::load("deepseek-v3").unwrap();
    let job = Job { seq: 4096, global_batch: 512, precision: Precision::Fp8, ..tiny_job(model) };
    let sends = Stack { dispatch: TokenDispatch::PerNode, dispatches_narrow: true, ..Stack::clone(&heavy()) };
    let stack = Arc::new(job.runs_under(&sends));
    floors_of(&job.under(&stack), stack, 200, 0.5);
}
