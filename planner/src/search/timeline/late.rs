//! Scattered gradients on their way: added up once they have come, after the kernels of the piece behind.
//!
//! In: a stage's state, what was scattered. Out: when compute goes on; when sums over replicas have come.
//!
//! Invariant: that of [`super`]: in program order on each stream.

use super::StageState;

/// Scattered gradients that are still to be added up.
#[derive(Clone, Copy, Default)]
pub(super) struct Late {
    /// When they have come.
    pub(super) came: f64,
    /// Adding them up.
    pub(super) settle: f64,
    /// What the host takes to issue that.
    pub(super) issue: f64,
    /// Summing them over replicas then.
    pub(super) replicate: f64,
    /// Of which piece.
    pub(super) piece: usize,
}

impl StageState {
    /// Adds up what was scattered.
    pub(super) fn settle(&mut self, late: Late) {
        let Late { came, settle, issue, replicate, piece } = late;
        if settle > 0.0 {
            self.issue(issue);
            self.free[0] = (self.free[0].max(came) + settle).max(self.issued);
        }
        if replicate > 0.0 {
            let [compute, beside, ..] = &mut self.free;
            *beside = beside.max(*compute) + replicate;
            let came = *beside;
            self.summed(piece, came);
            self.take(replicate);
        }
    }
}
