//! Which models an engine has.
//!
//! In: a job, an engine's [`Families`]. Out: a loss where it has none like it; no other model stands in its place.

use crate::job::{Architecture, Job};

use super::{Families, Losses};

impl Families {
    /// Says of what a model is that an engine has not.
    pub(super) fn fit(&self, job: &Job, losses: &mut Losses) {
        let model = &job.model;
        let latent = model.family.as_ref().is_some_and(|family| family.latent.is_some());
        let asked = [
            (
                model.architecture == Architecture::Gpt2,
                self.gpt2,
                "LayerNorm, biases and what belongs to GPT-2's layers",
            ),
            (model.architecture == Architecture::Llama, self.llama, "RMSNorm and what belongs to LLaMA's layers"),
            (model.experts().is_some(), self.experts, "a mixture of experts"),
            (latent, self.latent, "latent attention"),
            (!model.causal(), self.encoder, "an encoder, whose tokens see later ones"),
            (job.target() > 0, self.encoder_decoder, "an encoder-decoder"),
            (model.parallel_block(), self.parallel_block, "attention and feed-forward side by side"),
            // Launch files here say nothing of either.
            (job.window().is_some(), false, "attention within a window"),
            (model.predicts_further(), false, "a layer that predicts a token further"),
        ];
        for (_, _, what) in asked.into_iter().filter(|(has, can, _)| *has && !can) {
            losses.never(format!("{what} (model `{}`)", model.name));
        }
    }
}
