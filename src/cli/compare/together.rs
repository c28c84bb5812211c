//! Scenarios planned together: those that ask the same search share it, and each is priced on its own.
//!
//! In: [`Ready`] scenarios. Out: [`Planned`], each told as soon as it is there.
//!
//! A search depends on prices only where dollars decide. Where time or energy alone is wanted, what a device costs does not enter
//! it; on one pool all costs grow with its price alike, so that the cheapest plan is the same at any. How many steps are trained
//! matters to a search only through failures, hence to no plan that is only to be fast.
//!
//! Invariant: a scenario's answer does not depend on which others are planned beside it, nor on the number of cores.

use std::sync::atomic::{AtomicUsize, Ordering};

use meshwright_hardware::profile::{Cluster, Machine, Sourced};
use meshwright_hardware::units::Dollars;
use meshwright_planner::PlanError;
use meshwright_planner::goal::{Case, Offer, choose_best, missed};
use meshwright_planner::job::Objective;
use rayon::prelude::*;

use super::super::fix::check_fix;
use super::super::progress::ProgressLine;
use super::planned::{Planned, Ready};

/// Is told of each answer as soon as it is there: whose it is, and what it is.
pub type Told<'a> = dyn Fn(usize, Planned) + Sync + 'a;

/// Plans those of all that are named, every question once, and tells a terminal how far it is.
pub fn plan_together(all: &[Ready], named: &[usize], told: &Told) {
    let questions = questions(all, named);
    let searches = questions.iter().filter(|question| question.search.is_some()).count();
    let (line, done) = (ProgressLine::new(), AtomicUsize::new(0));
    let say = |done: usize| line.say(&format!("{done} of {searches} searches for {} scenarios done", named.len()));
    say(0);
    questions.par_iter().with_max_len(1).for_each(|AskedAlike { search, askers }| {
        let answer = search.as_ref().map(best);
        for &at in askers {
            let asked = &all[at];
            let offer = match (&asked.refused, &answer) {
                (Some(refused), _) => Err(refused.clone()),
                (None, Some(answer)) => answer.as_ref().map(|o| at_price(o, &asked.case)).map_err(String::clone),
                (None, None) => unreachable!("what is not refused is searched"),
            };
            told(at, Planned { asked, offer });
        }
        if answer.is_some() {
            say(1 + done.fetch_add(1, Ordering::Relaxed));
        }
    });
}

/// What some scenarios ask alike.
struct AskedAlike {
    /// None where they are refused.
    search: Option<Case>,
    /// Who they are.
    askers: Vec<usize>,
}

/// What is searched, each once, and who asks it.
fn questions(all: &[Ready], named: &[usize]) -> Vec<AskedAlike> {
    let mut questions: Vec<AskedAlike> = Vec::new();
    for &at in named {
        let own = all[at].refused.is_none().then(|| question(&all[at].case));
        let same = |other: &&mut AskedAlike| match (&other.search, &own) {
            (Some(other), Some(own)) => is_same(other, own),
            (other, own) => other.is_none() && own.is_none(),
        };
        match questions.iter_mut().find(same) {
            Some(known) => known.askers.push(at),
            None => questions.push(AskedAlike { search: own, askers: vec![at] }),
        }
    }
    questions
}

/// A case without what its search does not depend on.
fn question(case: &Case) -> Case {
    let mut case = case.clone();
    let goal = &case.job.goal;
    if goal.budget.is_some() {
        return case;
    }
    let (objective, unlimited) = (goal.objective, goal.deadline.is_none());
    let one_pool = case.cluster.pools.len() == 1;
    for pool in &mut case.cluster.pools {
        let price = pool.system.price.take();
        pool.system.price = match objective {
            Objective::Cost if one_pool => price.map(|_| Sourced::new(Dollars(1.0), "any")),
            Objective::Cost => price,
            Objective::Time | Objective::Energy => None,
        };
    }
    if objective == Objective::Time && unlimited {
        case.job.steps = 1;
    }
    case
}

fn is_same(a: &Case, b: &Case) -> bool {
    let engine = |case: &Case| case.engine.map(std::ptr::from_ref);
    a.job == b.job && a.cluster == b.cluster && a.fix == b.fix && engine(a) == engine(b)
}

fn best(case: &Case) -> Result<Offer, String> {
    check_fix(&case.job, &case.cluster, &case.fix).map_err(|failure| failure.to_string())?;
    // As `plan` does, first with a margin of memory.
    if let Some(Ok(mut chosen)) = case.with_margin().map(|roomy| choose_best(&roomy, &|_, _| {}))
        && !chosen.best.is_empty()
    {
        return Ok(chosen.best.swap_remove(0));
    }
    let mut chosen = choose_best(case, &|_, _| {}).map_err(|error: PlanError| error.to_string())?;
    if chosen.best.is_empty() {
        return Err(missed(&case.job, &chosen));
    }
    Ok(chosen.best.swap_remove(0))
}

/// An answer at a scenario's own prices, over its own steps.
fn at_price(offer: &Offer, case: &Case) -> Offer {
    let priced = |part: &Machine| {
        let own =
            case.cluster.pools.iter().find(|p| p.system.name == part.system.name && p.device.name == part.device.name);
        let mut pool = part.clone();
        pool.system.price = own.and_then(|own| own.system.price.clone());
        pool
    };
    let cluster = Cluster { pools: offer.cluster.pools.iter().map(priced).collect(), ..offer.cluster.clone() };
    let mut job = case.job.clone();
    job.goal.headroom = offer.plan.job.goal.headroom;
    Offer::of(&job, offer.plan.clone(), offer.figures.clone(), &cluster)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::planned::ready;
    use super::*;
    use crate::prices::PriceBook;
    use crate::scenario::read_scenarios;

    fn all(defaults: &str, sweep: &str) -> Vec<Ready> {
        let job = "job = \"gpt2-124m\"\nseq = 1024\nglobal_batch = 64\nsteps = 9\n";
        let text = format!("[defaults]\n{job}{defaults}\n[sweep]\n{sweep}\n");
        let (book, asked) = (PriceBook::shipped().unwrap(), read_scenarios("s.toml", &text).unwrap());
        asked.scenarios.into_iter().map(|scenario| ready(scenario, &book, None).unwrap()).collect()
    }

    fn count(all: &[Ready]) -> usize {
        questions(all, &(0..all.len()).collect::<Vec<_>>()).len()
    }

    #[test]
    fn prices_ask_no_search_of_their_own() {
        let prices = "cluster = [\"1x dgx-h100\", \"1x dgx-a100-80gb\"]\nprice = [\"$1\", \"$2\", \"$3\"]";
        for (defaults, expected) in
            [("", 2), ("objective = \"energy\"", 2), ("objective = \"cost\"", 2), ("budget = \"$9\"", 6)]
        {
            let all = all(defaults, prices);
            assert_eq!((all.len(), count(&all)), (6, expected), "{defaults}");
        }
        assert_eq!(count(&all("cluster = \"1x dgx-h100\"", "seq = [512, 1024]")), 2);
    }

    #[test]
    fn an_answer_is_the_same_alone_and_together() {
        for objective in ["time", "cost"] {
            let defaults = format!("cluster = \"2x dgx-h100\"\nobjective = \"{objective}\"");
            let all = all(&defaults, "price = [\"$1\", \"$7\"]");
            let dollars = Mutex::new([0.0; 2]);
            plan_together(&all, &[0, 1], &|at, planned| {
                let (alone, shared) = (best(&all[at].case).unwrap(), planned.offer.unwrap());
                assert_eq!((&alone.plan, &alone.training), (&shared.plan, &shared.training), "{objective} {at}");
                dollars.lock().unwrap()[at] = shared.training.dollars.unwrap();
            });
            let [one, seven] = dollars.into_inner().unwrap();
            assert!((seven / one - 7.0).abs() < 1e-9);
        }
    }

    #[test]
    fn where_dollars_decide_a_doubtful_price_is_taken_only_when_asked_for() {
        let own = "cluster = \"1x dgx-h100\"\npricing = \"own\"\nobjective = \"cost\"";
        let refused = all(own, "seq = [512]").remove(0).refused.unwrap();
        assert!(refused.contains("assumed") && refused.contains("--any-price"), "{refused}");
        assert!(all(&format!("{own}\nany_price = true"), "seq = [512]")[0].refused.is_none());
        assert!(all(&own.replace("cost", "time"), "seq = [512]")[0].refused.is_none());
    }
}
