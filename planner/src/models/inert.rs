//! Keys of a `config.json` that nothing reads.
//!
//! In: a [`Config`] from which a model was read. Out: nothing, or the [`Fault`] that names the first key that may say how the
//! model is built and that was not read.
//!
//! Invariant: a key is read, or known to change no size, or says nothing, or is refused.

use serde_json::Value;

use super::keys::Config;
use crate::error::Fault;

/// Ends of keys of training, decoding and numerics.
const ENDS: &[&str] = &[
    "_token_id",
    "_token_index",
    "_eps",
    "_epsilon",
    "dropout",
    "_pdrop",
    "_drop",
    "_prob",
    "_coef",
    "_std",
    "_range",
    "_act",
    "_factor",
    "_softcapping",
    "_multiplier",
    "_scaling",
    "_version",
    "_dtype",
    "_theta",
    "_limit",
];

/// Starts of such keys.
const STARTS: &[&str] = &["_", "output_", "time_step_", "summary_", "scale_attn", "router_", "rope_", "use_cache"];

/// Other keys that change no size.
const INERT: &[&str] = &[
    "architectures",
    "auto_map",
    "attention_softmax_in_fp32",
    "attention_bias",
    "add_qkv_bias",
    "qkv_bias",
    "mlp_bias",
    "use_bias",
    "use_qk_norm",
    "use_routing_bias",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "ep_size",
    "eps",
    "id2label",
    "initial_context_length",
    "is_encoder_decoder",
    "is_gated_act",
    "label2id",
    "layer_norm_rms",
    "max_position_embeddings",
    "max_window_layers",
    "mtp_transformer_layers",
    "n_ctx",
    "n_embed",
    "n_group",
    "n_positions",
    "norm_topk_prob",
    "num_mtp_modules",
    "pretraining_tp",
    "quantization_config",
    "query_pre_attn_scalar",
    "relative_attention_max_distance",
    "relative_attention_num_buckets",
    "reorder_and_upcast_attn",
    "resid_mult",
    "rotary_emb_base",
    "seq_length",
    "task_specific_params",
    "tie_encoder_decoder",
    "topk_group",
    "torchscript",
    "type_vocab_size",
    "use_sliding_window",
    "multi_query",
    "new_decoder_architecture",
    "attention_head_dim",
    "do_layer_norm_before",
    "logit_scale",
    "max_seq_len",
    "n_predict",
    "slow_but_exact",
    "unk_index",
    "vocab_size_per_layer_input",
    "bias_dropout_fusion",
    "swiglu_alpha",
];

/// Refuses a key that may be structural and was not read.
pub(super) fn refuse_unread(config: &Config) -> Result<(), Fault> {
    for (key, value) in config.unread() {
        let inert = INERT.contains(&key)
            || ENDS.iter().any(|end| key.ends_with(end))
            || STARTS.iter().any(|start| key.starts_with(start));
        if !inert && speaks(value) {
            let problem = "this key is not read, and it may say how the model is built; without it the model is planned with \
                           the usual layers";
            return Err(Fault::new(key, value, problem));
        }
    }
    Ok(())
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
