//! A hash that stays the same from version to version and machine to machine, unlike the standard library's.
//!
//! In: text. Out: 64 bits.

/// FNV-1a (Fowler, Noll & Vo), 64 bits.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
