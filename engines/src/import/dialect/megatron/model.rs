//! The model, of Megatron-LM's arguments.
//!
//! In: what flags said. Out: what follows: widths, positions, vocabulary, experts, latent attention.

use serde_json::Value;

use crate::import::draft::Draft;

/// The shape of layers, tables and positions.
pub fn model(draft: &mut Draft) {
    let gated = draft.flag("gated");
    draft.usual("gated", "--swiglu", false);
    if let Some(hidden) = draft.count("hidden")
        && !draft.says("ffn")
    {
        // `validate_args`: 2/3 of 4 · hidden, a multiple of 64.
        let ffn = if gated { (4 * hidden * 2 / 3) / 64 * 64 } else { 4 * hidden };
        let why = if gated { "of --swiglu: 8/3 of hidden, down to a multiple of 64" } else { "4 · hidden" };
        draft.compute("ffn", ffn, why);
    }
    if let (Some(heads), false) = (draft.count("heads"), draft.says("kv_heads")) {
        if draft.lacks("grouped") {
            draft.lack("kv_heads", "--num-query-groups", "whether --group-query-attention stands is not known");
        } else if draft.flag("grouped") {
            match (draft.count("query_groups"), draft.lacks("query_groups")) {
                (Some(groups), _) => draft.state("kv_heads", "--num-query-groups", groups),
                (None, true) => draft.lack("kv_heads", "--num-query-groups", draft.facts["query_groups"].why.clone()),
                (None, false) => draft.usual("kv_heads", "--num-query-groups", 1),
            }
        } else {
            if draft.says("query_groups") {
                draft.inert("query_groups", heads, "without --group-query-attention each head has its own");
            }
            draft.compute("kv_heads", heads, "as many as heads, without --group-query-attention");
        }
    }
    let kind =
        if draft.flag("rotary") { Some("rope".to_owned()) } else { draft.text("position_type").map(str::to_owned) };
    let kind = kind.unwrap_or_else(|| "learned_absolute".to_owned());
    let why = match (draft.says("position_type"), draft.flag("rotary")) {
        (_, true) => "of --use-rotary-position-embeddings",
        (true, false) => "of --position-embedding-type",
        (false, false) => "of --position-embedding-type's default",
    };
    let positions = match kind.as_str() {
        "learned_absolute" => "learned",
        "rope" | "mrope" | "yarn" => "rope",
        "relative" => "relative",
        other => other,
    };
    draft.compute("positions", positions, why);
    draft.usual("rope_theta", "--rotary-base", 10_000);
    draft.usual("tied", "--untie-embeddings-and-output-weights", true);
    let rms = draft.text("normalization").is_some_and(|name| name.eq_ignore_ascii_case("rmsnorm"));
    let biased = draft.value("biased").and_then(Value::as_bool).unwrap_or(true);
    // Between the two usual decoders: norms decide, or where they do not, gates.
    let llama = rms || (gated && !biased);
    draft.compute(
        "architecture",
        if llama { "llama" } else { "gpt2" },
        if rms { "of RMSNorm" } else { "of LayerNorm" },
    );
    if llama && biased {
        draft.note("linear layers have biases, which are not priced beside RMSNorm");
    }
    if !llama && !biased {
        draft.note("linear layers have no biases (--disable-bias-linear): priced with them, which is next to nothing");
    }
    vocabulary(draft);
}

/// The vocabulary of a tokenizer that its name alone defines.
fn vocabulary(draft: &mut Draft) {
    if draft.says("vocab") {
        return;
    }
    let tokenizer = draft.text("tokenizer").map(str::to_owned);
    let known = match tokenizer.as_deref() {
        Some("GPT2BPETokenizer") => Some((50257, "GPT2BPETokenizer: GPT-2's merges have 50,257 tokens")),
        None if !draft.lacks("tokenizer") && draft.engine != "deepspeed" => {
            Some((50257, "the default tokenizer, GPT2BPETokenizer: GPT-2's merges have 50,257 tokens"))
        }
        Some("Llama2Tokenizer") => Some((32000, "Llama2Tokenizer: LLaMA 2's model has 32,000 tokens")),
        Some("BertWordPieceLowerCase") => {
            Some((30522, "BertWordPieceLowerCase: BERT's uncased list has 30,522 tokens"))
        }
        Some("BertWordPieceCase") => Some((28996, "BertWordPieceCase: BERT's cased list has 28,996 tokens")),
        Some("GPTSentencePieceTokenizer")
            if draft.text("tokenizer_model").is_some_and(|m| m.to_lowercase().contains("llama")) =>
        {
            Some((32000, "LLaMA's SentencePiece model has 32,000 tokens"))
        }
        _ => None,
    };
    if let Some((vocab, why)) = known {
        draft.compute("vocab", vocab, why);
        return;
    }
    let named = draft.text("tokenizer_model").map(str::to_owned);
    if let Some(name) = named {
        let mut other = Draft::default();
        if crate::import::known_models::name_model(&mut other, &name)
            && let Some(vocab) = other.count("vocab")
        {
            draft.compute("vocab", vocab, format!("the tokenizer of {name}"));
            return;
        }
    }
    draft.lack("vocab", "--vocab-size", "the tokenizer's files say it; give it by --set vocab=…");
}

/// Experts, where there are some.
pub fn experts(draft: &mut Draft) {
    if draft.lacks("experts") || draft.count("experts").is_none_or(|count| count == 0) {
        return;
    }
    draft.usual("top_k", "--moe-router-topk", 2);
    if let Some(ffn) = draft.count("ffn") {
        draft.compute("expert_ffn", ffn, "as wide as --ffn-hidden-size");
    }
    if let (Some(count), Some(ffn)) = (draft.count("shared_count"), draft.count("expert_ffn")) {
        draft.compute("shared_ffn", count * ffn, "--num-shared-experts · an expert's width");
    }
    let balancing = draft.text("balancing").unwrap_or("aux_loss");
    if balancing.contains("aux_loss") {
        if let Some(value) = draft.value("aux_loss").cloned() {
            draft.state("balance", "--moe-aux-loss-coeff", value);
        }
    } else if draft.says("aux_loss") {
        draft.inert("aux_loss", 0, "without a balancing loss");
    }
    let Some(frequency) =
        draft.text("frequency").map(str::to_owned).or(draft.count("frequency").map(|n| n.to_string()))
    else {
        return;
    };
    if let Some(every) = frequency.trim().parse::<usize>().ok().filter(|every| *every > 1) {
        draft.note(format!(
            "--moe-layer-freq {every}: layers 0, {every}, … have experts; the plan has as many, one later each"
        ));
    }
    match routed(&frequency, draft.count("layers").unwrap_or(0)) {
        Some((dense, every)) => {
            draft.state("dense_layers", "--moe-layer-freq", dense);
            draft.state("every", "--moe-layer-freq", every);
        }
        None => draft.lack("dense_layers", "--moe-layer-freq", format!("`{frequency}` is no pattern that is modelled")),
    }
}

/// Leading dense layers, and every how many of the rest have experts, of `--moe-layer-freq`.
fn routed(text: &str, layers: usize) -> Option<(usize, usize)> {
    const MOST: usize = 4096;
    if let Ok(every) = text.trim().parse::<usize>() {
        return Some((0, every.max(1)));
    }
    let mut flags: Vec<bool> = Vec::new();
    for part in text.trim_matches(['(', ')', '"', '\'']).split('+') {
        let (list, times) = match part.split_once('*') {
            Some((list, times)) => (list, times.trim().trim_matches(['(', ')']).parse::<usize>().ok()?),
            None => (part, 1),
        };
        let list = list.trim().trim_matches(['(', ')']).strip_prefix('[')?.strip_suffix(']')?;
        let items: Option<Vec<bool>> = list
            .split(',')
            .map(|item| match item.trim() {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            })
            .collect();
        let items = items?;
        if times.checked_mul(items.len())? + flags.len() > MOST {
            return None;
        }
        flags.extend((0..times).flat_map(|_| items.clone()));
    }
    let dense = flags.iter().take_while(|routed| !**routed).count();
    let rest = &flags[dense..];
    if layers > 0 && flags.len() != layers {
        return None;
    }
    if rest.iter().all(|routed| *routed) {
        return Some((dense, 1));
    }
    // The plan's pattern: the last of every so many.
    (1..=rest.len().max(1)).find_map(|every| {
        (0..=dense).find_map(|lead| {
            let fits = flags
                .iter()
                .enumerate()
                .all(|(layer, routed)| *routed == (layer >= lead && (layer - lead + 1).is_multiple_of(every)));
            fits.then_some((lead, every))
        })
    })
}

/// Latent attention.
pub fn latent(draft: &mut Draft) {
    // A fork's own flags say it too.
    let fork = draft.word("nope").contains("nope") || draft.word("rope").contains("rope-head");
    if !(draft.flag("latent") || fork && draft.says("kv_rank")) {
        for key in ["q_rank", "kv_rank", "nope", "rope", "value"] {
            if draft.says(key) {
                draft.note(format!("{} is inert without --multi-latent-attention", draft.word(key)));
                draft.facts.remove(key);
            }
        }
        return;
    }
    draft.usual("q_rank", "--q-lora-rank", 0);
    draft.usual("kv_rank", "--kv-lora-rank", 32);
    draft.usual("nope", "--qk-head-dim", 128);
    draft.usual("rope", "--qk-pos-emb-head-dim", 64);
    draft.usual("value", "--v-head-dim", 128);
}
