//! A plan: the decisions that turn a job into a program. Small, readable, editable, and complete in itself.
//!
//! In: a `plan.toml`, or the search. Out: [`Plan`].
//!
//! Invariant: a plan that was read satisfies [`Plan::check`], and then [`crate::lower::lower`] succeeds.

use meshwright_hardware::classes::Classes;
use meshwright_hardware::files::read_text;
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::profile::Stack;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, PlanError};
use crate::job::Job;
use crate::schedule::{Action, Pipeline, Schedule};

mod check;
mod code;
mod runs;
mod shares;
mod sites;
mod stage;

pub use crate::model::RecomputeModule;
pub use check::check_tp;
pub use code::LEGEND;
pub use runs::StageRun;
pub use sites::Sites;
pub use stage::{Recompute, Stage, layers_of};

/// What a rank holds begins at a multiple of so many elements of its buffer: no two share a line of memory.
pub(crate) const ALIGN: usize = 16;

/// All decisions, and the job they are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Sequences a microbatch.
    pub microbatch: usize,
    /// Order of microbatches.
    pub schedule: Schedule,
    /// ZeRO stage (Rajbhandari et al. 2020): over data parallelism, 1 shards optimizer state, 2 gradients too, 3 weights
    /// too (FSDP), 0 nothing.
    #[serde(default)]
    pub zero: u8,
    /// Chunks a stage: more than one interleaves them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub chunks: usize,
    /// Whether tensor parallelism shards the tokens of norms and residuals too (Korthikanti et al. 2022).
    #[serde(default, skip_serializing_if = "is_false")]
    pub sequence_parallel: bool,
    /// Whether context parallelism passes keys and values round a ring, block by block, and does not gather them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ring: bool,
    /// Parts of layers that backward makes again in every layer, beside what its stage says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recompute_modules: Vec<RecomputeModule>,
    /// Microbatches of each data-parallel replica, where they are not alike; empty where they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<usize>,
    /// The ranks; of each site, where there are several.
    pub mesh: Mesh,
    /// Several sites with slow links between, which share their work now and then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Sites>,
    /// One a chunk of a stage, in the model's order.
    #[serde(with = "runs")]
    #[schemars(with = "Vec<StageRun>")]
    pub stages: Vec<Stage>,
    /// What it trains.
    pub job: Job,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Plan {
    /// The plan of one rank that trains a job with this microbatch and keeps all activations.
    pub fn single(job: Job, microbatch: usize) -> Plan {
        let stages = vec![Stage { layers: job.model.depth(), full: 0, selective: 0, offload: 0 }];
        Plan {
            microbatch,
            schedule: Schedule::default(),
            zero: 0,
            chunks: 1,
            sequence_parallel: false,
            ring: false,
            recompute_modules: Vec::new(),
            shares: Vec::new(),
            mesh: Mesh::ONE,
            sites: None,
            stages,
            job,
        }
    }

    /// The plan as a stack runs it.
    pub fn under(&self, stack: &Stack) -> Plan {
        Plan { job: self.job.under(stack), ..self.clone() }
    }

    /// Reads a plan file; errors name file, line, key and value.
    pub fn from_toml(file: &str, text: &str) -> Result<Plan, PlanError> {
        let plan: Plan = toml::from_str(text).map_err(|error| PlanError::of_toml(file, text, &error))?;
        let in_file = |fault: Fault| Fault { key: runs::key_in_file(&fault.key, text), ..fault };
        plan.check().map_err(|fault| PlanError::of_fault(file, text, in_file(fault)))?;
        Ok(plan)
    }

    /// Reads a plan file by its path.
    pub fn read(path: &str) -> Result<Plan, PlanError> {
        Plan::from_toml(path, &read_text(path)?)
    }

    /// The plan as a file that [`Plan::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is tables of strings and numbers")
    }

    /// Microbatches of a replica in a step; of the replica that has most, where they are not alike.
    pub fn microbatches(&self) -> usize {
        let most = self.shares.iter().max().copied();
        most.unwrap_or(self.job.global_batch / (self.site_count() * self.mesh.dp * self.microbatch))
    }

    /// How many sites there are.
    pub fn site_count(&self) -> usize {
        self.sites.map_or(1, |sites| sites.count)
    }

    /// The replicas that have as many microbatches.
    pub fn classes(&self) -> Classes {
        Classes::of_equal(&self.shares)
    }

    /// The plan as the replicas of a class see it: as if all had their share. The batch is then another, so that a loss
    /// has to be scaled by the plan itself.
    pub fn of_class(&self, class: usize) -> Plan {
        let Some(&share) = self.shares.get(self.classes().first(class)) else { return self.clone() };
        let mut own = Plan { shares: Vec::new(), ..self.clone() };
        own.job.global_batch = share * self.microbatch * self.mesh.dp * self.site_count();
        own
    }

    /// How microbatches go through the stages.
    pub fn pipeline(&self) -> Pipeline {
        let (schedule, stages, chunks) = (self.schedule, self.mesh.pp, self.chunks);
        Pipeline { schedule, stages, chunks, microbatches: self.microbatches() }
    }

    /// What every stage does in a step.
    pub fn orders(&self) -> Vec<Vec<Action>> {
        self.pipeline().orders()
    }

    /// The virtual stage of a stage's chunk: its place in the model's order.
    pub fn virtual_stage(&self, stage: usize, chunk: usize) -> usize {
        self.pipeline().virtual_stage(stage, chunk)
    }

    /// The stage and chunk of a virtual stage.
    pub fn chunk_at(&self, virtual_stage: usize) -> (usize, usize) {
        self.pipeline().chunk_at(virtual_stage)
    }

    /// The number of a virtual stage's first layer.
    pub fn first_layer(&self, virtual_stage: usize) -> usize {
        self.stages[..virtual_stage].iter().map(|s| s.layers).sum()
    }

    /// Tokens of a microbatch on a rank.
    pub fn rows(&self) -> usize {
        self.microbatch * self.job.seq / self.mesh.cp
    }

    /// Tokens of a microbatch on a rank between its layers.
    pub fn residual_rows(&self) -> usize {
        self.rows() / if self.shards_tokens() { self.mesh.tp } else { 1 }
    }

    /// Tokens of a microbatch on a rank that have a target.
    pub fn target_rows(&self) -> usize {
        if self.job.target() > 0 { self.microbatch * self.job.target() } else { self.rows() }
    }

    /// Elements of what a rank's pieces give to each other for a microbatch: one stream, or an encoder's and a decoder's.
    pub fn stream_elems(&self) -> usize {
        let sharers = if self.shards_tokens() { self.mesh.tp } else { 1 };
        match self.microbatch * self.job.target() / sharers {
            0 => self.residual_rows() * self.job.model.hidden,
            written => self.second_stream() + written * self.job.model.hidden,
        }
    }

    /// Where the second of two streams begins in what pieces give to each other.
    pub fn second_stream(&self) -> usize {
        (self.residual_rows() * self.job.model.hidden).next_multiple_of(ALIGN)
    }

    /// Whether tensor parallelism shards tokens.
    pub fn shards_tokens(&self) -> bool {
        self.sequence_parallel && self.mesh.tp > 1
    }

    /// One line for people: `dp 2 × pp 1 × tp 4, 1f1b, 8 microbatches of 2, ZeRO-1`.
    pub fn summary(&self) -> String {
        let Mesh { dp, pp, tp, cp, ep, etp, order, .. } = self.mesh;
        let mut text = format!("dp {dp} × pp {pp} × tp {tp}");
        for (axis, ranks) in [("cp", cp), ("ep", ep)] {
            if ranks > 1 {
                text += &format!(" × {axis} {ranks}");
            }
        }
        match etp.filter(|&etp| etp < tp) {
            Some(1) => text += " of whole experts",
            Some(etp) => text += &format!(" of experts of {etp} ranks"),
            None => {}
        }
        if pp > 1 {
            text += &format!(", {}", self.schedule.name());
        }
        if !order.is_usual() {
            text += &format!(", ranks by {}", order.name());
        }
        if self.chunks > 1 {
            text += &format!(", {} chunks a stage", self.chunks);
        }
        if self.shards_tokens() {
            text += ", sequence parallel";
        }
        if cp > 1 && self.ring {
            text += ", ring attention";
        }
        text += &match (self.shares.iter().min(), self.shares.iter().max()) {
            (Some(least), Some(most)) => format!(", {least} to {most} microbatches of {}", self.microbatch),
            _ => format!(", {} microbatches of {}", self.microbatches(), self.microbatch),
        };
        if let Some(Sites { count, every, .. }) = self.sites {
            text = format!("{count} sites that meet every {every} steps, each {text}");
        }
        if self.zero > 0 {
            text += &format!(", ZeRO-{}", self.zero);
            if let Some(shard) = self.mesh.shard.filter(|_| self.mesh.is_hybrid()) {
                text += &format!(" over {shard} of {} ranks", self.mesh.data());
            }
        }
        let (full, selective) = self.stages.iter().fold((0, 0), |(f, s), stage| (f + stage.full, s + stage.selective));
        let offload: usize = self.stages.iter().map(|stage| stage.offload).sum();
        if offload > 0 {
            text += &format!(", activations of {offload} layers on the host");
        }
        for (count, mode) in [(full, "full"), (selective, "selective")] {
            if count > 0 {
                text += &format!(", {mode} recompute in {count} of {} layers", self.job.model.depth());
            }
        }
        if !self.recompute_modules.is_empty() {
            let names: Vec<&str> = self.recompute_modules.iter().map(|module| module.name()).collect();
            text += &format!(", recompute of {}", names.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::testing::tiny_job;
    use meshwright_hardware::mesh::Order;

    #[test]
    fn a_plan_reads_back() {
        let mut plan = Plan::single(tiny_job(models::load("demo-10m").unwrap()), 2);
        plan.stages[0].selective = 2;
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan);
    }

    #[test]
    fn whole_experts_need_tokens_of_their_own_and_tensor_ranks_inside_data() {
        let mut plan = Plan::single(tiny_job(models::load("mixtral-8x7b").unwrap()), 2);
        (plan.mesh.tp, plan.mesh.dp, plan.mesh.ep, plan.mesh.etp, plan.sequence_parallel) = (4, 2, 8, Some(1), true);
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan);
        assert!(plan.summary().contains("ep 8 of whole experts"), "{}", plan.summary());
        let refused = |change: &dyn Fn(&mut Plan), key: &str, words: &str| {
            let mut plan = plan.clone();
            change(&mut plan);
            let fault = plan.check().unwrap_err();
            assert!(fault.key == key && fault.problem.contains(words), "{fault:?}");
        };
        refused(&|plan| plan.mesh.etp = Some(3), "mesh.etp", "of all 4 tensor ranks");
        refused(&|plan| plan.sequence_parallel = false, "mesh.etp", "tokens of their own");
        refused(&|plan| plan.mesh.order = Order::TpPpData, "mesh.etp", "directly inside data");
        refused(&|plan| plan.mesh.etp = None, "mesh.ep", "dp · cp = 2");
        refused(&|plan| plan.mesh.ep = 3, "mesh.ep", "dp · cp · tp = 8");
    }

    #[test]
    fn zero_shards_over_groups_that_divide_the_replicas_and_hold_all_experts() {
        let mut plan = Plan::single(tiny_job(models::load("mixtral-8x7b").unwrap()), 1);
        (plan.mesh.dp, plan.mesh.ep, plan.mesh.shard, plan.zero) = (8, 2, Some(4), 3);
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan);
        assert!(plan.summary().ends_with("ZeRO-3 over 4 of 8 ranks"), "{}", plan.summary());
        let refused = |change: &dyn Fn(&mut Plan), words: &str| {
            let mut plan = plan.clone();
            change(&mut plan);
            let fault = plan.check().unwrap_err();
            assert!(fault.key == "mesh.shard" && fault.problem.contains(words), "{fault:?}");
        };
        refused(&|plan| plan.mesh.shard = Some(3), "dp · cp = 8");
        refused(&|plan| plan.mesh.shard = Some(1), "2 ranks or more");
        refused(&|plan| plan.mesh.ep = 8, "mesh.ep = 8 must divide shard");
        refused(&|plan| plan.shares = vec![1; 8], "unlike shares");
    }

    #[test]
    fn only_the_first_and_the_last_stage_may_do_without_layers() {
        let mut plan = Plan::single(tiny_job(models::load("demo-10m").unwrap()), 1);
        let depth = plan.job.model.depth();
        let mut held = |layers: &[usize]| {
            let of = |&layers: &usize| Stage { layers, full: 0, selective: 0, offload: 0 };
            (plan.mesh.pp, plan.stages) = (layers.len(), layers.iter().map(of).collect());
            plan.check()
        };
        held(&[0, depth, 0]).unwrap();
        held(&[&[0][..], &vec![1; depth], &[0]].concat()).unwrap();
        let fault = held(&[1, 0, depth - 1]).unwrap_err();
        assert!(
            fault.key == "stages[1].layers" && fault.problem.contains("between the first and the last"),
            "{fault:?}"
        );
        let fault = held(&[&[0, 0][..], &vec![1; depth], &[0]].concat()).unwrap_err();
        assert!(fault.key == "mesh.pp", "{fault:?}");
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
