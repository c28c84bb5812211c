//! The machine on paper: what it is (profiles), what it can be told (ops and programs), what that costs (prices)
//! and how it behaves (the simulator).
//!
//! Invariant: nothing here decides anything about a plan; programs come in, prices and traces go out.

pub mod chrome;
pub mod classes;
pub mod elem;
pub mod exit;
pub mod files;
pub mod hash;
pub mod hazards;
pub mod input;
pub mod mesh;
pub mod op;
pub mod params;
pub mod price;
pub mod profile;
pub mod program;
pub mod replay;
pub mod simulate;
pub mod text;
pub mod topology;
pub mod trace;
pub mod units;
pub mod verify;
