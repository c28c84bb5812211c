//! Keys of a `config.json` that nothing reads.
//!
//! In: a [`Config`] from which a model was read. Out: nothing, or the [`Fault`] that names the first key that may say how the
//! model is built and that was not read.
//!
//! Invariant: a key is read, or known to change no size, or says nothing, or is refused.

use serde_json::Value;

use super::keys::Config;
use crate::error::Fault;

/// Ends of names that only training, decoding and numerics have.
const ENDS: &[&str] = &[
    "_token_id",
    "dropout",
    "_dropout_prob",
    "dropout_rate",
    "_pdrop",
    "layerdrop",
    "_eps",
    "_epsilon",
    "_loss_coef",
    "_std",
];

/// Keys that change no size, or so little that no count shows it (a norm of heads, a bias of linear layers).
const INERT: &[&[&str]] = &[
    // Of the file.
    &["architectures", "auto_map", "id2label", "label2id", "task_specific_params", "torchscript", "return_dict"],
    &["quantization_config", "keys_to_ignore_at_inference", "transformers.js_config", "ep_size", "pretraining_tp"],
    // Of decoding.
    &["use_cache", "max_length", "min_length", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"],
    &[
        "num_beams",
        "num_beam_groups",
        "num_return_sequences",
        "length_penalty",
        "no_repeat_ngram_size",
        "early_stopping",
    ],
    &[
        "num_logits_to_keep",
        "remove_invalid_values",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
    ],
    &["summary_use_proj", "summary_proj_to_labels", "is_encoder_decoder", "tf_legacy_loss"],
    // Of positions.
    &["max_position_embeddings", "original_max_position_embeddings", "initial_context_length", "n_positions", "n_ctx"],
    &[
        "model_max_length",
        "max_seq_len",
        "seq_length",
        "max_window_layers",
        "use_sliding_window",
        "alibi",
        "learned_pos_emb",
    ],
    &["rope_scaling", "rope_interleave", "rotary_emb_base", "relative_attention_num_buckets"],
    &["relative_attention_max_distance", "type_vocab_size"],
    // Of numerics.
    &["initializer_range", "initializer_factor", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale"],
    &["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "query_pre_attn_scalar"],
    &["scale_attn_weights", "scale_attn_by_inverse_layer_idx", "scale_attention_softmax_in_fp32", "clip_qkv"],
    &["attention_softmax_in_fp32", "reorder_and_upcast_attn", "scale_decoder_outputs", "slow_but_exact"],
    &["swiglu_limit", "swiglu_alpha", "bias_dropout_fusion", "use_bfloat16", "is_gated_act", "chunk_size_feed_forward"],
    &["time_step_limit", "time_step_min", "time_step_max", "time_step_floor", "time_step_scale"],
    // Of norms and biases.
    &["attention_bias", "qkv_bias", "add_qkv_bias", "mlp_bias", "use_bias", "bias", "no_bias", "enable_bias"],
    &["use_qk_norm", "qk_layernorm", "qk_layer_norms", "layer_norm_elementwise_affine", "do_layer_norm_before"],
    &["apply_residual_connection_post_layernorm", "num_ln_in_parallel_attn", "new_decoder_architecture"],
    // Of how tokens choose experts, and of layers that are said to be left out.
    &["norm_topk_prob", "n_group", "topk_group", "routed_scaling_factor", "router_jitter_noise", "moe_norm_min"],
    &[
        "seq_aux",
        "aux_loss_alpha",
        "router_ignore_padding_tokens",
        "expert_capacity",
        "use_routing_bias",
        "moe_capacity",
    ],
    &["num_mtp_modules", "mtp_transformer_layers"],
    // It says that the shared experts are there, whose number is read.
    &["use_mixed_mlp_moe"],
    // They follow from how many heads of keys there are, which is read.
    &["multi_query_attention"],
    // The sum of two widths that are read.
    &["qk_head_dim"],
];

/// Refuses keys that may be structural and were not read, but for `more` that are known to change no size here.
pub(super) fn refuse_unread(config: &Config, more: &[&str]) -> Result<(), Vec<Fault>> {
    for (key, value) in config.all() {
        check_plain(key, value).map_err(|fault| vec![fault])?;
    }
    let mut unread = Vec::new();
    for (key, value) in config.unread() {
        let inert = INERT.iter().any(|keys| keys.contains(&key)) || ENDS.iter().any(|end| key.ends_with(end));
        if !inert && !more.contains(&key) && speaks(value) {
            let problem = "this key is not read, and it may say how the model is built; without it the model is planned with \
                           the usual layers";
            unread.push(Fault::new(key, value, problem));
        }
    }
    if unread.is_empty() { Ok(()) } else { Err(unread) }
}

/// Ends of names of shares.
const SHARES: &[&str] = &["dropout", "_dropout_prob", "dropout_rate", "_pdrop", "layerdrop"];

/// Of what changes no size, refuses values that no training has.
fn check_plain(key: &str, value: &Value) -> Result<(), Fault> {
    let ends = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
    let (may, says): (fn(f64) -> bool, &str) = match key {
        _ if value.is_null() => return Ok(()),
        _ if ends(SHARES) => (|share| (0.0..=1.0).contains(&share), "a share, 0 to 1"),
        _ if ends(&["_eps", "_epsilon"]) => (|eps| eps > 0.0 && eps <= 1.0, "above zero, such as 1e-6"),
        "initializer_range" => (|width| width >= 0.0, "zero or more"),
        "max_position_embeddings" | "n_positions" => (|count| count >= 1.0, "a count, one or more"),
        _ => return Ok(()),
    };
    match value.as_f64() {
        Some(number) if may(number) => Ok(()),
        _ => Err(Fault::new(key, value, format!("it must be {says}"))),
    }
}

/// Whether a value can change a size: names do not, nor do `null`, `false`, 0 and what is empty.
fn speaks(value: &Value) -> bool {
    match value {
        Value::Null | Value::String(_) => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
    }
}
