//! A plan's stages as files hold them: neighbours that are alike once, with how many there are.
//!
//! In: `[[stages]]` with `count`. Out: a [`Stage`] for each. Invariant: what is written is read back, and no file makes more
//! stages than a model may have layers.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::stage::{Stage, is_zero};
use super::{is_one, one};
use crate::limits;

/// Stages that are alike: a chunk of a pipeline stage each (all of it, but for interleaved schedules), in the model's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageRun {
    /// How many there are, one after another.
    #[serde(default = "one", skip_serializing_if = "is_one", deserialize_with = "some")]
    pub count: usize,
    /// Layers of each.
    pub layers: usize,
    /// Of these, the first so many recompute everything.
    #[serde(default)]
    pub full: usize,
    /// And the next so many recompute selectively.
    #[serde(default)]
    pub selective: usize,
    /// The first so many keep their activations in the host's memory until backward needs them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offload: usize,
}

/// The most stages of a plan: all but the first and the last have a layer of one of two halves.
const MOST: usize = 2 * limits::LAYERS + 2;

fn some<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        count @ 1..=MOST => Ok(count),
        count => Err(Error::custom(format!("`count` is {count}: stages that are alike are 1 to {MOST}"))),
    }
}

/// Reads stages.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Stage>, D::Error> {
    let runs: Vec<StageRun> = Deserialize::deserialize(from)?;
    let count = runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.count));
    if count > MOST {
        return Err(Error::custom(format!("there are {count} stages in `stages`: {MOST} at most")));
    }
    let of = |run: &StageRun| {
        let StageRun { count, layers, full, selective, offload } = *run;
        std::iter::repeat_n(Stage { layers, full, selective, offload }, count)
    };
    Ok(runs.iter().flat_map(of).collect())
}

/// Writes stages.
pub(super) fn serialize<S: Serializer>(stages: &[Stage], to: S) -> Result<S::Ok, S::Error> {
    let alike = stages.chunk_by(|one, other| one == other).map(|alike| {
        let Stage { layers, full, selective, offload } = alike[0];
        StageRun { count: alike.len(), layers, full, selective, offload }
    });
    to.collect_seq(alike)
}

/// A fault's key as the file has it: `stages[i]` counts stages, and the file runs of them.
pub(super) fn key_in_file(key: &str, text: &str) -> String {
    #[derive(Deserialize)]
    struct Runs {
        stages: Vec<StageRun>,
    }
    let parts = || {
        let (stage, rest) = key.strip_prefix("stages[")?.split_once(']')?;
        let (stage, Runs { stages }) = (stage.parse::<usize>().ok()?, toml::from_str(text).ok()?);
        let mut end = 0;
        let run = stages.iter().position(|run| {
            end += run.count;
            stage < end
        })?;
        Some(format!("stages[{run}]{rest}"))
    };
    parts().unwrap_or_else(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::plan::Plan;

    const PLAN: &str = include_str!("../../../tests/cases/tiny.toml");

    #[test]
    fn stages_that_are_alike_are_written_once_and_read_back() {
        let plan = Plan::from_toml("tiny.toml", PLAN).unwrap();
        let mut many = plan.clone();
        let stage = plan.stages[0];
        let first = crate::plan::Stage { full: 1, layers: 1, selective: 0, offload: 0 };
        many.stages = [vec![first], vec![stage; 30]].concat();
        let text = toml::to_string(&many).unwrap();
        assert_eq!(text.matches("[[stages]]").count(), 2, "{text}");
        assert!(text.contains("count = 30"), "{text}");
        assert_eq!(toml::from_str::<Plan>(&text).unwrap(), many);
        assert!(!plan.to_toml().contains("count"), "one is not counted");
    }

    #[test]
    fn a_fault_stands_at_its_run_and_counts_have_an_end() {
        let with = |stages: &str| {
            let text =
                PLAN.replace("stages = [{ layers = 2 }]", &format!("stages = [{stages}]")).replace("pp = 1", "pp = 4");
            Plan::from_toml("p.toml", &text).unwrap_err().to_string()
        };
        for (count, said) in [("0", "`count` is 0"), ("100000000000", "`count` is 100000000000"), ("-1", "count")] {
            let message = with(&format!("{{ count = {count}, layers = 1 }}"));
            assert!(message.contains(said), "{message}");
        }
        let half = "{ count = 2000, layers = 1 }";
        assert!(with(&format!("{half}, {half}")).contains("4000 stages"));
        let message = with("{ count = 3, layers = 0 },\n{ layers = 2, full = 9 }");
        assert!(message.contains("stages[0].layers"), "{message}");
        let message = with("{ count = 3, layers = 1 },\n{ layers = 2000 }");
        assert!(message.contains("stages[1].layers") && message.contains("p.toml:6:"), "{message}");
    }
}
