//! Models that engines' files name and do not describe: hubs' names and engines' own, with the sizes of their published configurations.
//!
//! In: a name as a file has it. Out: facts of the model.
//!
//! Invariant: a name that stands in no row has no sizes: none is guessed from the number in it.

use meshwright_planner::job::{Architecture, Model};
use meshwright_planner::models;

use super::draft::{Draft, number};

/// Names, and sizes of those that do not come with Meshwright.
const TABLE: &str = include_str!("known_models.txt");

/// Letters and digits alone, of what stands behind the last slash.
fn plain(name: &str) -> String {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Facts of the model that a name names; whether it is known.
pub fn name_model(draft: &mut Draft, name: &str) -> bool {
    let wanted = plain(name);
    let line = TABLE.lines().find_map(|line| {
        let (what, names) = line.split_once(": ").filter(|_| !line.starts_with('#'))?;
        names.split_whitespace().any(|name| name == wanted).then_some(what)
    });
    let ours = line.and_then(|line| line.strip_prefix("= "));
    let ours = ours.or_else(|| models::names().find(|known| plain(known) == wanted));
    let why = format!("of {name}");
    if let Some(model) = ours.and_then(|ours| models::load(ours).ok()) {
        take_model(draft, &model, &why);
        return true;
    }
    let Some(line) = line else { return false };
    let cells: Vec<&str> = line.split_whitespace().collect();
    let keys = ["layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "tied", "rope_theta", "head_dim"];
    for (key, cell) in keys.into_iter().zip(cells) {
        match cell {
            "0" => {}
            "tied" | "untied" => draft.compute(key, cell == "tied", &why),
            cell => draft.compute(key, number(cell).unwrap_or_default(), &why),
        }
    }
    draft.compute("architecture", "llama", &why);
    draft.compute("model", wanted_name(name), &why);
    true
}

/// A name that a model can have.
pub fn wanted_name(name: &str) -> String {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned()
}

/// Facts of a model that is whole.
pub fn take_model(draft: &mut Draft, model: &Model, why: &str) {
    draft.compute("model", model.name.clone(), why);
    let architecture = match model.architecture {
        Architecture::Gpt2 => "gpt2",
        Architecture::Llama => "llama",
    };
    draft.compute("architecture", architecture, why);
    draft.compute("layers", model.layers, why);
    draft.compute("hidden", model.hidden, why);
    draft.compute("heads", model.heads, why);
    draft.compute("kv_heads", model.kv_heads, why);
    draft.compute("head_dim", model.head_dim(), why);
    draft.compute("ffn", model.ffn, why);
    draft.compute("vocab", model.vocab, why);
    draft.compute("tied", model.tied, why);
    // Its own digits.
    draft.compute("rope_theta", model.rope_theta.to_string().parse::<f64>().unwrap_or(1e4), why);
    draft.compute("gated", model.gated(), why);
    let positions = if model.learned_positions() { "learned" } else { "rope" };
    draft.compute("positions", positions, why);
    let Some(family) = &model.family else { return };
    if let Some(layers) = family.decoder_layers {
        draft.compute("decoder_layers", layers, why);
    }
    draft.compute("bidirectional", family.bidirectional, why);
    draft.compute("parallel_block", family.parallel_block, why);
    if let Some(experts) = &family.experts {
        draft.compute("experts", experts.count, why);
        draft.compute("top_k", experts.top_k, why);
        if let Some(groups) = experts.groups {
            draft.compute("expert_groups", groups.count, why);
            draft.compute("top_groups", groups.top, why);
        }
        draft.compute("expert_ffn", experts.ffn, why);
        draft.compute("shared_ffn", experts.shared_ffn, why);
        draft.compute("dense_layers", experts.dense_layers, why);
        draft.compute("every", experts.every, why);
        draft.compute("balance", experts.balance.to_string().parse::<f64>().unwrap_or(0.0), why);
        if !experts.is_dropless() {
            draft.compute("capacity", experts.capacity, why);
        }
    }
    if let Some(latent) = &family.latent {
        draft.compute("q_rank", latent.q_rank, why);
        draft.compute("kv_rank", latent.kv_rank, why);
        draft.compute("nope", latent.nope, why);
        draft.compute("rope", latent.rope, why);
        draft.compute("value", latent.value, why);
    }
}
