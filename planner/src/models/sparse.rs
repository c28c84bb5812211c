//! Mixtures of experts as a `config.json` states them.
//!
//! In: a [`Config`]. Out: [`Experts`], or the [`Fault`] where layers with experts follow a pattern that is not modelled.

use serde_json::Value;

use super::architectures::KnownArchitecture;
use super::keys::Config;
use crate::error::Fault;
use crate::job::{DROPLESS, ExpertGroups, Experts};

pub(super) const EXPERTS: &[&str] = &["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"];
pub(super) const EXPERT_FFN: &[&str] =
    &["moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "d_ff"];
pub(super) const TOP_K: &[&str] =
    &["num_experts_per_tok", "experts_per_token", "num_selected_experts", "moe_k", "moe_topk"];
pub(super) const SPARSE_ENCODER: &[&str] = &["encoder_sparse_step", "num_sparse_encoder_layers"];
pub(super) const SPARSE_DECODER: &[&str] = &["decoder_sparse_step", "num_sparse_decoder_layers"];

/// The experts of a file's layers, if it states some.
pub(super) fn experts(config: &Config, known: &KnownArchitecture, layers: usize) -> Result<Option<Experts>, Fault> {
    let Some(count) = config.count(EXPERTS)?.filter(|count| *count > 0) else { return Ok(None) };
    let ffn = config.needed(EXPERT_FFN)?;
    let top_k = match known.top_k {
        Some(defined) => config.count(TOP_K)?.unwrap_or(defined),
        None => config.needed(TOP_K)?,
    };
    let shared = config.count(&["n_shared_experts", "moe_num_shared_experts", "num_shared_expert"])?;
    let shared = shared.map(|shared| shared.saturating_mul(ffn));
    let stated = config.count(&["shared_expert_intermediate_size", "shared_intermediate_size"])?;
    let (dense, every) = sparse_layers(config, layers)?;
    Ok(Some(Experts {
        count,
        top_k,
        groups: groups(config)?,
        ffn,
        shared_ffn: stated.or(shared).unwrap_or(0),
        dense_layers: dense,
        every,
        // Their layers have none: every token reaches its experts.
        capacity: DROPLESS,
        balance: 0.0,
    }))
}

/// Groups of experts of which a token chooses some, if there are several.
fn groups(config: &Config) -> Result<Option<ExpertGroups>, Fault> {
    let groups = config.count(&["n_group"])?.zip(config.count(&["topk_group"])?);
    let groups = groups.map(|(count, top)| ExpertGroups { count, top });
    Ok(groups.filter(|groups| groups.count > 1 && groups.top < groups.count))
}

/// How many layers are dense before the first with experts, and every how many of the rest have some.
fn sparse_layers(config: &Config, layers: usize) -> Result<(usize, usize), Fault> {
    let unlike = |key: &str, value: &Value| {
        let problem = "leading layers may be dense, and then every layer, or every so many, has experts: another pattern is \
                       not modelled";
        Fault::new(key, value, problem)
    };
    // Which layers have experts, as a list of flags or words, or which have none, as a list of numbers.
    if let Some(value @ Value::Array(words)) = config.get("mlp_layer_types") {
        let dense = words.iter().take_while(|word| *word == "dense").count();
        let rest = words.len() == layers && words[dense..].iter().all(|word| *word == "sparse");
        return if rest { Ok((dense, 1)) } else { Err(unlike("mlp_layer_types", value)) };
    }
    if let Some(value @ Value::Array(flags)) = config.get("moe_layer_freq") {
        let dense = flags.iter().take_while(|flag| **flag == 0).count();
        let rest = flags.len() == layers && flags[dense..].iter().all(|flag| *flag == 1);
        return if rest { Ok((dense, 1)) } else { Err(unlike("moe_layer_freq", value)) };
    }
    let steps = [
        "interleave_moe_layer_step",
        "decoder_sparse_step",
        "moe_layer_interval",
        "encoder_sparse_step",
        "moe_layer_freq",
    ];
    let every = config.count(&steps)?.unwrap_or(1).max(1);
    // DeepSeek's layers with experts are those whose number, from 0, this divides; of the others those whose number from 1 it does.
    if let Some(value) = config.get("moe_layer_freq").filter(|_| every > 1) {
        return Err(unlike("moe_layer_freq", value));
    }
    // A step says how many layers are sparse too.
    let half = |keys: &[&str]| match config.get(keys[0]) {
        Some(_) => config.count(keys),
        None => Ok(None),
    };
    let halves = [half(SPARSE_ENCODER)?, half(SPARSE_DECODER)?];
    if let (Some(value), [Some(encoder), Some(decoder)]) = (config.get("encoder_sparse_step"), halves)
        && encoder != decoder
    {
        return Err(unlike("encoder_sparse_step", value));
    }
    if let Some(value @ Value::Array(numbers)) = config.get("moe_layers") {
        let wanted = (1..=layers).filter(|layer| layer.is_multiple_of(every)).map(|layer| layer - 1);
        if !numbers.iter().map(Value::as_u64).eq(wanted.map(|layer| Some(layer as u64))) {
            return Err(unlike("moe_layers", value));
        }
    }
    let last = config
        .get("moe_layer_end_index")
        .filter(|last| last.as_i64().is_none_or(|n| n >= 0 && n as usize + 1 < layers));
    if let Some(value) = last {
        return Err(unlike("moe_layer_end_index", value));
    }
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
