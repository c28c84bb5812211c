//! What is best by a law.
//!
//! In: a law, and one of FLOPs, tokens, parameters or loss. Out: an [`Optimum`]: parameters and tokens of the least loss for their FLOPs.
//!
//! Invariant: of all divisions of its FLOPs an optimum has the least loss, within [`PRECISION`].

use super::FLOPS;
use super::law::Law;

/// Relative precision of parameters and tokens.
const PRECISION: f64 = 1e-9;
/// FLOPs that anybody may ask of, least and most.
const RANGE: [f64; 2] = [1e12, 1e32];

/// What is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeGiven {
    /// Training FLOPs.
    Flops(f64),
    /// Tokens to train on.
    Tokens(f64),
    /// Parameters, active ones of experts.
    Parameters(f64),
    /// Nats a token.
    Loss(f64),
}

/// A model and its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimum {
    /// Parameters, active ones of experts.
    pub parameters: f64,
    /// Tokens.
    pub tokens: f64,
    /// Nats a token.
    pub loss: f64,
}

impl Optimum {
    /// Training FLOPs.
    pub fn flops(&self) -> f64 {
        FLOPS * self.parameters * self.tokens
    }
}

/// What is best by a law of so many unique tokens; nothing where no FLOPs of this world reach it.
pub fn optimum(law: &Law, wanted: SizeGiven, unique: f64) -> Option<Optimum> {
    let best = |flops: f64| {
        let loss = |ln_n: f64| law.loss(ln_n.exp(), flops / FLOPS / ln_n.exp(), unique);
        let parameters = least([0.0, (flops / FLOPS).ln()], loss).exp();
        let tokens = flops / FLOPS / parameters;
        Optimum { parameters, tokens, loss: law.loss(parameters, tokens, unique) }
    };
    // All grow with FLOPs but the loss, which falls.
    let until = |reached: &dyn Fn(Optimum) -> bool| {
        let ends = RANGE.map(f64::ln);
        (reached(best(RANGE[1])) && !reached(best(RANGE[0])))
            .then(|| best(first(ends, |ln| reached(best(ln.exp()))).exp()))
    };
    match wanted {
        SizeGiven::Flops(flops) => (RANGE[0]..=RANGE[1]).contains(&flops).then(|| best(flops)),
        SizeGiven::Tokens(tokens) => until(&|best| best.tokens >= tokens),
        SizeGiven::Parameters(parameters) => until(&|best| best.parameters >= parameters),
        SizeGiven::Loss(loss) => until(&|best| best.loss <= loss),
    }
}

/// The model of the same loss whose training and inference on so many tokens together cost least, 6 and 2 FLOPs a parameter and token
/// (Sardana et al. 2024, equation 4).
pub fn served(law: &Law, trained: &Optimum, inference: f64, unique: f64) -> Option<Optimum> {
    let of = |ln_n: f64| {
        let parameters = ln_n.exp();
        let reaches = |tokens: f64| law.loss(parameters, tokens, unique) <= trained.loss;
        let ends: [f64; 2] = [0.0, 100.0];
        reaches(ends[1].exp()).then(|| {
            let tokens = first(ends, |ln| reaches(ln.exp())).exp();
            Optimum { parameters, tokens, loss: law.loss(parameters, tokens, unique) }
        })
    };
    let cost = |ln_n: f64| of(ln_n).map_or(f64::INFINITY, |it| it.parameters * (FLOPS * it.tokens + 2.0 * inference));
    // Smaller than what training alone is best for, and not so small that no tokens make up for it.
    let most = trained.parameters.ln();
    let least_able = first([most - 10.0, most], |ln| of(ln).is_some());
    of(least([least_able, most], cost))
}

/// Where a function of one valley is least (golden section, Kiefer 1953).
fn least([mut low, mut high]: [f64; 2], f: impl Fn(f64) -> f64) -> f64 {
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    while high - low > PRECISION {
        let [left, right] = [high - golden * (high - low), low + golden * (high - low)];
        if f(left) <= f(right) { high = right } else { low = left }
    }
    (low + high) / 2.0
}

/// The first value of which something is true that stays so (bisection).
fn first([mut low, mut high]: [f64; 2], is: impl Fn(f64) -> bool) -> f64 {
    while high - low > PRECISION {
        let middle = (low + high) / 2.0;
        if is(middle) { high = middle } else { low = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::super::{Sum, law};
    use super::*;

    fn near(value: f64, wanted: f64, within: f64) {
        assert!((value / wanted - 1.0).abs() <= within, "{value:e}, not {wanted:e}");
    }

    /// Hoffmann et al. 2022, section 3.4 and appendix D.3: about 40 B for Gopher's 5.76e23 FLOPs; the losses of Gopher and Chinchilla.
    #[test]
    fn hoffmanns_law_gives_the_papers_figures() {
        let hoffmann = law("hoffmann").unwrap();
        near(optimum(hoffmann, SizeGiven::Flops(5.76e23), f64::INFINITY).unwrap().parameters, 40e9, 0.05);
        let rounded = Sum { e: 1.69, a: 406.4, b: 410.7, alpha: 0.34, beta: 0.28 };
        near(rounded.loss(280e9, 300e9), 1.993, 0.0005);
        near(rounded.loss(70e9, 1.4e12), 1.937, 0.0005);
    }

    /// Besiroglu et al. 2024, section 4: about 20 tokens a parameter at Chinchilla's FLOPs; N ~ C^0.5126.
    #[test]
    fn besiroglus_law_gives_the_papers_exponent() {
        let besiroglu = law("besiroglu").unwrap();
        let [one, ten] = [1e22, 1e23].map(|flops| optimum(besiroglu, SizeGiven::Flops(flops), f64::INFINITY).unwrap());
        assert!(((ten.parameters / one.parameters).log10() - 0.5126).abs() < 1e-3);
        let chinchilla = optimum(besiroglu, SizeGiven::Flops(5.76e23), f64::INFINITY).unwrap();
        assert!((18.0..27.0).contains(&(chinchilla.tokens / chinchilla.parameters)), "{chinchilla:?}");
    }

    #[test]
    fn all_ways_to_ask_give_the_same_answer() {
        for law in super::super::LAWS {
            let by_flops = optimum(law, SizeGiven::Flops(1e22), f64::INFINITY).unwrap();
            let Optimum { parameters, tokens, loss } = by_flops;
            for wanted in [SizeGiven::Parameters(parameters), SizeGiven::Tokens(tokens), SizeGiven::Loss(loss)] {
                let again = optimum(law, wanted, f64::INFINITY).unwrap();
                near(again.flops(), 1e22, 1e-4);
                near(again.parameters, parameters, 1e-3);
            }
        }
    }

    /// Muennighoff et al. 2023: four passes are nearly worth as many new tokens, sixteen are not.
    #[test]
    fn tokens_that_come_again_are_worth_less_and_less() {
        let law = law("muennighoff").unwrap();
        let unique = 100e9;
        let lost = |passes: f64| {
            let [again, new] = [unique, f64::INFINITY].map(|unique| law.loss(4e9, passes * 100e9, unique));
            again - new
        };
        assert!(
            lost(1.0).abs() < 1e-12 && lost(4.0) < 0.01 && lost(40.0) > 5.0 * lost(4.0),
            "{} {}",
            lost(4.0),
            lost(40.0)
        );
    }

    /// Sardana et al. 2024, section 3: a 30 B model's quality for 5 T tokens of inference is had by 16.4 B on 3.27 T, 16 % cheaper.
    #[test]
    fn inference_makes_models_smaller_and_data_larger() {
        let hoffmann = law("hoffmann").unwrap();
        let trained = optimum(hoffmann, SizeGiven::Parameters(30e9), f64::INFINITY).unwrap();
        let served = served(hoffmann, &trained, 5e12, f64::INFINITY).unwrap();
        near(served.loss, trained.loss, 1e-6);
        near(served.parameters, 16.4e9, 0.15);
        near(served.tokens, 3.27e12, 0.15);
        let cost = |it: &Optimum| it.flops() + 2.0 * it.parameters * 5e12;
        assert!(cost(&served) < 0.95 * cost(&trained), "{served:?} {trained:?}");
    }

    #[test]
    fn what_no_compute_reaches_is_none() {
        assert_eq!(optimum(law("besiroglu").unwrap(), SizeGiven::Loss(1.8), f64::INFINITY), None);
        assert_eq!(optimum(law("besiroglu").unwrap(), SizeGiven::Flops(f64::NAN), f64::INFINITY), None);
    }
}
