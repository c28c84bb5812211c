//! Goals on the command line: what a plan is to be good at, what was chosen for it, and what would do where nothing does.
//!
//! In: arguments, [`Chosen`], [`Advice`]. Out: a job's goal; text and JSON.

use clap::{Args, ValueEnum};
use meshwright_hardware::profile::{Cluster, Plausible, Sourced};
use meshwright_hardware::units::{Dollars, Seconds, Tokens};
use meshwright_planner::PlanError;
use meshwright_planner::goal::{Advice, Case, Chosen, Offer};
use meshwright_planner::goodput::TRAINING_FIGURES;
use meshwright_planner::job::{Goal, Job, Objective};
use meshwright_planner::plan::{LEGEND, Plan};
use meshwright_planner::search::milp::{Repartitioned, repartition};
use serde_json::{Value, json};

use super::columns::folded;
use super::show::{add_range, figures_json};
use crate::failure::Failure;
use crate::prices::PriceKind;

/// Arguments that say what a plan is to be good at; over a job's `[goal]`.
#[derive(Args)]
pub struct GoalArguments {
    /// time, cost or energy; each may leave devices idle that do not help
    #[arg(long)]
    objective: Option<Objective>,
    /// Tokens to train on, as `300G` or `15T`, instead of --steps
    #[arg(long, conflicts_with = "steps")]
    tokens: Option<Tokens>,
    /// Share of a device's memory to leave free, beyond what the stack's allocator and libraries take
    #[arg(long)]
    headroom: Option<f64>,
    /// From the first step to the last, failures included, as `30d`
    #[arg(long)]
    deadline: Option<Seconds>,
    /// For all devices over that time, as `$500k` or `500000 USD`
    #[arg(long)]
    budget: Option<Dollars>,
    /// Price of a device-hour, as `$2.50`, instead of its system's
    #[arg(long)]
    price: Option<Dollars>,
    /// Let a price decide that is assumed
    #[arg(long)]
    any_price: bool,
}

impl GoalArguments {
    /// Whether they say how long to train.
    pub fn says_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether they say how much memory to leave free.
    pub fn says_headroom(&self) -> bool {
        self.headroom.is_some()
    }

    /// What the job wants, and the command line over it.
    pub fn over(&self, job: &Goal) -> Goal {
        Goal {
            objective: self.objective.unwrap_or(job.objective),
            tokens: self.tokens.or(job.tokens),
            headroom: self.headroom.unwrap_or(job.headroom),
            deadline: self.deadline.or(job.deadline),
            budget: self.budget.or(job.budget),
        }
    }

    /// What the user knows better than the profiles.
    pub fn amend(&self, cluster: &mut Cluster) -> Result<(), Failure> {
        amend_price(self.price, cluster)
    }

    /// Refuses a goal that an assumed price would decide.
    pub fn check_prices(&self, goal: &Goal, cluster: &Cluster) -> Result<(), Failure> {
        let prices = cluster.pools.iter().filter_map(|pool| pool.system.price.as_ref());
        match prices.filter(|price| price.is_assumed() && !self.any_price).map(|price| &price.source).next() {
            Some(source) => decided(goal, PriceKind::Assumed, source).map_err(Failure::input),
            None => Ok(()),
        }
    }
}

/// Where dollars decide, a price that neither a seller lists nor the user gives is taken only when asked for: why it is not.
pub fn decided(goal: &Goal, kind: PriceKind, source: &str) -> Result<(), String> {
    let wanted = match goal {
        Goal { budget: Some(_), .. } => "a budget",
        Goal { objective: Objective::Cost, .. } => "the objective cost",
        _ => return Ok(()),
    };
    if !kind.is_doubtful() {
        return Ok(());
    }
    let kind = kind.name();
    Err(format!(
        "{wanted} would be decided by a price that is {kind} ({source}); --any-price lets it, --price gives yours"
    ))
}

/// Puts the price that `--price` gives in place of the profiles'.
///
/// # Errors
/// Code 2 where it is none that a profile may have.
pub fn amend_price(price: Option<Dollars>, cluster: &mut Cluster) -> Result<(), Failure> {
    let price = given("--price", price)?;
    cluster.pools.iter_mut().for_each(|pool| pool.system.price = price.clone().or(pool.system.price.take()));
    Ok(())
}

/// A figure that an option gives, instead of a profile's.
///
/// # Errors
/// Code 2 where it is none that a profile may have.
pub fn given<T: Plausible>(option: &str, value: Option<T>) -> Result<Option<Sourced<T>>, Failure> {
    let refused = |value: T| move |problem| Failure::input(format!("{option} is {}: {problem}", value.written()));
    let checked = |value: T| value.check().map_err(refused(value)).map(|()| Sourced::new(value, "the command line"));
    value.map(checked).transpose()
}

/// What decides which layers go to which stage, and what stages recompute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Solver {
    /// Shortest paths over stages: exact, and quick enough for every combination
    Paths,
    /// For the best plan, a mixed-integer program by good_lp
    Milp,
}

impl Solver {
    /// Decides the stages of the best plan again, where there are several; what the program says of it.
    pub fn decide(self, case: &Case, chosen: &mut Chosen) -> Result<Option<Repartitioned>, PlanError> {
        let first = &mut chosen.best[0];
        let decided = match self {
            Solver::Paths => None,
            Solver::Milp => repartition(&first.plan, &first.cluster, (case.engine, &case.fix))?,
        };
        if let Some(Repartitioned { plan, figures, .. }) = &decided {
            *first = Offer::of(&case.job, plan.clone(), figures.clone(), &first.cluster);
        }
        Ok(decided)
    }
}

/// What the mixed-integer program says of the best plan's stages, for people.
pub fn print_partition(decided: Option<&Repartitioned>, best: &Plan) {
    let why_not = match best {
        Plan { mesh, .. } if mesh.pp == 1 => "the plan has one stage",
        Plan { chunks: 2.., .. } => {
            "its stages have several chunks, which shortest paths decide alone; --chunks 1 leaves them one"
        }
        _ => "its replicas are in unlike pools, or the solver's time was over",
    };
    match decided {
        Some(Repartitioned { objective_s, relaxation_s, .. }) => println!(
            "stages of the first by mixed-integer programming: (M − 1)·slowest + all = {}, no partition's below {}",
            Seconds(*objective_s),
            Seconds(*relaxation_s)
        ),
        None => println!("nothing for mixed-integer programming: {why_not}"),
    }
}

/// How the user named all devices; parts have names of their own.
pub struct Names<'a> {
    /// All devices.
    pub whole: &'a Cluster,
    /// As they were given.
    pub text: &'a str,
}

impl Names<'_> {
    /// Devices that the user has.
    pub fn devices(&self) -> usize {
        self.whole.devices() * self.whole.sites()
    }

    /// How many of them a plan leaves idle, in words that follow others; nothing if it takes them all.
    pub fn idle(&self, offer: &Offer) -> String {
        match self.devices() - offer.ranks() {
            0 => String::new(),
            idle => format!(": {idle} of {} devices idle", self.devices()),
        }
    }

    /// The name of the whole or a part.
    pub fn of(&self, cluster: &Cluster) -> String {
        if cluster == self.whole { self.text.to_owned() } else { cluster.to_string() }
    }
}

/// The front, for people.
pub fn print_front(chosen: &Chosen, names: &Names) {
    if chosen.front.len() < 2 {
        return;
    }
    let head = "no plan that was found beats one of these in time, cost, energy and memory left free at once";
    println!("\n{}", folded(head, 0));
    let heads: String =
        TRAINING_FIGURES.iter().filter_map(|figure| figure.column).map(|name| format!("{name:>13}")).collect();
    println!("{heads}{:>9}", "free");
    for offer in &chosen.front {
        let columns = TRAINING_FIGURES.iter().filter(|figure| figure.column.is_some());
        let values: String = columns.map(|figure| format!("{:>13}", figure.show(&offer.training))).collect();
        let free = 100.0 * offer.headroom;
        println!("{values}{free:>7.1} %");
        println!("{}", folded(&format!("      {}: {}", names.of(&offer.cluster), offer.plan.code()), 9));
    }
    println!("   of {} plans on {} clusters, the whole and parts of it", chosen.offers.len(), chosen.searched);
    println!("{}", folded(&format!("   {LEGEND}"), 3));
}

/// How good the first is at the most, for people.
pub fn print_gap(chosen: &Chosen, goal: &Goal) {
    let percent = 100.0 * chosen.gap;
    let whole = goal.objective == Objective::Time && goal.budget.is_none();
    match goal.objective {
        Objective::Time if whole => {
            println!("no plan of the space is faster than the first by more than {percent:.1} %")
        }
        objective => {
            let better = match objective {
                Objective::Time => "trains faster",
                Objective::Cost => "costs less",
                Objective::Energy => "takes less energy",
            };
            let clusters = chosen.searched;
            let all = format!(
                "no plan on {clusters} clusters, the whole and parts of it, {better} by more than {percent:.1} %"
            );
            println!("{}", folded(&all, 3));
        }
    }
}

/// An offer, for scripts.
fn offer_json(offer: &Offer, names: &Names) -> Value {
    let mut all = figures_json(&offer.plan, &offer.figures, &offer.cluster);
    all["cluster"] = json!(names.of(&offer.cluster));
    all["devices"] = json!(offer.ranks());
    all["idle_devices"] = json!(names.devices() - offer.ranks());
    all["headroom"] = json!(offer.headroom);
    all["training"] = serde_json::to_value(&offer.training).expect("training is numbers and text");
    add_range(&mut all["training"], &offer.plan, (&offer.figures, &offer.training), &offer.cluster);
    all
}

/// What was chosen, for scripts.
pub fn chosen_json(chosen: &Chosen, goal: &Goal, names: &Names, decided: Option<&Repartitioned>) -> Value {
    let mut all = offer_json(&chosen.best[0], names);
    if let Some(Repartitioned { objective_s, relaxation_s, .. }) = decided {
        all["milp"] = json!({ "objective_s": objective_s, "relaxation_s": relaxation_s });
    }
    all["search"] = json!({
        "considered": chosen.considered, "rejected": chosen.rejected, "simulated": chosen.simulated,
        "seconds": chosen.seconds, "clusters": chosen.searched,
    });
    all["objective"] = json!(goal.objective);
    all["gap"] = json!(chosen.gap);
    all["bound_step_time_s"] = json!(chosen.bound_step_s);
    let counted = match goal.objective {
        Objective::Time => "days",
        Objective::Cost => "dollars",
        Objective::Energy => "energy_kwh",
    };
    all["bound"] = json!({ counted: chosen.bound });
    all["alternatives"] = chosen.best[1..].iter().map(|offer| offer_json(offer, names)).collect();
    let brief = |offer: &Offer| {
        let mut all = json!({
            "cluster": names.of(&offer.cluster), "devices": offer.ranks(), "summary": offer.plan.summary(),
            "headroom": offer.headroom, "step_time_s": offer.figures.step_time_s, "plan": offer.plan,
        });
        for figure in TRAINING_FIGURES.iter().filter(|figure| figure.column.is_some()) {
            all[figure.key] = json!((figure.get)(&offer.training));
        }
        all
    };
    all["pareto"] = chosen.front.iter().map(brief).collect();
    all
}

/// Advice, for people: nothing if there is none.
pub fn advice_text(all: &[Advice], job: &Job) -> String {
    if all.is_empty() {
        return "\nno single change that was tried would do".to_owned();
    }
    let limited = job.goal.limits_training();
    let mut text = "\nwhat would do, each by a search with that change alone:".to_owned();
    for advice in all {
        let Advice { change, how, plan, step_time_s, days, dollars, .. } = advice;
        text += &format!("\n   {change:<32} {how}\n   {:<32} then {} a step", "", Seconds(*step_time_s));
        if limited {
            let cost = dollars.map_or(String::new(), |dollars| format!(", {}", Dollars(dollars)));
            text += &format!(", {}{cost}", Seconds(days * 86400.0));
        }
        text += &format!(": {plan}");
    }
    text
}
