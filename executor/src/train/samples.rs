//! Samples: what a model learns from text, and how sequences come to ranks.
//!
//! In: a corpus, a seed, a task. Out: token ids and targets of any sample of any step, or a rank's part of them.
//!
//! Invariant: which text a sample is depends on the seed, the step and its number in the step, never on the plan.

use std::sync::Arc;

use meshwright_hardware::op::position;
use meshwright_hardware::program::Input;

use crate::data::{Corpus, mask};
use crate::error::ExecutorError;

/// Gives sample `index` of a step's `0..global_batch`: token ids and targets, `seq` each.
pub type Source = dyn Fn(usize, usize) -> (Vec<u32>, Vec<u32>) + Send + Sync;

/// What a model learns from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To write the next token, of `seq`.
    Next {
        /// Tokens a sequence.
        seq: usize,
    },
    /// To guess `masked` of `seq` tokens (Devlin et al. 2019).
    Masked {
        /// Tokens a sequence.
        seq: usize,
        /// Of these, how many count.
        masked: usize,
        /// Tokens there are; the last one masks.
        vocab: usize,
    },
    /// To write the `target` tokens that follow `seq` (Raffel et al. 2020, prefix language modelling).
    Continue {
        /// Tokens that are read.
        seq: usize,
        /// Tokens that are written.
        target: usize,
    },
}

impl Task {
    /// Tokens of text that a sample takes.
    pub fn tokens(&self) -> usize {
        match *self {
            Task::Next { seq } | Task::Masked { seq, .. } => seq,
            Task::Continue { seq, target } => seq + target,
        }
    }
}

/// Samples of a corpus for a task, in the order of a seed.
pub fn corpus_source(corpus: Corpus, seed: u64, task: Task) -> Arc<Source> {
    Arc::new(move |step, index| match task {
        Task::Next { seq } => corpus.sample(seed, step, index, seq),
        Task::Masked { seq, masked, vocab } => {
            let (tokens, _) = corpus.sample(seed, step, index, seq);
            mask(tokens, masked, vocab, seed ^ (step as u64) << 32 ^ index as u64)
        }
        Task::Continue { seq, target } => {
            let (mut tokens, _) = corpus.sample(seed, step, index, seq + target);
            let targets = tokens.split_off(seq);
            (tokens, targets)
        }
    })
}

/// Fills `host` with sequences from sample `first` on: with what rank `rank` of `cp` holds of them.
pub(super) fn load(
    source: &Source,
    step: usize,
    first: usize,
    input: Input,
    (sequences, cp, rank): (usize, usize, usize),
    host: &mut [f32],
) -> Result<(), ExecutorError> {
    let own = host.len() / sequences;
    let seq = own * cp;
    for (i, row) in host.chunks_mut(own).enumerate() {
        let (tokens, targets) = source(step, first + i);
        let ids = match input {
            Input::Tokens => tokens,
            Input::Targets => targets,
            // What a decoder has written before it writes a token; at first nothing.
            Input::Shifted => std::iter::once(0).chain(targets).take(seq).collect(),
        };
        if ids.len() != seq {
            let why = format!("{} tokens where the program takes {seq}", ids.len());
            return Err(ExecutorError::bad_input("sample", format!("step {step}"), why, "give `seq` tokens a sample"));
        }
        row.iter_mut().enumerate().for_each(|(at, to)| *to = f32::from_bits(ids[position(at, own, cp, rank)]));
    }
    Ok(())
}
