//! Attention within a window: a token sees the last so many alone, in all layers or in all but every so many (Beltagy et al. 2020;
//! Mistral 7B, Gemma 2 and 3, gpt-oss).
//!
//! In: a model file's table `[family.window]`. Out: [`AttentionWindow`]; of each layer, how far it sees.
//!
//! Invariant: where a window is as long as a sequence, it is none.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::limits;

/// A window of attention, and the layers that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttentionWindow {
    /// Tokens that a token sees, itself among them.
    pub tokens: usize,
    /// Every how many layers one sees all tokens instead, the last of so many first; none where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_every: Option<usize>,
}

impl AttentionWindow {
    /// Whether a layer, counted from 0, has it.
    pub fn is_of(&self, layer: usize) -> bool {
        self.full_every.is_none_or(|every| !(layer + 1).is_multiple_of(every.max(1)))
    }

    /// Tokens that a token of a sequence of so many may see, summed over so many layers; without regard to its mask.
    pub fn seen(&self, layers: usize, seq: f64) -> f64 {
        let windowed = (0..layers).filter(|&layer| self.is_of(layer)).count();
        windowed as f64 * seq.min(self.tokens as f64) + (layers - windowed) as f64 * seq
    }

    /// Refuses windows that no layer of so many has, and those of other than decoders that attend by heads.
    pub(super) fn check(&self, depth: usize, decodes_by_heads: bool) -> Result<(), Fault> {
        if !(1..=limits::SEQ).contains(&self.tokens) {
            return Err(Fault::new("tokens", self.tokens, format!("it must be 1 to {}", limits::SEQ)));
        }
        if let Some(every) = self.full_every.filter(|every| !(2..=depth).contains(every)) {
            let problem = format!("2 to the model's {depth} layers; leave it out where none sees all tokens");
            return Err(Fault::new("full_every", every, problem));
        }
        if !decodes_by_heads {
            let problem = "only tokens of a decoder see the last so many, and with latent attention all: leave it out";
            return Err(Fault::new("tokens", self.tokens, problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gemma 2's layers take turns, a window first; of Gemma 3's, one of six sees all; of Mistral 7B's, none.
    #[test]
    fn layers_have_windows_as_models_have_them() {
        let of = |full_every| {
            let window = AttentionWindow { tokens: 4096, full_every };
            (0..8).map(|layer| window.is_of(layer)).collect::<Vec<_>>()
        };
        assert_eq!(of(Some(2)), [true, false, true, false, true, false, true, false]);
        assert_eq!(of(Some(6)), [true, true, true, true, true, false, true, true]);
        assert_eq!(of(None), [true; 8]);
        let gemma = AttentionWindow { tokens: 4096, full_every: Some(2) };
        assert_eq!(gemma.seen(26, 8192.0), 13.0 * (4096.0 + 8192.0));
        assert_eq!(gemma.seen(26, 2048.0), 26.0 * 2048.0);
    }
}
