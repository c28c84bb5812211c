//! Elements of buffers: their formats and widths.
//!
//! In: a precision to train in. Out: what weights and activations are stored as, and in how many bytes.
//!
//! Invariant: nothing else says how wide an element is.

use crate::units::Precision;
use serde::{Deserialize, Serialize};

/// What an element of a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elem {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32 (Kalamkar et al. 2019).
    Bf16,
    /// IEEE binary16.
    F16,
    /// The number of a token or slot.
    U32,
    /// Eight bits, scales beside the point: what linear layers in FP8 keep of their inputs (Micikevicius et al. 2022). Priced, not run.
    F8,
}

impl Elem {
    /// Of weights and activations in a format.
    pub fn of(precision: Precision) -> Elem {
        match precision.stored() {
            Precision::Fp32 | Precision::Tf32 => Elem::F32,
            Precision::Fp16 => Elem::F16,
            Precision::Bf16 | Precision::Fp8 | Precision::Fp4 | Precision::Int8 => Elem::Bf16,
        }
    }

    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Elem::F32 | Elem::U32 => 4,
            Elem::Bf16 | Elem::F16 => 2,
            Elem::F8 => 1,
        }
    }

    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::U32 => "u32",
            Elem::F8 => "f8",
        }
    }
}
