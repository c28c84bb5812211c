//! Intervals, the closed form against chance, and published runs.

use super::*;
use crate::models;
use crate::testing::tiny_job;

fn failing(mtbf: f64, write: f64, restart: f64) -> Failing {
    Failing { mtbf: Seconds(mtbf), write: Seconds(write), restart: Seconds(restart) }
}

/// From rare failures to several a checkpoint interval.
const REGIMES: [(f64, f64, f64); 6] = [
    (11_000.0, 3.0, 600.0),
    (86_400.0, 60.0, 900.0),
    (3_600.0, 120.0, 600.0),
    (1_000.0, 200.0, 300.0),
    (600.0, 500.0, 60.0),
    (1e6, 1.0, 0.0),
];

#[test]
fn dalys_interval_is_the_best_one() {
    for (mtbf, write, restart) in REGIMES {
        let failing = failing(mtbf, write, restart);
        let best = (1..=4000).map(|i| failing.goodput(Seconds(mtbf * i as f64 / 2000.0))).fold(0.0, f64::max);
        let dalys = failing.goodput(failing.daly());
        assert!(dalys >= best * 0.999, "M {mtbf}, δ {write}: {dalys} for {best}");
        assert!(failing.goodput(failing.young()) <= dalys * 1.0001);
    }
    let rare = failing(1e6, 1.0, 0.0);
    assert!((rare.young().0 / rare.daly().0 - 1.0).abs() < 0.01, "they agree where writing is short");
}

/// The mean of 2,000 runs lies within four of its standard errors of the closed form, and those are below 2 %.
#[test]
fn chance_confirms_the_closed_form() {
    for (seed, (mtbf, write, restart)) in REGIMES.into_iter().enumerate() {
        let failing = failing(mtbf, write, restart);
        for factor in [0.5, 1.0, 3.0] {
            let every = failing.daly() * factor;
            let (segments, runs) = (40, 2000);
            let times = failing.simulate(segments, every, runs, seed as u64);
            let mean = times.iter().sum::<f64>() / runs as f64;
            let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (runs - 1) as f64;
            let error = (variance / runs as f64).sqrt();
            let expected = failing.expected(every * segments as f64, every).0;
            assert!(
                (mean - expected).abs() < 4.0 * error + 1e-9 * expected,
                "M {mtbf} δ {write}: {mean} for {expected}"
            );
            assert!(error < 0.02 * expected, "M {mtbf} δ {write}: error {error} of {expected}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_runs() {
    let failing = failing(3_600.0, 120.0, 600.0);
    let runs = |seed| failing.simulate(50, Seconds(900.0), 10, seed);
    assert_eq!(runs(7), runs(7));
    assert_ne!(runs(7), runs(8));
}

/// Llama 3 405B: 54 days on 16,384 H100, 419 unexpected interruptions, more than 90 % effective time (Grattafiori et al.
/// 2024, §3.3.4).
#[test]
fn llama_3_had_the_failures_and_goodput_foretold() {
    let mut job = tiny_job(models::load("llama3-405b").unwrap());
    (job.seq, job.precision) = (8192, meshwright_hardware::units::Precision::Bf16);
    let cluster = Cluster::parse("2048x dgx-h100").unwrap();
    job.steps = 9700;
    let training = days_to_train(Seconds(432.0), 1.0, &job, &cluster);
    assert!((48.0..49.0).contains(&training.days_without_failures));
    let per_54_days = training.failures / training.days * 54.0;
    assert!((per_54_days / 419.0 - 1.0).abs() < 0.01, "{per_54_days}");
    assert!((0.9..0.97).contains(&training.goodput), "{}", training.goodput);
    assert!(training.days_p90 > training.days && training.days_p90 < training.days * 1.1);
    let dollars = training.dollars.unwrap();
    assert!((dollars / (training.days * 24.0 * 16384.0 * 6.88) - 1.0).abs() < 1e-9);
    // The model card counts devices alone, at 700 W.
    let energy = training.energy_kwh.unwrap() / (training.days * 24.0 * 16384.0);
    assert!((energy - 1.275).abs() < 1e-9, "{energy}");
}

#[test]
fn a_cluster_without_mtbf_never_fails_and_says_so() {
    let mut cluster = Cluster::parse("1x dgx-h100").unwrap();
    cluster.pools[0].device.mtbf = None;
    let job = tiny_job(models::load("demo-10m").unwrap());
    let training = days_to_train(Seconds(1.0), 1.0, &job, &cluster);
    assert!(training.goodput == 1.0 && training.failures == 0.0 && training.checkpoint_every_steps.is_none());
    assert!(training.assumptions[0].contains("mtbf"));
}

#[test]
fn more_devices_fail_more_often_and_pools_add_up() {
    let mtbf = |text: &str| mtbf(&Cluster::parse(text).unwrap()).unwrap().0;
    assert!((mtbf("2x dgx-h100") / mtbf("4x dgx-h100") - 2.0).abs() < 1e-9);
    let (a, b, both) = (mtbf("8x dgx-h100"), mtbf("16x dgx-a100-80gb"), mtbf("8x dgx-h100 + 16x dgx-a100-80gb"));
    assert!((1.0 / a + 1.0 / b - 1.0 / both).abs() < 1e-12);
    assert!((mtbf("3x(8x dgx-h100) @ 10 Gbit/s 50 ms") * 3.0 / a - 1.0).abs() < 1e-9);
}

/// Whatever the step, no interval in whole steps takes less time, money or energy than the least.
#[test]
fn nothing_undercuts_the_least() {
    for (mtbf, write, restart) in REGIMES {
        let failing = failing(mtbf, write, restart);
        let work = Seconds(1e6);
        let best =
            (1..=4000).map(|i| failing.expected(work, Seconds(mtbf * i as f64 / 2000.0)).0).fold(f64::MAX, f64::min);
        let least = failing.least() * work.0;
        assert!(least <= best && least > 0.999 * best, "M {mtbf}, δ {write}: {least} for {best}");
    }
    let mut job = tiny_job(models::load("llama3-8b").unwrap());
    (job.seq, job.global_batch, job.precision) = (8192, 128, meshwright_hardware::units::Precision::Bf16);
    job.steps = 5000;
    let cluster = Cluster::parse("16x dgx-h100").unwrap();
    for step in [1.0, 10.0, 1000.0] {
        let least = least_training(Seconds(step), &job, &cluster);
        for (longer, busy) in [(1.0, 1.0), (1.1, 0.9)] {
            let training = days_to_train(Seconds(step * longer), busy, &job, &cluster);
            assert!(least.days <= training.days && least.dollars <= training.dollars);
            assert!(least.energy_kwh <= training.energy_kwh, "{least:?} {training:?}");
        }
    }
}

#[test]
fn who_waits_draws_half() {
    let cluster = Cluster::parse("1x dgx-h100").unwrap();
    let power = |busy| kilowatts(&cluster, busy).unwrap();
    assert!((power(1.0) - 10.2).abs() < 1e-9 && (power(0.0) - (10.2 - 2.8)).abs() < 1e-9);
}
