//! A row of a table of published runs.
//!
//! In: a CSV record by column name. Out: [`Run`], or the reason why it cannot be predicted.
//!
//! Invariant: measured columns are read into [`Reported`] alone; plans come from the others. Where a plan is incomplete, what
//! follows by arithmetic is filled in; what does not is left open as several plans.

use std::collections::HashMap;
use std::sync::Arc;

use meshwright_hardware::profile::{Allocator, Cluster, DeviceProfile, Stack};
use meshwright_planner::plan::Plan;

use super::convention::Convention;
use super::record::{Record, Skip};
use super::{machine, model, plan, recipe};

/// What a row says was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reported {
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

impl Measure {
    /// Bytes that it shows of a rank that declares so many.
    pub fn bytes(self, allocator: &Allocator, declared: u64) -> u64 {
        match self {
            Measure::Allocated => allocator.allocated(declared),
            Measure::Reserved => allocator.reserved(declared),
            Measure::Device => allocator.taken(declared),
        }
    }
}

/// A row that can be predicted.
pub struct Run {
    /// Its name.
    pub id: String,
    /// The table or paper it is from.
    pub group: String,
    /// Who measured it; the group where no column says so.
    pub publisher: String,
    /// Accelerator as written.
    pub accelerator: String,
    /// Framework as written.
    pub framework: String,
    /// Model's family, for groups.
    pub family: &'static str,
    /// Its plan and job; several where the row leaves something open, the one to be taken if it fits first.
    pub plans: Vec<Plan>,
    /// Its devices, under the software that ran it.
    pub cluster: Cluster,
    /// Columns that it leaves open and that were filled in.
    pub assumed: Vec<&'static str>,
    /// How its FLOPs are counted.
    pub convention: Convention,
    /// Whether its utilisation is of the peak of its own format.
    pub peak_of_format: bool,
    /// How its memory was measured.
    pub measure: Measure,
    /// Whether memory is the last rank's rather than the fullest's.
    pub last_rank: bool,
    /// Whether its time is meant to be compared.
    pub timed: bool,
    /// What was measured.
    pub measured: Reported,
}

impl Run {
    /// Its accelerator.
    pub fn device(&self) -> &DeviceProfile {
        &self.cluster.pools[0].device
    }

    /// The software that ran it.
    pub fn stack(&self) -> &Stack {
        &self.cluster.stack
    }

    /// Has it run by other software.
    pub fn set_stack(&mut self, stack: &Arc<Stack>) {
        self.cluster.stack = Arc::clone(stack);
        self.plans.iter_mut().for_each(|plan| plan.job.stack = Some(stack.name.clone()));
    }

    /// Its devices, each a rank.
    pub fn devices(&self) -> usize {
        self.cluster.devices()
    }
}

/// Reads a row.
pub fn read(columns: &HashMap<String, String>) -> Result<Run, Skip> {
    let record = Record(columns);
    if record.text("arch").contains("mamba") || record.text("arch").contains("hybrid") {
        return Err(Skip::new("state-space layers are not modelled"));
    }
    if record.text("notes").contains("unpacked") {
        return Err(Skip::new("sequences are not packed: tokens of a step are unknown"));
    }
    for Column { name, most, .. } in COLUMNS {
        if record.number(name).is_some_and(|value| value > *most) {
            return Err(Skip { reason: "a size is beyond any run's", detail: format!("`{name}` is above {most:.0e}") });
        }
    }
    let devices = record.size("n_devices").ok_or(Skip::new("number of devices not stated"))?;
    let (interconnect, inner) = (record.text("interconnect"), record.size("tp").unwrap_or(1));
    let machine::RunMachine { machine, slices } =
        machine::machine(record.text("accelerator"), devices, record.size("devices_per_node"), interconnect, inner)?;
    let year = record.number("year").unwrap_or(2024.0) as u16;
    let stack = machine::stack(&machine::SaidStack {
        framework: record.text("framework"),
        model: record.text("model_name"),
        attention: recipe::attention(record.text("notes")),
        year,
        device: &machine.device,
    });
    let (seq, second) = model::sequence(record.text("seq_len"), year);
    let (model, target_seq) = model::model(&record, second)?;
    let plan::Candidates { plans, assumed } = plan::candidates(&plan::Stated {
        record: &record,
        model: &model,
        seq,
        target_seq,
        devices,
        slices,
        stack: &stack,
    })?;
    let measured = Reported::of(&record);
    let group = record.text("group").to_owned();
    let publisher = record.text("publisher");
    Ok(Run {
        id: record.text("id").to_owned(),
        publisher: if publisher.is_empty() { group.clone() } else { publisher.to_owned() },
        group,
        accelerator: record.text("accelerator").to_owned(),
        framework: record.text("framework").to_owned(),
        family: family(record.text("arch")),
        cluster: Cluster::from(machine).under(Arc::clone(&stack)),
        plans,
        assumed,
        convention: Convention::of(record.text("flops_class"), record.text("tflops_convention")),
        peak_of_format: record.text("tflops_convention").contains("fp8"),
        measure: Measure::of(record.text("mem_convention")),
        last_rank: record.text("mem_convention").to_lowercase().contains("last rank"),
        timed: record.text("kind") != "memory" && !measured.oom,
        measured,
    })
}

impl Measure {
    /// As a source describes it.
    fn of(how: &str) -> Measure {
        let how = how.to_lowercase();
        match () {
            () if how.contains("nvidia-smi") || how.contains("gpu memory") => Measure::Device,
            () if how.contains("'memory'") || how.contains("torchtitan") || how.starts_with("reserved") => {
                Measure::Reserved
            }
            () => Measure::Allocated,
        }
    }
}

impl Reported {
    fn of(record: &Record) -> Reported {
        let positive = |column| record.number(column).filter(|value| *value > 0.0);
        Reported {
            tokens_per_s: positive("measured_tokens_per_s_per_device"),
            step_time_s: positive("measured_step_time_s").or(positive("derived_step_time_s")),
            tflops: positive("measured_tflops_per_device"),
            mfu: positive("measured_mfu"),
            memory_gb: record.number("measured_peak_mem_gb").filter(|_| record.text("kind") != "throughput"),
            oom: record.text("oom") == "1",
        }
    }
}

/// A column of a table of runs.
pub struct Column {
    /// Its name in the header.
    pub name: &'static str,
    /// Whether a table needs it.
    pub needed: bool,
    /// Whether it holds numbers alone.
    numeric: bool,
    /// The least that a number in it may be: sizes are one or more.
    least: f64,
    /// The most that a number in it may be: more is a slip, and would only keep the machine busy.
    most: f64,
    /// What it means, with unit.
    about: &'static str,
}

impl Column {
    /// What is wrong with a value that is not left empty, if something is.
    pub fn problem(&self, value: &str) -> Option<&'static str> {
        match value.parse::<f64>() {
            _ if !self.numeric => None,
            Ok(number) if self.name.ends_with("_mfu") && number > 1.0 => Some("it is a share: 0 to 1, as 0.45"),
            Ok(number) if number.is_finite() && number >= self.least => None,
            Ok(number) if number.is_finite() => Some("it must be above zero, or be left empty"),
            _ => Some("it must be a number, or be left empty"),
        }
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needed = if self.needed { " (needed)" } else { "" };
        write!(f, "{:34}{}{needed}", self.name, self.about)
    }
}

const fn text(name: &'static str, about: &'static str) -> Column {
    Column { name, needed: false, numeric: false, least: f64::MIN_POSITIVE, most: f64::MAX, about }
}

const fn number(name: &'static str, most: f64, about: &'static str) -> Column {
    Column { numeric: true, most, ..text(name, about) }
}

/// One that may be zero, where there is none.
const fn count(name: &'static str, most: f64, about: &'static str) -> Column {
    Column { least: 0.0, ..number(name, most, about) }
}

/// One that may be written as an encoder's and a decoder's.
const fn size(name: &'static str, most: f64, about: &'static str) -> Column {
    Column { most, ..text(name, about) }
}

const fn needed(column: Column) -> Column {
    Column { needed: true, ..column }
}

/// Every column that is read.
pub const COLUMNS: &[Column] = &[
    needed(text("id", "name of the run")),
    text("group", "table or paper it is from"),
    text("publisher", "who measured it; the group where it is left out"),
    text("source_url", "where it is published; not used"),
    number("year", 1e4, "year of the run"),
    text("model_name", "the model"),
    text("arch", "dense-decoder, moe-decoder, encoder or enc-dec"),
    needed(size("layers", 1e4, "layers; `12+12` for an encoder's and a decoder's")),
    needed(number("hidden", 1e6, "width of the residual stream")),
    number("ffn_hidden", 1e7, "width of the feed-forward part; 4 x hidden where it is left out"),
    number("heads", 1e5, "query heads; of about 128 wide where they are left out"),
    number("kv_heads", 1e5, "key and value heads; as many as heads where they are left out"),
    number("head_dim", 1e5, "width of a head; hidden / heads where it is left out"),
    number("vocab", 1e8, "tokens in the vocabulary; 51,200 where they are left out"),
    text("gated_mlp", "1 where the feed-forward part has a gate: then also rotary positions, RMSNorm, no biases"),
    count("experts", 1e5, "routed experts of a layer"),
    count("top_k", 1e5, "experts that a token goes to; 2 where it is left out"),
    count("moe_ffn_hidden", 1e7, "width of an expert"),
    text("shared_experts", "experts that every token goes to: how many, or how many and how wide together"),
    size(
        "seq_len",
        1e9,
        "tokens of a sequence; `512 (dec 128)` for an encoder's and a decoder's; 2,048 until 2022 and then 4,096 where they are left out",
    ),
    needed(text("accelerator", "its name; TPUs count chips")),
    needed(number("n_devices", 1e6, "devices")),
    number("devices_per_node", 1e6, "devices of a node; as its usual system where they are left out"),
    text("interconnect", "links; scale-out as `8x400 Gb/s`, `400Gb per GPU` or `1600 Gbps per node`"),
    number("tp", 1e6, "tensor-parallel ranks; 1 where they are left out"),
    number("pp", 1e4, "pipeline stages; 1 where they are left out"),
    number(
        "vpp",
        1e4,
        "chunks of a stage; where they are left out 1, in pipelines of Megatron since 2022 one of every two layers",
    ),
    number("dp", f64::MAX, "data-parallel replicas; devices / (tp pp cp) is what is taken"),
    number("cp", 1e6, "context-parallel ranks; 1 where they are left out"),
    number("ep", 1e6, "expert-parallel ranks; 1 where they are left out"),
    text("sp", "1 with sequence parallelism, 0 without"),
    text("zero_stage", "ZeRO stage as the source says; `over 8 ranks` for a part of the replicas"),
    text("zero_class", "the same as 0, 1 or 3"),
    text("sharding_notes", "`shard group=64`, `etp=2`"),
    number("micro_batch", 1e7, "sequences of a microbatch; the largest that fits where they are left out"),
    number("global_batch", 1e9, "sequences of a step; eight microbatches where they are left out"),
    text("precision", "format as the source says"),
    text("precision_class", "bf16, fp16, fp32, fp8, mxfp8, nvfp4"),
    text("recompute", "recomputation as the source says; the least that fits where it is left out"),
    text("recompute_class", "none, selective or full"),
    text("offload", "`activation cpu offload 20 layers`, `optimizer`"),
    text("framework", "the software, whose stack is taken (`meshwright stacks`)"),
    text("task", "pretrain, sft, lora or qlora"),
    text("kind", "throughput, memory, both or oom: what is compared"),
    text("notes", "what else the source says"),
    number("measured_tokens_per_s_per_device", f64::MAX, "measured"),
    number("measured_step_time_s", f64::MAX, "measured, seconds"),
    number("derived_step_time_s", f64::MAX, "by arithmetic from another measured column, seconds"),
    number("measured_tflops_per_device", f64::MAX, "measured, by the convention of tflops_convention"),
    number("measured_mfu", f64::MAX, "measured, 0 to 1, by that convention"),
    text("tflops_convention", "how FLOPs are counted"),
    text("flops_class", "the same as a code: model, model_causal_half, hardware_full_recompute, hardware_8n"),
    number("measured_peak_mem_gb", f64::MAX, "measured, GB of 1e9 bytes, as mem_convention says"),
    text("mem_convention", "allocated, reserved or what the driver shows"),
    text("oom", "1 where the run did not fit"),
];

/// The column of a name.
pub fn column(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name == name)
}

/// Fills in heads that a row leaves out from a row of the same source about a model of the same width.
pub fn complete(rows: &mut [HashMap<String, String>]) {
    let key = |row: &HashMap<String, String>| (row.get("group").cloned(), row.get("hidden").cloned());
    let stated = |row: &&HashMap<String, String>| row.get("heads").is_some_and(|heads| !heads.trim().is_empty());
    let mut known: HashMap<(Option<String>, Option<String>), String> = HashMap::new();
    for row in rows.iter().filter(stated) {
        known.entry(key(row)).or_insert_with(|| row["heads"].clone());
    }
    for row in rows.iter_mut() {
        if let (false, Some(heads)) = (stated(&&*row), known.get(&key(row))) {
            row.insert("heads".to_owned(), heads.clone());
        }
    }
}

fn family(arch: &str) -> &'static str {
    match arch {
        "moe-decoder" => "mixture of experts",
        "encoder" => "encoder",
        "enc-dec" => "encoder-decoder",
        _ => "decoder",
    }
}
