//! What a plan's decisions have to keep, of the job and of each other.
//!
//! In: a [`Plan`]. Out: the first [`Fault`] of its keys, if there is one.
//!
//! Invariant: what passes can be lowered.

use meshwright_hardware::mesh::Mesh;

use super::{Plan, shares};
use crate::error::Fault;
use crate::job::Job;
use crate::limits;
use crate::model::RecomputeModule;
use crate::schedule::Pipeline;

impl Plan {
    /// Refuses decisions that do not fit the job.
    pub fn check(&self) -> Result<(), Fault> {
        self.job.check().map_err(|fault| fault.within("job"))?;
        let (Mesh { dp, pp, tp, cp, ep, .. }, job) = (self.mesh, &self.job);
        limits::sizes(&[
            ("mesh.dp", dp, 1..=limits::RANKS),
            ("mesh.pp", pp, 1..=limits::RANKS),
            ("mesh.tp", tp, 1..=limits::HEADS),
            ("mesh.cp", cp, 1..=job.seq),
            ("mesh.ep", ep, 1..=limits::EXPERTS),
            ("microbatch", self.microbatch, 1..=job.global_batch),
            ("chunks", self.chunks, 1..=job.model.depth()),
        ])?;
        for share in &self.shares {
            limits::sizes(&[("shares", *share, 0..=job.global_batch)])?;
        }
        let ranks = [pp, tp, cp].iter().try_fold(dp, |ranks, size| ranks.checked_mul(*size));
        if ranks.is_none_or(|ranks| ranks > limits::RANKS) {
            let problem = format!("dp · pp · tp · cp is at most {} ranks", limits::RANKS);
            return Err(Fault::new("mesh.dp", dp, problem));
        }
        check_tp(job, tp).map_err(|problem| Fault::new("mesh.tp", tp, problem))?;
        if let Some(sites) = &self.sites {
            sites.check(job.global_batch, dp * self.microbatch)?;
        } else if self.shares.is_empty() && !job.global_batch.is_multiple_of(dp * self.microbatch) {
            let problem = format!("it must be a multiple of dp · microbatch = {dp} · {}", self.microbatch);
            return Err(Fault::new("job.global_batch", job.global_batch, problem));
        }
        if self.zero > 3 {
            return Err(Fault::new("zero", self.zero, "ZeRO has the stages 0 to 3"));
        }
        self.check_shard()?;
        self.check_length()?;
        self.check_schedule()?;
        shares::check(self)?;
        self.check_tokens()?;
        RecomputeModule::check(&self.recompute_modules, &self.job.model)?;
        self.check_stages()
    }

    /// Groups of ZeRO's shards are alike, and each has all experts.
    fn check_shard(&self) -> Result<(), Fault> {
        let Some(shard) = self.mesh.shard else { return Ok(()) };
        let (data, ep, spread) = (self.mesh.data(), self.mesh.ep, self.mesh.spread());
        let refuse = |problem: String| Err(Fault::new("mesh.shard", shard, problem));
        if shard < 2 || !data.is_multiple_of(shard) {
            return refuse(format!("ZeRO shards over 2 ranks or more of dp · cp = {data}, which it must divide"));
        }
        if shard < data && !self.shares.is_empty() {
            return refuse("replicas with unlike shares of the batch shard over all: leave it out".to_owned());
        }
        if !(shard * spread).is_multiple_of(ep) {
            let named = spread_over(&self.mesh);
            return refuse(format!("experts lie within a group of shards: mesh.ep = {ep} must divide shard{named}"));
        }
        Ok(())
    }

    /// Every layer is on a stage, and does one thing with its activations.
    fn check_stages(&self) -> Result<(), Fault> {
        let depth = self.job.model.depth();
        if self.stages.len() != self.mesh.pp * self.chunks {
            let problem =
                format!("there are {} stages in `stages`, for {} chunks each", self.stages.len(), self.chunks);
            return Err(Fault::new("mesh.pp", self.mesh.pp, problem));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            for (key, size) in [("layers", stage.layers), ("full", stage.full), ("selective", stage.selective)] {
                limits::sizes(&[(&format!("stages[{i}].{key}"), size, 0..=depth)])?;
            }
            if stage.offload > stage.layers || (stage.offload > 0 && self.schedule.splits()) {
                let problem = "no more than the stage's layers, and none where the schedule splits backward";
                return Err(Fault::new(&format!("stages[{i}].offload"), stage.offload, problem));
            }
            // Embedding and head are work of their own.
            let inner = i > 0 && i + 1 < self.stages.len();
            if (inner && stage.layers == 0) || stage.full + stage.selective > stage.layers {
                let problem =
                    "a stage between the first and the last has a layer at least, and each recomputes one way";
                return Err(Fault::new(&format!("stages[{i}].layers"), stage.layers, problem));
            }
        }
        let layers: usize = self.stages.iter().map(|s| s.layers).sum();
        if layers != depth {
            return Err(Fault::new("stages.layers", layers, format!("the model has {depth} in all")));
        }
        Ok(())
    }

    /// Programs write down every pass of a step.
    fn check_length(&self) -> Result<(), Fault> {
        let (microbatches, layers) = (self.microbatches(), self.job.model.depth());
        if self.mesh.pp * self.chunks > layers + 2 {
            let problem = format!(
                "each of pp · chunks chunks but the first and the last has a layer at least, and the model has {layers}"
            );
            return Err(Fault::new("mesh.pp", self.mesh.pp, problem));
        }
        if microbatches * layers > limits::PASSES {
            let problem = format!(
                "{microbatches} microbatches go through {layers} layers, and a step has at most {} such passes: take more \
                 sequences a microbatch, or more data parallelism",
                limits::PASSES
            );
            return Err(Fault::new("microbatch", self.microbatch, problem));
        }
        Ok(())
    }

    fn check_schedule(&self) -> Result<(), Fault> {
        if self.schedule.splits() && self.zero > 1 {
            let problem =
                format!("{} makes gradients in two passes, and keeps them whole: 0 or 1", self.schedule.name());
            return Err(Fault::new("zero", self.zero, problem));
        }
        // A share of none has a refusal of its own.
        let unlike = self.shares.iter().filter(|share| **share > 0);
        let unlike = unlike.map(|&microbatches| Pipeline { microbatches, ..self.pipeline() });
        for pipeline in std::iter::once(self.pipeline()).chain(unlike) {
            pipeline.check().map_err(|problem| Fault::new("chunks", self.chunks, problem))?;
        }
        Ok(())
    }

    /// Experts that a part of tensor parallelism shares need tokens of their own on each of its ranks.
    fn check_shared_experts(&self) -> Result<(), Fault> {
        let Mesh { tp, etp, order, .. } = self.mesh;
        let Some(etp) = etp.filter(|&etp| etp != tp) else { return Ok(()) };
        let which = if etp == 1 { "whole experts" } else { "experts of a part of tensor parallelism" };
        let problem = if etp == 0 || !tp.is_multiple_of(etp) {
            format!("so many ranks share an expert, of all {tp} tensor ranks: it must divide them")
        } else if !self.sequence_parallel {
            format!("{which} need `sequence_parallel = true`, so that tensor ranks have tokens of their own")
        } else if !order.spreads() {
            format!("{which} need tensor ranks directly inside data, not the order `{}`", order.name())
        } else if self.job.model.parallel_block() {
            "the experts of a parallel block start from all tokens: leave it out".to_owned()
        } else {
            return Ok(());
        };
        Err(Fault::new("mesh.etp", etp, problem))
    }

    fn check_tokens(&self) -> Result<(), Fault> {
        let Mesh { dp, tp, cp, ep, .. } = self.mesh;
        let two = self.job.target() > 0;
        if two && cp > 1 {
            return Err(Fault::new("mesh.cp", cp, "an encoder-decoder's sequences stay whole: 1"));
        }
        if self.job.window().is_some() && cp > 1 {
            return Err(Fault::new("mesh.cp", cp, "attention within a window needs whole sequences: 1"));
        }
        let sample = self.job.sample();
        // Each sample is cut as a sequence is, so that ranks have as much work of all.
        if cp > 1 && !sample.is_multiple_of(2 * cp) {
            let key = if self.job.packed.is_some() { "packed" } else { "seq" };
            return Err(Fault::new("mesh.cp", cp, format!("twice it must divide `{key}` = {sample}")));
        }
        let mut streams = [self.rows(), self.microbatch * self.job.target()].into_iter();
        if let Some(rows) = streams.find(|rows| self.shards_tokens() && !rows.is_multiple_of(tp)) {
            let problem = format!("tensor parallelism of {tp} must divide a microbatch's {rows} tokens");
            return Err(Fault::new("sequence_parallel", true, problem));
        }
        self.check_shared_experts()?;
        let (among, named) = (dp * cp * self.mesh.spread(), spread_over(&self.mesh));
        if !among.is_multiple_of(ep) {
            return Err(Fault::new("mesh.ep", ep, format!("it must divide dp · cp{named} = {among}")));
        }
        let experts = self.job.model.experts().map_or(1, |experts| experts.count);
        if !experts.is_multiple_of(ep) {
            return Err(Fault::new("mesh.ep", ep, format!("it must divide the model's experts, {experts}")));
        }
        Ok(())
    }
}

/// What experts are spread over beside data, in words.
fn spread_over(mesh: &Mesh) -> &'static str {
    match (mesh.spread(), mesh.etp()) {
        (1, _) => "",
        (_, 1) => " · tp",
        _ => " · tp / etp",
    }
}

/// Why a model cannot be sharded `tp` ways, if it cannot.
///
/// # Errors
/// What `tp` has to be, in words.
pub fn check_tp(job: &Job, tp: usize) -> Result<(), String> {
    let m = &job.model;
    let experts = m.experts().map_or([0, 0], |e| [e.ffn, e.shared_ffn]);
    let sizes = [
        ("heads", m.heads),
        ("ffn", m.ffn),
        ("family.experts.ffn", experts[0]),
        ("family.experts.shared_ffn", experts[1]),
    ];
    if let Some((key, size)) = sizes.iter().find(|(_, size)| !size.is_multiple_of(tp)) {
        return Err(format!("it must divide the model's `{key}` = {size}"));
    }
    if !m.kv_heads.is_multiple_of(tp) && !tp.is_multiple_of(m.kv_heads) {
        return Err(format!("it must divide the model's `kv_heads` = {}, or be a multiple of them", m.kv_heads));
    }
    Ok(())
}
