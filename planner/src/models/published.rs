//! The parameters that a model's publication counts, which its file states and its sizes must give.
//!
//! In: `parameters = { value = "174.6 B", source = "Brown et al. 2020, table D.1", positions = 2048 }` in a model file, and
//! `active_parameters` likewise. Out: a refusal where the sizes give another count.

use meshwright_hardware::units::Parameters;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Fault;
use crate::job::{Model, Shape};
use crate::limits::{self, number, sizes};

/// How far a count may be from the published one, where the file does not say.
const WITHIN: f64 = 0.01;

/// What a model file says beside the model's sizes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    /// All parameters.
    pub parameters: Option<Count>,
    /// Those that a token meets: not the experts that it is not sent to. Tables count, as in most papers.
    pub active_parameters: Option<Count>,
}

/// A published count.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Count {
    /// As published.
    pub value: Parameters,
    /// The publication.
    pub source: String,
    /// Learned positions that it counts; a model has as many as its job's sequences have tokens.
    #[serde(default)]
    pub positions: usize,
    /// How far the sizes' count may be from it, as a share of it: papers round, and leave out or add what is not modelled.
    #[serde(default = "within")]
    pub within: f64,
}

fn within() -> f64 {
    WITHIN
}

impl Published {
    /// Takes the keys of a model file that are not sizes.
    pub fn take<'a>(file: &mut toml::de::DeTable<'a>) -> toml::de::DeTable<'a> {
        let mut taken = toml::de::DeTable::new();
        for key in ["parameters", "active_parameters"] {
            taken.extend(file.remove_entry(key));
        }
        taken
    }

    /// Refuses sizes that give other counts.
    pub fn check(&self, model: &Model) -> Result<(), Fault> {
        for (key, count) in [("parameters", &self.parameters), ("active_parameters", &self.active_parameters)] {
            let Some(count) = count else { continue };
            sizes(&[("positions", count.positions, 0..=limits::SEQ)]).map_err(|fault| fault.within(key))?;
            number("within", count.within, 0.0..=1.0).map_err(|fault| fault.within(key))?;
        }
        let shape = Shape::from(model);
        let tables = if model.tied { 1.0 } else { 2.0 } * shape.table_parameters();
        let active = shape.active_layer_parameters() + tables;
        if let Some(count) = &self.parameters {
            count.check("parameters", model.parameters(count.positions) as f64)?;
        }
        self.active_parameters.as_ref().map_or(Ok(()), |count| count.check("active_parameters", active))
    }
}

impl Count {
    fn check(&self, key: &str, sizes: f64) -> Result<(), Fault> {
        if self.source.trim().is_empty() {
            return Err(Fault::new(key, self.value, "empty `source`: say which publication counts so many"));
        }
        if (sizes / self.value.0 - 1.0).abs() <= self.within {
            return Ok(());
        }
        let problem = format!(
            "the sizes give {}, which is not within {} % of it: correct them, or say in `within` how far off it may be",
            Parameters(sizes),
            self.within * 100.0
        );
        Err(Fault::new(key, self.value, problem))
    }
}
