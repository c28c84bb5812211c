//! Models as Hugging Face's `config.json` has them.
//!
//! In: a job. Out: the configuration, the class that trains it, the class of its layers.
//!
//! Invariant: what [`fit`] lets pass, the configuration says whole.

use meshwright_planner::job::{Architecture, DROPLESS, Job, Model};
use serde_json::{Value, json};

use meshwright_planner::ability::Losses;

/// What transformers calls a model.
pub struct ModelClasses {
    /// `model_type`.
    pub kind: &'static str,
    /// What trains it.
    pub trains: &'static str,
    /// Its layers.
    pub layer: &'static str,
}

/// What a model is called.
pub fn classes(job: &Job) -> ModelClasses {
    let of = |kind, trains, layer| ModelClasses { kind, trains, layer };
    let model = &job.model;
    match model.architecture {
        _ if job.target() > 0 => of("t5", "T5ForConditionalGeneration", "T5Block"),
        Architecture::Gpt2 if !model.causal() => of("bert", "BertForMaskedLM", "BertLayer"),
        Architecture::Gpt2 => of("gpt2", "GPT2LMHeadModel", "GPT2Block"),
        Architecture::Llama if model.experts().is_some() => of("mixtral", "MixtralForCausalLM", "MixtralDecoderLayer"),
        Architecture::Llama => of("llama", "LlamaForCausalLM", "LlamaDecoderLayer"),
    }
}

/// Says what of a model no such configuration says.
pub fn fit(job: &mut Job, losses: &mut Losses) {
    let (gpt, two) = (job.model.architecture == Architecture::Gpt2, job.target() > 0);
    let model = &mut job.model;
    if two && (model.gated() || model.layers == 0) {
        losses.never("an encoder-decoder with gates");
    }
    if !two && (model.learned_positions() != gpt || model.gated() == gpt) {
        losses.never("positions or gates unlike those of the usual decoder of its architecture");
    }
    if gpt && model.kv_heads != model.heads {
        losses.never("grouped keys and values in GPT-2's layers");
    }
    if gpt && !two && model.head_dim() * model.heads != model.hidden {
        losses.never("heads that together are not as wide as the model");
    }
    let Some(experts) = model.family.as_mut().and_then(|family| family.experts.as_mut()) else { return };
    if gpt || experts.every > 1 || experts.dense_layers > 0 || experts.shared_ffn > 0 || experts.groups.is_some() {
        losses.never("experts in some layers alone, in groups, beside shared ones, or in GPT-2's layers");
    }
    if !experts.is_dropless() {
        losses.instead(format!("experts of capacity {}", experts.capacity), "dropless experts");
        experts.capacity = DROPLESS;
    }
}

/// The configuration.
pub fn config(job: &Job, dropout: f32) -> Value {
    let (model, ModelClasses { kind, trains, .. }) = (&job.model, classes(job));
    let mut all = match kind {
        "t5" => t5(job, dropout),
        "bert" => json!({
            "num_hidden_layers": model.layers, "hidden_size": model.hidden, "intermediate_size": model.ffn,
            "num_attention_heads": model.heads, "max_position_embeddings": job.positions(), "hidden_act": "gelu",
            "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "type_vocab_size": 1,
        }),
        "gpt2" => json!({
            "n_layer": model.layers, "n_embd": model.hidden, "n_inner": model.ffn, "n_head": model.heads,
            "n_positions": job.positions(), "activation_function": "gelu_new",
            "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout,
        }),
        _ => llama(job, dropout),
    };
    all["model_type"] = kind.into();
    all["architectures"] = json!([trains]);
    all["vocab_size"] = model.vocab.into();
    all["tie_word_embeddings"] = model.tied.into();
    all["use_cache"] = false.into();
    all
}

fn t5(job: &Job, dropout: f32) -> Value {
    let model: &Model = &job.model;
    json!({
        "num_layers": model.layers, "num_decoder_layers": model.depth() - model.layers, "d_model": model.hidden,
        "d_ff": model.ffn, "d_kv": model.head_dim(), "num_heads": model.heads, "feed_forward_proj": "gelu",
        "dropout_rate": dropout, "decoder_start_token_id": 0,
    })
}

fn llama(job: &Job, dropout: f32) -> Value {
    let model = &job.model;
    let mut all = json!({
        "num_hidden_layers": model.layers, "hidden_size": model.hidden, "intermediate_size": model.ffn,
        "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads, "head_dim": model.head_dim(),
        "max_position_embeddings": job.positions(), "hidden_act": "silu", "attention_dropout": dropout,
        "rope_theta": f64::from(model.rope_theta), "attention_bias": false,
    });
    if let Some(experts) = model.experts() {
        all["intermediate_size"] = experts.ffn.into();
        all["num_local_experts"] = experts.count.into();
        all["num_experts_per_tok"] = experts.top_k.into();
        all["output_router_logits"] = (experts.balance > 0.0).into();
        all["router_aux_loss_coef"] = f64::from(experts.balance).into();
    }
    all
}
