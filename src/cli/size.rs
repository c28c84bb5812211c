//! `size`: how large a model, on how many tokens, for how much compute or money, by published scaling laws.
//!
//! In: one of tokens, parameters, loss, FLOPs or dollars, a law. Out: what is best by it, how sure that is, what others say; on a named
//! cluster the plan of such a decoder, its days and its cost.
//!
//! Invariant: a figure outside the runs that its law was fitted to is said to be.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::{Dollars, Parameters, Tokens};
use meshwright_planner::goal::{Case, Offer, choose_best};
use meshwright_planner::job::{Job, Model};
use meshwright_planner::scaling::{
    ALLOCATIONS, FLOPS, LAWS, Law, LawForm, Optimum, SizeGiven, bootstrap, decoder, law, optimum, points, served,
};
use serde_json::{Value, json};

use super::columns::folded;
use super::goal::amend_price;
use super::plan::settle;
use super::show::money;
use super::stack::{StackArgument, ability_on, stack_line};
use super::usual_job::{usual_batch, usual_seq};
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;

/// Fits to drawn runs that say how sure the usual law is.
const DRAWS: usize = 200;
/// Searches at most for a budget.
const ROUNDS: usize = 24;
/// How near to a budget is near enough.
const NEAR: f64 = 0.01;

/// Arguments of `size`.
#[derive(Args)]
#[command(group = ArgGroup::new("given").required(true))]
pub struct SizeCommand {
    /// Tokens to train on, as `2T`
    #[arg(long, group = "given")]
    tokens: Option<Tokens>,
    /// Parameters, as `8B`; of experts the active ones
    #[arg(long, group = "given")]
    params: Option<Parameters>,
    /// Loss to reach, in nats a token of the law's own data
    #[arg(long, group = "given")]
    loss: Option<f64>,
    /// Training FLOPs, as `3.8e25`: 6 a parameter and token
    #[arg(long, group = "given")]
    flops: Option<f64>,
    /// Dollars for the training on --cluster, as `$5M`
    #[arg(long, group = "given", requires = "cluster")]
    budget: Option<Dollars>,
    /// besiroglu, hoffmann, muennighoff (tokens that come again), kaplan or zhao (mixtures of experts)
    #[arg(long, default_value = LAWS[0].name)]
    law: String,
    /// Unique tokens there are, as `300G`: beyond them they come again
    #[arg(long)]
    unique: Option<Tokens>,
    /// Tokens that it is to read and write in use, as `10T`: what serves them cheapest at the same loss
    #[arg(long)]
    inference: Option<Tokens>,
    /// Where it is to be trained, as `64x dgx-h100`
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    stack: StackArgument,
    /// Price of a device-hour, as `$2.50`, instead of its system's
    #[arg(long, requires = "cluster")]
    price: Option<Dollars>,
    /// Tokens in the vocabulary
    #[arg(long, default_value_t = 128_256)]
    vocab: usize,
    /// Where to write the decoder as a model file
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The best by a law, and its training where that was planned.
type Bought = (Optimum, Option<(Offer, Cluster)>);

/// What was found.
struct Sized {
    law: &'static Law,
    best: Optimum,
    /// Parameters, tokens and loss of eight in ten fits to drawn runs; of the usual law alone.
    spread: Option<[[f64; 2]; 3]>,
    served: Option<Optimum>,
    model: Option<Model>,
    trained: Option<(Offer, Cluster)>,
}

impl SizeCommand {
    /// Sizes, plans, prints.
    pub fn run(self) -> Result<(), Failure> {
        let sized = self.sized()?;
        if let (Some(path), Some(model)) = (&self.output, &sized.model) {
            write_whole(path, &toml::to_string(model).expect("a model is a table of sizes"))?;
        }
        if self.json {
            answer::print("size", self.as_json(&sized));
        } else {
            self.print(&sized);
        }
        Ok(())
    }

    fn sized(&self) -> Result<Sized, Failure> {
        let law = law(&self.law).ok_or_else(|| {
            let names: Vec<&str> = LAWS.iter().map(|law| law.name).collect();
            Failure::input(format!("--law is {}: one of {}", self.law, names.join(", ")))
        })?;
        let cluster = self.cluster.as_deref().map(Cluster::parse).transpose()?;
        let (best, trained) = match (self.budget, &cluster) {
            (Some(budget), Some(cluster)) => self.within(budget, law, cluster)?,
            _ => {
                let best = self.best(law, self.wanted()?)?;
                let trained = cluster.as_ref().map(|cluster| self.train(&best, cluster)).transpose()?;
                (best, trained)
            }
        };
        let inference = self.inference.map(|tokens| tokens.0);
        let served = inference.and_then(|tokens| served(law, &best, tokens, self.unique()));
        Ok(Sized {
            law,
            best,
            spread: self.spread(law, &best),
            served,
            model: decoder(best.parameters, self.vocab),
            trained,
        })
    }

    fn wanted(&self) -> Result<SizeGiven, Failure> {
        Ok(match (self.tokens, self.params, self.loss, self.flops) {
            (Some(tokens), ..) => SizeGiven::Tokens(tokens.0),
            (_, Some(parameters), ..) => SizeGiven::Parameters(parameters.0),
            (_, _, Some(loss), _) => SizeGiven::Loss(loss),
            (_, _, _, Some(flops)) => SizeGiven::Flops(flops),
            _ => return Err(Failure::input("say one of --tokens, --params, --loss, --flops and --budget")),
        })
    }

    fn unique(&self) -> f64 {
        self.unique.map_or(f64::INFINITY, |tokens| tokens.0)
    }

    fn best(&self, law: &Law, wanted: SizeGiven) -> Result<Optimum, Failure> {
        optimum(law, wanted, self.unique()).ok_or_else(|| {
            let asked = match wanted {
                SizeGiven::Flops(flops) => format!("--flops is {flops:e}"),
                SizeGiven::Tokens(tokens) => format!("--tokens is {}", Tokens(tokens)),
                SizeGiven::Parameters(parameters) => format!("--params is {}", Parameters(parameters)),
                SizeGiven::Loss(loss) => format!("--loss is {loss}"),
            };
            let unique = self.unique.map_or(String::new(), |tokens| format!(" with {tokens} unique"));
            Failure::input(format!("{asked}: by {} no 1e12 to 1e32 FLOPs are best spent so{unique}", law.title))
        })
    }

    /// Plans a training of the decoder that is best.
    fn train(&self, best: &Optimum, cluster: &Cluster) -> Result<(Offer, Cluster), Failure> {
        let model = decoder(best.parameters, self.vocab)
            .ok_or_else(|| Failure::input(format!("--vocab is {}: its tables alone are larger", self.vocab)))?;
        let seq = usual_seq(&model);
        let batch = usual_batch(&model, seq);
        let mut job = Job::of(model, seq, batch);
        job.goal.tokens = Some(Tokens(best.tokens));
        settle(&mut job, None)?;
        let mut cluster = self.stack.on(cluster.clone(), &job)?;
        amend_price(self.price, &mut cluster)?;
        job.stack = Some(cluster.stack.name.clone());
        let case = Case { fix: job.fix.clone(), job, cluster: cluster.clone(), engine: ability_on(&cluster) };
        let mut chosen = choose_best(&case, &|_, _| {})?;
        Ok((chosen.best.swap_remove(0), cluster))
    }

    /// The largest training that so many dollars pay.
    fn within(&self, budget: Dollars, law: &'static Law, cluster: &Cluster) -> Result<Bought, Failure> {
        // Dollars grow with FLOPs, but not evenly: a larger model may run nearer to the peak, or need what costs time.
        let (mut low, mut high): (Option<(f64, Bought)>, Option<f64>) = (None, None);
        let mut flops = 1e21;
        for _ in 0..ROUNDS {
            let best = self.best(law, SizeGiven::Flops(flops))?;
            let (offer, on) = self.train(&best, cluster)?;
            let Some(dollars) = offer.training.dollars else {
                return Err(Failure::input("no price of this cluster is known: give --price, or take another"));
            };
            let left = budget.0 / dollars;
            if left >= 1.0 {
                low = Some((flops, (best, Some((offer, on)))));
            } else {
                high = Some(flops);
            }
            flops = match (&low, high) {
                (Some((_, bought)), _) if (0.0..NEAR).contains(&(left - 1.0)) => return Ok(bought.clone()),
                (Some((low, bought)), Some(high)) if high / low < 1.0 + NEAR => return Ok(bought.clone()),
                (Some((low, _)), Some(high)) => (low * high).sqrt(),
                _ => flops * left,
            };
        }
        low.map(|(_, bought)| bought)
            .ok_or_else(|| Failure::input(format!("--budget is {budget}: no size on this cluster costs as little")))
    }

    /// Where eight in ten fits to drawn runs have parameters, tokens and loss.
    fn spread(&self, usual: &Law, best: &Optimum) -> Option<[[f64; 2]; 3]> {
        let LawForm::Sum(sum) = usual.form else { return None };
        if usual.name != LAWS[0].name {
            return None;
        }
        // A budget is of FLOPs.
        let wanted = self.wanted().unwrap_or(SizeGiven::Flops(best.flops()));
        let of = |sum| optimum(&Law { form: LawForm::Sum(sum), ..*usual }, wanted, self.unique());
        let found: Vec<Optimum> = bootstrap(&points(), &sum, DRAWS, 0).into_iter().filter_map(of).collect();
        let range = |get: fn(&Optimum) -> f64| {
            let mut values: Vec<f64> = found.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            [values[values.len() / 10], values[values.len() * 9 / 10]]
        };
        (found.len() > DRAWS / 2).then(|| [range(|it| it.parameters), range(|it| it.tokens), range(|it| it.loss)])
    }

    fn print(&self, sized: &Sized) {
        let Sized { law, best, spread, served, model, trained } = sized;
        println!("{}", folded(&format!("best by {} ({})", law.title, law.source), 3));
        let ranges = spread.map(|all| all.map(Some)).unwrap_or_default();
        let between = |range: Option<[f64; 2]>, show: &dyn Fn(f64) -> String| {
            let [low, high] = range.map_or([String::new(), String::new()], |range| range.map(show));
            // What was given is as it was.
            if low == high { String::new() } else { format!("   ({low} to {high})") }
        };
        let parameters = |value: f64| Parameters(value).to_string();
        let tokens = |value: f64| Tokens(value).to_string();
        let loss = |value: f64| format!("{value:.3}");
        println!("   parameters {:>14}{}", parameters(best.parameters), between(ranges[0], &parameters));
        println!("   tokens     {:>14}{}", tokens(best.tokens), between(ranges[1], &tokens));
        println!("   loss       {:>14}{}   nats a token of its own data", loss(best.loss), between(ranges[2], &loss));
        println!("   FLOPs      {:>14.3e}   6 a parameter and token", best.flops());
        println!("   tokens a parameter {:>6.1}", best.tokens / best.parameters);
        if let Some(unique) = self.unique.filter(|unique| best.tokens > unique.0) {
            println!("   passes over {unique}: {:.1}", best.tokens / unique.0);
        }
        outside(law, best).iter().for_each(|text| println!("{}", folded(text, 3)));
        if let (Some(served), Some(inference)) = (served, self.inference) {
            let saved = 1.0 - cost(served, inference) / cost(best, inference);
            let text = format!(
                "for {inference} of inference: {} on {} at the same loss, {:.0} % fewer FLOPs in all",
                parameters(served.parameters),
                tokens(served.tokens),
                100.0 * saved
            );
            println!("{}", folded(&text, 3));
        }
        println!("\nothers, at these FLOPs   {:>12}  {:>15}   loss", "parameters", "tokens");
        for (title, parameters_, tokens_, loss) in others(law, best, self.unique()) {
            let loss = loss.map_or(String::new(), |loss| format!("{loss:.3}"));
            println!("   {:22} {:>12}  {:>15}   {loss}", title, parameters(parameters_), tokens(tokens_));
        }
        let Some(model) = model else { return };
        let Model { name, layers, hidden, heads, kv_heads, ffn, .. } = model;
        println!("\n{name}: {layers} layers, hidden {hidden}, {heads} heads, {kv_heads} key/value heads, ffn {ffn}");
        let Some((offer, cluster)) = trained else {
            println!("next: meshwright size … --cluster \"64x dgx-h100\" to plan it, -o {name}.toml to keep it");
            return;
        };
        println!("{}", folded(&stack_line(cluster), 3));
        println!("{}", folded(&offer.plan.summary(), 3));
        let dollars = offer.training.dollars.map_or(String::new(), |dollars| format!(", {}", money(dollars)));
        let days = format!("{:.1} days{dollars}, MFU {:.1} %", offer.training.days, 100.0 * offer.figures.mfu);
        println!("   {days}");
    }

    fn as_json(&self, sized: &Sized) -> Value {
        let Sized { law, best, spread, served, model, trained } = sized;
        let of = |best: &Optimum| json!({ "parameters": best.parameters, "tokens": best.tokens, "loss": best.loss, "flops": best.flops() });
        let mut all = of(best);
        all["law"] = json!({ "name": law.name, "title": law.title, "source": law.source });
        all["extrapolated"] = json!(!law.holds(best.parameters, best.tokens));
        all["flops_a_parameter_and_token"] = json!(FLOPS);
        if let Some([parameters, tokens, loss]) = spread {
            all["parameters_low_high"] = json!(parameters);
            all["tokens_low_high"] = json!(tokens);
            all["loss_low_high"] = json!(loss);
        }
        all["served"] = served.as_ref().map_or(Value::Null, of);
        let other = |(title, parameters, tokens, loss): (&str, f64, f64, Option<f64>)| json!({ "law": title, "parameters": parameters, "tokens": tokens, "loss": loss });
        all["others"] = others(law, best, self.unique()).into_iter().map(other).collect();
        all["model"] = json!(model);
        if let Some((offer, cluster)) = trained {
            all["plan"] = json!(offer.plan.summary());
            all["stack"] = json!(cluster.stack.name);
            all["days"] = json!(offer.training.days);
            all["usd"] = json!(offer.training.dollars);
            all["mfu"] = json!(offer.figures.mfu);
            all["step_time_s"] = json!(offer.figures.step_time_s);
        }
        all
    }
}

/// FLOPs of training and of inference on so many tokens (Sardana et al. 2024).
fn cost(it: &Optimum, inference: Tokens) -> f64 {
    it.flops() + 2.0 * it.parameters * inference.0
}

/// Where a law is asked beyond its runs.
fn outside(law: &Law, best: &Optimum) -> Option<String> {
    let [[few, many], [short, long]] = [law.parameters, law.tokens];
    if law.holds(best.parameters, best.tokens) {
        return None;
    }
    if !few.is_finite() {
        return Some("   extrapolated: its runs were not stated where it was read".to_owned());
    }
    let [few, many] = [few, many].map(Parameters);
    let [short, long] = [short, long].map(Tokens);
    Some(format!("   extrapolated: it was fitted to {few} to {many} parameters on {short} to {long}"))
}

/// What other laws make of the same FLOPs: who, parameters, tokens, loss where it has one.
fn others(law: &Law, best: &Optimum, unique: f64) -> Vec<(&'static str, f64, f64, Option<f64>)> {
    let flops = best.flops();
    let laws = LAWS.iter().filter(|other| other.name != law.name);
    let by_law = laws.filter_map(|other| {
        let Optimum { parameters, tokens, loss } = optimum(other, SizeGiven::Flops(flops), unique)?;
        Some((other.name, parameters, tokens, Some(loss)))
    });
    let by_allocation = ALLOCATIONS.iter().map(|it| {
        let tokens = (it.tokens)(flops);
        (it.name, flops / FLOPS / tokens, tokens, None)
    });
    by_law.chain(by_allocation).collect()
}
