//! What is chosen is the best of what could have been, what is proved holds, and advice that is followed works.

use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::{Dollars, Precision, Seconds, Tokens};

use super::could_fit::could_fit;
use super::front::front;
use super::longest::longest_step;
use super::parts::parts;
use super::*;
use crate::error::PlanError;
use crate::job::{Architecture, Fix, Goal, Job, Objective, USABLE_MEMORY};
use crate::search::{SearchOptions, fits, search, search_with};
use crate::testing::{tiny_job, tiny_model};

fn cluster(text: &str) -> Cluster {
    Cluster::parse(text).unwrap()
}

/// A job on which communication weighs much, so that fewer devices cost less.
fn job(goal: Goal) -> Job {
    let mut model = tiny_model(Architecture::Llama);
    (model.hidden, model.ffn, model.heads, model.kv_heads, model.vocab) = (256, 512, 4, 4, 512);
    Job { seq: 128, global_batch: 32, precision: Precision::Bf16, steps: 100_000, goal, ..tiny_job(model) }
}

fn chosen(job: &Job, text: &str) -> Chosen {
    choose(&Case::of(job, &cluster(text)), 3, &|_, _| {}).unwrap()
}

/// The offers of full searches on the whole and on every part.
fn all_offers(job: &Job, text: &str) -> Vec<Offer> {
    let whole = cluster(text);
    let clusters = std::iter::once(whole.clone()).chain(parts(&whole, true));
    let mut all = Vec::new();
    for cluster in clusters {
        let found = search(job, &cluster, &Fix::default(), 20).unwrap();
        all.extend(found.best.into_iter().map(|(plan, figures)| Offer::of(job, plan, figures, &cluster)));
    }
    all
}

#[test]
fn the_best_is_the_best_of_all_parts_and_above_its_bound() {
    for (objective, text) in [
        (Objective::Cost, "4x dgx-a100-80gb"),
        (Objective::Energy, "4x dgx-a100-80gb"),
        (Objective::Cost, "1x dgx-h100 + 1x dgx-a100-80gb"),
    ] {
        let job = job(Goal { objective, ..Goal::default() });
        let chosen = chosen(&job, text);
        let value = |offer: &Offer| offer.measure(objective).unwrap();
        let (first, all) = (value(&chosen.best[0]), all_offers(&job, text));
        let least = all.iter().map(value).fold(f64::INFINITY, f64::min);
        assert!(first <= least * 1.006, "{objective:?} on {text}: {first} for {least}");
        assert!(chosen.bound <= least && chosen.gap >= 1.0 - least / first - 1e-12, "{} {least}", chosen.bound);
        assert!(chosen.best.iter().all(|offer| value(offer) >= first * 0.999));
        assert!(chosen.best[0].cluster.devices() < cluster(text).devices(), "{}", chosen.best[0].cluster);
    }
}

#[test]
fn without_a_goal_the_fastest_plan_on_all_devices_is_chosen() {
    let (job, text) = (job(Goal::default()), "2x dgx-a100-80gb");
    let chosen = chosen(&job, text);
    let found = search(&job, &cluster(text), &Fix::default(), 3).unwrap();
    let plans = |best: &[Offer]| best.iter().map(|offer| offer.plan.clone()).collect::<Vec<_>>();
    assert_eq!(plans(&chosen.best), found.best.iter().map(|(plan, _)| plan.clone()).collect::<Vec<_>>());
    assert_eq!((chosen.gap, chosen.bound_step_s), (found.gap(), found.bound));
    assert_eq!((chosen.considered, chosen.rejected), (found.considered, found.rejected));
}

#[test]
fn equal_questions_get_equal_answers() {
    let job = job(Goal { objective: Objective::Cost, ..Goal::default() });
    let ask = || {
        let chosen = chosen(&job, "4x dgx-a100-80gb");
        let plans: Vec<_> = chosen.front.iter().chain(&chosen.best).map(|offer| offer.plan.clone()).collect();
        (plans, chosen.bound, chosen.considered)
    };
    assert_eq!(ask(), ask());
}

#[test]
fn without_a_front_the_answer_is_the_same() {
    for objective in [Objective::Time, Objective::Cost] {
        let case = Case::of(&job(Goal { objective, ..Goal::default() }), &cluster("4x dgx-a100-80gb"));
        let [with, without] =
            [choose(&case, 1, &|_, _| {}), choose_best(&case, &|_, _| {})].map(|chosen| chosen.unwrap().best.remove(0));
        assert_eq!((with.plan, with.training), (without.plan, without.training), "{objective:?}");
    }
}

#[test]
fn nothing_in_the_front_is_beaten_and_the_best_of_each_is_in_it() {
    let job = job(Goal { objective: Objective::Cost, ..Goal::default() });
    let all = all_offers(&job, "4x dgx-a100-80gb");
    let front = front(&all);
    assert!((2..=MOST_IN_FRONT).contains(&front.len()), "{}", front.len());
    let of = |offer: &Offer| {
        let training = &offer.training;
        [training.days, training.dollars.unwrap(), training.energy_kwh.unwrap(), -offer.headroom]
    };
    for offer in &front {
        for other in all.iter().map(of) {
            let beaten = other.iter().zip(of(offer)).all(|(a, b)| *a <= b) && other != of(offer);
            assert!(!beaten, "{:?} by {other:?}", of(offer));
        }
    }
    for measure in 0..4 {
        let least = |offers: &[Offer]| offers.iter().map(|o| of(o)[measure]).fold(f64::INFINITY, f64::min);
        assert_eq!(least(&front), least(&all), "measure {measure}");
    }
}

#[test]
fn limits_are_kept_or_what_would_keep_them_is_said() {
    let text = "4x dgx-a100-80gb";
    let free = chosen(&job(Goal { objective: Objective::Cost, ..Goal::default() }), text);
    let fast = chosen(&job(Goal::default()), text);
    let (cheapest, fastest) = (&free.best[0].training, &fast.best[0].training);
    let between = Seconds((cheapest.days + fastest.days) / 2.0 * 86400.0);
    let goal = Goal { objective: Objective::Cost, deadline: Some(between), ..Goal::default() };
    let kept = chosen(&job(goal.clone()), text);
    assert!(kept.best.iter().chain(&kept.front).all(|offer| offer.keeps(&goal)));
    assert!(kept.best[0].training.dollars > cheapest.dollars && kept.bound <= kept.best[0].training.dollars.unwrap());
    // Neither is possible: both kinds of advice, followed.
    for goal in [
        Goal { deadline: Some(Seconds(fastest.days * 86400.0 * 0.7)), ..Goal::default() },
        Goal { budget: Some(Dollars(cheapest.dollars.unwrap() * 0.9)), ..Goal::default() },
    ] {
        let job = job(goal.clone());
        let missed = chosen(&job, text);
        assert!(missed.best.is_empty() && missed.front.is_empty());
        let advice = advise_limits(&Case::of(&job, &cluster(text)), &missed);
        let of = |start: &str| {
            let found = advice.iter().find_map(|advice| advice.how.strip_prefix(start));
            found.unwrap_or_else(|| panic!("{start} in {advice:?}")).trim_matches('\'').to_owned()
        };
        let follow = |goal: Goal| {
            let mut job = Job { goal, ..job.clone() };
            job.settle();
            assert!(!chosen(&job, text).best.is_empty(), "{:?}", job.goal);
        };
        if goal.deadline.is_some() {
            follow(Goal { deadline: Some(of("--deadline ").parse().unwrap()), ..goal.clone() });
        } else {
            follow(Goal { budget: Some(of("--budget ").parse().unwrap()), ..goal.clone() });
        }
        follow(Goal { tokens: Some(of("--tokens ").parse().unwrap()), ..goal });
    }
}

#[test]
fn what_does_not_fit_is_told_the_least_changes_that_do() {
    let mut job = job(Goal::default());
    (job.model.hidden, job.model.ffn, job.model.layers) = (8192, 32768, 16);
    (job.model.heads, job.model.kv_heads, job.precision) = (64, 64, Precision::Fp32);
    let small = cluster("1x dgx-1v");
    let unfit = choose(&Case::of(&job, &small), 1, &|_, _| {}).unwrap_err();
    assert!(matches!(unfit, PlanError::Infeasible { .. }), "{unfit}");
    let advice = advise(&Case::of(&job, &small));
    let nodes = advice.iter().find(|advice| advice.how.starts_with("--cluster")).unwrap();
    let larger = nodes.how.trim_start_matches("--cluster ").trim_matches('"');
    assert!(fits(&job, &cluster(larger), &Fix::default(), None).unwrap(), "{larger}");
    let count = cluster(larger).pools[0].nodes;
    assert!(count == 2 || !fits(&job, &cluster(&format!("{}x dgx-1v", count - 1)), &Fix::default(), None).unwrap());
    let memory = advice.iter().find(|advice| advice.change.contains("memory a device")).unwrap();
    let gib: u64 = memory.change.split(' ').next().unwrap().parse().unwrap();
    let with = |gib: u64| {
        let mut cluster = small.clone();
        cluster.pools[0].device.memory.value.0 = gib << 30;
        fits(&job, &cluster, &Fix::default(), None).unwrap()
    };
    assert!(with(gib) && !with(gib - 1), "{gib}");
}

#[test]
fn a_fixed_decision_that_is_in_the_way_is_named() {
    let (job, cluster) = (job(Goal::default()), cluster("1x dgx-a100-80gb"));
    let fix = Fix { tp: Some(1), microbatch: Some(32), dp: Some(8), ..Fix::default() };
    let advice = advise(&Case { fix, ..Case::of(&job, &cluster) });
    let changes: Vec<&str> = advice.iter().map(|advice| advice.how.as_str()).collect();
    assert!(changes.contains(&"leave microbatch open") && changes.contains(&"leave dp open"), "{changes:?}");
    assert!(!changes.contains(&"leave tp open"), "{changes:?}");
}

#[test]
fn headroom_is_left_free() {
    let text = "1x dgx-a100-80gb";
    let mut job = job(Goal::default());
    (job.global_batch, job.seq) = (4096, 2048);
    let most = |job: &Job| 1.0 - chosen(job, text).best[0].headroom;
    let free = most(&job);
    job.goal.headroom = (USABLE_MEMORY - free / 2.0).max(0.0);
    assert!(most(&job) <= free / 2.0 + 1e-12, "{free}");
}

#[test]
fn a_search_ends_when_it_is_told() {
    let (job, cluster) = (job(Goal::default()), cluster("2x dgx-a100-80gb"));
    let full = search(&job, &cluster, &Fix::default(), 1).unwrap();
    let best = full.best[0].1.step_time_s;
    let so = |options: SearchOptions| search_with(&job, &cluster, &Fix::default(), 1, &options);
    let enough = so(SearchOptions { enough: 2.0 * best, ..SearchOptions::FULL }).unwrap();
    assert!(enough.best[0].1.step_time_s <= 2.0 * best && enough.simulated <= full.simulated);
    assert!(enough.bound <= best);
    // Nothing is below half of the best; all is below twice.
    assert!(matches!(
        so(SearchOptions { below: full.bound * 0.5, ..SearchOptions::FULL }),
        Err(PlanError::Infeasible { .. })
    ));
    assert_eq!(so(SearchOptions { below: 2.0 * best, ..SearchOptions::FULL }).unwrap().best[0].0, full.best[0].0);
    let told = std::sync::Mutex::new(Vec::new());
    let watch = |progress: &crate::search::Progress| told.lock().unwrap().push(*progress);
    so(SearchOptions { watch: Some(&watch), ..SearchOptions::FULL }).unwrap();
    let told = told.into_inner().unwrap();
    // Meshes that leave devices idle come after the others, again from their least bound on.
    let falls = told.windows(2).filter(|pair| pair[1].bound < pair[0].bound * (1.0 - 1e-9)).count();
    assert!(falls <= 1 && told.len() > 10, "{falls} of {}", told.len());
    assert_eq!(told.last().unwrap().best, Some(best));
}

#[test]
fn the_longest_step_is_where_the_test_turns() {
    let (job, cluster) = (job(Goal::default()), cluster("2x dgx-h100"));
    let step = longest_step(&job, &cluster, &|least| least.days < 7.0);
    let days = |step: f64| crate::goodput::least_training(Seconds(step), &job, &cluster).days;
    assert!((days(step) / 7.0 - 1.0).abs() < 1e-9, "{step}");
    assert_eq!(longest_step(&job, &cluster, &|_| false), 0.0);
    assert_eq!(longest_step(&job, &cluster, &|_| true), f64::INFINITY);
}

#[test]
fn what_could_never_fit_is_known_beforehand() {
    let job = job(Goal::default());
    for text in ["1x dgx-h100", "1x h100", "8x cpu-generic"] {
        let fitting = fits(&job, &cluster(text), &Fix::default(), None).unwrap_or(false);
        assert!(could_fit(&job, &cluster(text)) || !fitting, "{text}");
    }
    let mut large = job;
    (large.model.hidden, large.model.ffn) = (16384, 65536);
    assert!(!could_fit(&large, &cluster("1x h100")));
}

#[test]
fn goals_are_read_checked_and_settled() {
    let text = |goal: &str, steps: &str| {
        format!(
            "seq = 128\nglobal_batch = 32\n{steps}\n[model]\nname = \"m\"\ndress = \"llama\"\nlayers = 2\nhidden = 64\n\
             heads = 2\nkv_heads = 2\nffn = 128\nvocab = 64\ntied = false\n[goal]\n{goal}\n"
        )
    };
    let job =
        Job::from_toml("j.toml", &text("objective = \"cost\"\ntokens = \"1G\"\ndeadline = \"30 d\"", "")).unwrap();
    assert_eq!((job.goal.objective, job.steps), (Objective::Cost, 244_141));
    assert!((job.tokens().0 / Tokens(1e9).0 - 1.0).abs() < 1e-5);
    let plan = crate::plan::Plan::single(job.clone(), 1);
    assert_eq!(crate::plan::Plan::from_toml("p.toml", &plan.to_toml()).unwrap().job, job);
    for (goal, steps, says) in [
        ("headroom = 0.95", "", "`goal.headroom` is 0.95"),
        ("headroom = -0.1", "", "`goal.headroom` is -0.1"),
        ("budget = \"$0\"", "", "`goal.budget` is $0: it must be $0.01 to"),
        ("tokens = \"1G\"", "steps = 7", "`goal.tokens` is 1 G tokens already"),
        ("objective = \"speed\"", "", "unknown variant `speed`"),
        ("deadline = \"soon\"", "", "`soon` is not a duration"),
        ("dollars = 3", "", "unknown field `dollars`"),
    ] {
        let error = Job::from_toml("j.toml", &text(goal, steps)).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("j.toml:"), "{error}");
    }
    let nowhere = choose(&Case::of(&job, &cluster("8x cpu-generic")), 1, &|_, _| {}).unwrap_err();
    assert!(nowhere.to_string().contains("needs a price") && nowhere.exit_code() == 2, "{nowhere}");
}
