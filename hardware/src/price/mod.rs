//! What instructions cost.

pub mod collective;
