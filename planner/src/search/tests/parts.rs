//! What is made once for many combinations says of each what its own costs say; what is guessed on the way changes no answer.

use super::state::Search;
use super::*;

/// A job of eight layers on a cluster under a stack that has a host.
fn of_eight(text: &str, global_batch: usize) -> (Job, Cluster) {
    (Job { precision: Precision::Bf16, ..job_of_eight(global_batch) }, cluster(text).under(heavy()))
}

#[test]
fn floors_in_parts_are_those_of_whole_costs() {
    let ((job, cluster), fix) = (of_eight("2x dgx-a100-80gb", 24), Fix::default());
    let job = job.under(&cluster.stack);
    let mut search = Search::of(&job, &cluster, &fix, (1, SearchOptions::FULL)).unwrap();
    search.begin().unwrap();
    let mut links = CachedPrices::new(pool_assignment::prices(&cluster, job.precision).unwrap().remove(0));
    let (mut looked, mut sums) = (0, [0.0; 2]);
    for index in (0..search.shapes.len()).step_by(5) {
        search.price(index, 0.0).unwrap();
        let list = search.list(index);
        for of in list.iter().step_by(3) {
            let group = search.quick_group(index, of, false).unwrap().expect("it fits");
            let floor = search.work_floor(index, of, &group);
            let nearest = search.quick_group(index, of, true).unwrap().expect("it fits");
            let nearest = search.work_floor(index, of, &nearest);
            let plan = search.space.plan(&search.shapes[index], of);
            let work = ShapeWork::of(&plan, &mut links.prices).unwrap();
            let costs = Costs::of(&plan, &work, &PieceSizes::of(&plan, &work.frames), &mut links).unwrap();
            let pipeline = plan.pipeline();
            let whole = Whole::of(&plan, &costs).floor(&pipeline, least_ratio(&pipeline, &mut Default::default()));
            let at = plan.summary();
            assert!(floor <= whole * (1.0 + 1e-9), "{at}: {floor} above {whole}");
            assert!(nearest <= floor * (1.0 + 1e-9), "{at}: {nearest} above {floor}");
            sums = [sums[0] + floor, sums[1] + whole];
            looked += 1;
        }
    }
    assert!(looked > 100 && sums[0] > 0.999 * sums[1], "{sums:?} of {looked}");
}

#[test]
fn guesses_change_no_answer() {
    for (text, batch) in [("2x dgx-a100-80gb", 24), ("3x dgx-a100-80gb", 48), ("1x dgx-h100", 31)] {
        let (job, cluster) = of_eight(text, batch);
        let [with, without] = [true, false].map(|guesses| {
            let options = SearchOptions { guesses, ..SearchOptions::FULL };
            search_with(&job, &cluster, &Fix::default(), 1, &options).unwrap()
        });
        let step = |found: &Found| found.best[0].1.step_time_s;
        for (found, other) in [(&with, &without), (&without, &with)] {
            assert!(step(found) <= step(other) * (1.0 + TOLERANCE), "{text}: {} for {}", step(found), step(other));
            assert!(found.bound <= step(other), "{text}: {} above {}", found.bound, step(other));
            assert!(found.gap() <= TOLERANCE + 1e-9, "{text}: {}", found.gap());
        }
    }
}

#[test]
fn rough_answers_are_near_their_bounds() {
    let (job, cluster) = of_eight("3x dgx-a100-80gb", 48);
    let of = |options: &SearchOptions| search_with(&job, &cluster, &Fix::default(), 1, options).unwrap();
    let rough = of(&SearchOptions { rough: true, tolerance: 0.05, ..SearchOptions::FULL });
    let full = of(&SearchOptions::FULL);
    let best = full.best[0].1.step_time_s;
    let played = played_step(&rough.best[0].0, &cluster).unwrap();
    assert!(rough.bound <= best && 0.95 * played <= best, "{} and {played} for {best}", rough.bound);
    assert!(rough.simulated <= full.simulated, "{} for {}", rough.simulated, full.simulated);
}
