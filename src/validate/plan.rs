//! The plan of a row.
//!
//! In: a [`Record`], its model, place and stack. Out: [`Layout`]s: one, or one for each way to fill in what it leaves open.
//!
//! Invariant: nothing that was measured is read.

use meshwright_hardware::profile::Stack;
use meshwright_hardware::units::Precision;
use meshwright_planner::estimate::{Layout, Recompute, Schedule};
use meshwright_planner::job::Shape;

use super::place;
use super::record::{Record, Skip};

/// Tokens of a packed SQuAD sample (Rajpurkar et al. 2016: contexts of some 120 words with question and answer).
const SAMPLE: usize = 256;

/// What a plan is read from.
pub(super) struct Stated<'a> {
    pub(super) record: &'a Record<'a>,
    pub(super) shape: &'a Shape,
    pub(super) seq: usize,
    pub(super) devices: usize,
    pub(super) place: &'a place::Place,
    pub(super) stack: &'a Stack,
}

/// The plan, once for each way to fill in what it leaves open.
pub(super) fn layouts(stated: &Stated) -> Result<Vec<Layout>, Skip> {
    let &Stated { record, shape, devices, stack, .. } = stated;
    let size = |column| record.size(column).unwrap_or(1);
    let (tp, pp, cp) = (size("tp"), size("pp"), size("cp"));
    if record.size("tp").is_none() && record.size("dp").is_none() && devices > 1024 {
        return layouts_of_unknown_split(stated);
    }
    let dp = devices / (tp * pp * cp);
    if dp == 0 {
        return Err(Skip("the plan needs more devices than the run had"));
    }
    let base = base(stated, (tp, pp, cp, dp));
    let known_micro = record.number("micro_batch").filter(|value| *value > 0.0);
    let global = record.size("global_batch");
    let micros: Vec<usize> = match (known_micro, global) {
        (Some(micro), _) => vec![(micro.round() as usize).max(1)],
        // torchtitan cuts a rank's batch into as many microbatches as there are stages (its `pipeline_parallel_microbatches`).
        (None, Some(global)) if pp > 1 && stack.casts => vec![(global / dp / pp).max(1)],
        // Mixtures of experts train one sequence at a time at these lengths.
        (None, Some(_)) if shape.experts.is_some() => vec![1],
        (None, Some(global)) => {
            let each = (global / dp).max(1);
            [1, 2, 4, 8, 16].into_iter().filter(|micro| each.is_multiple_of(*micro)).collect()
        }
        (None, None) => vec![1],
    };
    let kept: Vec<Recompute> = match record.text("recompute_class") {
        // These recipes name the modules that they recompute, which cost little; none named, none recomputed.
        "" if record.text("recompute").is_empty() && stack.family == "megatron-core" => vec![Recompute::None],
        "" if record.text("recompute").is_empty() => vec![Recompute::None, Recompute::Selective, Recompute::Full(1.0)],
        class => vec![recompute(class, record.text("recompute"), record.text("framework"))],
    };
    let interleaved = record.text("framework").contains("Interleaved");
    let chunks = record.size("vpp").unwrap_or(if interleaved && pp > 1 { 2 } else { 1 });
    let all = micros.iter().flat_map(|&micro| kept.iter().map(move |&recompute| (micro, recompute)));
    Ok(all
        .map(|(micro, recompute)| {
            let global = global.unwrap_or(micro * dp * 8);
            Layout { micro, global, recompute, vpp: chunks, ..base.clone() }
        })
        .collect())
}

/// Where not even the split is stated, the usual ones: TP inside a node, and the fastest is taken.
fn layouts_of_unknown_split(stated: &Stated) -> Result<Vec<Layout>, Skip> {
    let record = stated.record;
    let mut all = Vec::new();
    for tp in [1, 2, 4, 8] {
        let base = base(stated, (tp, 1, 1, stated.devices / tp));
        let global = record.size("global_batch").ok_or(Skip("neither split nor batch stated"))?;
        let recompute = recompute(record.text("recompute_class"), record.text("recompute"), record.text("framework"));
        all.push(Layout { micro: (global / base.dp).max(1), global, recompute, zero: 3, ..base });
    }
    Ok(all)
}

/// What all ways to fill in the plan share.
fn base(stated: &Stated, (tp, pp, cp, dp): (usize, usize, usize, usize)) -> Layout {
    let &Stated { record, shape, seq, place, stack, .. } = stated;
    let notes = record.text("sharding_notes");
    let framework = record.text("framework");
    let zero_text = record.text("zero_stage").to_lowercase();
    let zero = match record.text("zero_class") {
        _ if zero_text.contains("zero2") => 2,
        "3" => 3,
        "1" => 1,
        "0" => 0,
        _ if zero_text.contains("fsdp") => 3,
        _ if zero_text.contains("none") => 0,
        _ => stack.zero,
    };
    let ranks = dp * cp;
    let stated = number_after(&zero_text, "over ").or(number_after(&zero_text, "shard size "));
    let noted = number_after(&notes.to_lowercase(), "shard group=");
    let shard = stated.or(noted).unwrap_or(if place.slices > 1 { ranks / place.slices } else { ranks });
    let ep = record.size("ep").unwrap_or(1).min((dp * cp * tp).max(1));
    let folded = framework.contains("Bridge") || framework.contains("Folding");
    let etp = match number_after(&notes.to_lowercase(), "etp=").or(number_after(notes, "ETP")) {
        Some(etp) => etp.max(1),
        None if notes.contains("expert-TP = TP") => tp,
        None if folded => 1,
        None => tp,
    };
    let precision = match record.text("precision_class") {
        "fp16" => Precision::Fp16,
        "fp32" => Precision::Fp32,
        "fp8" | "mxfp8" => Precision::Fp8,
        "nvfp4" | "fp4" | "mxfp4" => Precision::Fp4,
        _ if record.text("precision").starts_with("int8") => Precision::Int8,
        _ => Precision::Bf16,
    };
    let pure = stack.pure || record.text("precision").contains("pure") || record.text("precision").contains("+SR");
    let adapters = matches!(record.text("task"), "lora" | "qlora");
    let tuned = matches!(record.text("task"), "sft" | "lora" | "qlora");
    let packed = tuned && record.text("notes").contains("packed SQuAD");
    Layout {
        seq,
        span: if packed { seq.min(SAMPLE) } else { seq },
        micro: 1,
        global: 1,
        precision,
        tp,
        sp: tp > 1 && sequence_parallel(record.text("sp"), stack),
        pp,
        vpp: 1,
        dp,
        cp,
        ep: if shape.experts.is_some() { ep } else { 1 },
        etp: if shape.experts.is_some() { etp } else { 1 },
        zero,
        shard: shard.clamp(1, ranks.max(1)),
        recompute: Recompute::None,
        schedule: schedule(framework),
        graphs: record.text("notes").split_once("cuda_graph=").is_some_and(|(_, scope)| !scope.starts_with("none")),
        offload: offload(record.text("offload"), shape.layers),
        state_bytes: match () {
            () if record.text("offload").contains("optimizer") => 0.0,
            () if pure => 4.0,
            () => 12.0,
        },
        // QLoRA keeps frozen weights in NF4 with a scale for each block of 64 (Dettmers et al. 2023, §3).
        frozen_bytes: if record.text("task") == "qlora" { 0.53 } else { 2.0 },
        trained: if adapters { 0.01 } else { 1.0 },
    }
}

fn sequence_parallel(code: &str, stack: &Stack) -> bool {
    match code {
        "1" => true,
        "0" => false,
        _ => stack.sequence_parallel,
    }
}

fn number_after(text: &str, word: &str) -> Option<usize> {
    let (_, after) = text.split_once(word)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn schedule(framework: &str) -> Schedule {
    match () {
        () if framework.contains("ZB-1p") || framework.contains("ZB-H1") => Schedule::ZeroBubble1p,
        () if framework.contains("ZB-2p") || framework.contains("ZB-H2") => Schedule::ZeroBubble2p,
        () if framework.contains("ZB-V") => Schedule::ZeroBubbleV,
        () if framework.contains("GPipe") => Schedule::GPipe,
        () => Schedule::OneFOneB,
    }
}

fn offload(text: &str, layers: usize) -> f64 {
    if !text.contains("activation") {
        return 0.0;
    }
    match number_after(text, "offload ") {
        Some(count) => (count as f64 / layers as f64).min(1.0),
        None if text.contains("fine-grained") => 0.3,
        // Named activations: recomputation leaves little else.
        None => 0.0,
    }
}

fn recompute(class: &str, text: &str, framework: &str) -> Recompute {
    match class {
        "full" => Recompute::Full(1.0),
        "selective" if text.contains("every 2nd") => Recompute::Full(0.5),
        "selective" if text.contains("minimal") || text.contains("save linear") => Recompute::Matmuls,
        "selective" if framework.contains("torchtitan") || text.contains("per-op") => Recompute::Full(0.5),
        "selective" => Recompute::Selective,
        "other" => Recompute::Full(1.0),
        _ => Recompute::None,
    }
}
