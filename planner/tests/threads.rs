//! Answers do not depend on how many threads search for them.

use meshwright_hardware::profile::Cluster;
use meshwright_planner::explain::explain;
use meshwright_planner::goal::{Case, choose};
use meshwright_planner::job::Job;
use rayon::ThreadPoolBuilder;

/// To be cheap.
const JOB: &str = concat!(include_str!("../../tests/cases/small-job.toml"), "\n[goal]\nobjective = \"cost\"\n");

/// All that is chosen and explained on so many threads, but for how long it took.
fn answers(threads: usize) -> String {
    let (job, cluster) = (Job::from_toml("job.toml", JOB).unwrap(), Cluster::parse("4x dgx-a100-80gb").unwrap());
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut chosen = choose(&Case { fix: job.fix.clone(), ..Case::of(&job, &cluster) }, 3, &|_, _| {}).unwrap();
        chosen.seconds = 0.0;
        let explained = explain(&chosen.best[0].plan, &chosen.best[0].cluster, true).unwrap();
        format!("{chosen:?} {explained:?}")
    })
}

#[test]
fn answers_do_not_depend_on_the_number_of_threads() {
    let [one, three] = [1, 3].map(answers);
    assert!(one == three, "{one}\n\n{three}");
}
