//! Which overheads rows need for themselves, and their values.
//!
//! In: rows, the overheads that they inherit. Out: the same with those changed that pay for it.
//!
//! The loss is the sum of absolute logarithms of steps played over those measured. An own figure costs [`PRICE`] of it: by the
//! information criterion of Schwarz 1978, ln(rows) / 2 times the mean deviation of Laplace's law, here 0.07 on some 300 rows. Besides, each
//! is pulled towards what is inherited. All are fitted, then those go that pay least, until each that is left pays.
//!
//! Invariant: deterministic; what no row depends on is inherited.

use meshwright_hardware::profile::Overheads;
use rayon::prelude::*;

use super::fitted_row::FittedRow;

/// Overheads that are a fabric's: how much of a link is got, and what of the gradients' sum over it is shown.
const OF_FABRICS: [&str; 2] = ["scale_out", "dp"];
/// Loss that an own figure has to save.
pub const PRICE: f64 = 0.1;
/// How strongly overheads are pulled to inherited ones: the loss of one off by its spread.
const PULL: f64 = 0.1;
/// Sweeps over the overheads, at first and when some have gone.
const SWEEPS: usize = 12;
const FEWER: usize = 5;
/// The greatest relative step of a sweep, at first and when some have gone.
const STEP: f64 = 0.4;
const FINER: f64 = 0.1;

/// Overheads fitted to rows, which differ from inherited ones where that pays; those that stacks share
/// are of no fabric.
pub fn beside(rows: &[&FittedRow], inherited: &Overheads, shared: bool) -> Overheads {
    let mut search = Descent::new(rows, inherited);
    // Stacks of one family run over unlike fabrics.
    let may_be_own = |index: &usize| !(shared && OF_FABRICS.contains(&Overheads::ALL[*index].name));
    let mut open: Vec<usize> = (0..Overheads::ALL.len()).filter(may_be_own).collect();
    search.descend(&open, SWEEPS, STEP);
    loop {
        let unpaid = search.unpaid(&open);
        if unpaid.is_empty() {
            return search.best;
        }
        open.retain(|index| !unpaid.contains(index));
        unpaid.into_iter().for_each(|index| search.inherit(index));
        search.descend(&open, FEWER, FINER);
    }
}

/// Overheads fitted to rows, pulled towards a prior.
pub fn fitted_near(rows: &[&FittedRow], prior: &Overheads) -> Overheads {
    let mut search = Descent::new(rows, prior);
    search.descend(&(0..Overheads::ALL.len()).collect::<Vec<_>>(), SWEEPS, STEP);
    search.best
}

/// Of little weight where it is small, and of no more where it is absurd.
fn blunt(error: f64) -> f64 {
    let error = if error.is_finite() { error.abs().min(1.5) } else { 1.5 };
    if error < 0.02 { error * error / 0.04 + 0.01 } else { error }
}

/// The best overheads so far, with each row's loss by them.
struct Descent<'a> {
    rows: &'a [&'a FittedRow<'a>],
    inherited: &'a Overheads,
    best: Overheads,
    losses: Vec<f64>,
}

impl<'a> Descent<'a> {
    fn new(rows: &'a [&'a FittedRow<'a>], inherited: &'a Overheads) -> Descent<'a> {
        let losses = rows.par_iter().map(|row| blunt(row.error(inherited))).collect();
        Descent { rows, inherited, best: inherited.clone(), losses }
    }

    /// The best with another value of one overhead, each row's loss by it, and by how much more the whole costs.
    fn tried(&self, index: usize, value: f64) -> (Overheads, Vec<f64>, f64) {
        let mut overheads = self.best.clone();
        let prior = *self.inherited.clone().at(index);
        let pulls = [*overheads.at(index), value].map(|value| PULL * Overheads::ALL[index].distance(value, prior));
        *overheads.at(index) = value;
        let loss = |(row, known): (&&FittedRow, &f64)| {
            if row.tells_of(index) { blunt(row.error(&overheads)) } else { *known }
        };
        let losses: Vec<f64> = self.rows.par_iter().zip(&self.losses).map(loss).collect();
        let more = losses.iter().sum::<f64>() - self.losses.iter().sum::<f64>() + pulls[1] - pulls[0];
        (overheads, losses, more)
    }

    fn take(&mut self, (overheads, losses, _): (Overheads, Vec<f64>, f64)) {
        (self.best, self.losses) = (overheads, losses);
    }

    fn inherit(&mut self, index: usize) {
        self.take(self.tried(index, *self.inherited.clone().at(index)));
    }

    /// Of overheads those that save next to nothing, else the one that saves least, if that is less than its price.
    fn unpaid(&self, open: &[usize]) -> Vec<usize> {
        let saves = |&index: &usize| (self.tried(index, *self.inherited.clone().at(index)).2, index);
        let mut saving: Vec<(f64, usize)> = open.iter().map(saves).collect();
        saving.sort_by(|a, b| a.0.total_cmp(&b.0));
        let below = |price: f64, most: usize| -> Vec<usize> {
            saving.iter().filter(|(saved, _)| *saved < price).map(|(_, index)| *index).take(most).collect()
        };
        let nothing = below(PRICE / 5.0, usize::MAX);
        if nothing.is_empty() { below(PRICE, 1) } else { nothing }
    }

    /// Pattern search (Hooke & Jeeves 1961), an overhead at a time.
    fn descend(&mut self, open: &[usize], sweeps: usize, step: f64) {
        let mut steps: Vec<f64> = open.iter().map(|&index| Overheads::ALL[index].spread.min(step)).collect();
        for _ in 0..sweeps {
            let mut saved = 0.0;
            for (&index, step) in open.iter().zip(&mut steps) {
                let better = [true, false].into_iter().find_map(|up| {
                    let tried = self.tried(index, moved(index, *self.best.clone().at(index), *step, up));
                    (tried.2 < -1e-9).then_some(tried)
                });
                *step = if better.is_some() { (*step * 1.4).min(0.8) } else { (*step * 0.55).max(0.004) };
                if let Some(better) = better {
                    saved -= better.2;
                    self.take(better);
                }
            }
            if saved < 1e-4 * self.losses.iter().sum::<f64>() && steps.iter().all(|step| *step < 0.05) {
                break;
            }
        }
        // As files keep them.
        for &index in open {
            let value = self.best.at(index);
            *value = (*value * 1e4).round() / 1e4;
        }
        self.losses = self.rows.par_iter().map(|row| blunt(row.error(&self.best))).collect();
    }
}

/// A value a step further, within its bounds.
fn moved(index: usize, value: f64, step: f64, up: bool) -> f64 {
    let knob = &Overheads::ALL[index];
    let by = 0.05 * step * (knob.high - knob.low);
    let next = if up { value * (1.0 + step) + by } else { value / (1.0 + step) - by };
    next.clamp(knob.low, knob.high)
}
