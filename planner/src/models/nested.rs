//! Configurations that keep a text model, or parts of it, in objects of their own.
//!
//! In: a file's object. Out: one object with the text model's keys, and the vision part beside it, where there is one.
//!
//! Invariant: what a nested object says is read as if it stood on the top; a key of both is the top's only where it says how
//! embedding and head are tied.

use serde_json::{Map, Value};

use crate::error::Fault;

/// Models of images and text by their `model_type`: what their text is read as where it does not say, and whether embedding and
/// head are tied where neither says.
const SEEING: &[(&str, &str, bool)] = &[
    ("gemma3", "gemma3_text", true),
    ("internvl", "qwen2", true),
    ("kimi_k25", "deepseek_v3", true),
    ("llama4", "llama4_text", false),
    ("llava", "llama", false),
    ("mistral3", "mistral", true),
    ("qwen2_vl", "qwen2_vl_text", false),
    ("qwen2_5_vl", "qwen2_5_vl_text", false),
    ("qwen3_5", "qwen3_5_text", false),
    ("qwen3_5_moe", "qwen3_5_moe_text", false),
    ("qwen3_vl", "qwen3_vl_text", false),
    ("qwen3_vl_moe", "qwen3_vl_moe_text", false),
];

/// DBRX's nested keys, and what others call them.
const DBRX: &[(&str, &[(&str, &str)])] = &[
    ("attn_config", &[("kv_n_heads", "num_key_value_heads"), ("rope_theta", "rope_theta")]),
    (
        "ffn_config",
        &[
            ("ffn_hidden_size", "moe_intermediate_size"),
            ("moe_num_experts", "num_experts"),
            ("moe_top_k", "num_experts_per_tok"),
        ],
    ),
];

/// A vision part: the model's `model_type`, and what the file says of it.
pub(super) struct VisionPart {
    pub kind: String,
    pub vision: Map<String, Value>,
    /// The file's own keys beside text and vision.
    pub outer: Map<String, Value>,
}

/// The text model's object, and the vision part.
pub(super) fn flat(mut object: Map<String, Value>) -> Result<(Map<String, Value>, Option<VisionPart>), Fault> {
    let kind = object.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "dbrx" {
        for (nested, keys) in DBRX {
            let Some(Value::Object(part)) = object.remove(*nested) else { continue };
            object.extend(keys.iter().filter_map(|(key, name)| Some(((*name).to_owned(), part.get(*key)?.clone()))));
        }
        return Ok((object, None));
    }
    let Some(text) = object.get("text_config") else { return Ok((object, None)) };
    let Some((_, of_text, tied)) = SEEING.iter().find(|(known, ..)| *known == kind) else {
        let known = SEEING.iter().map(|(known, ..)| *known).collect::<Vec<_>>().join(", ");
        let problem = format!(
            "it holds a text model beside other parts, which are counted of {known} alone; to plan the text model by itself \
             give its object as a config.json of its own"
        );
        return Err(Fault::new("text_config", "an object", problem));
    };
    let Value::Object(text) = text else {
        return Err(Fault::new("text_config", text, "it must be an object, with the keys of a text model"));
    };
    let mut text = text.clone();
    if !matches!(text.get("model_type"), Some(Value::String(_))) {
        text.insert("model_type".to_owned(), (*of_text).into());
    }
    let of_both = object.get("tie_word_embeddings").cloned();
    if of_both.is_some() || !text.contains_key("tie_word_embeddings") {
        text.insert("tie_word_embeddings".to_owned(), of_both.unwrap_or_else(|| (*tied).into()));
    }
    object.remove("text_config");
    let vision = match object.remove("vision_config") {
        Some(Value::Object(vision)) => vision,
        None | Some(Value::Null) => Map::new(),
        Some(other) => {
            return Err(Fault::new("vision_config", other, "it must be an object, with the keys of a vision tower"));
        }
    };
    Ok((text, Some(VisionPart { kind, vision, outer: object })))
}
