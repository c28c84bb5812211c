//! What the ops' reference code works on: plain `f64` vectors and a step's settings.
//!
//! In: arguments in the order of the signature, ids as numbers. Out: the same arguments after the op.
//!
//! Invariant: reference code shares nothing with any kernel.

/// Arguments of an op.
pub type Args = [Vec<f64>];

/// Added to a variance.
pub(super) const EPS: f64 = 1e-5;

/// What a step tells ops that is not in the program: the optimizer's settings, what gradients are clipped to, and what they
/// are multiplied by where they begin.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // names are those of Loshchilov & Hutter 2019
pub struct StepSettings {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// `1 − beta1^t`.
    pub bias1: f64,
    /// `1 − beta2^t`.
    pub bias2: f64,
    /// The gradient's greatest norm; zero or less for no clipping.
    pub clip: f64,
    /// What gradients are multiplied by where they begin.
    pub loss_scale: f64,
}

impl StepSettings {
    /// Settings that leave gradients as they are.
    pub(super) const PLAIN: StepSettings = StepSettings {
        lr: 0.0,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        bias1: 1.0,
        bias2: 1.0,
        clip: 0.0,
        loss_scale: 1.0,
    };
}

/// Every pair of a row and a column.
pub(super) fn grid(rows: usize, cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |r| (0..cols).map(move |c| (r, c)))
}

/// The first of what a rank has of something whole, or of one of `shards` parts of `size` each.
pub(super) fn first(shards: usize, position: usize, size: usize) -> usize {
    if shards == 1 { 0 } else { position * size }
}

/// An id's row in a rank's shard of a table.
pub(super) fn local(id: f64, vocab: usize, shards: usize, tp: usize) -> Option<usize> {
    let first = first(shards, tp, vocab);
    (first..first + vocab).contains(&(id as usize)).then(|| id as usize - first)
}

/// Columns of a rank's shard of a vocabulary that are words: those behind are padding.
pub(super) fn words(words: usize, vocab: usize, shards: usize, tp: usize) -> usize {
    words.saturating_sub(first(shards, tp, vocab)).min(vocab)
}

/// `Σ a·b`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What an op leaves of these arguments, filled up with zeros, on a rank that has the first part of what is shared.
pub(super) fn results(op: super::Op, given: &[&[f64]]) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = op.signature().iter().map(|param| vec![0.0; param.elems]).collect();
    all.iter_mut().zip(given).for_each(|(to, from)| to.copy_from_slice(from));
    op.reference(&mut all, op.second_shard(), &StepSettings::PLAIN);
    all
}
