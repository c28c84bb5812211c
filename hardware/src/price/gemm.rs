//! The time of a matmul on units that take tiles in waves.
//!
//! In: a device with a [`Gemm`] section, sizes, a format. Out: seconds without launch, before the bound of memory.
//!
//! A unit makes a tile at a time, so edges and the last wave cost whole tiles (tile and wave quantisation: NVIDIA, Matrix
//! Multiplication Background User's Guide, §4); filling and draining the inner loop costs `depth` columns a tile.
//!
//! Invariant: no faster than the share of peak, and that only for whole tiles of endless depth.

use crate::profile::{DeviceKind, DeviceProfile, Gemm};
use crate::units::{FlopRate, Precision, Seconds};

/// What the last wave costs of a whole one when it is not full: measured waves overlap with the next (stream-K, split-K),
/// so the true cost lies between none and all; a tenth fits the sweeps of aiconfigurator (095f58a) on A100 to GB300.
const LAST_WAVE: f64 = 0.1;

/// What products outside matrix units reach of their peak, whatever the stack: multiply-adds so slow that all else waits beside
/// them. Assumption, after BERT in fp32 on V100 (NVIDIA DeepLearningExamples), whose model FLOPs alone are 0.82 of it.
const PLAIN: f64 = 0.95;

/// Whether a GPU multiplies a format outside its matrix units, whose tiles and waves its profile states.
pub(super) fn is_plain(device: &DeviceProfile, precision: Precision) -> bool {
    let measured = |gemm: &Gemm| gemm.share.contains_key(&Precision::Fp32);
    let tiles = device.gemm.as_ref().is_some_and(|gemm| !measured(gemm));
    precision == Precision::Fp32 && device.kind == DeviceKind::Gpu && tiles
}

/// `batch` matmuls of `m × n × k` each, run as one grouped kernel: by the device's tiles, or where its profile has none, by
/// its share of peak over FLOPs.
pub fn on(device: &DeviceProfile, peak: FlopRate, precision: Precision, batch: f64, m: f64, n: f64, k: f64) -> Seconds {
    match &device.gemm {
        _ if is_plain(device, precision) => Seconds(2.0 * batch * m * n * k / (peak.0 * PLAIN)),
        Some(gemm) => time(gemm, peak, precision, batch, m, n, k),
        None => {
            let flops = 2.0 * batch * m * n * k;
            Seconds(flops / (peak.0 * device.efficiency.matmul.share(flops)))
        }
    }
}

/// The same by tiles.
pub(super) fn time(gemm: &Gemm, peak: FlopRate, precision: Precision, batch: f64, m: f64, n: f64, k: f64) -> Seconds {
    let [rows, cols] = gemm.tile.map(|side| side as f64);
    let tiles = batch * (m / rows).ceil() * (n / cols).ceil();
    let waves = tiles / gemm.units as f64;
    let quantised = 1.0 + LAST_WAVE * (waves.ceil() / waves - 1.0);
    let flops = 2.0 * tiles * rows * cols * (k + gemm.depth) * quantised;
    Seconds(flops / (peak.0 * share(gemm, precision) * gemm.sustained.value))
}

/// The share of peak in a format; of the nearest wider one that was measured.
fn share(gemm: &Gemm, precision: Precision) -> f64 {
    let wider = [Precision::Bf16, Precision::Fp16, Precision::Fp32];
    let found = [precision].iter().chain(&wider).find_map(|p| gemm.share.get(p)).copied();
    found.or_else(|| gemm.share.values().next().copied()).unwrap_or(1.0)
}
