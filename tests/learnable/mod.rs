//! Tokens that a model can learn.

/// A sequence of 16 tokens below `words` and what follows each: every token follows from the one before.
pub fn sample(words: u32, step: usize, index: usize) -> (Vec<u32>, Vec<u32>) {
    let mut state = (step * 8 + index) as u32 * 7 + 1;
    let mut next = || {
        state = (state * 5 + 3) % words;
        state
    };
    let all: Vec<u32> = (0..17).map(|_| next()).collect();
    (all[..16].to_vec(), all[1..].to_vec())
}
