//! The model of a row.
//!
//! In: a [`Record`]. Out: its [`Model`].
//!
//! Invariant: what no column states follows by arithmetic, by the papers of a named family, or from a row of the same
//! source about a model of the same width.

use meshwright_planner::job::shape::USUAL_TARGET;
use meshwright_planner::job::{Architecture, AttentionWindow, DROPLESS, ExpertGroups, Experts, Family, Latent, Model};

use super::record::{Record, Skip};

/// `2048`, or an encoder's and a decoder's: `512 (dec 128)`. Where none is stated, what was usual in its year: 2,048 tokens since
/// GPT-3 (Brown et al. 2020), 4,096 since LLaMA-2 (Touvron et al. 2023).
pub(super) fn sequence(text: &str, year: u16) -> (usize, Option<usize>) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let usual = if year < 2023 { 2048 } else { 4096 };
    (numbers.next().filter(|seq| *seq > 0).unwrap_or(usual), numbers.next())
}

/// The model, and the tokens that the decoder of an encoder-decoder writes.
pub(super) fn model(record: &Record, decoder_seq: Option<usize>) -> Result<(Model, Option<usize>), Skip> {
    let missing = Skip::new("model's sizes not stated");
    // `12`, or an encoder's and a decoder's: `12+12`, `12 enc + 12 dec`.
    let mut depths = record.text("layers").split('+').map(|part| part.split_whitespace().next()?.parse::<f64>().ok());
    let mut depth =
        || depths.next().flatten().filter(|layers| (1.0..=1e4).contains(layers)).map(|layers| layers as usize);
    let layers = depth().ok_or(missing.clone())?;
    let second = depth();
    let hidden = record.size("hidden").ok_or(missing)?;
    let encoder_decoder = record.text("arch") == "enc-dec";
    let heads = record.size("heads").unwrap_or_else(|| usual_heads(hidden, record.size("tp").unwrap_or(1)));
    let head_dim = record.size("head_dim").unwrap_or(hidden / heads);
    let gated = record.text("gated_mlp") == "1";
    let stated = record.text("model_name");
    let latent = (["DeepSeekV", "DeepSeek-V", "DeepSeek V", "Kimi"].iter().any(|word| stated.contains(word))
        || record.text("notes").contains("multi-latent-attention"))
    .then_some(Latent { q_rank: 1536, kv_rank: 512, nope: 128, rope: 64, value: 128 });
    let counted = record.size("experts").filter(|count| *count > 1);
    let experts = counted.map(|count| experts(record, count, stated, latent.is_some())).transpose()?;
    let family = Family {
        head_dim: (head_dim * heads != hidden).then_some(head_dim),
        decoder_layers: encoder_decoder.then(|| second.unwrap_or(layers)),
        bidirectional: record.text("arch") == "encoder",
        parallel_block: stated.contains("PaLM") || stated.contains("Falcon"),
        experts,
        latent,
        window: window(stated),
        ..Family::default()
    };
    let model = Model {
        name: name(stated),
        architecture: if gated { Architecture::Llama } else { Architecture::Gpt2 },
        layers,
        hidden,
        heads,
        kv_heads: record.size("kv_heads").unwrap_or(heads),
        ffn: record.size("ffn_hidden").or(record.size("moe_ffn_hidden")).unwrap_or(4 * hidden),
        vocab: record.size("vocab").unwrap_or(51_200),
        tied: if gated { ties(stated) } else { !record.text("notes").contains("untie-embeddings") },
        rope_theta: 10_000.0,
        family: (family != Family::default()).then_some(family),
    };
    model.check().map_err(|fault| Skip::fault("no model has such sizes", &fault))?;
    Ok((model, encoder_decoder.then(|| decoder_seq.unwrap_or(USUAL_TARGET))))
}

/// The window of a named family's attention, and its layers that see all tokens.
fn window(name: &str) -> Option<AttentionWindow> {
    const FAMILIES: [(&str, AttentionWindow); 4] = [
        ("gemma2", AttentionWindow { tokens: 4096, full_every: Some(2) }),
        ("gemma3", AttentionWindow { tokens: 1024, full_every: Some(6) }),
        ("gptoss", AttentionWindow { tokens: 128, full_every: Some(2) }),
        ("mistral7b", AttentionWindow { tokens: 4096, full_every: None }),
    ];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    FAMILIES.into_iter().find(|(family, _)| plain.contains(family)).map(|(_, window)| window)
}

/// Whether the head of a named model with gates is its token table: LLaMA 3.2 below 11B, Gemma.
fn ties(name: &str) -> bool {
    ["Llama 3.2 1B", "Llama 3.2 3B", "Gemma"].iter().any(|word| name.contains(word))
}

/// A name as models have it.
fn name(stated: &str) -> String {
    let plain: String =
        stated.chars().map(|c| if c.is_control() || matches!(c, '/' | '\\') { ' ' } else { c }).collect();
    let name: String = plain.trim_start_matches(|c: char| !c.is_alphanumeric()).chars().take(40).collect();
    if name.is_empty() { "model".to_owned() } else { name.trim_end().to_owned() }
}

/// Heads of about 128 that divide the width, and among tensor-parallel ranks if any do.
fn usual_heads(hidden: usize, tp: usize) -> usize {
    let divide = |heads: &usize| hidden.is_multiple_of(*heads);
    let near = |heads: &usize| (!heads.is_multiple_of(tp), (hidden / heads).abs_diff(128));
    (1..=hidden / 32).filter(divide).min_by_key(near).unwrap_or(1)
}

fn experts(record: &Record, count: usize, name: &str, latent: bool) -> Result<Experts, Skip> {
    let ffn = record.size("moe_ffn_hidden").or(record.size("ffn_hidden"));
    let ffn = ffn.ok_or(Skip::new("width of experts not stated"))?;
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
    Ok(Experts {
        count,
        top_k: record.size("top_k").unwrap_or(2),
        groups: (name.contains("V3") && count == 256).then_some(ExpertGroups { count: 8, top: 4 }),
        ffn,
        shared_ffn,
        dense_layers,
        every: 1,
        capacity: DROPLESS,
        balance: 0.0,
    })
}
