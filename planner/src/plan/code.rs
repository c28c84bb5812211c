//! Plans as short codes, for tables: `dp256 cp2 z3 mb1x4 sel64/80`.
//!
//! In: a [`Plan`]. Out: what of it is not one, not usual and not none, in a fixed order.

use super::{Plan, Sites};

/// What the parts of a code mean.
pub const LEGEND: &str = "dp, tp, cp, ep, pp: ranks of data, tensor, context (r: ring), expert (w: whole experts) and pipeline \
                          parallelism (x: chunks a stage); sp: sequence parallel; z: ZeRO stage (/: within so many ranks); mb1x4: \
                          4 microbatches of 1; sel, full, host: layers with selective, with full recompute, with activations on the host";

impl Plan {
    /// The plan as a code that [`LEGEND`] explains.
    pub fn code(&self) -> String {
        let mesh = &self.mesh;
        let mut parts = vec![format!("dp{}", mesh.dp)];
        let mut add = |there: bool, part: String| {
            if there {
                parts.push(part)
            }
        };
        let chunks = if self.chunks > 1 { format!("x{}", self.chunks) } else { String::new() };
        add(mesh.pp > 1, format!("pp{}{chunks} {}", mesh.pp, self.schedule.name()));
        add(mesh.tp > 1, format!("tp{}", mesh.tp));
        add(self.shards_tokens(), "sp".to_owned());
        add(mesh.cp > 1, format!("cp{}{}", mesh.cp, if self.ring { "r" } else { "" }));
        add(mesh.ep > 1, format!("ep{}{}", mesh.ep, if mesh.etp == Some(1) && mesh.tp > 1 { "w" } else { "" }));
        add(!mesh.order.is_usual(), format!("by {}", mesh.order.name()));
        let group = mesh.shard.filter(|_| mesh.is_hybrid()).map_or_else(String::new, |shard| format!("/{shard}"));
        add(self.zero > 0, format!("z{}{group}", self.zero));
        let microbatches = match (self.shares.iter().min(), self.shares.iter().max()) {
            (Some(least), Some(most)) => format!("{least}..{most}"),
            _ => self.microbatches().to_string(),
        };
        add(true, format!("mb{}x{microbatches}", self.microbatch));
        let depth = self.job.model.depth();
        let layers = |of: fn(&super::Stage) -> usize| self.stages.iter().map(of).sum::<usize>();
        let of = [("sel", layers(|s| s.selective)), ("full", layers(|s| s.full)), ("host", layers(|s| s.offload))];
        for (name, count) in of {
            add(count > 0, format!("{name}{count}/{depth}"));
        }
        let modules: Vec<&str> = self.recompute_modules.iter().map(|module| module.name()).collect();
        add(!modules.is_empty(), format!("again:{}", modules.join(",")));
        if let Some(Sites { count, every, .. }) = self.sites {
            add(true, format!("sites{count}/{every}"));
        }
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use crate::testing::tiny_job;

    #[test]
    fn a_code_says_what_is_not_usual() {
        let mut plan = Plan::single(tiny_job(models::load("demo-10m").unwrap()), 2);
        let microbatches = plan.microbatches();
        assert_eq!(plan.code(), format!("dp1 mb2x{microbatches}"));
        plan.zero = 3;
        (plan.mesh.tp, plan.mesh.cp, plan.ring, plan.sequence_parallel) = (2, 2, true, true);
        plan.stages[0].selective = 4;
        assert!(plan.code().starts_with("dp1 tp2 sp cp2r z3 mb2x"), "{}", plan.code());
        assert!(plan.code().ends_with("sel4/6"), "{}", plan.code());
    }
}
