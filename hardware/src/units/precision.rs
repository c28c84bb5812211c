//! Number formats.
//!
//! In: names such as `bf16`. Out: [`Precision`], with its bytes.
//!
//! Invariant: `x.name().parse() == x` for every format.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number format of matrix units and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the formats carry their names
pub enum Precision {
    Fp32,
    /// 32 bits in memory, 19 of them multiplied.
    Tf32,
    Bf16,
    Fp16,
    Fp8,
    /// 4 bits and a scale shared by a block (NVFP4, MXFP4).
    Fp4,
    Int8,
}

impl Precision {
    /// Every format.
    pub const ALL: [Precision; 7] = [
        Precision::Fp32,
        Precision::Tf32,
        Precision::Bf16,
        Precision::Fp16,
        Precision::Fp8,
        Precision::Fp4,
        Precision::Int8,
    ];

    /// All names, as help texts and errors list them.
    pub fn names() -> String {
        Precision::ALL.map(Precision::name).join(", ")
    }

    /// Bytes an element takes in memory; a 4-bit one with its neighbour.
    pub fn bytes(self) -> u64 {
        match self {
            Precision::Fp32 | Precision::Tf32 => 4,
            Precision::Bf16 | Precision::Fp16 => 2,
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => 1,
        }
    }

    /// The format in which weights and activations are kept and sent: matmuls in eight bits and fewer take them rounded from
    /// bf16 (Micikevicius et al. 2022).
    pub fn stored(self) -> Precision {
        match self {
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => Precision::Bf16,
            wide => wide,
        }
    }

    /// The format's name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
            Precision::Fp8 => "fp8",
            Precision::Fp4 => "fp4",
            Precision::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        Precision::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| UnknownPrecision(text.to_owned()))
    }
}

/// A precision's name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision `{0}`; known: {known}", known = Precision::names())]
pub struct UnknownPrecision(String);
