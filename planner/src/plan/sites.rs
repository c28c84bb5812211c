//! How several sites with slow links between share their work: each trains on its own, and every so many steps they meet.
//!
//! In: a plan's `[sites]`. Out: [`Sites`].
//!
//! DiLoCo (Douillard et al. 2023): AdamW inside; every `every` steps what the sites have moved is averaged and applied by
//! Nesterov momentum outside. With `fragments` and `overlap` it is Streaming DiLoCo (Douillard et al. 2025): parts of the
//! model meet one after another, while training goes on.
//!
//! Invariant: sites that were read share the batch evenly, and meet within `every` steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::limits;

/// How sites share their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sites {
    /// How many; each trains an equal share of the global batch.
    pub count: usize,
    /// Steps between meetings.
    #[serde(default = "usual_every")]
    pub every: usize,
    /// Bits a parameter that are exchanged.
    #[serde(default = "full_bits", skip_serializing_if = "is_full")]
    pub bits: u8,
    /// Parts of the model that meet one after another, evenly over the steps between.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub fragments: usize,
    /// Steps that training goes on while a part is under way; 0 waits for it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overlap: usize,
}

fn usual_every() -> usize {
    500
}

fn full_bits() -> u8 {
    32
}

fn is_full(bits: &u8) -> bool {
    *bits == full_bits()
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Sites {
    /// DiLoCo's usual: 500 steps between meetings, all at once, in fp32.
    pub fn usual(count: usize) -> Sites {
        Sites { count, every: usual_every(), bits: full_bits(), fragments: 1, overlap: 0 }
    }

    /// Refuses what no sites can do.
    pub(crate) fn check(&self, global_batch: usize, replicas: usize) -> Result<(), Fault> {
        let fault = |key: &str, value: usize, problem: String| Err(Fault::new(&format!("sites.{key}"), value, problem));
        limits::sizes(&[
            ("sites.count", self.count, 1..=limits::SITES),
            ("sites.every", self.every, 1..=limits::STEPS_APART),
            ("sites.fragments", self.fragments, 1..=limits::STEPS_APART),
        ])?;
        if !global_batch.is_multiple_of(self.count * replicas) {
            let problem =
                format!("it must be a multiple of sites.count · dp · microbatch = {} · {replicas}", self.count);
            return Err(Fault::new("job.global_batch", global_batch, problem));
        }
        if !(1..=32).contains(&self.bits) {
            return fault("bits", self.bits.into(), "1 to 32".to_owned());
        }
        if self.fragments > self.every {
            return fault("fragments", self.fragments, format!("no more than the {} steps between", self.every));
        }
        if self.overlap >= self.every {
            return fault("overlap", self.overlap, format!("fewer than the {} steps between", self.every));
        }
        Ok(())
    }
}
