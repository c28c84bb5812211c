//! What a plan is to be good at, and what it must not exceed.
//!
//! In: a job's `[goal]`, or the command line. Out: [`Goal`].
//!
//! Invariant: an empty goal is the fastest plan.

use std::ops::RangeInclusive;

use meshwright_hardware::profile::Stack;
use meshwright_hardware::units::{Dollars, Seconds, Tokens};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::limits;

/// Share of a device's memory that a plan may declare under a stack of which nothing is known beside its buffers; the rest is the
/// runtime's, the allocator's and the network's.
pub const USABLE_MEMORY: f64 = 0.94;

/// What is to be least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// A step's time.
    #[default]
    Time,
    /// What training costs, on as many of the devices as that takes.
    Cost,
    /// What training draws, on as many of the devices as that takes.
    Energy,
}

impl Objective {
    /// Name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Time => "time",
            Objective::Cost => "cost",
            Objective::Energy => "energy",
        }
    }
}

impl std::str::FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Objective::Time, Objective::Cost, Objective::Energy];
        let found = all.into_iter().find(|objective| objective.name() == text);
        found.ok_or_else(|| format!("unknown objective `{text}`; known: time, cost, energy"))
    }
}

/// What the user wants of a plan, in a job's `[goal]` or on the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Goal {
    /// What is to be least.
    #[serde(skip_serializing_if = "is_default")]
    pub objective: Objective,
    /// Tokens to train on, as `300G`, instead of the job's `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// Share of a device's memory to leave free, beyond what the stack's allocator and libraries take: 0 to less than 0.94.
    #[serde(skip_serializing_if = "is_default")]
    pub headroom: f64,
    /// From the first step to the last, failures included: at most this long, as expected, such as `30d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Seconds>,
    /// For all devices over that time: at most this much, such as `$500k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Dollars>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Goal {
    /// Whether nothing is wanted but the fastest plan.
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }

    /// Whether what training takes from the first step to the last is limited.
    pub fn limits_training(&self) -> bool {
        self.deadline.is_some() || self.budget.is_some()
    }

    /// Bytes that a plan may declare on a device with so much memory under a stack: the one rule by which a plan fits. Of a stack whose
    /// allocator and context are known, what they leave; else all but what [`USABLE_MEMORY`] leaves for them.
    pub fn usable(&self, memory: u64, stack: &Stack) -> u64 {
        let most = if stack.memory.is_none() { USABLE_MEMORY } else { 1.0 };
        stack.memory.declarable((memory as f64 * (most - self.headroom)) as u64)
    }

    /// Refuses what no plan can do.
    pub fn check(&self) -> Result<(), Fault> {
        if !(0.0..USABLE_MEMORY).contains(&self.headroom) {
            let reserve = 100.0 * (1.0 - USABLE_MEMORY);
            let problem = format!(
                "it is the share of a device's memory left free, beyond the {reserve:.0} % that the runtime needs: 0 to \
                 less than {USABLE_MEMORY}, such as 0.1"
            );
            return Err(Fault::new("goal.headroom", self.headroom, problem));
        }
        // Less is a slip of units, and so is more.
        const DEADLINES: RangeInclusive<Seconds> = Seconds(1.0)..=Seconds(1e11);
        const BUDGETS: RangeInclusive<Dollars> = Dollars(0.01)..=Dollars(1e15);
        match self {
            Goal { tokens: Some(tokens), .. } if !(1.0..=limits::TOKENS).contains(&tokens.0) => {
                let problem = format!("it must be one or more, and at most {}", Tokens(limits::TOKENS).exact());
                Err(Fault::new("goal.tokens", tokens.exact(), problem))
            }
            Goal { deadline: Some(deadline), .. } if !DEADLINES.contains(deadline) => {
                let problem = format!("it must be {} to {}", DEADLINES.start().exact(), DEADLINES.end().exact());
                Err(Fault::new("goal.deadline", deadline.exact(), problem))
            }
            Goal { budget: Some(budget), .. } if !BUDGETS.contains(budget) => {
                let problem = format!("it must be {} to {}", BUDGETS.start().exact(), BUDGETS.end().exact());
                Err(Fault::new("goal.budget", budget.exact(), problem))
            }
            _ => Ok(()),
        }
    }
}
