//! How software makes the loss of a head's output, and so which copies of the logits stand at once.
//!
//! In: logits of a microbatch on a rank. Out: bytes beside them, tokens whose logits stand at once.
//!
//! Invariant: the same products and the same loss, whatever the kernel.

use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

/// How the loss is made of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossKernel {
    /// One kernel over logits as they are, whose gradient takes their place (Transformer Engine; Flash-Attention; the executor).
    #[default]
    Fused,
    /// The same with the gradient beside the logits (`torch.compile`).
    Compiled,
    /// Over a copy in fp32, in whose place softmax and gradient stand (Megatron-LM's vocabulary-parallel cross-entropy).
    Parallel,
    /// The same with its softmax in a second copy, as compilers fuse it (Megatron Core's `--cross-entropy-loss-fusion`).
    ParallelFused,
    /// Op by op: logits in fp32, and their log-softmax (PyTorch). Over the words of several ranks (DTensor's `loss_parallel`) at most
    /// log-softmax, what is taken off at targets, its sum with exponentials and the gradient, all in fp32, when logits are gone.
    Eager,
    /// The same on every rank of tensor parallelism over the words of all, whose logits are gathered first (Aleph Alpha's Scaling: a
    /// head that is a column-parallel layer, then PyTorch's cross-entropy).
    Gathered,
    /// Logits of all tokens, of which one of eight parts at a time stands in fp32 and gives way to its gradient (torchtune's
    /// `CEWithChunkedOutputLoss`).
    Chunked,
    /// With the head's product: logits of some tokens at a time, multiplied back at once (Liger, cut cross-entropy, MaxText's
    /// `num_vocab_tiling`).
    Linear,
}

/// Parts that torchtune's loss is made of (its `num_output_chunks`).
const CHUNKS: usize = 8;

impl LossKernel {
    /// By its name in files.
    pub fn named(name: &str) -> Option<LossKernel> {
        let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
        LossKernel::deserialize(name).ok()
    }

    /// Bytes beside so many logits, of so many bytes each, where so many ranks hold other words.
    pub fn bytes_beside(self, logits: usize, width: usize, ranks: usize) -> usize {
        match self {
            LossKernel::Gathered if ranks > 1 => ranks * logits * (width + 8),
            LossKernel::Eager if ranks > 1 => (4 * 4 - width) * logits,
            LossKernel::Gathered => LossKernel::Eager.bytes_beside(logits, width, 1),
            LossKernel::Fused | LossKernel::Linear => 0,
            LossKernel::Compiled => logits * width,
            LossKernel::Parallel => 4 * logits,
            LossKernel::ParallelFused | LossKernel::Eager => 8 * logits,
            LossKernel::Chunked => 4 * logits.div_ceil(CHUNKS),
        }
    }

    /// Of how many of `rows` tokens logits over `vocab` words stand at once beside activations `hidden` wide: as many as take about as
    /// much as all activations, in powers of two (Hsu et al. 2024, §3.2), that divide the tokens.
    pub fn rows_at_once(self, rows: usize, hidden: usize, vocab: usize) -> usize {
        if self != LossKernel::Linear {
            return rows;
        }
        let most = rows.div_ceil(vocab.div_ceil(hidden)).next_power_of_two();
        std::iter::successors(Some(most), |part| (*part > 1).then_some(part / 2))
            .find(|part| rows.is_multiple_of(*part))
            .unwrap_or(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LLaMA-3's 128,256 words beside 4,096 columns: a 32nd of 8,192 tokens at a time; where a power of two does not divide the tokens,
    /// the next that does.
    #[test]
    fn logits_of_linear_losses_are_about_as_large_as_activations() {
        let at_once = |rows| LossKernel::Linear.rows_at_once(rows, 4096, 128_256);
        assert_eq!([at_once(8192), at_once(6144), at_once(96)], [256, 256, 4]);
        assert_eq!(LossKernel::Linear.rows_at_once(100, 4096, 1000), 4);
        assert_eq!(LossKernel::Eager.rows_at_once(8192, 4096, 128_256), 8192);
    }
}
