//! A row of a table of published runs.
//!
//! In: a CSV record by column name. Out: [`Run`], or the reason why it cannot be predicted.
//!
//! Invariant: measured columns are read into [`Measured`] alone; layouts come from the others. Where a plan is incomplete,
//! what follows by arithmetic is filled in; what does not is left open as several layouts.

use std::collections::HashMap;

use meshwright_hardware::profile::{Device, Stack};
use meshwright_hardware::topology::Topology;
use meshwright_hardware::units::Precision;
use meshwright_planner::estimate::{Layout, Recompute, Schedule};
use meshwright_planner::shape::{Experts, Latent, Shape};

use super::convention::Convention;
use super::place;

/// What a row says was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Tokens a second and device.
    pub tokens_per_s: Option<f64>,
    /// Seconds.
    pub step_time_s: Option<f64>,
    /// TFLOPS a device by the row's convention.
    pub tflops: Option<f64>,
    /// Model FLOPs over peak.
    pub mfu: Option<f64>,
    /// GB.
    pub memory_gb: Option<f64>,
    /// Whether it ran out of memory.
    pub oom: bool,
}

/// How memory was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// By the allocator's peak.
    Allocated,
    /// By what the allocator held.
    Reserved,
    /// By the driver, context included.
    Device,
}

/// A row that can be predicted.
pub struct Run {
    /// Its name.
    pub id: String,
    /// The table or paper it is from.
    pub group: String,
    /// Accelerator as written.
    pub accelerator: String,
    /// Framework as written.
    pub framework: String,
    /// Model's family, for groups.
    pub family: &'static str,
    /// The model.
    pub shape: Shape,
    /// Its plan; several where the row leaves something open.
    pub layouts: Vec<Layout>,
    /// Tokens of a sequence that count.
    pub tokens_per_sequence: f64,
    /// Devices.
    pub devices: usize,
    /// The accelerator.
    pub device: Device,
    /// Links.
    pub topology: Topology,
    /// Devices a node.
    pub per_node: usize,
    /// The software.
    pub stack: &'static Stack,
    /// How its FLOPs are counted.
    pub convention: Convention,
    /// How its memory was measured.
    pub measure: Measure,
    /// Whether memory is the last rank's rather than the fullest's.
    pub last_rank: bool,
    /// Whether its time is meant to be compared.
    pub timed: bool,
    /// What was measured.
    pub measured: Measured,
}

/// Why a row is not predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Skip(pub &'static str);

/// A record by column.
pub struct Record<'a>(pub &'a HashMap<String, String>);

impl Record<'_> {
    fn text(&self, column: &str) -> &str {
        self.0.get(column).map_or("", |text| text.trim())
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok().filter(|value: &f64| value.is_finite())
    }

    fn size(&self, column: &str) -> Option<usize> {
        self.number(column).filter(|value| *value >= 1.0).map(|value| value.round() as usize)
    }
}

/// Reads a row.
pub fn read(columns: &HashMap<String, String>) -> Result<Run, Skip> {
    let record = Record(columns);
    if record.text("arch").contains("mamba") || record.text("arch").contains("hybrid") {
        return Err(Skip("state-space layers are not modelled"));
    }
    let devices = record.size("n_devices").ok_or(Skip("number of devices not stated"))?;
    let interconnect = record.text("interconnect");
    let place = place::place(record.text("accelerator"), devices, record.size("devices_per_node"), interconnect)
        .ok_or(Skip("accelerator has no profile"))?;
    let year = record.number("year").unwrap_or(2024.0) as u16;
    let stack = place::stack(record.text("framework"), year, &place.device).ok_or(Skip("framework has no stack"))?;
    let (seq, decoder_seq) = sequence(record.text("seq_len")).ok_or(Skip("sequence length not stated"))?;
    let shape = shape(&record, decoder_seq)?;
    let layouts = layouts(&record, &shape, seq, devices, &place, stack)?;
    let convention = Convention::of(record.text("flops_class"), record.text("tflops_convention"));
    let how = record.text("mem_convention").to_lowercase();
    let measure = match () {
        () if how.contains("nvidia-smi") || how.contains("gpu memory") => Measure::Device,
        () if how.contains("'memory'") || how.contains("torchtitan") || how.starts_with("reserved") => {
            Measure::Reserved
        }
        () => Measure::Allocated,
    };
    let kind = record.text("kind");
    let measured = Measured {
        tokens_per_s: record.number("measured_tokens_per_s_per_device"),
        step_time_s: record.number("measured_step_time_s").or(record.number("derived_step_time_s")),
        tflops: record.number("measured_tflops_per_device"),
        mfu: record.number("measured_mfu"),
        memory_gb: record.number("measured_peak_mem_gb").filter(|_| kind != "throughput"),
        oom: record.text("oom") == "1",
    };
    let tokens_per_sequence = seq as f64;
    Ok(Run {
        id: record.text("id").to_owned(),
        group: record.text("group").to_owned(),
        accelerator: record.text("accelerator").to_owned(),
        framework: record.text("framework").to_owned(),
        family: family(record.text("arch")),
        shape,
        layouts,
        tokens_per_sequence,
        devices,
        device: place.device,
        topology: place.topology,
        per_node: place.per_node,
        stack,
        convention,
        measure,
        last_rank: how.contains("last rank"),
        timed: kind != "memory" && !measured.oom,
        measured,
    })
}

fn family(arch: &str) -> &'static str {
    match arch {
        "moe-decoder" => "mixture of experts",
        "encoder" => "encoder",
        "enc-dec" => "encoder-decoder",
        _ => "decoder",
    }
}

/// `2048`, or an encoder's and a decoder's: `512 (dec 128)`.
fn sequence(text: &str) -> Option<(usize, Option<usize>)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    Some((numbers.next().filter(|seq| *seq > 0)?, numbers.next()))
}

fn shape(record: &Record, decoder_seq: Option<usize>) -> Result<Shape, Skip> {
    let missing = Skip("model's sizes not stated");
    let mut depths = record.text("layers").split('+').map(|part| part.trim().parse::<f64>().ok());
    let layers = depths.next().flatten().filter(|layers| *layers >= 1.0).ok_or(missing)? as usize;
    let second = depths.next().flatten().map(|layers| layers as usize);
    let hidden = record.size("hidden").ok_or(missing)?;
    let encoder_decoder = record.text("arch") == "enc-dec";
    let heads = record.size("heads").unwrap_or_else(|| usual_heads(hidden));
    let gated = record.text("gated_mlp") == "1";
    let name = record.text("model_name");
    let latent = (name.contains("DeepSeekV")
        || name.contains("DeepSeek-V")
        || name.contains("DeepSeek V")
        || name.contains("Kimi"))
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
        tied: !gated,
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
    let usual = if name.contains("V3") { 3 } else { usize::from(latent) };
    let dense_layers = stated.unwrap_or(usual);
    Experts { count, top_k: record.size("top_k").unwrap_or(2), ffn, shared_ffn, dense_layers, every: 1 }
}

/// The plan, once for each way to fill in what it leaves open.
fn layouts(
    record: &Record,
    shape: &Shape,
    seq: usize,
    devices: usize,
    place: &place::Place,
    stack: &Stack,
) -> Result<Vec<Layout>, Skip> {
    let size = |column| record.size(column).unwrap_or(1);
    let (tp, pp, cp) = (size("tp"), size("pp"), size("cp"));
    if record.size("tp").is_none() && record.size("dp").is_none() && devices > 1024 {
        return layouts_of_unknown_split(record, shape, seq, devices, place, stack);
    }
    let dp = devices / (tp * pp * cp);
    if dp == 0 {
        return Err(Skip("the plan needs more devices than the run had"));
    }
    let base = base(record, shape, seq, (tp, pp, cp, dp), place, stack);
    let known_micro = record.number("micro_batch").filter(|value| *value > 0.0);
    let global = record.size("global_batch");
    let micros: Vec<usize> = match (known_micro, global) {
        (Some(micro), _) => vec![(micro.round() as usize).max(1)],
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
    let chunks = match record.size("vpp") {
        Some(vpp) => vpp,
        None => 1,
    };
    let all = micros.iter().flat_map(|&micro| kept.iter().map(move |&recompute| (micro, recompute)));
    Ok(all
        .map(|(micro, recompute)| {
            let global = global.unwrap_or(micro * dp * 8);
            Layout { micro, global, recompute, vpp: chunks, ..base.clone() }
        })
        .collect())
}

/// Where not even the split is stated, the usual ones: TP inside a node, and the fastest is taken.
fn layouts_of_unknown_split(
    record: &Record,
    shape: &Shape,
    seq: usize,
    devices: usize,
    place: &place::Place,
    stack: &Stack,
) -> Result<Vec<Layout>, Skip> {
    let mut all = Vec::new();
    for tp in [1, 2, 4, 8] {
        let base = base(record, shape, seq, (tp, 1, 1, devices / tp), place, stack);
        let global = record.size("global_batch").ok_or(Skip("neither split nor batch stated"))?;
        let recompute = recompute(record.text("recompute_class"), record.text("recompute"), record.text("framework"));
        all.push(Layout { micro: (global / base.dp).max(1), global, recompute, zero: 3, ..base });
    }
    Ok(all)
}

fn base(
    record: &Record,
    shape: &Shape,
    seq: usize,
    (tp, pp, cp, dp): (usize, usize, usize, usize),
    place: &place::Place,
    stack: &Stack,
) -> Layout {
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
        _ if stack.family == "fsdp" || stack.family == "xla" => 3,
        _ => 1,
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
    let pure = record.text("precision").contains("pure") || record.text("precision").contains("+SR");
    let adapters = matches!(record.text("task"), "lora" | "qlora");
    Layout {
        seq,
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
        state_bytes: if pure { 4.0 } else { 12.0 },
        // QLoRA keeps frozen weights in NF4 with a scale for each block of 64 (Dettmers et al. 2023, §3).
        frozen_bytes: if record.text("task") == "qlora" { 0.53 } else { 2.0 },
        trained: if adapters { 0.01 } else { 1.0 },
    }
}

fn sequence_parallel(code: &str, stack: &Stack) -> bool {
    match code {
        "1" => true,
        "0" => false,
        _ => stack.family == "megatron-core" || stack.family == "xla",
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
