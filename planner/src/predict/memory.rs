//! Bytes that a plan declares, without its program.
//!
//! In: a plan. Out: bytes by stage, the same as its program's roles have.

use crate::lower::{Blocks, Frames, InFlight, PieceSizes, Pieces};
use crate::plan::Plan;

/// Bytes that each stage declares on its devices; of the replicas that declare most, where they are not alike.
pub fn declared(plan: &Plan) -> Vec<u64> {
    let pieces = Pieces::of(plan, &mut Blocks::default());
    let (sizes, flights) = (PieceSizes::of(plan, &Frames::of(&pieces)), InFlight::all(&plan.pipeline()));
    flights.iter().enumerate().map(|(stage, flight)| sizes.stage(plan, flight, stage)).collect()
}
