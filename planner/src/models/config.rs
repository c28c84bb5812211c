//! Hugging Face's `config.json` as a model.
//!
//! In: the file's text. Out: a [`Model`], with its family where it is no usual decoder.
//!
//! Invariant: a size that the file does not state is an error that names it, unless its architecture defines it; so is a key
//! of the wrong type, and one that says something that is not modelled.

use meshwright_hardware::input::InputError;
use serde_json::{Map, Value};

use super::architectures::{Halves, KnownArchitecture, known, refuse_unmodelled};
use super::keys::Config;
use crate::error::{Fault, PlanError};
use crate::job::{Architecture, Experts, Family, Latent, Model};

/// Reads a `config.json`.
pub(super) fn parse(file: &str, text: &str) -> Result<Model, PlanError> {
    let unreadable = |error: serde_json::Error| InputError::of_json(file, text, &error);
    let text = &plain_json(text);
    let config: Map<String, Value> = serde_json::from_str(text).map_err(unreadable)?;
    let refused = |fault: Fault| InputError::of_json_fault(file, text, &fault);
    let model = model(&Config(&config), name(file)).map_err(refused)?;
    model.check().map_err(refused)?;
    Ok(model)
}

/// The folder's name, as far as a model can have it.
fn name(file: &str) -> String {
    let folder = std::path::Path::new(file).parent().and_then(|folder| folder.file_name());
    let name = folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    if name.is_empty() { "config".to_owned() } else { name.to_owned() }
}

/// Python writes `NaN` and `Infinity`, which JSON does not have: as `null`, of as many characters.
fn plain_json(text: &str) -> String {
    let mut plain = text.to_owned();
    for word in ["-Infinity", "Infinity", "NaN"] {
        let mut from = 0;
        while let Some(at) = plain[from..].find(word).map(|at| from + at) {
            from = at + word.len();
            // In a string an odd number of quotes stands before it on its line.
            let line = plain[..at].rfind('\n').map_or(0, |end| end + 1);
            if plain[line..at].replace("\\\"", "").matches('"').count().is_multiple_of(2) {
                plain.replace_range(at..from, &format!("{:<1$}", "null", word.len()));
            }
        }
    }
    plain
}

fn model(config: &Config, name: String) -> Result<Model, Fault> {
    let known = known(config)?;
    refuse_unmodelled(config)?;
    let KnownArchitecture { architecture, body, .. } = known;
    let hidden = config.needed(&["hidden_size", "n_embd", "d_model"])?;
    let heads = config.needed(&["num_attention_heads", "n_head", "num_heads"])?;
    let gated = match config.text("feed_forward_proj")? {
        Some(kind) if body == Halves::Both => kind.contains("gated"),
        _ => known.gated,
    };
    // A gate decides which usual decoder T5's descendants are nearest to.
    let architecture = if body == Halves::Both && gated { Architecture::Llama } else { architecture };
    let layers = config.needed(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"])?;
    let ffn = config.count(&["intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"])?;
    let experts = experts(config, &known, layers)?;
    let parallel = config.flag("parallel_attn")?.or(config.flag("use_parallel_residual")?);
    let head_dim = config.count(&["head_dim", "d_kv"])?.filter(|width| width.checked_mul(heads) != Some(hidden));
    let family = Family {
        head_dim,
        decoder_layers: match body {
            Halves::Both => Some(config.count(&["num_decoder_layers"])?.unwrap_or(layers)),
            Halves::Decoder | Halves::Encoder => None,
        },
        bidirectional: body == Halves::Encoder,
        gated: (gated != (architecture == Architecture::Llama)).then_some(gated),
        learned_positions: (known.learned != (architecture == Architecture::Gpt2)).then_some(known.learned),
        parallel_block: parallel.unwrap_or(known.parallel),
        experts,
        latent: latent(config)?,
    };
    let theta = config.typed("rope_theta", "a number", Value::as_f64)?.unwrap_or(10_000.0);
    Ok(Model {
        name,
        architecture,
        layers,
        hidden,
        heads,
        kv_heads: kv_heads(config)?.unwrap_or(heads),
        ffn: ffn.unwrap_or(hidden.saturating_mul(4)),
        vocab: config.needed(&["vocab_size"])?,
        tied: config.flag("tie_word_embeddings")?.unwrap_or(known.tied),
        rope_theta: theta as f32,
        family: (family != Family::default()).then_some(family),
    })
}

/// Falcon's first models have one head of keys whatever else they state.
fn kv_heads(config: &Config) -> Result<Option<usize>, Fault> {
    let one = config.flag("multi_query")? == Some(true) && config.flag("new_decoder_architecture")? != Some(true);
    if one { Ok(Some(1)) } else { config.count(&["num_key_value_heads", "num_kv_heads"]) }
}

fn experts(config: &Config, known: &KnownArchitecture, layers: usize) -> Result<Option<Experts>, Fault> {
    let counts = ["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"];
    let Some(count) = config.count(&counts)?.filter(|count| *count > 0) else { return Ok(None) };
    let ffn = config.needed(&["moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "d_ff"])?;
    let top_k = ["num_experts_per_tok", "num_selected_experts", "moe_k", "moe_topk"];
    let top_k = match known.top_k {
        Some(defined) => config.count(&top_k)?.unwrap_or(defined),
        None => config.needed(&top_k)?,
    };
    let shared = config.count(&["n_shared_experts", "moe_num_shared_experts", "num_shared_expert"])?;
    let shared = shared.map(|shared| shared.saturating_mul(ffn));
    let stated = config.count(&["shared_expert_intermediate_size", "shared_intermediate_size"])?;
    let (dense, every) = sparse_layers(config, layers)?;
    Ok(Some(Experts {
        count,
        top_k,
        ffn,
        shared_ffn: stated.or(shared).unwrap_or(0),
        dense_layers: dense,
        every,
        capacity: 1.25,
        balance: 0.0,
    }))
}

/// How many layers are dense before the first with experts, and every how many of the rest have some.
fn sparse_layers(config: &Config, layers: usize) -> Result<(usize, usize), Fault> {
    let unlike = |key: &str, value: &Value| {
        let problem = "leading layers may be dense, and then every layer, or every so many, has experts: another pattern is \
                       not modelled";
        Fault::new(key, value, problem)
    };
    // Which layers have experts, as a list of flags, or which have none, as a list of numbers.
    if let Some(value @ Value::Array(flags)) = config.get("moe_layer_freq") {
        let dense = flags.iter().take_while(|flag| **flag == 0).count();
        let rest = flags.len() == layers && flags[dense..].iter().all(|flag| *flag == 1);
        return if rest { Ok((dense, 1)) } else { Err(unlike("moe_layer_freq", value)) };
    }
    let every =
        config.count(&["decoder_sparse_step", "moe_layer_freq", "moe_layer_interval", "encoder_sparse_step"])?;
    let every = every.unwrap_or(1).max(1);
    let dense = config.count(&["first_k_dense_replace", "moe_layer_start_index"])?.unwrap_or(0);
    match config.get("mlp_only_layers") {
        Some(value @ Value::Array(numbers)) if !numbers.is_empty() => {
            let first = numbers.iter().enumerate().all(|(at, number)| *number == at);
            if first && every == 1 && dense == 0 {
                Ok((numbers.len(), 1))
            } else {
                Err(unlike("mlp_only_layers", value))
            }
        }
        _ => Ok((dense, every)),
    }
}

fn latent(config: &Config) -> Result<Option<Latent>, Fault> {
    let Some(kv_rank) = config.count(&["kv_lora_rank"])? else { return Ok(None) };
    Ok(Some(Latent {
        q_rank: config.count(&["q_lora_rank"])?.unwrap_or(0),
        kv_rank,
        nope: config.needed(&["qk_nope_head_dim"])?,
        rope: config.needed(&["qk_rope_head_dim"])?,
        value: config.needed(&["v_head_dim"])?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::load;

    /// As the files on the hub have them, without the keys that say nothing of sizes.
    #[test]
    fn configurations_of_the_hub_are_the_same_models() {
        let cases = [
            (
                "llama3-8b",
                r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "tie_word_embeddings": false,
                "vocab_size": 128256}"#,
            ),
            (
                "gpt2-xl",
                r#"{"model_type": "gpt2", "n_embd": 1600, "n_head": 25, "n_layer": 48, "n_positions": 1024,
                "vocab_size": 50257}"#,
            ),
            (
                "mixtral-8x7b",
                r#"{"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
                "rope_theta": 1000000.0, "tie_word_embeddings": false, "vocab_size": 32000}"#,
            ),
            (
                "deepseek-v3",
                r#"{"model_type": "deepseek_v3", "first_k_dense_replace": 3, "hidden_size": 7168,
                "intermediate_size": 18432, "kv_lora_rank": 512, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
                "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
                "num_hidden_layers": 61, "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "rope_theta": 10000, "tie_word_embeddings": false, "v_head_dim": 128,
                "vocab_size": 129280}"#,
            ),
            (
                "bert-large",
                r#"{"model_type": "bert", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                "num_hidden_layers": 24, "vocab_size": 30522}"#,
            ),
            (
                "t5-11b",
                r#"{"model_type": "t5", "d_ff": 65536, "d_kv": 128, "d_model": 1024, "num_heads": 128, "num_layers": 24,
                "vocab_size": 32128}"#,
            ),
        ];
        for (name, text) in cases {
            let (ours, theirs) = (load(name).unwrap(), parse("hub/config.json", text).unwrap());
            let (a, b) = (ours.parameters(1024) as f64, theirs.parameters(1024) as f64);
            assert!((a / b - 1.0).abs() < 1e-3, "{name}: {a} and {b}");
            assert_eq!(ours.family, theirs.family, "{name}");
            assert_eq!(theirs.name, "hub");
        }
    }

    #[test]
    fn a_size_that_is_missing_is_named() {
        let message = parse("x/config.json", r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}"#)
            .unwrap_err()
            .to_string();
        assert!(message.contains("x/config.json") && message.contains("num_hidden_layers"), "{message}");
        let message = parse("x/config.json", "{\n\"hidden_size\" 64}").unwrap_err().to_string();
        assert!(message.contains("x/config.json:2"), "{message}");
    }
}
