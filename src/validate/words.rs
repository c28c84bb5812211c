//! What a row says by a code, or where it has none in its source's words.
//!
//! In: a [`Record`]. Out: formats and ZeRO stages.
//!
//! Invariant: a code that is not known is a reason to skip.

use meshwright_hardware::units::Precision;

use super::record::{Record, Skip};

/// Refuses codes that mean nothing.
pub(super) fn known_codes(record: &Record) -> Result<(), Skip> {
    let codes: [(&'static str, &[&str]); 3] = [
        ("recompute_class", &["", "none", "selective", "full", "other"]),
        ("zero_class", &["", "0", "1", "2", "3"]),
        ("precision_class", &["", "bf16", "fp16", "fp32", "tf32", "fp8", "mxfp8", "fp4", "nvfp4", "mxfp4", "int8"]),
    ];
    match codes.into_iter().find(|(column, known)| !known.contains(&record.text(column))) {
        None => Ok(()),
        Some((column, known)) => Err(Skip {
            reason: "a code is not known",
            detail: format!("`{column}` is {}: one of {}", record.text(column), known[1..].join(", ")),
        }),
    }
}

/// The ZeRO stage where a row says it in words.
pub(super) fn zero_said(record: &Record) -> Option<u8> {
    let text = record.text("zero_stage").to_lowercase();
    let stage = text.strip_prefix("zero").map_or(text.as_str(), |rest| rest.trim_start_matches(['-', ' ']));
    match stage {
        "0" => Some(0),
        "1" => Some(1),
        "2" => Some(2),
        "3" => Some(3),
        _ if text.contains("fsdp") => Some(3),
        _ if text.contains("none") => Some(0),
        _ => None,
    }
}

/// The format of matmuls in a source's words.
fn said_precision(text: &str) -> Precision {
    match () {
        () if text.starts_with("int8") => Precision::Int8,
        () if text.starts_with("bf16") => Precision::Bf16,
        () if text.contains("fp4") => Precision::Fp4,
        () if text.contains("fp8") => Precision::Fp8,
        () if text.contains("tf32") => Precision::Tf32,
        () if text.contains("fp16") => Precision::Fp16,
        () if text.contains("fp32") => Precision::Fp32,
        () => Precision::Bf16,
    }
}

/// The format of a row's matmuls.
pub(super) fn precision(record: &Record) -> Precision {
    match record.text("precision_class") {
        "fp16" => Precision::Fp16,
        "fp32" => Precision::Fp32,
        "bf16" => Precision::Bf16,
        "tf32" => Precision::Tf32,
        "fp8" | "mxfp8" => Precision::Fp8,
        "nvfp4" | "fp4" | "mxfp4" => Precision::Fp4,
        "int8" => Precision::Int8,
        _ => said_precision(&record.text("precision").to_lowercase()),
    }
}
