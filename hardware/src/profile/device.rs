//! One accelerator: what its data sheet and its measurements say.
//!
//! In: `profiles/devices/*.toml`, or a calibration's. Out: [`DeviceProfile`].
//!
//! Invariant: a catalog profile has no curves; a calibrated one says when and with what it was measured.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Curve, EfficiencyCurve, Sourced};
use crate::input::Fault;
use crate::units::{ByteRate, Bytes, FlopRate, Precision, Seconds, Watts};

/// What sort of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the kinds carry their names
pub enum DeviceKind {
    Cpu,
    Gpu,
    Tpu,
    Trainium,
    Gaudi,
}

/// An accelerator SKU, or the part of one that is programmed as one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// Name on the command line and of the file.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Who makes it.
    pub vendor: String,
    /// What sort of device.
    pub kind: DeviceKind,
    /// Year it came out.
    pub year: u16,
    /// Whether communication runs beside compute.
    pub overlap: bool,
    /// Whether its matrix units have instructions of their own (wgmma, tcgen05, MFMA), so that kernels written in Ampere's reach a
    /// part of its rate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_instructions: bool,
    /// What compute takes longer, of its own time, while a collective runs beside it; without it, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contention: Option<Sourced<f64>>,
    /// Memory a program can allocate.
    pub memory: Sourced<Bytes>,
    /// Peak of its memory, read and written bytes together.
    pub memory_bandwidth: Sourced<ByteRate>,
    /// Dense peak of the fastest unit that multiplies this format with fp32 accumulation.
    #[serde(deserialize_with = "some_peak")]
    #[schemars(with = "BTreeMap<Precision, Sourced<FlopRate>>")]
    pub peak: BTreeMap<Precision, Sourced<FlopRate>>,
    /// Fixed cost of a kernel.
    pub launch: Sourced<Seconds>,
    /// What a copy to or from the host's memory reaches, each way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_link: Option<Sourced<ByteRate>>,
    /// What its host reaches in an optimizer's step over its own memory, of a device's share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<Sourced<ByteRate>>,
    /// Board power limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Sourced<Watts>>,
    /// Mean time between failures that stop a job, of one device with its share of host and network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtbf: Option<Sourced<Seconds>>,
    /// The highest model FLOPs utilisation at which a run was measured on it, by format of its matmuls (0–1; PaLM's convention).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured_mfu: BTreeMap<Precision, Sourced<f64>>,
    /// The share of peak that kernels reach.
    pub efficiency: Efficiency,
    /// How its matrix units divide a matmul; without it, `efficiency.matmul` prices matmuls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm: Option<Gemm>,
    /// When and with what the curves were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<Provenance>,
    /// Measured times by op class (`Op::class`); empty on catalog profiles.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub curves: BTreeMap<String, Curve>,
}

/// Shares of peak by kind of kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Matmuls: share of the format's peak over the op's FLOPs.
    pub matmul: EfficiencyCurve,
    /// Everything bound by memory: share of its bandwidth over the op's bytes.
    pub memory: EfficiencyCurve,
    /// Fused attention: share of the format's peak over the op's FLOPs.
    pub attention: EfficiencyCurve,
}

/// How a matmul is cut into tiles that matrix units take in waves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Units that work at the same time: SMs, cores.
    pub units: usize,
    /// Rows and columns of the tile that a unit makes.
    pub tile: [usize; 2],
    /// Columns of the inner dim that filling and draining a tile costs.
    pub depth: f64,
    /// Share of a format's peak that long matmuls of whole waves reach.
    pub share: BTreeMap<Precision, f64>,
    /// Of that rate, what a long run at the power limit keeps: a benchmark of one kernel ends before clocks fall.
    pub sustained: Sourced<f64>,
    /// Where these are from.
    pub source: String,
}

/// How a calibrated profile came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Day it was measured, `YYYY-MM-DD`.
    pub date: String,
    /// What was measured, without the host's name: `AMD EPYC 7742, 2 cores`.
    pub machine: String,
    /// Software that was measured, with versions.
    pub versions: String,
}

impl DeviceProfile {
    /// What serde cannot see: that figures are such as a device can have.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let fault = |key: &str, value: String, problem: &str| Err(Fault::new(key, value, problem));
        for (key, share) in self.measured_mfu.iter().map(|(key, share)| (format!("measured_mfu.{key}"), share)) {
            if share.value > 1.0 {
                return fault(&key, share.value.to_string(), "a utilisation is at most 1");
            }
        }
        if let Some(contention) = self.contention.as_ref().filter(|figure| figure.value > 10.0) {
            return fault("contention", contention.value.to_string(), "ten times as long is the most that is modelled");
        }
        if !(1970..=2100).contains(&self.year) {
            return fault("year", self.year.to_string(), "the year it came out, 1970 to 2100");
        }
        let Some(gemm) = &self.gemm else { return Ok(()) };
        if gemm.units == 0 {
            return fault("gemm.units", "0".to_owned(), "a device has at least one");
        }
        if gemm.tile.contains(&0) {
            return fault("gemm.tile", format!("{:?}", gemm.tile), "rows and columns are above zero");
        }
        if gemm.units > 1 << 20 || gemm.tile.iter().any(|side| *side > 1 << 20) {
            let value = format!("{} units of {:?}", gemm.units, gemm.tile);
            return fault("gemm", value, "at most 1048576 of each is modelled");
        }
        if gemm.sustained.value > 1.2 {
            return fault("gemm.sustained", gemm.sustained.value.to_string(), "a share of that rate is at most 1.2");
        }
        if !(0.0..=1e6).contains(&gemm.depth) {
            return fault("gemm.depth", gemm.depth.to_string(), "columns, 0 to 1000000");
        }
        if let Some(share) = gemm.share.values().find(|share| !(**share > 0.0 && **share <= 1.0)) {
            return fault("gemm.share", share.to_string(), "a share is above 0 and at most 1");
        }
        Ok(())
    }

    /// The dense peak in a format, or of one of 16 bits and more in the nearest that the device multiplies at full rate: bf16 and
    /// fp16 stand in for each other, a narrower one falls back on a wider one. `None` where none is known: eight bits and fewer are
    /// multiplied by units of their own.
    pub fn peak_in(&self, precision: Precision) -> Option<FlopRate> {
        self.peak_figure(precision).map(|figure| figure.value)
    }

    /// The same with its source.
    pub fn peak_figure(&self, precision: Precision) -> Option<&Sourced<FlopRate>> {
        use Precision::{Bf16, Fp4, Fp8, Fp16, Fp32, Int8, Tf32};
        let stand_ins: &[Precision] = match precision {
            Fp32 => &[Fp32],
            Tf32 => &[Tf32, Fp32],
            Bf16 => &[Bf16, Fp16, Tf32, Fp32],
            Fp16 => &[Fp16, Bf16, Tf32, Fp32],
            Fp8 => &[Fp8],
            Fp4 => &[Fp4],
            Int8 => &[Int8],
        };
        stand_ins.iter().find_map(|p| self.peak.get(p))
    }
}

fn some_peak<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Precision, Sourced<FlopRate>>, D::Error> {
    let peak = BTreeMap::deserialize(from)?;
    if peak.is_empty() {
        Err(D::Error::custom("`peak` needs at least one of fp32, tf32, bf16, fp16, fp8, fp4, int8"))
    } else {
        Ok(peak)
    }
}
