//! Scenarios planned together: those that ask the same search share it, and each is priced on its own.
//!
//! In: [`Ready`] scenarios. Out: [`Planned`], in their order.
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

/// Plans all, every question once, and tells a terminal how far it is.
pub fn plan_together(all: Vec<Ready>) -> Vec<Planned> {
    let (questions, asks) = questions(&all);
    let (line, done) = (ProgressLine::new(), AtomicUsize::new(0));
    let say = |done: usize| {
        line.say(&format!("{done} of {} searches for {} scenarios done", questions.len(), all.len()));
    };
    say(0);
    let answer = |question: &Case| {
        let answer = best(question);
        say(1 + done.fetch_add(1, Ordering::Relaxed));
        answer
    };
    let answers: Vec<Result<Offer, String>> = questions.par_iter().with_max_len(1).map(answer).collect();
    drop(line);
    let priced = |(ready, at): (Ready, usize)| {
        let offer = answers[at].as_ref().map(|offer| at_price(offer, &ready.case)).map_err(String::clone);
        Planned { scenario: ready.scenario, case: ready.case, origin: ready.origin, offer }
    };
    all.into_par_iter().zip(asks).map(priced).collect()
}

/// What is searched, each once, and which of them each scenario asks.
fn questions(all: &[Ready]) -> (Vec<Case>, Vec<usize>) {
    let mut questions: Vec<Case> = Vec::new();
    let ask = |ready: &Ready| {
        let own = question(&ready.case);
        questions.iter().position(|other| is_same(other, &own)).unwrap_or_else(|| {
            questions.push(own);
            questions.len() - 1
        })
    };
    let asks = all.iter().map(ask).collect();
    (questions, asks)
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
    Offer::of(&case.job, offer.plan.clone(), offer.figures.clone(), &cluster)
}

#[cfg(test)]
mod tests {
    use super::super::planned::ready;
    use super::*;
    use crate::prices::rents;
    use crate::scenario::read_scenarios;

    fn all(defaults: &str, sweep: &str) -> Vec<Ready> {
        let text = format!(
            "[defaults]\njob = \"gpt2-124m\"\nseq = 1024\nglobal_batch = 64\nsteps = 9\n{defaults}\n[sweep]\n{sweep}\n"
        );
        let rents = rents().unwrap();
        read_scenarios("s.toml", &text).unwrap().into_iter().map(|scenario| ready(scenario, &rents).unwrap()).collect()
    }

    #[test]
    fn prices_ask_no_search_of_their_own() {
        let prices = "cluster = [\"1x dgx-h100\", \"1x dgx-a100-80gb\"]\nprice = [\"$1\", \"$2\", \"$3\"]";
        for (defaults, expected) in
            [("", 2), ("objective = \"energy\"", 2), ("objective = \"cost\"", 2), ("budget = \"$9\"", 6)]
        {
            let all = all(defaults, prices);
            assert_eq!((all.len(), questions(&all).0.len()), (6, expected), "{defaults}");
        }
        let lengths = all("cluster = \"1x dgx-h100\"", "seq = [512, 1024]");
        assert_eq!(questions(&lengths).0.len(), 2);
    }

    #[test]
    fn an_answer_is_the_same_alone_and_together() {
        for objective in ["time", "cost"] {
            let ask =
                || all(&format!("cluster = \"2x dgx-h100\"\nobjective = \"{objective}\""), "price = [\"$1\", \"$7\"]");
            let together = plan_together(ask());
            for (at, planned) in together.iter().enumerate() {
                let alone = best(&ask()[at].case).unwrap();
                let shared = planned.offer.as_ref().unwrap();
                assert_eq!((&alone.plan, &alone.training), (&shared.plan, &shared.training), "{objective} {at}");
            }
            let dollars = |at: usize| together[at].offer.as_ref().unwrap().training.dollars.unwrap();
            assert!((dollars(1) / dollars(0) - 7.0).abs() < 1e-9);
        }
    }
}
