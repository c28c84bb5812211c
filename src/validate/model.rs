//! The model of a row.
//!
//! In: a [`Record`]. Out: its [`Shape`].
//!
//! Invariant: what no column states follows by arithmetic, by the papers of a named family, or from a row of the same
//! source about a model of the same width.

use meshwright_planner::job::{Experts, Latent, Shape};

use super::record::{Record, Skip};

/// `2048`, or an encoder's and a decoder's: `512 (dec 128)`.
pub(super) fn sequence(text: &str) -> Option<(usize, Option<usize>)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    Some((numbers.next().filter(|seq| *seq > 0)?, numbers.next()))
}

/// The model's sizes.
pub(super) fn shape(record: &Record, decoder_seq: Option<usize>) -> Result<Shape, Skip> {
    let missing = Skip("model's sizes not stated");
    // `12`, or an encoder's and a decoder's: `12+12`, `12 enc + 12 dec`.
    let mut depths = record.text("layers").split('+').map(|part| part.split_whitespace().next()?.parse::<f64>().ok());
    let layers = depths.next().flatten().filter(|layers| (1.0..=1e4).contains(layers)).ok_or(missing)? as usize;
    let second = depths.next().flatten().filter(|layers| (1.0..=1e4).contains(layers)).map(|layers| layers as usize);
    let hidden = record.size("hidden").ok_or(missing)?;
    let encoder_decoder = record.text("arch") == "enc-dec";
    let heads = record.size("heads").unwrap_or_else(|| usual_heads(hidden));
    let gated = record.text("gated_mlp") == "1";
    let name = record.text("model_name");
    let latent = (name.contains("DeepSeekV")
        || name.contains("DeepSeek-V")
        || name.contains("DeepSeek V")
        || name.contains("Kimi")
        || record.text("notes").contains("multi-latent-attention"))
    .then_some(Latent { q_rank: 1536, kv_rank: 512, nope: 128, rope: 64, value: 128 });
    let experts =
        record.size("experts").filter(|count| *count > 1).map(|count| experts(record, count, name, latent.is_some()));
    Ok(Shape {
        name: name.to_owned(),
        layers,
        decoder: encoder_decoder.then(|| (second.unwrap_or(layers), decoder_seq.unwrap_or(128))),
        causal: record.text("arch") != "encoder" && !encoder_decoder,
        hidden,
        heads,
        kv_heads: record.size("kv_heads").unwrap_or(heads),
        head_dim: record.size("head_dim").unwrap_or(hidden / heads),
        ffn: record.size("ffn_hidden").or(record.size("moe_ffn_hidden")).unwrap_or(4 * hidden),
        gated,
        vocab: record.size("vocab").unwrap_or(51_200),
        tied: !gated && !record.text("notes").contains("untie-embeddings"),
        biased: !gated,
        learned_positions: !gated,
        parallel_block: name.contains("PaLM") || name.contains("Falcon"),
        experts,
        latent,
    })
}

/// Heads of about 128 that divide the width.
fn usual_heads(hidden: usize) -> usize {
    let near = |heads: &usize| (hidden / heads).abs_diff(128);
    (1..=hidden / 32).filter(|heads| hidden.is_multiple_of(*heads)).min_by_key(near).unwrap_or(1)
}

fn experts(record: &Record, count: usize, name: &str, latent: bool) -> Experts {
    let ffn = record.size("moe_ffn_hidden").or(record.size("ffn_hidden")).unwrap_or(1);
    let shared = record.text("shared_experts");
    let mut numbers = shared.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<usize>().ok());
    let shared_ffn = match (numbers.next(), numbers.next()) {
        (_, Some(width)) => width,
        (Some(experts), None) => experts * ffn,
        (None, None) => 0,
    };
    // Leading dense layers stand in no column: the name's, else the papers'.
    let stated = name.split_once(" dense").and_then(|(before, _)| before.rsplit(['(', ' ']).next()?.parse().ok());
    let usual = if name.contains("V3") { 3 } else { usize::from(name.contains("DeepSeek") && latent) };
    let dense_layers = stated.unwrap_or(usual);
    Experts {
        count,
        top_k: record.size("top_k").unwrap_or(2),
        ffn,
        shared_ffn,
        dense_layers,
        every: 1,
        capacity: 1.25,
        balance: 0.0,
    }
}
