//! What every device asks of an op's arguments, and what a shard is.
//!
//! In: an op and the regions it is to run on. Out: why it cannot, if it cannot.
//!
//! Invariant: of regions that pass, none that is written overlaps another, but for an addition over one of its operands.

use meshwright_hardware::op::{Mode, Op, Param};

use super::Region;

/// Whether regions are as long as the op's arguments and disjoint where one is written; else why not. Whether they lie
/// in their buffers is the device's to know.
pub(super) fn check(op: &Op, signature: &[Param], regions: &[Region]) -> Result<(), String> {
    let fits = |(param, region): (&Param, &Region)| param.elems == region.elems;
    if signature.len() != regions.len() || !signature.iter().zip(regions).all(fits) {
        return Err(format!("{op:?} cannot run on {regions:?}"));
    }
    let in_place = sums_in_place(op, regions);
    for (i, (param, written)) in signature.iter().zip(regions).enumerate() {
        let others = regions.iter().enumerate().filter(|&(j, _)| j != i && Some(j) != in_place);
        if param.mode != Mode::In && others.map(|(_, other)| other).any(|other| other.overlaps(written)) {
            return Err(format!("{op:?} writes `{}` over another argument", param.name));
        }
    }
    Ok(())
}

/// Which operand an addition writes its sum over, if one.
pub(super) fn sums_in_place(op: &Op, regions: &[Region]) -> Option<usize> {
    if !op.may_run_in_place() {
        return None;
    }
    (0..2).find(|&operand| regions[operand] == regions[regions.len() - 1])
}

/// This rank's part of something `shards` ranks share; something whole is the first part of one.
pub(super) fn shard(shards: usize, position: usize) -> usize {
    if shards == 1 { 0 } else { position }
}
