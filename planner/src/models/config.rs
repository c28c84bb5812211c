//! Hugging Face's `config.json` as a model.
//!
//! In: the file's text. Out: a [`Model`], with its family where it is no usual decoder.
//!
//! Invariant: a size that the file does not state is an error that names it, unless its architecture defines it; so is a key
//! of the wrong type, and one that says something that is not modelled.

use meshwright_hardware::input::InputError;
use serde_json::{Map, Value};

use super::architectures::{Halves, KnownArchitecture, Learned, known, left_out, refuse_unmodelled, unplanned, window};
use super::defaults::complete;
use super::inert::refuse_unread;
use super::keys::Config;
use super::sparse::{EXPERT_FFN, EXPERTS, SPARSE_DECODER, SPARSE_ENCODER, TOP_K, experts};
use super::{hybrid, nested, vision};
use crate::error::{Fault, PlanError};
use crate::job::{Architecture, AttentionWindow, Family, Latent, Model};

/// What a `config.json` is.
pub(super) enum Configured {
    /// A model that can be planned.
    Planned(Model),
    /// One of which no more is known than its parameters, why that is, and what a plan of it is refused with.
    Counted { parameters: f64, why: &'static str, refusal: PlanError },
}

/// Reads a `config.json`: the model, and what of it is left out. `family` is the `model_type` that it is to be read as, whatever
/// it says, and whatever else it says that is not modelled.
pub(super) fn parse(file: &str, text: &str, family: Option<&str>) -> Result<(Model, Vec<String>), PlanError> {
    match read(file, text, family)? {
        (Configured::Planned(model), notes) => Ok((model, notes)),
        (Configured::Counted { refusal, .. }, _) => Err(refusal),
    }
}

/// The same of a model that is at least counted.
pub(super) fn read(file: &str, text: &str, family: Option<&str>) -> Result<(Configured, Vec<String>), PlanError> {
    let unreadable = |error: serde_json::Error| InputError::of_json(file, text, &error);
    let text = &plain_json(text);
    let whole: Map<String, Value> = serde_json::from_str(text).map_err(unreadable)?;
    let nested = |fault: Fault| {
        let beside = fault.key == "text_config" || fault.key.starts_with("vision_config");
        let of_text = !beside && !whole.contains_key(&fault.key) && whole.contains_key("text_config");
        if of_text { fault.within("text_config") } else { fault }
    };
    let refused = |fault: Fault| InputError::of_json_fault(file, text, &nested(fault));
    let (mut config, seen) = nested::flat(whole.clone()).map_err(refused)?;
    let mut notes = family.map_or_else(Vec::new, |family| vec![read_as(&mut config, family)]);
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    notes.extend(complete(&kind, &mut config, GROUPS));
    let config = Config::new(&config);
    let mut check = |checked: Result<(), Vec<Fault>>| match (checked, family) {
        (Ok(()), _) => Ok(()),
        (Err(mut faults), None) => Err(refused(faults.swap_remove(0))),
        (Err(faults), Some(_)) => {
            notes.extend(faults.iter().map(|fault| format!("`{}` is {}: it is left out", fault.key, fault.value)));
            Ok(())
        }
    };
    if let Some((within, why)) = hybrid::count(&config).map_err(refused)? {
        let width = config.needed(HIDDEN).map_err(refused)? as f64;
        let beside = seen.map_or(Ok((0, Vec::new())), |seen| vision::beside(seen, width)).map_err(refused)?.0;
        let parameters = within + beside as f64;
        let said =
            format!("of its {:.3} B parameters {}; {}", parameters / 1e9, hybrid::states(parameters), unplanned(why));
        let refusal = refused(Fault::new("model_type", &kind, said)).into();
        return Ok((Configured::Counted { parameters, why, refusal }, notes));
    }
    let known = known(&config).map_err(refused)?;
    check(refuse_unmodelled(&config))?;
    let mut model = model(&config, known, name(file)).map_err(refused)?;
    let left_out = left_out(&config, &known);
    check(refuse_unread(&config, &[]))?;
    let routed = model.experts().is_some_and(|experts| experts.dense_layers == 0 && experts.every == 1);
    let gate = known.gated && !routed && FFN.iter().all(|key| config.get(key).is_none());
    notes.extend(left_out);
    if gate {
        notes.push(format!(
            "`intermediate_size` is missing: {} is planned with, four times the layers' width",
            model.ffn
        ));
    }
    if known.body == Halves::Encoder {
        notes.push("token types and the head's own layer are counted; the time that they take is left out".to_owned());
    }
    if let Some(seen) = seen {
        let (beside, more) = vision::beside(seen, model.hidden as f64).map_err(refused)?;
        notes.extend(more);
        notes.push(format!(
            "its vision part, {} M parameters, is kept and updated with the embedding; the time that it takes is left out",
            (beside as f64 / 1e6).round()
        ));
        model.family.get_or_insert_default().unpriced += beside;
    }
    model.check().map_err(|fault| refused(said_whence(as_stated(&config, fault), &notes)))?;
    Ok((Configured::Planned(model), notes))
}

/// Makes a file one of another family; a sentence that says so.
fn read_as(config: &mut Map<String, Value>, family: &str) -> String {
    let stated = config.insert("model_type".to_owned(), family.into());
    let stated = stated.map_or_else(|| "missing".to_owned(), |stated| stated.to_string());
    format!("`model_type` is {stated}: its sizes are planned as those of `{family}`, as `--as` says")
}

/// The keys of each size, of which a file has one.
const HIDDEN: &[&str] = &["hidden_size", "n_embd", "n_embed", "d_model"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads"];
const KV_HEADS: &[&str] = &["num_key_value_heads", "num_kv_heads", "multi_query_group_num"];
const HEAD_DIM: &[&str] = &["head_dim", "attention_head_dim", "d_kv", "kv_channels"];
const LAYERS: &[&str] = &["encoder_layers", "num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const DECODER_LAYERS: &[&str] = &["num_decoder_layers", "decoder_layers"];
const POSITIONS: &[&str] = &["max_position_embeddings", "n_positions", "n_ctx"];
const FFN: &[&str] = &[
    "intermediate_size_mlp",
    "dense_intermediate_size",
    "intermediate_size",
    "n_inner",
    "d_ff",
    "ffn_dim",
    "encoder_ffn_dim",
    "ffn_hidden_size",
];
const FURTHER: &[&str] = &["num_nextn_predict_layers"];
const VOCAB: &[&str] = &["vocab_size", "padded_vocab_size"];

/// Keys that name the same size, of which a default is no other.
const GROUPS: &[&[&str]] =
    &[HEADS, KV_HEADS, HEAD_DIM, LAYERS, FFN, VOCAB, POSITIONS, EXPERTS, SPARSE_ENCODER, SPARSE_DECODER];

/// A size that a model cannot have, by the file's name for it.
fn as_stated(config: &Config, fault: Fault) -> Fault {
    let names: &[&str] = match fault.key.as_str() {
        "hidden" => HIDDEN,
        "heads" => HEADS,
        "kv_heads" => KV_HEADS,
        "family.head_dim" => HEAD_DIM,
        "layers" => LAYERS,
        "ffn" => FFN,
        "vocab" => VOCAB,
        "family.experts.count" => EXPERTS,
        "family.experts.ffn" => EXPERT_FFN,
        "family.experts.top_k" => TOP_K,
        _ => &[],
    };
    match names.iter().find(|key| config.get(key).is_some()) {
        Some(key) => Fault { key: (*key).to_owned(), ..fault },
        None => fault,
    }
}

/// The same, which also says so where the file does not state the size.
fn said_whence(fault: Fault, defaults: &[String]) -> Fault {
    match defaults.iter().find(|note| note.starts_with(&format!("`{}` ", fault.key))) {
        Some(note) => Fault { problem: format!("{}; {note}", fault.problem), ..fault },
        None => fault,
    }
}

/// The folder's name, as far as a model can have it.
fn name(file: &str) -> String {
    let folder = std::path::Path::new(file).parent().and_then(|folder| folder.file_name());
    let name = folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    if name.is_empty() { "config".to_owned() } else { name.to_owned() }
}

/// Python writes `NaN` and `Infinity`, which JSON does not have: as strings, which no number may be.
fn plain_json(text: &str) -> String {
    let mut plain = text.to_owned();
    for word in ["-Infinity", "Infinity", "NaN"] {
        let mut from = 0;
        while let Some(at) = plain[from..].find(word).map(|at| from + at) {
            from = at + word.len();
            // In a string an odd number of quotes stands before it on its line.
            let line = plain[..at].rfind('\n').map_or(0, |end| end + 1);
            if plain[line..at].replace("\\\"", "").matches('"').count().is_multiple_of(2) {
                plain.replace_range(at..from, &format!("\"{word}\""));
                from += 2;
            }
        }
    }
    plain
}

fn model(config: &Config, known: KnownArchitecture, name: String) -> Result<Model, Fault> {
    let KnownArchitecture { architecture, body, .. } = known;
    let hidden = config.needed(HIDDEN)?;
    let heads = config.needed(HEADS)?;
    let gated = match config.text("feed_forward_proj")? {
        Some(kind) if body == Halves::Both => kind.contains("gated"),
        _ => known.gated,
    };
    // A gate decides which usual decoder T5's descendants are nearest to.
    let architecture = if body == Halves::Both && gated { Architecture::Llama } else { architecture };
    let layers = config.needed(LAYERS)?;
    let ffn = config.count(FFN)?;
    let experts = experts(config, &known, layers)?;
    same_halves(config)?;
    let learned = known.learned != Learned::None;
    let positions = match known.learned {
        Learned::None => None,
        Learned::Table { more, .. } => config.count(POSITIONS)?.map(|rows| rows.saturating_add(more)),
    };
    let parallel = config.flag("parallel_attn")?.or(config.flag("use_parallel_residual")?);
    let head_dim = config.count(HEAD_DIM)?.filter(|width| width.checked_mul(heads) != Some(hidden));
    let family = Family {
        head_dim,
        decoder_layers: match body {
            Halves::Both => Some(config.count(DECODER_LAYERS)?.unwrap_or(layers)),
            Halves::Decoder | Halves::Encoder => None,
        },
        bidirectional: body == Halves::Encoder,
        gated: (gated != (architecture == Architecture::Llama)).then_some(gated),
        learned_positions: (learned != (architecture == Architecture::Gpt2)).then_some(learned),
        positions,
        window: window(config, &known)?.map(|window| within_depth(window, layers)),
        unpriced: unpriced(config, &known, hidden, positions)?,
        parallel_block: parallel.unwrap_or(known.parallel),
        experts,
        latent: latent(config)?,
        mtp_layers: further(config)?,
    };
    let turned = config.get("rope_parameters").and_then(|turned| turned.get("rope_theta")).and_then(Value::as_f64);
    let theta = config.typed("rope_theta", "a number", Value::as_f64)?.or(turned).unwrap_or(10_000.0);
    Ok(Model {
        name,
        architecture,
        layers,
        hidden,
        heads,
        kv_heads: kv_heads(config, &known)?.unwrap_or(heads),
        ffn: ffn.unwrap_or(hidden.saturating_mul(4)),
        vocab: config.needed(VOCAB)?,
        tied: config.flag("tie_word_embeddings")?.unwrap_or(known.tied),
        rope_theta: theta as f32,
        family: (family != Family::default()).then_some(family),
    })
}

/// Layers that predict a token further: of several none is planned, which is said.
fn further(config: &Config) -> Result<usize, Fault> {
    Ok(config.count(FURTHER)?.filter(|&layers| layers == 1).unwrap_or(0))
}

/// Of fewer layers than take turns none sees all tokens.
fn within_depth(window: AttentionWindow, layers: usize) -> AttentionWindow {
    AttentionWindow { full_every: window.full_every.filter(|&every| every <= layers), ..window }
}

/// Both halves of an encoder-decoder have the same widths.
fn same_halves(config: &Config) -> Result<(), Fault> {
    for (ours, theirs) in
        [("encoder_ffn_dim", "decoder_ffn_dim"), ("encoder_attention_heads", "decoder_attention_heads")]
    {
        if let (Some(encoder), Some(decoder)) = (config.count(&[ours])?, config.count(&[theirs])?)
            && encoder != decoder
        {
            return Err(Fault::new(
                theirs,
                decoder,
                format!("an encoder and a decoder of unlike widths are not modelled: {encoder}"),
            ));
        }
    }
    Ok(())
}

/// Parameters that no op of a plan reads: of an encoder that guesses masked tokens the tables of token types, the head's own layer
/// and its biases; the second table of positions of two halves.
fn unpriced(
    config: &Config,
    known: &KnownArchitecture,
    hidden: usize,
    positions: Option<usize>,
) -> Result<usize, Fault> {
    let wide = |rows: usize| rows.saturating_mul(hidden);
    if let (Learned::Table { halves: 2, .. }, Some(rows)) = (known.learned, positions) {
        return Ok(wide(rows));
    }
    if known.body != Halves::Encoder {
        return Ok(0);
    }
    let types = config.count(&["type_vocab_size"])?.unwrap_or(2);
    let head = wide(hidden.saturating_add(3));
    Ok(wide(types).saturating_add(head).saturating_add(config.needed(VOCAB)?))
}

/// Falcon's first models have one head of keys whatever else they state.
fn kv_heads(config: &Config, known: &KnownArchitecture) -> Result<Option<usize>, Fault> {
    let stated = config.count(KV_HEADS)?;
    let multi_query = config.flag("multi_query")?.unwrap_or(known.multi_query);
    let one = multi_query && config.flag("new_decoder_architecture")? != Some(true);
    if one { Ok(Some(1)) } else { Ok(stated) }
}

fn latent(config: &Config) -> Result<Option<Latent>, Fault> {
    let Some(kv_rank) = config.count(&["kv_lora_rank"])? else { return Ok(None) };
    Ok(Some(Latent {
        q_rank: config.count(&["q_lora_rank"])?.unwrap_or(0),
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

    #[test]
    fn a_key_that_is_not_read_is_refused_by_name_and_one_that_changes_no_size_is_not() {
        let of = |more: &str| {
            let text = format!(
                r#"{{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
                "intermediate_size": 128, "vocab_size": 100, {more}}}"#
            );
            parse("x/config.json", &text, None).map(|(model, _)| model.layers)
        };
        for key in ["\"mamba_d_state\": 16", "\"ffn_dim_multiplier\": 1.5", "\"compress_ratios\": [0, 4]"] {
            let message = of(key).unwrap_err().to_string();
            let name = key.split(':').next().unwrap().trim_matches('"');
            assert!(message.contains(&format!("`{name}` is ")) && message.contains("not read"), "{message}");
        }
        for key in ["\"bos_token_id\": 1", "\"rms_norm_eps\": 1e-5", "\"mamba_d_state\": null", "\"use_x\": false"] {
            assert_eq!(of(key).unwrap(), 2, "{key}");
        }
    }

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
                "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128,
                "num_experts_per_tok": 8, "topk_group": 4,
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
            let (ours, theirs) = (load(name).unwrap(), parse("hub/config.json", text, None).unwrap().0);
            // Papers count neither a head's own layer nor token types, nor say how many positions a table has.
            let family = theirs.family.clone().map(|family| Family { positions: None, unpriced: 0, ..family });
            let family = family.filter(|family| *family != Family::default());
            let (a, b) = (&ours, &Model { family, ..theirs.clone() });
            assert_eq!(a.family, b.family, "{name}");
            let (a, b) = (a.parameters(1024) as f64, b.parameters(1024) as f64);
            assert!((a / b - 1.0).abs() < 1e-3, "{name}: {a} and {b}");
            assert_eq!(theirs.name, "hub");
        }
    }

    #[test]
    fn a_size_that_is_missing_is_named() {
        let message =
            parse("x/config.json", r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}"#, None)
                .unwrap_err()
                .to_string();
        assert!(message.contains("x/config.json") && message.contains("num_hidden_layers"), "{message}");
        let message = parse("x/config.json", "{\n\"hidden_size\" 64}", None).unwrap_err().to_string();
        assert!(message.contains("x/config.json:2"), "{message}");
    }
}
