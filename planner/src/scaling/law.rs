//! Published laws with their constants.
//!
//! In: parameters and tokens. Out: nats a token.
//!
//! Invariant: constants are those of the source, unrounded where it has them.

/// A loss by parameters and tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Law {
    /// Name on the command line.
    pub name: &'static str,
    /// Who found it, and in what.
    pub title: &'static str,
    /// Where.
    pub source: &'static str,
    /// Its formula.
    pub form: LawForm,
    /// Parameters of the runs it was fitted to, least and most; active ones, of experts.
    pub parameters: [f64; 2],
    /// Their tokens.
    pub tokens: [f64; 2],
}

/// A formula with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LawForm {
    /// Hoffmann et al. 2022, equation 10.
    Sum(Sum),
    /// The same of tokens that come again (Muennighoff et al. 2023, equations 5 and 6): what a further pass is worth falls by
    /// exp(−passes / `passes`), and of parameters beyond what unique tokens are best for, by exp(−excess / `excess`).
    Repeated {
        /// With new tokens.
        sum: Sum,
        /// Passes over the data.
        passes: f64,
        /// Parameters beyond the best for it, over these.
        excess: f64,
    },
    /// ((nc / N)^(alpha / beta) + dc / D)^beta: Kaplan et al. 2020, equation 1.5; parameters without embeddings.
    Joint {
        /// Parameters at a loss of one.
        nc: f64,
        /// Tokens at a loss of one.
        dc: f64,
        /// Exponent of parameters.
        alpha: f64,
        /// Exponent of tokens.
        beta: f64,
    },
    /// Mixtures of experts with the granularity and the shared share that are best by it (Zhao et al. 2025), of so many parameters an
    /// active one.
    Mixture {
        /// All parameters over the active ones.
        total_over_active: f64,
    },
}

/// e + a / N^alpha + b / D^beta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// Loss that nothing takes away.
    pub e: f64,
    /// Weight of parameters.
    pub a: f64,
    /// Weight of tokens.
    pub b: f64,
    /// Exponent of parameters.
    pub alpha: f64,
    /// Exponent of tokens.
    pub beta: f64,
}

impl Sum {
    /// Nats a token.
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        self.e + self.a / parameters.powf(self.alpha) + self.b / tokens.powf(self.beta)
    }

    /// Parameters for which so many tokens are best: A·alpha / N^alpha = B·beta / D^beta (Hoffmann et al. 2022, equation 4).
    fn parameters_for(&self, tokens: f64) -> f64 {
        (self.a * self.alpha / (self.b * self.beta) * tokens.powf(self.beta)).powf(1.0 / self.alpha)
    }
}

impl Law {
    /// Nats a token; `unique` tokens come again until there are `tokens`, which laws of new tokens do not know of.
    pub fn loss(&self, parameters: f64, tokens: f64, unique: f64) -> f64 {
        match self.form {
            LawForm::Sum(sum) => sum.loss(parameters, tokens),
            LawForm::Repeated { sum, passes, excess } => {
                let unique = unique.min(tokens);
                let best = sum.parameters_for(unique).min(parameters);
                let worth =
                    |base: f64, all: f64, half: f64| base + base * half * (1.0 - (-(all / base - 1.0) / half).exp());
                sum.loss(worth(best, parameters, excess), worth(unique, tokens, passes))
            }
            LawForm::Joint { nc, dc, alpha, beta } => ((nc / parameters).powf(alpha / beta) + dc / tokens).powf(beta),
            LawForm::Mixture { total_over_active } => mixture(parameters, tokens, total_over_active),
        }
    }

    /// Whether so many parameters and tokens lie among the runs that it was fitted to.
    pub fn holds(&self, parameters: f64, tokens: f64) -> bool {
        let within = |value: f64, [least, most]: [f64; 2]| (least..=most).contains(&value);
        within(parameters, self.parameters) && within(tokens, self.tokens)
    }
}

/// Zhao et al. 2025, with granularity √(f/e) and a shared share of −n/2m, which are best at every size.
fn mixture(active: f64, tokens: f64, total_over_active: f64) -> f64 {
    let (e, f, m, n) = (0.1577_f64, 7.2446, 5.1395, -3.2363);
    let (granularity, shared) = ((f / e).sqrt(), -n / (2.0 * m));
    let built = e * granularity + f / granularity + m * shared * shared + n * shared;
    let alpha = 0.2383;
    let [total, active_] = [total_over_active * active, active].map(|n: f64| n.powf(-alpha));
    built * (total + 0.0013 * active_ + 0.0450 / total_over_active)
        + 38.051 * total
        + 27129.05 / tokens.powf(0.4694)
        + 31.096 * active_
        + 1.8182
}

/// The laws; the first is the usual one.
pub const LAWS: &[Law] = &[
    Law {
        name: "besiroglu",
        title: "Besiroglu et al. 2024, of Hoffmann's runs",
        source: "arXiv:2404.10102, table 1",
        form: LawForm::Sum(Sum { e: 1.8172, a: 482.01, b: 2085.43, alpha: 0.3478, beta: 0.3658 }),
        parameters: [7e7, 1.6e10],
        tokens: [5e9, 5e11],
    },
    Law {
        name: "hoffmann",
        title: "Hoffmann et al. 2022, approach 3",
        source: "arXiv:2203.15556, equation 10 and its TeX's digits",
        form: LawForm::Sum(Sum { e: 1.6934, a: 406.4, b: 410.7, alpha: 0.3392, beta: 0.2849 }),
        parameters: [7e7, 1.6e10],
        tokens: [5e9, 5e11],
    },
    Law {
        name: "muennighoff",
        title: "Muennighoff et al. 2023, tokens that come again",
        source: "arXiv:2305.16264; huggingface/datablations 1370131, README.md",
        form: LawForm::Repeated {
            // exp of 0.6254804, 6.255414 and 7.3049974.
            sum: Sum { e: 1.869_143, a: 520.825, b: 1487.70, alpha: 0.352_659_6, beta: 0.352_659_6 },
            passes: 15.387_756,
            excess: 5.309_743,
        },
        parameters: [7e6, 9e9],
        tokens: [1e8, 9e11],
    },
    Law {
        name: "kaplan",
        title: "Kaplan et al. 2020, parameters without embeddings",
        source: "arXiv:2001.08361, equation 1.5 and table 2; constants from memory of the paper",
        form: LawForm::Joint { nc: 6.4e13, dc: 1.8e13, alpha: 0.076, beta: 0.103 },
        parameters: [768.0, 1.5e9],
        tokens: [2.2e7, 2.3e10],
    },
    Law {
        name: "zhao",
        title: "Zhao et al. 2025, mixtures of experts by active parameters",
        source: "arXiv:2509.23678",
        form: LawForm::Mixture { total_over_active: 16.0 },
        // Its runs are not stated where it was read: it is outside of them everywhere.
        parameters: [f64::INFINITY, f64::INFINITY],
        tokens: [f64::INFINITY, f64::INFINITY],
    },
];

/// The law of a name.
pub fn law(name: &str) -> Option<&'static Law> {
    LAWS.iter().find(|law| law.name == name)
}

/// How FLOPs are divided, where no loss is said.
#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    /// Name in tables.
    pub name: &'static str,
    /// Where.
    pub source: &'static str,
    /// Tokens by FLOPs.
    pub tokens: fn(f64) -> f64,
    /// FLOPs of its runs, least and most.
    pub flops: [f64; 2],
}

/// Those published.
pub const ALLOCATIONS: &[Allocation] = &[
    Allocation {
        name: "20 tokens a parameter",
        source: "Hoffmann et al. 2022, arXiv:2203.15556, approach 1, table 3: 1e9 parameters, 20.2e9 tokens; exponents 0.50",
        tokens: |flops| (20.2 * flops / super::FLOPS).sqrt(),
        flops: [6e18, 3e21],
    },
    Allocation {
        name: "deepseek-llm",
        source: "arXiv:2401.02954, equation 4",
        tokens: |flops| 5.8316 * flops.powf(0.4757),
        flops: [1e17, 3e20],
    },
    Allocation {
        name: "llama-3, rounded",
        source: "arXiv:2407.21783, section 3.2.1: they give 10.5T tokens where the report says 16.55T",
        tokens: |flops| 0.29 * flops.powf(0.53),
        flops: [6e18, 1e22],
    },
    Allocation {
        name: "minicpm",
        source: "arXiv:2404.06395, section 4.5: 192 tokens a parameter",
        tokens: |flops| (192.0 * flops / super::FLOPS).sqrt(),
        flops: [1e17, 1e20],
    },
];
