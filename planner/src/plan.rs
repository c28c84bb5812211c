//! A plan: the decisions that turn a job into a program. Small, readable, editable, and complete in itself.
//!
//! In: a `plan.toml`, or the search. Out: [`Plan`].
//!
//! Invariant: a plan that was read satisfies [`Plan::check`], and then [`crate::lower::lower`] succeeds.

use meshwright_hardware::mesh::Mesh;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, PlanError};
use crate::job::Job;

/// In which order a stage runs its microbatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Schedule {
    /// All forward, then all backward (Huang et al. 2019).
    #[serde(rename = "gpipe")]
    GPipe,
    /// One forward, one backward, after a warm-up (Narayanan et al. 2019): fewer microbatches in flight.
    #[serde(rename = "1f1b")]
    OneFOneB,
}

impl Schedule {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::GPipe => "gpipe",
            Schedule::OneFOneB => "1f1b",
        }
    }
}

/// What of a layer's activations is made again in backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: all that backward reads is kept.
    None,
    /// The outputs of norms and activations: large, and cheap to make again (attention never stores its scores).
    Selective,
    /// Everything but the layer's input (Chen et al. 2016).
    Full,
}

impl Recompute {
    /// Every mode, by memory: most first.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Selective, Recompute::Full];
}

/// A pipeline stage: how many layers, and how many of them recompute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Layers in all.
    pub layers: usize,
    /// Of these, the first so many recompute everything.
    #[serde(default)]
    pub full: usize,
    /// And the next so many recompute selectively.
    #[serde(default)]
    pub selective: usize,
}

impl Stage {
    /// The mode of the stage's `i`-th layer.
    pub fn mode(&self, i: usize) -> Recompute {
        if i < self.full {
            Recompute::Full
        } else if i < self.full + self.selective {
            Recompute::Selective
        } else {
            Recompute::None
        }
    }
}

/// All decisions, and the job they are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Sequences a microbatch.
    pub microbatch: usize,
    /// Order of microbatches.
    pub schedule: Schedule,
    /// ZeRO stage (Rajbhandari et al. 2020): 1 shards optimizer state over data parallelism, 0 does not.
    #[serde(default)]
    pub zero: u8,
    /// The ranks.
    pub mesh: Mesh,
    /// One a stage, in order.
    pub stages: Vec<Stage>,
    /// What it trains.
    pub job: Job,
}

impl Plan {
    /// The plan of one rank that trains a job with this microbatch and keeps all activations.
    pub fn single(job: Job, microbatch: usize) -> Plan {
        let stages = vec![Stage { layers: job.model.layers, full: 0, selective: 0 }];
        Plan { microbatch, schedule: Schedule::OneFOneB, zero: 0, mesh: Mesh::ONE, stages, job }
    }

    /// Reads a plan file; errors name file, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Plan, PlanError> {
        let plan: Plan = toml::from_str(text).map_err(|error| PlanError::of_toml(file, text, &error))?;
        plan.check().map_err(|fault| PlanError::of_fault(file, text, fault))?;
        Ok(plan)
    }

    /// Reads a plan file by its path.
    pub fn read(path: &str) -> Result<Plan, PlanError> {
        Plan::from_toml(path, &PlanError::text_of(path)?)
    }

    /// The plan as a file that [`Plan::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is tables of strings and numbers")
    }

    /// Microbatches of a replica in a step.
    pub fn microbatches(&self) -> usize {
        self.job.global_batch / (self.mesh.dp * self.microbatch)
    }

    /// The most microbatches of which a stage holds activations at once: its slots.
    pub fn in_flight(&self, stage: usize) -> usize {
        match self.schedule {
            Schedule::GPipe => self.microbatches(),
            Schedule::OneFOneB => self.microbatches().min(self.mesh.pp - stage),
        }
    }

    /// The number of a stage's first layer.
    pub fn first_layer(&self, stage: usize) -> usize {
        self.stages[..stage].iter().map(|s| s.layers).sum()
    }

    /// One line for people: `dp 2 × pp 1 × tp 4, 1f1b, 8 microbatches of 2, ZeRO-1`.
    pub fn summary(&self) -> String {
        let Mesh { dp, pp, tp, .. } = self.mesh;
        let mut text = format!("dp {dp} × pp {pp} × tp {tp}");
        if pp > 1 {
            text += &format!(", {}", self.schedule.name());
        }
        text += &format!(", {} microbatches of {}", self.microbatches(), self.microbatch);
        if self.zero > 0 {
            text += &format!(", ZeRO-{}", self.zero);
        }
        let (full, selective) = self.stages.iter().fold((0, 0), |(f, s), stage| (f + stage.full, s + stage.selective));
        for (count, mode) in [(full, "full"), (selective, "selective")] {
            if count > 0 {
                text += &format!(", {mode} recompute in {count} of {} layers", self.job.model.layers);
            }
        }
        text
    }

    /// Refuses decisions that do not fit the job.
    pub fn check(&self) -> Result<(), Fault> {
        self.job.check().map_err(|fault| Fault { key: format!("job.{}", fault.key), ..fault })?;
        let (Mesh { dp, pp, tp, .. }, job) = (self.mesh, &self.job);
        for (key, value) in [("mesh.dp", dp), ("mesh.pp", pp), ("mesh.tp", tp), ("microbatch", self.microbatch)] {
            if value == 0 {
                return Err(Fault::new(key, 0, "it must be above zero"));
            }
        }
        check_tp(job, tp).map_err(|problem| Fault::new("mesh.tp", tp, problem))?;
        if !job.global_batch.is_multiple_of(dp * self.microbatch) {
            let problem = format!("it must be a multiple of dp · microbatch = {dp} · {}", self.microbatch);
            return Err(Fault::new("job.global_batch", job.global_batch, problem));
        }
        if self.zero > 1 {
            return Err(Fault::new("zero", self.zero, "0 and 1 are implemented"));
        }
        if self.stages.len() != pp {
            let problem = format!("there are {} stages in `stages`", self.stages.len());
            return Err(Fault::new("mesh.pp", pp, problem));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            if stage.layers == 0 || stage.full + stage.selective > stage.layers {
                let key = format!("stages[{i}].layers");
                return Err(Fault::new(
                    &key,
                    stage.layers,
                    "a stage has a layer at least, and each recomputes one way",
                ));
            }
        }
        let layers: usize = self.stages.iter().map(|s| s.layers).sum();
        if layers != job.model.layers {
            let problem = format!("the model has {} in all", job.model.layers);
            return Err(Fault::new("stages.layers", layers, problem));
        }
        Ok(())
    }
}

/// Why a model cannot be sharded `tp` ways, if it cannot.
pub(crate) fn check_tp(job: &Job, tp: usize) -> Result<(), String> {
    let m = &job.model;
    let sizes = [("heads", m.heads), ("kv_heads", m.kv_heads), ("ffn", m.ffn), ("vocab", m.vocab)];
    match sizes.iter().find(|(_, size)| !size.is_multiple_of(tp)) {
        Some((key, size)) => Err(format!("it must divide the model's `{key}` = {size}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::testing::tiny_job;

    #[test]
    fn a_plan_reads_back() {
        let mut plan = Plan::single(tiny_job(models::load("demo-10m").unwrap()), 2);
        plan.stages[0].selective = 2;
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan);
    }

    #[test]
    fn contradictions_name_file_line_key_and_value() {
        let mut plan = Plan::single(tiny_job(models::load("demo-10m").unwrap()), 2);
        plan.mesh.tp = 4;
        let message = Plan::from_toml("p.toml", &plan.to_toml()).unwrap_err().to_string();
        assert!(message.contains("`mesh.tp` is 4") && message.contains("`heads` = 6"), "{message}");
        plan.mesh.tp = 1;
        plan.microbatch = 3;
        let message = Plan::from_toml("p.toml", &plan.to_toml()).unwrap_err().to_string();
        assert!(message.contains("`job.global_batch` is 8") && message.contains("p.toml:"), "{message}");
    }
}
