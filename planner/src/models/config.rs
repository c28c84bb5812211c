//! Hugging Face's `config.json` as a model.
//!
//! In: the file's text. Out: a [`Model`], with its family where it is no usual decoder.
//!
//! Invariant: a size that the file does not state is an error that names it, unless its architecture defines it.

use meshwright_hardware::input::InputError;
use serde_json::{Map, Value};

use crate::error::{Fault, PlanError};
use crate::job::{Architecture, Experts, Family, Latent, Model};

/// The file's object.
struct Config<'a>(&'a Map<String, Value>);

impl Config<'_> {
    /// The first of these keys that holds a count.
    fn count(&self, keys: &[&str]) -> Option<usize> {
        keys.iter().find_map(|key| self.0.get(*key)?.as_u64()).map(|count| count as usize)
    }

    fn needed(&self, keys: &[&str]) -> Result<usize, Fault> {
        let problem = format!("none of {} holds a count", keys.join(", "));
        self.count(keys).ok_or_else(|| Fault::new(keys[0], "missing", problem))
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }
}

/// Reads a `config.json`.
pub(super) fn parse(file: &str, text: &str) -> Result<Model, PlanError> {
    let unreadable = |error: serde_json::Error| InputError::of_json(file, text, &error);
    let config: Map<String, Value> = serde_json::from_str(text).map_err(unreadable)?;
    let name = std::path::Path::new(file).parent().and_then(|folder| folder.file_name());
    let name = name.map_or_else(|| "config".to_owned(), |name| name.to_string_lossy().into_owned());
    let refused = |fault: Fault| InputError::of_json_fault(file, text, &fault);
    let model = model(&Config(&config), name).map_err(refused)?;
    model.check().map_err(refused)?;
    Ok(model)
}

fn model(config: &Config, name: String) -> Result<Model, Fault> {
    let kind = config.text("model_type");
    let hidden = config.needed(&["hidden_size", "n_embd", "d_model"])?;
    let heads = config.needed(&["num_attention_heads", "n_head", "num_heads"])?;
    let encoder = matches!(kind, "bert" | "roberta" | "xlm-roberta" | "electra" | "deberta");
    let both = matches!(kind, "t5" | "mt5" | "umt5" | "switch_transformers");
    let learned = encoder || matches!(kind, "gpt2" | "opt" | "gpt_bigcode");
    let gated = match kind {
        "t5" | "mt5" | "umt5" => config.text("feed_forward_proj").contains("gated"),
        "gpt2"
        | "opt"
        | "gpt_bigcode"
        | "gpt_neox"
        | "bloom"
        | "falcon"
        | "mpt"
        | "nemotron"
        | "switch_transformers" => false,
        _ => !encoder,
    };
    let plain = learned || matches!(kind, "gpt_neox" | "bloom" | "mpt") || both && !gated;
    let architecture = if plain { Architecture::Gpt2 } else { Architecture::Llama };
    let head_dim = config.count(&["head_dim", "d_kv"]).filter(|width| width * heads != hidden);
    let kv_heads = if config.flag("multi_query") == Some(true) { 1 } else { heads };
    let ffn = config.count(&["intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"]);
    let layers = config.needed(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"])?;
    let latent = latent(config)?;
    let family = Family {
        head_dim,
        decoder_layers: both.then(|| config.count(&["num_decoder_layers"]).unwrap_or(layers)),
        bidirectional: encoder,
        gated: (gated != (architecture == Architecture::Llama)).then_some(gated),
        learned_positions: (learned != (architecture == Architecture::Gpt2)).then_some(learned),
        parallel_block: config.flag("parallel_attn").or(config.flag("use_parallel_residual")).unwrap_or(false),
        experts: experts(config)?,
        latent,
    };
    let theta = config.0.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
    Ok(Model {
        name,
        architecture,
        layers,
        hidden,
        heads,
        kv_heads: config.count(&["num_key_value_heads", "num_kv_heads"]).unwrap_or(kv_heads),
        ffn: ffn.unwrap_or(4 * hidden),
        vocab: config.needed(&["vocab_size"])?,
        // The library's own default, but for LLaMA and its kin, whose configurations default to untied.
        tied: config.flag("tie_word_embeddings").unwrap_or(architecture == Architecture::Gpt2),
        rope_theta: theta as f32,
        family: (family != Family::default()).then_some(family),
    })
}

fn experts(config: &Config) -> Result<Option<Experts>, Fault> {
    let Some(count) = config.count(&["num_local_experts", "n_routed_experts", "num_experts"]) else { return Ok(None) };
    let own = ["moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "d_ff"];
    let ffn = config.needed(&own)?;
    let shared = config.count(&["n_shared_experts"]).map(|shared| shared * ffn);
    Ok(Some(Experts {
        count,
        top_k: config.count(&["num_experts_per_tok", "num_selected_experts"]).unwrap_or(1),
        ffn,
        shared_ffn: config.count(&["shared_expert_intermediate_size"]).or(shared).unwrap_or(0),
        dense_layers: config.count(&["first_k_dense_replace"]).unwrap_or(0),
        every: config.count(&["decoder_sparse_step", "moe_layer_freq", "encoder_sparse_step"]).unwrap_or(1).max(1),
        capacity: 1.25,
        balance: 0.0,
    }))
}

fn latent(config: &Config) -> Result<Option<Latent>, Fault> {
    let Some(kv_rank) = config.count(&["kv_lora_rank"]) else { return Ok(None) };
    Ok(Some(Latent {
        q_rank: config.count(&["q_lora_rank"]).unwrap_or(0),
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
        let message =
            parse("x/config.json", r#"{"hidden_size": 64, "num_attention_heads": 4}"#).unwrap_err().to_string();
        assert!(message.contains("x/config.json") && message.contains("num_hidden_layers"), "{message}");
        let message = parse("x/config.json", "{\n\"hidden_size\" 64}").unwrap_err().to_string();
        assert!(message.contains("x/config.json:2"), "{message}");
    }
}
