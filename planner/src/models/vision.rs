//! Parameters of the vision part of a model of images and text: its tower, and what joins that to the text.
//!
//! In: the vision part's keys and the text's width. Out: a count.
//!
//! A tower is a ViT (Dosovitskiy et al. 2021): `depth · (4·h² + 2·h·f)`, with a gate `3·h·f`, with patches of `p²` pixels of `c`
//! colours and `t` images, `c·t·p²·h`, and a table of positions. Invariant: a width that neither file nor architecture states is refused.

use serde_json::{Map, Value};

use super::defaults::complete;
use super::inert::refuse_unread;
use super::keys::Config;
use super::nested::VisionPart;
use crate::error::Fault;

/// Of vision parts: what changes no count.
const INERT: &[&str] = &[
    "window_size",
    "fullatt_block_indexes",
    "tokens_per_second",
    "mm_tokens_per_image",
    "vision_feature_layer",
    "projection_dim",
    "layer_scale_init_value",
    "pixel_shuffle_ratio",
    "rope_parameters",
    "rope_theta",
    "vocab_size",
    "in_chans",
    "head_dim",
    "vt_num_attention_heads",
    "mm_hidden_size",
    "text_hidden_size",
    "merge_kernel_size",
    "num_attention_heads",
    "num_heads",
    "use_absolute_position_embeddings",
    "use_layer_norm",
    "image_size",
    "attention_bias",
    "init_pos_emb_time",
    "pos_emb_time",
    "projector_ln_eps",
    "spatial_patch_size",
    "min_pixels",
    "max_pixels",
];

/// Names of the same width.
const GROUPS: &[&[&str]] = &[
    &["hidden_size", "vt_hidden_size"],
    &["num_hidden_layers", "vt_num_hidden_layers"],
    &["intermediate_size", "vt_intermediate_size"],
    &["pos_emb_height", "init_pos_emb_height"],
    &["pos_emb_width", "init_pos_emb_width"],
    &["in_channels", "num_channels"],
];

/// Parameters of what a text model of this width has beside it, and a sentence of what was taken for granted.
pub(super) fn beside(seen: VisionPart, text: f64) -> Result<(usize, Vec<String>), Fault> {
    let VisionPart { kind, mut vision, outer } = seen;
    let missing = complete(&format!("{kind}.vision"), &mut vision, GROUPS);
    let notes = match &missing[..] {
        [] => Vec::new(),
        [one] => vec![format!("vision_config: {one}")],
        more => vec![format!("vision_config: {} sizes are missing: {kind} defines them", more.len())],
    };
    vision.remove("model_type");
    let vision = Config::new(&vision);
    let count = count(&kind, &vision, &outer, text).map_err(|fault| fault.within("vision_config"))?;
    refuse_unread(&vision, INERT).map_err(|mut all| all.swap_remove(0).within("vision_config"))?;
    Ok((count as usize, notes))
}

fn count(kind: &str, vision: &Config, outer: &Map<String, Value>, text: f64) -> Result<f64, Fault> {
    let any = |keys: &[&str]| vision.needed(keys).map(|count| count as f64);
    let of = |key: &'static str| any(&[key]);
    let gated = matches!(kind, "qwen2_5_vl" | "mistral3");
    let (hidden, depth) = match kind {
        "qwen2_vl" => (of("embed_dim")?, of("depth")?),
        "qwen2_5_vl" | "qwen3_vl" | "qwen3_vl_moe" | "qwen3_5" | "qwen3_5_moe" => (of("hidden_size")?, of("depth")?),
        _ => (any(&["hidden_size", "vt_hidden_size"])?, any(&["num_hidden_layers", "vt_num_hidden_layers"])?),
    };
    let ffn = match kind {
        "qwen2_vl" => of("mlp_ratio")? * hidden,
        _ => any(&["intermediate_size", "vt_intermediate_size"])?,
    };
    let images = if kind.starts_with("qwen") { of("temporal_patch_size")? } else { 1.0 };
    let colours = vision.count(&["in_channels", "num_channels"])?.unwrap_or(3) as f64;
    let patch = of("patch_size")?;
    let biases = if kind == "mistral3" { 2.0 * hidden } else { 9.0 * hidden + ffn };
    let layer = 4.0 * hidden * hidden + if gated { 3.0 } else { 2.0 } * hidden * ffn + biases;
    let merge = outer.get("spatial_merge_size").and_then(Value::as_f64).unwrap_or(2.0);
    let pixels = |rest: f64| Ok::<f64, Fault>((of("image_size")? / patch).floor().powi(2) + rest);
    let rest = match kind {
        "qwen2_vl" | "qwen2_5_vl" => {
            let wide = of("spatial_merge_size")?.powi(2) * hidden;
            let out = if kind == "qwen2_vl" { of("hidden_size")? } else { of("out_hidden_size")? };
            wide * wide + wide * out
        }
        "qwen3_vl" | "qwen3_vl_moe" | "qwen3_5" | "qwen3_5_moe" => {
            let wide = of("spatial_merge_size")?.powi(2) * hidden;
            let deep = vision.get("deepstack_visual_indexes").and_then(Value::as_array).map_or(0, Vec::len);
            let out = of("out_hidden_size")?;
            of("num_position_embeddings")? * hidden + (1.0 + deep as f64) * (wide * wide + wide * out + wide + out)
        }
        "gemma3" => {
            // A head that pools, which is built unless the file says not, and is not used.
            let pools = vision.flag("vision_use_head")?.unwrap_or(true);
            pixels(0.0)? * hidden + hidden * text + if pools { layer + hidden } else { 0.0 }
        }
        "mistral3" => hidden * hidden * merge * merge + hidden * text + text * text,
        "llama4" => {
            let (inner, out) = (of("projector_input_dim")?, of("projector_output_dim")?);
            pixels(1.0)? * hidden + ffn * inner + inner * out + of("vision_output_dim")? * text
        }
        "llava" => pixels(1.0)? * hidden + hidden * text + text * text,
        "internvl" => pixels(1.0)? * hidden + 4.0 * hidden * text + text * text,
        "kimi_k25" => {
            let rows = any(&["pos_emb_height", "init_pos_emb_height"])?;
            let cols = any(&["pos_emb_width", "init_pos_emb_width"])?;
            rows * cols * hidden + (4.0 * hidden).powi(2) + 4.0 * hidden * text
        }
        other => return Err(Fault::new("model_type", other, "the parameters of its vision part are not known")),
    };
    Ok(colours * images * patch * patch * hidden + depth * layer + rest)
}
