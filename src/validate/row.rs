//! A row of a table of published runs.
//!
//! In: a CSV record by column name. Out: [`Run`], or the reason why it cannot be predicted.
//!
//! Invariant: measured columns are read into [`Reported`] alone; layouts come from the others. Where a plan is incomplete,
//! what follows by arithmetic is filled in; what does not is left open as several layouts.

use std::collections::HashMap;

use meshwright_hardware::profile::{DeviceProfile, Machine, Stack};
use meshwright_hardware::topology::Topology;
use meshwright_planner::estimate::Layout;
use meshwright_planner::job::Shape;

use super::convention::Convention;
use super::record::{Record, Skip};
use super::{model, place, plan};

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
    /// Columns that it leaves open and that were filled in.
    pub assumed: Vec<&'static str>,
    /// Tokens of a sequence that count.
    pub tokens_per_sequence: f64,
    /// Devices.
    pub devices: usize,
    /// The accelerator.
    pub device: DeviceProfile,
    /// Its systems, a node more than needed.
    pub machine: Machine,
    /// Links.
    pub topology: Topology,
    /// Devices a node.
    pub per_node: usize,
    /// The software.
    pub stack: &'static Stack,
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

/// Reads a row.
pub fn read(columns: &HashMap<String, String>) -> Result<Run, Skip> {
    let record = Record(columns);
    if record.text("arch").contains("mamba") || record.text("arch").contains("hybrid") {
        return Err(Skip("state-space layers are not modelled"));
    }
    if record.text("notes").contains("unpacked") {
        return Err(Skip("sequences are not packed: tokens of a step are unknown"));
    }
    if LIMITS.iter().any(|(column, most)| record.number(column).is_some_and(|value| value > *most)) {
        return Err(Skip("a size is beyond any run's"));
    }
    let devices = record.size("n_devices").ok_or(Skip("number of devices not stated"))?;
    let interconnect = record.text("interconnect");
    let inner = record.size("tp").unwrap_or(1);
    let place = place::place(record.text("accelerator"), devices, record.size("devices_per_node"), interconnect, inner)
        .ok_or(Skip("accelerator has no profile"))?;
    let year = record.number("year").unwrap_or(2024.0) as u16;
    let stack = place::stack(record.text("framework"), record.text("model_name"), year, &place.device)
        .ok_or(Skip("framework has no stack"))?;
    let (seq, decoder_seq) = model::sequence(record.text("seq_len")).ok_or(Skip("sequence length not stated"))?;
    let shape = model::shape(&record, decoder_seq)?;
    let layouts = plan::layouts(&plan::Stated { record: &record, shape: &shape, seq, devices, place: &place, stack })?;
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
    let positive = |column| record.number(column).filter(|value| *value > 0.0);
    let measured = Reported {
        tokens_per_s: positive("measured_tokens_per_s_per_device"),
        step_time_s: positive("measured_step_time_s").or(positive("derived_step_time_s")),
        tflops: positive("measured_tflops_per_device"),
        mfu: positive("measured_mfu"),
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
        assumed: OPEN.iter().filter(|column| record.text(column).is_empty()).copied().collect(),
        tokens_per_sequence,
        devices,
        device: place.device,
        machine: place.machine,
        topology: place.topology,
        per_node: place.per_node,
        stack,
        convention,
        peak_of_format: record.text("tflops_convention").contains("fp8"),
        measure,
        last_rank: how.contains("last rank"),
        timed: kind != "memory" && !measured.oom,
        measured,
    })
}

/// Columns and the most that one may say: more is a slip, and would only keep the machine busy.
const LIMITS: [(&str, f64); 21] = [
    ("layers", 1e4),
    ("hidden", 1e6),
    ("ffn_hidden", 1e7),
    ("moe_ffn_hidden", 1e7),
    ("heads", 1e5),
    ("kv_heads", 1e5),
    ("head_dim", 1e5),
    ("vocab", 1e8),
    ("experts", 1e5),
    ("top_k", 1e5),
    ("seq_len", 1e9),
    ("n_devices", 1e6),
    ("devices_per_node", 1e6),
    ("tp", 1e6),
    ("pp", 1e4),
    ("vpp", 1e4),
    ("cp", 1e6),
    ("ep", 1e6),
    ("micro_batch", 1e7),
    ("global_batch", 1e9),
    ("year", 1e4),
];

/// The columns of a header that hold numbers alone, by their places; `layers` and `seq_len` may be written as an encoder's and a
/// decoder's.
pub fn numeric(header: &[String]) -> Vec<usize> {
    const MEASURED: [&str; 7] = [
        "dp",
        "measured_step_time_s",
        "measured_tokens_per_s_per_device",
        "measured_tflops_per_device",
        "measured_mfu",
        "measured_peak_mem_gb",
        "derived_step_time_s",
    ];
    let sizes = LIMITS.iter().map(|(column, _)| *column).filter(|column| !matches!(*column, "layers" | "seq_len"));
    let numbers: Vec<&str> = sizes.chain(MEASURED).collect();
    (0..header.len()).filter(|&at| numbers.contains(&header[at].as_str())).collect()
}

/// Columns of plan and model without which a row can be predicted.
const OPEN: [&str; 11] = [
    "heads",
    "vocab",
    "tp",
    "pp",
    "vpp",
    "dp",
    "zero_class",
    "micro_batch",
    "global_batch",
    "precision_class",
    "recompute_class",
];

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
