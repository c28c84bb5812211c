//! The end of a step: what is still on its way is added up, norms, updates.
//!
//! In: a step whose passes are played. Out: its seconds.
//!
//! Invariant: that of [`super`]: what waits for something here waits for it in the program.

use super::super::times::ShareTimes;
use super::Play;

impl<'a> Play<'a> {
    /// What ranks share of a stage's pieces, in order.
    pub(super) fn shares(&self, stage: usize) -> impl Iterator<Item = &'a ShareTimes> {
        let (plan, costs) = (self.plan, self.costs[stage]);
        let depth = plan.mesh.pp * plan.chunks;
        (0..plan.chunks).flat_map(move |chunk| {
            let place = plan.virtual_stage(stage, chunk);
            let first = plan.first_layer(place);
            let layers = (first..first + plan.stages[place].layers).map(|i| &costs.layer(plan.job.model.kind(i)).share);
            let embed = (place == 0).then_some(&costs.embed.share);
            let head = (place + 1 == depth).then_some(&costs.head.share);
            embed.into_iter().chain(layers).chain(head)
        })
    }

    /// Norm and updates, once all passes are done.
    pub(super) fn update(mut self) -> f64 {
        self.sum_table();
        let mut summed = 0.0f64;
        let mut issued: Vec<f64> = self.stages.iter().map(|state| state.issued).collect();
        for (stage, (state, issued)) in self.stages.iter().zip(&mut issued).enumerate() {
            let mut compute = state.free[0];
            for (piece, share) in self.shares(stage).enumerate() {
                // The norm of a piece's last bank waits for the last sum.
                let came = state.summed.get(piece).copied().unwrap_or(0.0);
                *issued += share.issue.norm;
                compute = (compute + share.norm).max(came + share.last_norm).max(*issued);
            }
            summed = summed.max(compute);
        }
        summed += self.costs.iter().map(|costs| costs.norm_sum).fold(f64::INFINITY, f64::min);
        let mut end = summed;
        for (stage, mut issued) in issued.into_iter().enumerate() {
            let (mut updated, mut renewed) = (summed, summed);
            for share in self.shares(stage) {
                issued += share.issue.update;
                updated = (updated + share.update).max(issued);
                end = end.max(updated);
                renewed = renewed.max(updated) + share.renew;
                updated += self.costs[stage].shown * share.renew;
            }
            end = end.max(renewed);
        }
        end
    }

    /// Adds up what is still on its way, and a tied table's gradient, whose parts go from both ends to each other as soon as they
    /// are whole and messages are free.
    fn sum_table(&mut self) {
        for state in &mut self.stages {
            let late = std::mem::take(&mut state.late);
            state.settle(late);
        }
        let end = self.pipeline.chunk_at(self.pipeline.stages * self.pipeline.chunks - 1).0;
        let ends = [0, end];
        let sent = ends.map(|stage| {
            let state = &self.stages[stage];
            state.free[3].max(state.table) + self.costs[stage].tied.sent
        });
        for (at, stage) in ends.into_iter().enumerate().take(if end > 0 { 2 } else { 1 }) {
            let (tied, [compute, beside, ..]) = (self.costs[stage].tied, &mut self.stages[stage].free);
            if end > 0 && tied.added > 0.0 {
                *compute = compute.max(sent[1 - at]) + tied.added;
            }
            if tied.reduce[at] > 0.0 {
                *beside = beside.max(*compute) + tied.reduce[at];
                let came = *beside;
                // The head's part counts in the embedding's norm.
                if at == 0 {
                    self.stages[stage].summed(0, came);
                }
            }
        }
    }
}
