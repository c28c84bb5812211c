//! What a launch has to keep, all at once: also what engines' own parsers let pass.
//!
//! In: a settled [`Draft`]. Out: every [`Violation`], with legal values near.
//!
//! Invariant: a rule over what is not known says nothing.

use super::build::{build, missing, split};
use super::draft::{Draft, ValueOrigin};

/// A rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The engine's word for what would have to change.
    pub word: String,
    /// Its value.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// Legal values near, if it is one count that would have to change.
    pub near: Vec<usize>,
    /// Whether the engine's own parser lets it pass.
    pub passes: bool,
    /// Whether a plan is what was meant all the same.
    pub harmless: bool,
}

struct Breaches<'a> {
    draft: &'a Draft,
    all: Vec<Violation>,
}

impl Breaches<'_> {
    /// A count that has to satisfy a rule.
    fn rule(&mut self, key: &str, value: usize, holds: impl Fn(usize) -> bool, problem: String) {
        if holds(value) {
            return;
        }
        let near = near(value, &holds);
        self.all.push(Violation {
            word: self.draft.word(key).to_owned(),
            value: value.to_string(),
            problem,
            near,
            passes: false,
            harmless: false,
        });
    }

    /// The same, of which the engine's parser says nothing.
    fn silent(&mut self, key: &str, value: usize, holds: impl Fn(usize) -> bool, problem: String) {
        let before = self.all.len();
        self.rule(key, value, holds, problem);
        self.all[before..].iter_mut().for_each(|violation| violation.passes = true);
    }

    fn plain(&mut self, key: &str, problem: String) {
        let value = self.draft.value(key).map_or(String::new(), ToString::to_string);
        self.all.push(Violation {
            word: self.draft.word(key).to_owned(),
            value,
            problem,
            near: Vec::new(),
            passes: false,
            harmless: false,
        });
    }
}

/// Up to three values that satisfy a rule, on both sides.
fn near(value: usize, holds: &dyn Fn(usize) -> bool) -> Vec<usize> {
    const FAR: usize = 20_000;
    let below = (1..value).rev().take(FAR).find(|n| holds(*n));
    let above: Vec<usize> =
        (value.saturating_add(1)..value.saturating_add(FAR)).filter(|n| holds(*n)).take(2).collect();
    below.into_iter().chain(above).collect()
}

fn divides(divisor: usize, all: usize) -> bool {
    divisor > 0 && all.is_multiple_of(divisor)
}

/// Every rule that is broken.
pub fn violations(draft: &Draft, name: &str) -> Vec<Violation> {
    let mut found = Breaches { draft, all: Vec::new() };
    for fault in &draft.faults {
        found.all.push(Violation {
            word: String::new(),
            value: String::new(),
            problem: fault.clone(),
            near: Vec::new(),
            passes: false,
            harmless: false,
        });
    }
    for oddity in &draft.oddities {
        let (word, value, problem) = (String::new(), String::new(), oddity.clone());
        found.all.push(Violation { word, value, problem, near: Vec::new(), passes: true, harmless: true });
    }
    world(&mut found);
    tensor(&mut found);
    pipeline(&mut found);
    batch(&mut found);
    experts(&mut found);
    sequence(&mut found);
    zero(&mut found);
    // What is left, the plan's own check says.
    if found.all.iter().all(|violation| violation.harmless) && missing(draft).is_empty() {
        match build(draft, name).map(|plan| plan.check()) {
            Some(Err(fault)) => {
                let problem = format!("in the plan: {}", fault.problem);
                let word = fault.key.clone();
                found.all.push(Violation {
                    word,
                    value: fault.value,
                    problem,
                    near: Vec::new(),
                    passes: true,
                    harmless: false,
                });
            }
            Some(Ok(())) => {}
            None => found.plain("pp", "layers do not go over its stages".to_owned()),
        }
    }
    found.all
}

fn world(found: &mut Breaches) {
    let draft = found.draft;
    let Some(devices) = draft.count("devices") else { return };
    let axes = ["tp", "pp", "cp"].map(|axis| draft.count(axis));
    let [Some(tp), Some(pp), Some(cp)] = axes else { return };
    for (key, size) in [("tp", tp), ("pp", pp), ("cp", cp)] {
        if size == 0 {
            return found.rule(key, size, |n| n > 0, "an axis has one rank at least".to_owned());
        }
    }
    let others = tp.saturating_mul(pp).saturating_mul(cp);
    if let Some(dp) = draft
        .count("dp")
        .filter(|dp| dp.saturating_mul(others) != devices && draft.facts["dp"].origin == ValueOrigin::Stated)
    {
        let ranks = dp.saturating_mul(others);
        let problem = format!("dp · tp · pp · cp = {dp} · {tp} · {pp} · {cp} = {ranks} ranks, on {devices} devices");
        return found.silent("devices", devices, |n| n == ranks, problem);
    }
    let problem = format!("{devices} devices are no multiple of tp · pp · cp = {tp} · {pp} · {cp} = {others}");
    found.rule("devices", devices, |n| divides(others, n), problem);
    let shards = draft.value("shard_degree").and_then(serde_json::Value::as_i64).filter(|shards| *shards > 0);
    if let (Some(shards), Some(replicate)) = (shards, draft.count("replicate")) {
        let product = (shards as usize).saturating_mul(replicate).saturating_mul(others);
        let problem = format!(
            "replicate · shard · cp · tp · pp = {replicate} · {shards} · {cp} · {tp} · {pp} = {product}, on {devices} devices"
        );
        found.rule("devices", devices, |n| n == product, problem);
    }
}

fn tensor(found: &mut Breaches) {
    let draft = found.draft;
    let (hidden, heads, kv) = (draft.count("hidden"), draft.count("heads"), draft.count("kv_heads"));
    if let (Some(hidden), Some(heads), false) = (hidden, heads, draft.says("head_dim")) {
        found.rule("heads", heads, |n| divides(n, hidden), format!("it must divide the width of the model, {hidden}"));
    }
    if let (Some(heads), Some(kv)) = (heads, kv) {
        found.rule("kv_heads", kv, |n| divides(n, heads), format!("it must divide the heads, {heads}"));
    }
    let Some(tp) = draft.count("tp").filter(|tp| *tp > 1) else { return };
    if let Some(heads) = heads {
        found.rule("tp", tp, |n| divides(n, heads), format!("it must divide the heads, {heads}"));
    }
    if let Some(kv) = kv {
        // Megatron copies heads where there are fewer; others do not.
        let copies = draft.engine == "megatron-lm";
        let holds = move |n: usize| divides(n, kv) || (copies && kv > 0 && n.is_multiple_of(kv));
        let more = if copies { ", or be a multiple of them" } else { "" };
        found.rule("tp", tp, holds, format!("it must divide the key/value heads, {kv}{more}"));
    }
    for (key, what) in [("ffn", "the feed-forward width"), ("expert_ffn", "an expert's width")] {
        let whole = key == "expert_ffn" && draft.count("etp") == Some(1);
        if let Some(width) = draft.count(key).filter(|_| !whole) {
            found.silent("tp", tp, |n| divides(n, width), format!("it must divide {what}, {width}"));
        }
    }
}

fn pipeline(found: &mut Breaches) {
    let draft = found.draft;
    let (Some(layers), Some(pp)) = (draft.count("layers"), draft.count("pp").filter(|pp| *pp > 1)) else { return };
    let depth = layers + draft.count("decoder_layers").unwrap_or(0);
    let Some(chunks) = draft.count_or("chunks", 1).filter(|chunks| *chunks > 0) else { return };
    if let Some(serde_json::Value::Array(stages)) = draft.value("layout") {
        let sizes = stages.iter().filter_map(serde_json::Value::as_u64);
        let sum = sizes.fold(0, u64::saturating_add);
        if sum as usize != depth {
            found.silent("layers", depth, |n| n == sum as usize, format!("the layout has {sum} layers"));
        }
    } else if split(draft, depth, pp, chunks).is_none() {
        let each = if chunks > 1 {
            format!("pp · chunks = {pp} · {chunks}")
        } else {
            format!("the pipeline's stages, {pp}")
        };
        found.rule(
            "layers",
            depth,
            |n| divides(pp * chunks, n) && n != depth,
            format!("it must be a multiple of {each}, or a layout says how they lie"),
        );
    }
    if chunks > 1
        && draft.text("schedule").unwrap_or("1f1b") == "1f1b"
        && let Some(rounds) = draft.count("accumulation")
    {
        let problem =
            format!("a replica has {rounds} microbatches, and interleaved stages need a multiple of pp = {pp}");
        let (key, value, step) = match (draft.count("global_batch"), draft.count("microbatch"), draft.count("dp")) {
            (Some(global), Some(micro), Some(dp)) => ("global_batch", global, micro * dp * pp),
            _ => ("accumulation", rounds, pp),
        };
        found.silent(key, value, |n| divides(step, n), problem);
    }
    if draft.engine == "deepspeed"
        && let Some(zero) = draft.count("zero").filter(|zero| *zero > 1 && !draft.flag("no_pipeline"))
    {
        found.rule("zero", zero, |n| n < 2, "DeepSpeed's pipeline takes ZeRO-0 and 1 alone".to_owned());
    }
}

fn batch(found: &mut Breaches) {
    let draft = found.draft;
    let known = (draft.count("global_batch"), draft.count("microbatch"), draft.count("dp"));
    let (Some(global), Some(micro), Some(dp)) = known else { return };
    if micro * dp == 0 {
        return;
    }
    let problem = format!("it must be a multiple of microbatch · dp = {micro} · {dp}");
    found.rule("global_batch", global, |n| divides(micro * dp, n), problem);
}

fn experts(found: &mut Breaches) {
    let draft = found.draft;
    let Some(ep) = draft.count("ep").filter(|ep| *ep > 1) else { return };
    match draft.count("experts") {
        Some(count) => found.rule("ep", ep, |n| divides(n, count), format!("it must divide the experts, {count}")),
        None if !draft.lacks("experts") => found.rule("ep", ep, |n| n == 1, "the model has no experts".to_owned()),
        None => {}
    }
    let (Some(dp), Some(cp), Some(tp)) = (draft.count("dp"), draft.count("cp"), draft.count("tp")) else { return };
    let etp = draft.count("etp").unwrap_or(tp);
    let among = dp * cp * (tp / etp.clamp(1, tp.max(1)));
    let words = match etp {
        _ if etp == tp => "dp · cp",
        1 => "dp · cp · tp",
        _ => "dp · cp · tp / etp",
    };
    found.silent(
        "ep",
        ep,
        |n| divides(n, among),
        format!("it must divide {words} = {among}: experts lie within a pipeline's stage"),
    );
    if !divides(etp, tp) {
        found.plain("etp", format!("so many ranks share an expert, of all {tp} tensor ranks: it must divide them"));
    }
    if tp > 1 && !draft.flag("sequence_parallel") && draft.engine == "megatron-lm" && !draft.lacks("sequence_parallel")
    {
        found.plain("sequence_parallel", "experts beside tensor parallelism need --sequence-parallel".to_owned());
    }
}

fn sequence(found: &mut Breaches) {
    let draft = found.draft;
    let Some(seq) = draft.count("seq") else { return };
    if let Some(cp) = draft.count("cp").filter(|cp| *cp > 1) {
        found.rule("cp", cp, |n| divides(2 * n, seq), format!("twice it must divide the sequence, {seq}"));
    }
    if let Some(tp) = draft.count("tp").filter(|tp| *tp > 1 && draft.flag("sequence_parallel")) {
        let rows = seq / draft.count("cp").unwrap_or(1).max(1);
        found.rule(
            "tp",
            tp,
            |n| divides(n, rows),
            format!("with sequence parallelism it must divide a rank's tokens, {rows}"),
        );
    }
    if let Some(most) = draft.count("positions_most").filter(|_| draft.text("positions") == Some("learned")) {
        found.rule(
            "positions_most",
            most,
            |n| n >= seq,
            format!("learned positions are fewer than a sequence's tokens, {seq}"),
        );
    }
}

fn zero(found: &mut Breaches) {
    let draft = found.draft;
    if let Some(zero) = draft.count("zero") {
        found.rule("zero", zero, |n| n <= 3, "ZeRO has the stages 0 to 3".to_owned());
    }
    if let (Some(shard), Some(dp), Some(cp)) = (draft.count("shard"), draft.count("dp"), draft.count("cp")) {
        found.rule("shard", shard, |n| n > 1 && divides(n, dp * cp), format!("it must divide dp · cp = {}", dp * cp));
    }
}
