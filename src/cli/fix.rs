//! Decisions that the command line fixes, over those of a job's `[fix]`.
//!
//! In: arguments, a job, a cluster. Out: [`Fix`], or why no plan can be as fixed.
//!
//! Invariant: what neither names is the search's to decide.

use clap::Args;
use meshwright_hardware::profile::Cluster;
use meshwright_planner::error::Fault;
use meshwright_planner::job::{Fix, Job};
use meshwright_planner::plan::{Recompute, check_tp};
use meshwright_planner::schedule::Schedule;

use crate::failure::Failure;

/// Decisions that are fixed.
#[derive(Args)]
pub struct FixArguments {
    /// Only plans with this data parallelism
    #[arg(long)]
    dp: Option<usize>,
    /// Only plans with this many pipeline stages
    #[arg(long)]
    pp: Option<usize>,
    /// Only plans with this tensor parallelism
    #[arg(long)]
    tp: Option<usize>,
    /// Only plans with this context parallelism
    #[arg(long)]
    cp: Option<usize>,
    /// Only plans with this expert parallelism
    #[arg(long)]
    ep: Option<usize>,
    /// Only plans with this ZeRO stage
    #[arg(long)]
    zero: Option<u8>,
    /// Only plans whose ZeRO shards over this many ranks; the others hold the same shards (HSDP)
    #[arg(long)]
    shard: Option<usize>,
    /// Only plans with at most this tensor parallelism
    #[arg(long)]
    max_tp: Option<usize>,
    /// Only plans with at most this many pipeline stages
    #[arg(long)]
    max_pp: Option<usize>,
    /// Only plans with this many sequences a microbatch
    #[arg(long)]
    microbatch: Option<usize>,
    /// Only plans with this order of microbatches, as `1f1b`
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Only plans with this many chunks a stage
    #[arg(long)]
    chunks: Option<usize>,
    /// Only plans whose tensor parallelism shards tokens too, or with `--sp false` none of these
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    sp: Option<bool>,
    /// Only plans whose layers recompute in these ways, as `none,selective`: none, selective (norms, activations), full
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    recompute: Option<Vec<Recompute>>,
    /// Only plans that keep no activations in the host's memory
    #[arg(long)]
    no_offload: bool,
}

impl FixArguments {
    /// What the job fixes, and the command line over it.
    pub fn over(&self, job: &Fix) -> Fix {
        Fix {
            dp: self.dp.or(job.dp),
            pp: self.pp.or(job.pp),
            tp: self.tp.or(job.tp),
            cp: self.cp.or(job.cp),
            ep: self.ep.or(job.ep),
            zero: self.zero.or(job.zero),
            shard: self.shard.or(job.shard),
            max_tp: self.max_tp.or(job.max_tp),
            max_pp: self.max_pp.or(job.max_pp),
            microbatch: self.microbatch.or(job.microbatch),
            schedule: self.schedule.or(job.schedule),
            chunks: self.chunks.or(job.chunks),
            sequence_parallel: self.sp.or(job.sequence_parallel),
            recompute: self.recompute.clone().or_else(|| job.recompute.clone()),
            offload: self.no_offload.then_some(false).or(job.offload),
            ..job.clone()
        }
    }
}

/// A fixed decision that can never be is the user's mistake, not an empty search.
pub fn check_fix(job: &Job, cluster: &Cluster, fix: &Fix) -> Result<(), Failure> {
    // A job file's were checked as it was read: these are the command line's.
    fix.check().map_err(|Fault { key, value, problem }| {
        Failure::input(format!("--{} is {value}: {problem}", key.replace('_', "-")))
    })?;
    let devices = cluster.devices();
    let axes = [("--dp", fix.dp), ("--pp", fix.pp), ("--tp", fix.tp), ("--cp", fix.cp), ("--shard", fix.shard)];
    for (key, size) in axes {
        if let Some(n) = size.filter(|n| *n > devices) {
            return Err(Failure::input(format!("{key} is {n}: the cluster has {devices} devices")));
        }
    }
    if let (Some(shard), Some(0)) = (fix.shard, fix.zero) {
        return Err(Failure::input(format!(
            "--shard is {shard}: ZeRO-0 shards nothing; leave one of --shard and --zero 0 out"
        )));
    }
    let experts = job.model.experts().map_or(1, |experts| experts.count);
    if let Some(ep) = fix.ep.filter(|ep| !experts.is_multiple_of(*ep)) {
        return Err(Failure::input(format!("--ep is {ep}: it must divide the model's experts, {experts}")));
    }
    if let Some(tp) = fix.tp {
        let model = &job.model.name;
        check_tp(job, tp).map_err(|problem| Failure::input(format!("--tp is {tp}: {problem} (`{model}`)")))?;
    }
    Ok(())
}
