//! Room of an expert, as files give it: a number over an even share, or `dropless`.
//!
//! In: TOML or JSON. Out: the number; infinite where nothing is dropped.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Experts that take all tokens routed to them (Gale et al. 2022); infinite as a number.
pub const DROPLESS: f64 = f64::INFINITY;

const WORD: &str = "dropless";

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number above zero, or `dropless`")]
enum StatedCapacity {
    Number(f64),
    Word(String),
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    match StatedCapacity::deserialize(from)? {
        StatedCapacity::Number(number) => Ok(number),
        StatedCapacity::Word(word) if word == WORD => Ok(DROPLESS),
        StatedCapacity::Word(word) => Err(D::Error::custom(format!("`{word}` is no capacity: a number, or `{WORD}`"))),
    }
}

pub(super) fn serialize<S: Serializer>(capacity: &f64, into: S) -> Result<S::Ok, S::Error> {
    if *capacity == DROPLESS { into.serialize_str(WORD) } else { into.serialize_f64(*capacity) }
}
