//! Which of Hugging Face's architectures are modelled, what they define that no key of a `config.json` states, and which keys
//! say something that is not modelled.
//!
//! In: a [`Config`]. Out: its [`KnownArchitecture`] row, or the [`Fault`].
//!
//! Invariant: an architecture that stands in no row is refused: by its sizes alone another model would be planned.

use meshwright_hardware::input::near;
use serde_json::Value;

use super::hybrid;
use super::keys::Config;
use crate::error::Fault;
use crate::job::{Architecture, AttentionWindow};

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
    pub(super) learned: Learned,
    /// Whether attention and feed-forward run side by side.
    pub(super) parallel: bool,
    /// Whether the head's weight is the embedding's, where `tie_word_embeddings` does not say.
    pub(super) tied: bool,
    /// Experts a token goes to, where that is no choice.
    pub(super) top_k: Option<usize>,
    /// Whether there is one head of keys and values, where `multi_query` does not say.
    pub(super) multi_query: bool,
    /// Tokens that tokens of some layers see at most, and every how many layers one sees all, where no key says it.
    pub(super) window: Option<(usize, Option<usize>)>,
}

/// Whether positions are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// They are not.
    None,
    /// In a table for each of so many halves, with so many rows more than the positions that the file states.
    Table { more: usize, halves: usize },
}

/// RoPE, RMSNorm, a gate, no biases; untied (Touvron et al. 2023).
const LLAMA: KnownArchitecture = KnownArchitecture {
    architecture: Architecture::Llama,
    body: Halves::Decoder,
    gated: true,
    learned: Learned::None,
    parallel: false,
    tied: false,
    top_k: None,
    multi_query: false,
    window: None,
};
/// Learned positions, LayerNorm, biases; tied (Radford et al. 2019).
const GPT2: KnownArchitecture = KnownArchitecture {
    architecture: Architecture::Gpt2,
    gated: false,
    learned: Learned::Table { more: 0, halves: 1 },
    tied: true,
    ..LLAMA
};
/// GPT-2's layer with rotary or linear positions.
const TURNED: KnownArchitecture = KnownArchitecture { learned: Learned::None, ..GPT2 };
/// GPT-2's layer as an encoder (Devlin et al. 2019).
const BERT: KnownArchitecture = KnownArchitecture { body: Halves::Encoder, ..GPT2 };
/// An encoder and a decoder with relative positions (Raffel et al. 2020).
const T5: KnownArchitecture = KnownArchitecture { body: Halves::Both, ..TURNED };
/// An encoder and a decoder, each with a table of positions in which two rows have no token (Lewis et al. 2019).
const BART: KnownArchitecture =
    KnownArchitecture { body: Halves::Both, learned: Learned::Table { more: 2, halves: 2 }, ..GPT2 };

/// Every architecture by its `model_type`.
const ALL: &[(&[&str], KnownArchitecture)] = &[
    (&["llama", "mistral", "mixtral", "phi3", "phimoe", "granite", "granitemoe", "internlm2", "internlm3"], LLAMA),
    (&["minimax_m2", "olmo", "olmo2", "olmoe", "flex_olmo", "glm", "glm4", "glm4_moe", "seed_oss"], LLAMA),
    (&["qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"], LLAMA),
    (&["qwen3_vl_moe_text", "deepseek_v2", "deepseek_v3", "kimi_k2", "dots1", "hunyuan_v1_moe"], LLAMA),
    (&["dbrx", "stablelm", "ministral", "chatglm", "hunyuan_v1_dense"], LLAMA),
    (&["gpt_oss"], KnownArchitecture { window: Some((128, Some(2))), ..LLAMA }),
    (&["gemma", "smollm3", "ernie4_5", "ernie4_5_moe"], KnownArchitecture { tied: true, ..LLAMA }),
    (&["gemma2"], KnownArchitecture { tied: true, window: Some((4096, Some(2))), ..LLAMA }),
    (&["gemma3_text"], KnownArchitecture { tied: true, window: Some((4096, Some(6))), ..LLAMA }),
    (&["olmo3", "exaone4"], KnownArchitecture { window: Some((4096, Some(4))), ..LLAMA }),
    (&["llama4_text"], KnownArchitecture { window: Some((8192, Some(4))), ..LLAMA }),
    (&["cohere"], KnownArchitecture { tied: true, parallel: true, ..LLAMA }),
    (&["cohere2"], KnownArchitecture { tied: true, parallel: true, window: Some((4096, Some(4))), ..LLAMA }),
    (&["nemotron", "arcee", "apertus"], KnownArchitecture { gated: false, ..LLAMA }),
    (&["falcon"], KnownArchitecture { gated: false, tied: true, parallel: true, multi_query: true, ..LLAMA }),
    (&["gpt2", "openai-gpt"], GPT2),
    (&["gpt_neo"], KnownArchitecture { window: Some((256, Some(2))), ..GPT2 }),
    (&["opt"], KnownArchitecture { learned: Learned::Table { more: 2, halves: 1 }, ..GPT2 }),
    (&["gpt_bigcode"], KnownArchitecture { multi_query: true, ..GPT2 }),
    (&["bloom", "mpt", "starcoder2"], TURNED),
    (&["gpt_neox", "phi", "gptj", "codegen"], KnownArchitecture { tied: false, parallel: true, ..TURNED }),
    (&["bert", "roberta", "xlm-roberta", "camembert", "electra"], BERT),
    (&["bart", "mbart"], BART),
    (&["t5", "umt5"], T5),
    (&["mt5"], KnownArchitecture { tied: false, ..T5 }),
    (&["switch_transformers"], KnownArchitecture { top_k: Some(1), ..T5 }),
];

/// Architectures that are known not to be expressed, and why.
const OTHERS: &[(&[&str], &str)] = &[
    (&["rwkv", "xlstm"], "its layers are recurrent, and have no attention"),
    (&["zamba", "zamba2", "recurrent_gemma"], "layers of state space stand among those of attention"),
    (&["kimi_linear", "minimax", "olmo_hybrid"], "layers of linear attention stand among those of full attention"),
    (
        &["deepseek_v32", "deepseek_v4", "glm_moe_dsa", "minimax_m3"],
        "attention is to tokens that an indexer of its own chooses",
    ),
    (&["nemotron-nas"], "every layer has sizes of its own"),
    (&["albert"], "its layers share one set of weights"),
    (
        &["deberta", "deberta-v2", "xlnet", "longformer", "big_bird"],
        "attention is of another kind: by relative positions, or to some tokens",
    ),
    (&["gemma3n", "gemma4", "gemma4_text"], "every layer has a table of embeddings of its own"),
    (&["vit", "clip", "siglip", "whisper", "wav2vec2", "dinov2"], "it reads images or sound, not tokens"),
];

/// That something is not modelled, and what would do.
pub(super) fn unplanned(why: &str) -> String {
    format!(
        "{why}, which is not modelled, and its sizes alone would make another model; `--as llama` plans its sizes as those of \
         another; or write a model file"
    )
}

/// The row of a file's `model_type`.
pub(super) fn known(config: &Config) -> Result<KnownArchitecture, Fault> {
    let names = || ALL.iter().flat_map(|(names, _)| *names).copied();
    let all = || names().collect::<Vec<_>>().join(", ");
    let Some(kind) = config.text("model_type")? else {
        let problem = format!("it says what the layers are: one of {}; or say it by `--as`", all());
        return Err(Fault::new("model_type", "missing", problem));
    };
    if let Some((_, known)) = ALL.iter().find(|(names, _)| names.contains(&kind.as_str())) {
        return Ok(*known);
    }
    let plain = kind.trim_end_matches("_text");
    if let Some((_, why)) = OTHERS.iter().find(|(names, _)| names.contains(&kind.as_str()) || names.contains(&plain)) {
        return Err(Fault::new("model_type", &kind, unplanned(why)));
    }
    let near = near(&kind, names().chain(hybrid::names())).first().map(|near| format!("; did you mean `{near}`?"));
    let problem = format!("{}{}; known: {}", unplanned("this architecture"), near.unwrap_or_default(), all());
    Err(Fault::new("model_type", &kind, problem))
}

/// Keys that say how layers differ from what is modelled, and what they mean; `null`, `false`, 0, `""` and `[]` say nothing.
const UNMODELLED: &[(&str, &str)] = &[
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

/// Layers of multi-token prediction.
const FURTHER: &str =
    "layers that predict further tokens are left out, as they are of the model that transformers builds";

/// The same of one, which trains with the rest.
const NEXT: &str = "one layer that predicts a token further is planned, as in training, of several none; it counts in no number of parameters";

/// Keys that say something that is left out, and what that is; nothing where it hardly counts.
const LEFT_OUT: &[(&str, &str)] = &[
    ("partial_rotary_factor", PART),
    ("rotary_pct", PART),
    ("rotary_dim", PART),
    ("no_rope_layers", "some layers have no positions: planned as if all had, which moves no parameters"),
    ("attention_bias", BIASES),
    ("qkv_bias", BIASES),
    ("mlp_bias", BIASES),
    ("use_mtp", FURTHER),
    ("num_nextn_predict_layers", NEXT),
];

/// What of a model is left out, or taken for granted, in its plan.
pub(super) fn left_out(config: &Config, known: &KnownArchitecture) -> Vec<String> {
    let left_out = LEFT_OUT.iter().filter_map(|(key, what)| {
        let value = config.get(key).filter(|value| says(config, key, value))?;
        let counted = *what == BIASES && known.architecture == Architecture::Gpt2;
        (!counted).then_some(())?;
        Some(format!("`{key}` is {value}: {what}"))
    });
    left_out.collect()
}

/// Refuses keys that say something that is not modelled.
pub(super) fn refuse_unmodelled(config: &Config) -> Result<(), Vec<Fault>> {
    let said = UNMODELLED.iter().filter_map(|(key, what)| {
        let value = config.get(key).filter(|value| says(config, key, value))?;
        let problem = format!("{what} is not modelled; without the key the model is planned with the usual layers");
        Some(Fault::new(key, value, problem))
    });
    let all: Vec<Fault> = said.collect();
    if all.is_empty() { Ok(()) } else { Err(all) }
}

/// The window of attention that a file states or its architecture has: one that slides, or a chunk.
pub(super) fn window(config: &Config, known: &KnownArchitecture) -> Result<Option<AttentionWindow>, Fault> {
    let stated = config.count(&["sliding_window", "attention_chunk_size", "window_size"])?;
    let switch = config.flag("use_sliding_window")?;
    let kind = config.text("model_type")?.unwrap_or_default();
    // Qwen's files state a window that they use only where they say so.
    let off =
        switch == Some(false) || (switch.is_none() && kind.starts_with("qwen")) || config.is_null("sliding_window");
    // GPT-Neo's layers take turns, whichever comes first.
    config.get("attention_types");
    let usual = known.window.unzip();
    let tokens = stated.or(usual.0).filter(|&tokens| tokens > 0 && !off);
    // Without a window it says nothing that is known here.
    let pattern = match tokens {
        Some(_) => config.count(&["sliding_window_pattern", "_sliding_window_pattern", "layer_switch"])?,
        None => None,
    };
    let every = pattern.filter(|&every| every > 1).or(usual.1.flatten());
    let longest = config.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let window = tokens.filter(|&tokens| (tokens as u64) < longest);
    match config.get("layer_types") {
        Some(Value::Array(kinds)) => {
            let full: Vec<bool> = kinds.iter().map(|kind| kind == "full_attention").collect();
            let first = full.iter().position(|full| *full).map(|first| first + 1);
            let regular = |every: usize| (0..full.len()).all(|at| full[at] == (at + 1).is_multiple_of(every));
            match (window, first) {
                _ if full.iter().all(|full| *full) => Ok(None),
                (Some(tokens), None) => Ok(Some(AttentionWindow { tokens, full_every: None })),
                (Some(tokens), Some(every)) if regular(every) => {
                    Ok(Some(AttentionWindow { tokens, full_every: Some(every) }))
                }
                // A window as long as the longest sequence is none.
                (None, _) if tokens.is_some() => Ok(None),
                _ => {
                    let problem = "layers of unlike attention are modelled where a window is stated and every so many layers \
                                   one sees all tokens, the last of so many first";
                    Err(Fault::new("layer_types", Value::from(kinds.clone()), problem))
                }
            }
        }
        _ => Ok(window.map(|tokens| AttentionWindow { tokens, full_every: every })),
    }
}

/// Whether a key's value makes the model another.
fn says(config: &Config, key: &str, value: &Value) -> bool {
    let nothing = match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) if key == "layer_types" => {
            let known = ["full_attention", "sliding_attention", "chunked_attention"];
            all.iter().all(|kind| known.iter().any(|known| kind == known))
        }
        Value::Array(all) if key == "no_rope_layers" => all.iter().all(|turns| *turns == 1),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    };
    let usual = match key {
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
