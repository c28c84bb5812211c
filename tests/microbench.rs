//! Prices beside measured kernels: matmuls and collectives in a node, by device; and beside simple forms fitted to the same
//! kernels, which say what better prices would be worth. `cargo test --test microbench -- --nocapture` prints both.
//!
//! In: `tests/published/microbench.csv`. Out: nothing, or the kinds whose errors have grown.

use std::collections::BTreeMap;
use std::path::Path;

use meshwright_hardware::price::{collective, gemm};
use meshwright_hardware::profile::{Cluster, DeviceProfile, System, catalog};
use meshwright_hardware::program::Collective;
use meshwright_hardware::topology::Topology;
use meshwright_hardware::units::{Bytes, Precision};

/// Accelerators as the table names them, and their systems.
const SYSTEMS: [(&str, &str); 8] = [
    ("A100-SXM4-80GB", "dgx-a100-80gb"),
    ("H100-SXM5-80GB", "dgx-h100"),
    ("H200-SXM5-141GB", "dgx-h200"),
    ("B200-SXM-180GB", "dgx-b200"),
    ("B300-SXM-270GB", "hgx-b300"),
    ("GB200", "gb200-nvl72"),
    ("GB300", "gb300-nvl72"),
    ("L40S", "l40s-8"),
];

/// Rows of a matmul from which on kernels are those of training.
const LEAST_ROWS: f64 = 512.0;

/// Kinds of kernels, with the greatest median and ninth decile of their errors over all devices, in per cent, as prices are.
const BOUNDS: [(&str, f64, f64); 6] = [
    ("gemm bf16", 12.0, 32.0),
    ("gemm fp8", 16.0, 45.0),
    ("gemm fp8_block", 13.0, 37.0),
    ("gemm nvfp4", 33.0, 56.0),
    ("collective below 1 MiB", 25.0, 60.0),
    ("collective from 1 MiB", 35.0, 60.0),
];

/// A measured kernel as the table has it.
enum Kernel {
    Gemm { precision: Precision, sides: [f64; 3] },
    Collective { kind: Collective, ranks: usize, bytes: f64 },
}

/// A kernel, its kind in words, its device, and its seconds.
struct Row {
    kernel: Kernel,
    kind: String,
    device: &'static DeviceProfile,
    system: &'static System,
    seconds: f64,
}

fn row(columns: &BTreeMap<String, String>) -> Option<Row> {
    let number = |column: &str| columns[column].parse::<f64>().unwrap();
    let (_, system) = SYSTEMS.iter().find(|(name, _)| *name == columns["accelerator"]).unwrap();
    let system = catalog().system(system).unwrap();
    let device = catalog().device(&system.device).unwrap();
    let seconds = number("latency_us") * 1e-6;
    if columns["kind"] == "gemm" {
        let precision = match columns["dtype"].as_str() {
            "bf16" => Precision::Bf16,
            "nvfp4" => Precision::Fp4,
            _ => Precision::Fp8,
        };
        let kernel = Kernel::Gemm { precision, sides: ["m", "n", "k"].map(number) };
        let kind = format!("gemm {}", columns["dtype"]);
        return (number("m") >= LEAST_ROWS).then_some(Row { kernel, kind, device, system, seconds });
    }
    let kind = match columns["kind"].as_str() {
        "collective_all_reduce" => Collective::AllReduce,
        "collective_all_gather" => Collective::AllGather,
        "collective_reduce_scatter" => Collective::ReduceScatter,
        _ => Collective::AllToAll,
    };
    let (ranks, bytes) = (number("n_devices") as usize, number("message_bytes"));
    let size = if bytes < (1 << 20) as f64 { "below" } else { "from" };
    let kernel = Kernel::Collective { kind, ranks, bytes };
    Some(Row { kernel, kind: format!("collective {size} 1 MiB"), device, system, seconds })
}

/// The seconds that a program is charged, launch included.
fn priced(row: &Row) -> f64 {
    let own = match row.kernel {
        Kernel::Gemm { precision, sides: [m, n, k] } => {
            gemm::on(row.device, row.device.peak_in(precision).unwrap(), precision, 1.0, m, n, k)
        }
        Kernel::Collective { kind, ranks, bytes } => {
            let topology = Topology::of(&Cluster::parse(&row.system.name).unwrap());
            collective::time(kind, Bytes(bytes as u64), &topology.span_strided(0, 1, ranks).unwrap())
        }
    };
    own.0 + row.device.launch.value.0
}

/// The seconds by a form with one share of the device's rate: a matmul is its FLOPs and a fixed time, in narrow formats also
/// `bytes` that casting an element of the activation moves; a collective is a fixed time, a latency a step, its bytes, and
/// their root, the best chunks of a pipelined ring being as large as the root of the message.
fn formed(row: &Row, share: f64) -> f64 {
    match row.kernel {
        Kernel::Gemm { precision, sides: [m, n, k] } => {
            let (bytes, fixed) = match row.kind.as_str() {
                "gemm fp8" => (9.3, 14.5e-6),
                "gemm fp8_block" => (3.9, 6.6e-6),
                "gemm nvfp4" => (3.3, 15e-6),
                _ => (0.0, 3e-6),
            };
            let peak = row.device.peak_in(precision).unwrap().0;
            2.0 * m * n * k / (peak * share) + bytes * m * k / row.device.memory_bandwidth.value.0 + fixed
        }
        Kernel::Collective { kind, ranks, bytes } => {
            let (passes, others) = (if kind == Collective::AllReduce { 2.0 } else { 1.0 }, (ranks - 1) as f64);
            let moved = passes * bytes * others / ranks as f64;
            let rate = row.system.scale_up.bandwidth.value.0 * share;
            8.3e-6 + 0.73e-6 * others + moved / rate + 5.6e-6 * (moved / 1e6).sqrt()
        }
    }
}

/// The median and the value that nine in ten do not exceed, of errors in per cent.
fn spread(rows: &[&Row], seconds: impl Fn(&Row) -> f64) -> (f64, f64) {
    let mut errors: Vec<f64> = rows.iter().map(|row| 100.0 * (seconds(row) / row.seconds - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    (errors[errors.len() / 2], errors[errors.len() * 9 / 10])
}

/// The share at which a form's median error is least.
fn fitted(rows: &[&Row]) -> f64 {
    let shares = (1..100).map(|share| f64::from(share) / 100.0);
    let error = |share: &f64| spread(rows, |row| formed(row, *share)).0;
    shares.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap()
}

#[test]
fn prices_are_as_near_to_measured_kernels_as_they_were() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published/microbench.csv");
    let mut reader = csv::Reader::from_path(path).unwrap();
    let all: Vec<Row> = reader.deserialize().filter_map(|columns| row(&columns.unwrap())).collect();
    println!(
        "{:<23} {:<10} {:>6} {:>16} {:>16} {:>6}",
        "kernels, errors in %", "device", "count", "priced", "form", "share"
    );
    for (kind, median, p90) in BOUNDS {
        let of_kind: Vec<&Row> = all.iter().filter(|row| row.kind == kind).collect();
        let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
        for (_, system) in SYSTEMS {
            let rows: Vec<&Row> = of_kind.iter().filter(|row| row.system.name == system).copied().collect();
            if let Some(first) = rows.first() {
                let share = fitted(&rows);
                let ((m, p), (fm, fp)) = (spread(&rows, priced), spread(&rows, |row| formed(row, share)));
                let (device, count) = (&first.device.name, rows.len());
                println!("{kind:<23} {device:<10} {count:>6} {m:>7.1} {p:>8.1} {fm:>7.1} {fp:>8.1} {share:>6.2}");
                shares.insert(system, share);
            }
        }
        let form = |row: &Row| formed(row, shares[row.system.name.as_str()]);
        let ((m, p), (fm, fp)) = (spread(&of_kind, priced), spread(&of_kind, form));
        println!("{kind:<23} {:<10} {:>6} {m:>7.1} {p:>8.1} {fm:>7.1} {fp:>8.1}", "all", of_kind.len());
        assert!(m <= median && p <= p90, "{kind}: {m:.1} and {p:.1} %, not {median} and {p90}");
    }
}
