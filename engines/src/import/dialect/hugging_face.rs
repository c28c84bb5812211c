//! Hugging Face's `config.json`, and models by their hubs' names.
//!
//! In: a configuration's text, or a name. Out: facts of the model.

use meshwright_planner::models;

use crate::import::draft::Draft;
use crate::import::known_models::{name_model, take_model, wanted_name};
use crate::import::shell::FilesBeside;

/// Facts of a `config.json`.
pub fn configuration(draft: &mut Draft, text: &str, file: &str) {
    match models::parse_configuration(file, text) {
        Ok((model, notes)) => {
            take_model(draft, &model, &format!("of {file}"));
            // Transformers drops no token, and balances only where it says so.
            draft.facts.remove("capacity");
            let value = crate::import::tree::json(text).unwrap_or_default();
            if value.get("output_router_logits") == Some(&true.into())
                && let Some(weight) = value.get("router_aux_loss_coef").filter(|weight| weight.is_number())
            {
                draft.recompute("balance", weight.clone(), format!("of {file}"));
            }
            notes.into_iter().for_each(|note| draft.note(format!("{file}: {note}")));
        }
        Err(problem) => draft.fault(problem.to_string()),
    }
}

/// Facts of a model that is named: a folder with a configuration, or a hub's name.
pub fn named(draft: &mut Draft, word: &str, name: &str, files: FilesBeside) {
    draft.compute("model", wanted_name(name), format!("of {word}"));
    let folder = name.trim_end_matches('/');
    if let Some(text) = files(&format!("{folder}/config.json")).or_else(|| files("config.json")) {
        return configuration(draft, &text, "config.json");
    }
    if !name_model(draft, name) {
        for key in ["layers", "hidden", "heads", "vocab"] {
            if !draft.says(key) {
                draft.lack(
                    key,
                    word,
                    format!("`{name}` is no model that is known here: give its config.json as a further file"),
                );
            }
        }
    }
}
