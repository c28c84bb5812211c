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
    /// Adding them up, and of this what waits for all of them: of several banks the first are added up while others are scattered.
    pub(super) settle: f64,
    pub(super) last: f64,
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
        let Late { came, settle, last, issue, replicate, piece } = late;
        let first = self.free[0] + settle - last;
        if settle > 0.0 {
            self.issue(issue);
            self.free[0] = (first + last).max(came + last).max(self.issued);
        }
        if replicate > 0.0 {
            let [compute, beside, ..] = &mut self.free;
            // Of several banks the first are summed while the last is added up.
            *beside = beside.max(if last < settle { first } else { *compute }) + replicate;
            let came = *beside;
            self.summed(piece, came);
            self.take(replicate);
        }
    }
}
