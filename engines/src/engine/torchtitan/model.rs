//! The model as torchtitan builds it: LLaMA's layers, or Qwen3's where there are experts.
//!
//! In: a job. Out: imports, and a function that gives its `ModelSpec`.

use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Experts, Job, Model};
use meshwright_planner::plan::Plan;

use meshwright_planner::ability::Losses;

/// What of a model these layers have not.
pub fn fit(plan: &mut Plan, losses: &mut Losses) {
    let model = &mut plan.job.model;
    if !model.gated() || model.learned_positions() {
        losses.never("LLaMA's layers without gates, or with learned positions");
    }
    let Some(family) = model.family.as_mut() else { return };
    let Some(experts) = family.experts.as_mut() else { return };
    if experts.every > 1 || experts.dense_layers > 0 || experts.shared_ffn > 0 || experts.groups.is_some() {
        losses.never("experts in some layers alone, in groups, or beside shared ones");
    }
    if !experts.is_dropless() {
        losses.instead(format!("experts of capacity {}", experts.capacity), "dropless experts");
        experts.capacity = meshwright_planner::job::DROPLESS;
    }
    if std::mem::take(&mut experts.balance) > 0.0 {
        losses.instead("a balancing loss", "biases of the router that balance without a loss");
    }
}

/// What the module begins with.
pub fn imports(job: &Job) -> String {
    let (module, class) = family(&job.model);
    let build = if job.model.experts().is_some() { "_build_qwen3_moe_layers" } else { "_build_llama3_layers" };
    let hook = if job.model.experts().is_some() { ", register_moe_load_balancing_hook" } else { "" };
    let rope = rope(&job.model);
    let adapter = format!("{class}StateDictAdapter");
    let parallelize = if job.model.experts().is_some() { "parallelize_qwen3" } else { "parallelize_llama" };
    let converter = converter(job)
        .map_or_else(String::new, |(name, _)| format!("from torchtitan.components.quantization import {name}\n"));
    format!(
        "import os\nfrom functools import partial\n\nimport torch.nn as nn\n\n\
         from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss\n\
         from torchtitan.components.optimizer import default_adamw{hook}\n{converter}\
         from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC\n\
         from torchtitan.distributed.pipeline_parallel import pipeline_llm\n\
         from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader\n\
         from torchtitan.models.common import {rope}, Embedding, Linear, RMSNorm\n\
         from torchtitan.models.common.config_utils import decoder_vocab_size\n\
         from torchtitan.models.{module} import {class}Model, {adapter}, {build}, {parallelize}\n\
         from torchtitan.protocols.model_spec import ModelSpec\n\
         from torchtitan.trainer import Trainer\n\n\n"
    )
}

fn family(model: &Model) -> (&'static str, &'static str) {
    if model.experts().is_some() { ("qwen3", "Qwen3") } else { ("llama3", "Llama3") }
}

fn rope(model: &Model) -> &'static str {
    if model.experts().is_some() { "CosSinRoPE" } else { "ComplexRoPE" }
}

/// What makes linear layers of a narrower format, and its arguments.
fn converter(job: &Job) -> Option<(&'static str, &'static str)> {
    match job.precision {
        Precision::Fp8 => Some(("Float8LinearConverter", "model_compile_enabled=True")),
        Precision::Fp4 => Some(("NVFP4LinearConverter", "fqns=[\"layers\"]")),
        _ => None,
    }
}

/// The function `model_spec`.
pub fn spec(job: &Job) -> String {
    let model = &job.model;
    let (module, class) = family(model);
    let layers = match model.experts() {
        Some(experts) => mixture(model, experts),
        None => dense(model),
    };
    let (h, vocab, width) = (model.hidden, model.vocab, model.head_dim());
    let tying = if model.tied { "        enable_weight_tying=True,\n" } else { "" };
    let convert = converter(job).map_or_else(String::new, |(name, arguments)| {
        format!("    config = {name}.Config({arguments}).build().convert(config)\n")
    });
    let (parallelize, hook) = match model.experts() {
        Some(_) => ("parallelize_qwen3", "register_moe_load_balancing_hook"),
        None => ("parallelize_llama", "None"),
    };
    format!(
        "def model_spec() -> ModelSpec:\n    weight = partial(nn.init.trunc_normal_, std=0.02)\n    config = {class}Model.Config(\n\
         \x20       dim={h},\n        vocab_size={vocab},\n{tying}\
         \x20       tok_embeddings=Embedding.Config(num_embeddings={vocab}, embedding_dim={h}, param_init={{\"weight\": weight}}),\n\
         \x20       norm=RMSNorm.Config(normalized_shape={h}, param_init={{\"weight\": nn.init.ones_}}),\n\
         \x20       lm_head=Linear.Config(in_features={h}, out_features={vocab}, param_init={{\"weight\": weight, \"bias\": nn.init.zeros_}}),\n\
         \x20       layers={layers},\n    )\n{convert}\
         \x20   return ModelSpec(\n        name=\"{module}\",\n        flavor={name:?},\n        model=config,\n\
         \x20       parallelize_fn={parallelize},\n        pipelining_fn=pipeline_llm,\n        post_optimizer_build_fn={hook},\n\
         \x20       state_dict_adapter={class}StateDictAdapter,\n    )\n\n\n",
        name = model.name,
    )
    .replace("__ROPE__", &format!("{}.Config(dim={width}, max_seq_len={}, theta={})", rope(model), job.seq, model.rope_theta))
}

fn dense(model: &Model) -> String {
    format!(
        "_build_llama3_layers(\n            n_layers={}, dim={}, n_heads={}, n_kv_heads={}, hidden_dim={},\n            attn_backend=\"flex\", rope=__ROPE__,\n        )",
        model.layers, model.hidden, model.heads, model.kv_heads, model.ffn
    )
}

fn mixture(model: &Model, experts: &Experts) -> String {
    format!(
        "_build_qwen3_moe_layers(\n            n_layers={}, dim={}, n_heads={}, n_kv_heads={}, head_dim={}, moe_hidden_dim={},\n            num_experts={}, top_k={}, attn_backend=\"flex\", moe_comm_backend=\"standard\",\n            rope=__ROPE__,\n        )",
        model.layers,
        model.hidden,
        model.heads,
        model.kv_heads,
        model.head_dim(),
        experts.ffn,
        experts.count,
        experts.top_k
    )
}
