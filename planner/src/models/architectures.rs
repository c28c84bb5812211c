//! Which of Hugging Face's architectures are modelled, what they define that no key of a `config.json` states, and which keys
//! say something that is not modelled.
//!
//! In: a [`Config`]. Out: its [`KnownArchitecture`] row, or the [`Fault`].
//!
//! Invariant: an architecture that stands in no row is refused: by its sizes alone another model would be planned.

use serde_json::Value;

use super::keys::Config;
use crate::error::Fault;
use crate::job::Architecture;

/// Which halves of a transformer there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halves {
    Decoder,
    Encoder,
    Both,
}

/// What an architecture defines by itself, or by its configuration's default.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownArchitecture {
    /// The usual decoder that it is nearest to.
    pub(super) architecture: Architecture,
    pub(super) body: Halves,
    /// Whether its feed-forward part has a gate.
    pub(super) gated: bool,
    /// Whether positions are learned.
    pub(super) learned: bool,
    /// Whether attention and feed-forward run side by side.
    pub(super) parallel: bool,
    /// Whether the head's weight is the embedding's, where `tie_word_embeddings` does not say.
    pub(super) tied: bool,
    /// Experts a token goes to, where that is no choice.
    pub(super) top_k: Option<usize>,
    /// Whether there is one head of keys and values, where `multi_query` does not say.
    pub(super) multi_query: bool,
}

/// RoPE, RMSNorm, a gate, no biases; untied (Touvron et al. 2023).
const LLAMA: KnownArchitecture = KnownArchitecture {
    architecture: Architecture::Llama,
    body: Halves::Decoder,
    gated: true,
    learned: false,
    parallel: false,
    tied: false,
    top_k: None,
    multi_query: false,
};
/// Learned positions, LayerNorm, biases; tied (Radford et al. 2019).
const GPT2: KnownArchitecture =
    KnownArchitecture { architecture: Architecture::Gpt2, gated: false, learned: true, tied: true, ..LLAMA };
/// GPT-2's layer with rotary or linear positions.
const TURNED: KnownArchitecture = KnownArchitecture { learned: false, ..GPT2 };
/// GPT-2's layer as an encoder (Devlin et al. 2019).
const BERT: KnownArchitecture = KnownArchitecture { body: Halves::Encoder, ..GPT2 };
/// An encoder and a decoder with relative positions (Raffel et al. 2020).
const T5: KnownArchitecture = KnownArchitecture { body: Halves::Both, ..TURNED };

/// Every architecture by its `model_type`.
const ALL: &[(&[&str], KnownArchitecture)] = &[
    (&["llama", "mistral", "mixtral", "phi3", "granite", "internlm2", "minimax_m2"], LLAMA),
    (&["qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "olmo", "olmo2", "olmoe", "glm", "glm4", "gpt_oss"], LLAMA),
    (&["deepseek_v2", "deepseek_v3", "kimi_k2", "hunyuan_v1_moe"], LLAMA),
    (&["gemma", "smollm3", "ernie4_5", "ernie4_5_moe"], KnownArchitecture { tied: true, ..LLAMA }),
    (&["cohere"], KnownArchitecture { tied: true, parallel: true, ..LLAMA }),
    (&["nemotron"], KnownArchitecture { gated: false, ..LLAMA }),
    (&["falcon"], KnownArchitecture { gated: false, tied: true, parallel: true, multi_query: true, ..LLAMA }),
    (&["gpt2", "opt"], GPT2),
    (&["gpt_bigcode"], KnownArchitecture { multi_query: true, ..GPT2 }),
    (&["bloom", "mpt", "starcoder2"], TURNED),
    (&["gpt_neox", "phi"], KnownArchitecture { tied: false, parallel: true, ..TURNED }),
    (&["bert", "roberta", "xlm-roberta", "camembert", "electra"], BERT),
    (&["t5", "umt5"], T5),
    (&["mt5"], KnownArchitecture { tied: false, ..T5 }),
    (&["switch_transformers"], KnownArchitecture { top_k: Some(1), ..T5 }),
];

/// The row of a file's `model_type`.
pub(super) fn known(config: &Config) -> Result<KnownArchitecture, Fault> {
    if config.get("text_config").is_some() {
        let problem = "it holds a text model beside parts for images or sound, which are not modelled; to plan the text model \
                       alone give its object as a config.json of its own";
        return Err(Fault::new("text_config", "an object", problem));
    }
    let names = || ALL.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ");
    let Some(kind) = config.text("model_type")? else {
        let problem = format!("it says what the layers are: one of {}", names());
        return Err(Fault::new("model_type", "missing", problem));
    };
    let row = ALL.iter().find(|(names, _)| names.contains(&kind.as_str()));
    row.map(|(_, known)| *known).ok_or_else(|| {
        let problem = format!(
            "this architecture is not modelled, and its sizes alone would make another model; known: {}; or write a model file",
            names()
        );
        Fault::new("model_type", &kind, problem)
    })
}

/// Keys that say how layers differ from what is modelled, and what they mean; `null`, `false`, 0, `""` and `[]` say nothing.
const UNMODELLED: &[(&str, &str)] = &[
    ("sliding_window", "attention within a window"),
    ("attention_chunk_size", "attention within chunks"),
    ("attention_types", "layers of unlike attention"),
    ("layer_types", "layers of unlike attention"),
    ("index_topk", "attention to chosen tokens"),
    ("sparse_attention_config", "attention to chosen tokens"),
    ("full_attention_interval", "layers of linear attention"),
    ("hybrid_override_pattern", "layers of unlike kinds"),
    ("block_configs", "layers of unlike sizes"),
    ("attn_layer_period", "layers without attention"),
    ("num_hidden_groups", "layers that share parameters"),
    ("embedding_size", "an embedding of another width than the layers"),
    ("word_embed_proj_dim", "an embedding of another width than the layers"),
    ("num_nextn_predict_layers", "layers that predict further tokens"),
    ("use_cla", "keys and values that layers share"),
    ("add_cross_attention", "attention to another model's tokens"),
    ("attn_config", "attention of another kind than many heads with linear positions"),
    ("expansion_ratio", "a feed-forward part of another width than four times the layers'"),
];

/// A part of a head.
const PART: &str = "positions turn a part of a head: planned as if they turned all of it, which moves no parameters";

/// Biases that a LLaMA does not have.
const BIASES: &str =
    "biases of linear layers are left out, which in layers so narrow may be over 0.1 % of the parameters";

/// Keys that say something that is left out, and what that is; nothing where it hardly counts.
const LEFT_OUT: &[(&str, &str)] = &[
    ("partial_rotary_factor", PART),
    ("rotary_pct", PART),
    ("rotary_dim", PART),
    ("no_rope_layers", "some layers have no positions: planned as if all had, which moves no parameters"),
    ("attention_bias", BIASES),
    ("qkv_bias", BIASES),
    ("mlp_bias", BIASES),
    ("use_mtp", "layers that predict further tokens are left out, as they are of the published weights"),
];

/// What of a model is left out, or taken for granted, in its plan.
pub(super) fn left_out(config: &Config, known: &KnownArchitecture) -> Vec<String> {
    let left_out = LEFT_OUT.iter().filter_map(|(key, what)| {
        let value = config.get(key).filter(|value| says(config, key, value))?;
        let counted = *what == BIASES && known.architecture == Architecture::Gpt2;
        (!counted).then_some(())?;
        Some(format!("`{key}` is {value}: {what}"))
    });
    let mut all: Vec<String> = left_out.collect();
    if known.body == Halves::Encoder {
        all.push(
            "token types, pooler and the head's own layer are left out: two matrices of hidden × hidden".to_owned(),
        );
    }
    all
}

/// Refuses the first key that says something that is not modelled.
pub(super) fn refuse_unmodelled(config: &Config) -> Result<(), Fault> {
    for (key, what) in UNMODELLED {
        let Some(value) = config.get(key).filter(|value| says(config, key, value)) else { continue };
        let problem = format!("{what} is not modelled; without the key the model is planned with the usual layers");
        return Err(Fault::new(key, value, problem));
    }
    Ok(())
}

/// Whether a key's value makes the model another.
fn says(config: &Config, key: &str, value: &Value) -> bool {
    let longest = config.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let nothing = match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) if key == "layer_types" => all.iter().all(|kind| kind == "full_attention"),
        Value::Array(all) if key == "no_rope_layers" => all.iter().all(|turns| *turns == 1),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    };
    let usual = match key {
        "sliding_window" => {
            config.get("use_sliding_window") == Some(&Value::Bool(false))
                || value.as_u64().is_some_and(|n| n >= longest)
        }
        "embedding_size" | "word_embed_proj_dim" => config.get("hidden_size") == Some(value),
        "partial_rotary_factor" | "rotary_pct" => value.as_f64() == Some(1.0),
        // They are one in about as many weights as layers are wide.
        "attention_bias" | "qkv_bias" | "mlp_bias" => {
            config.get("hidden_size").and_then(Value::as_u64).is_some_and(|hidden| hidden >= 1024)
        }
        "rotary_dim" => config.get("head_dim") == Some(value),
        "expansion_ratio" => value.as_f64() == Some(4.0),
        "attn_config" => value.as_object().is_some_and(|attention| {
            let kind = attention.get("attn_type").and_then(Value::as_str).unwrap_or("multihead_attention");
            kind == "multihead_attention" && attention.get("alibi") == Some(&Value::Bool(true))
        }),
        _ => false,
    };
    !nothing && !usual
}
