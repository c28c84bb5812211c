//! What is read was written, what is kept is freed, and streams wait for what they share.

use super::{ProgramFault, ProgramPlace, VerifyError, at};
use crate::hazards::{BufferAccess, FormalUse, Latest, Touch, Tracker, accesses, formal_uses};
use crate::mesh::Mesh;
use crate::program::{Buffer, Instr, Lifetime, Program, Stream};

/// Checks a program in which streams wait already.
pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let uses: Vec<_> = program.blocks.iter().map(formal_uses).collect();
    for (number, role) in program.roles.iter().enumerate() {
        let mut past = Past::of(&uses, &program.mesh, &role.buffers);
        for (index, instr) in role.instrs.iter().enumerate() {
            let covered = &mut past.covered[instr.stream as usize];
            for &wait in &instr.waits {
                let other = &mut covered[role.instrs[wait as usize].stream as usize];
                *other = (*other).max(wait + 1);
            }
            let covered = *covered;
            let early = |(needed, covered): (&u32, u32)| Some(*needed).filter(|&needed| needed > covered);
            let raced = |touch: &Touch| touch.others.iter().zip(covered).find_map(early).map(|needed| needed - 1);
            past.take(instr, index, raced).map_err(|fault| at(program, number, index, fault))?;
        }
        past.end().map_err(|fault| VerifyError { place: ProgramPlace::End { role: number }, fault })?;
    }
    Ok(())
}

/// Inserts the waits that a program needs, and none that an earlier one of the same streams makes idle; checks what is read, kept
/// and freed on the way.
pub(super) fn check_with_waits(program: &mut Program) -> Result<(), VerifyError> {
    let uses: Vec<_> = program.blocks.iter().map(formal_uses).collect();
    let mut fault = None;
    'roles: for (number, role) in program.roles.iter_mut().enumerate() {
        let mut past = Past::of(&uses, &program.mesh, &role.buffers);
        for (index, instr) in role.instrs.iter_mut().enumerate() {
            let mut needed = Latest::default();
            let taken = past.take(instr, index, |touch| {
                needed.iter_mut().zip(touch.others).for_each(|(needed, other)| *needed = (*needed).max(other));
                None
            });
            let covered = &mut past.covered[instr.stream as usize];
            instr.waits.clear();
            for (covered, needed) in covered.iter_mut().zip(needed).filter(|(covered, needed)| needed > *covered) {
                *covered = needed;
                instr.waits.push(needed - 1);
            }
            instr.waits.sort_unstable();
            if let Err(found) = taken {
                fault = Some((number, index, found));
                break 'roles;
            }
        }
        past.end().map_err(|fault| VerifyError { place: ProgramPlace::End { role: number }, fault })?;
    }
    fault.map_or(Ok(()), |(role, index, fault)| Err(at(program, role, index, fault)))
}

/// What a role has done so far.
struct Past<'a> {
    uses: &'a [Vec<FormalUse>],
    mesh: &'a Mesh,
    buffers: &'a [Buffer],
    tracker: Tracker,
    /// By stream: what it has waited for of each other.
    covered: [Latest; Stream::COUNT],
}

impl<'a> Past<'a> {
    fn of(uses: &'a [Vec<FormalUse>], mesh: &'a Mesh, buffers: &'a [Buffer]) -> Self {
        Past { uses, mesh, buffers, tracker: Tracker::new(buffers), covered: Default::default() }
    }

    /// Takes in the next instruction; `raced` says of what it touches for which other it should have waited and did not.
    fn take(
        &mut self,
        instr: &Instr,
        index: usize,
        mut raced: impl FnMut(&Touch) -> Option<u32>,
    ) -> Result<(), ProgramFault> {
        let Past { uses, mesh, buffers, ref mut tracker, .. } = *self;
        let mut fault = None;
        accesses(instr, uses, mesh, buffers, |access| {
            let touch = tracker.touch(&access, instr.stream as usize, index as u32);
            let name = || buffers[access.buffer as usize].name.clone();
            let BufferAccess { start, end, .. } = access;
            let found = if let Some(needed) = raced(&touch) {
                Some(ProgramFault::Race { buffer: name(), needed })
            } else if access.reads && !touch.held {
                Some(ProgramFault::Unwritten { buffer: name(), start, end })
            } else if access.frees && !touch.held_any {
                Some(ProgramFault::Free { buffer: name(), why: "it holds nothing" })
            } else {
                None
            };
            if fault.is_none() {
                fault = found;
            }
        });
        fault.map_or(Ok(()), Err)
    }

    /// What is kept at the end was to be freed.
    fn end(&self) -> Result<(), ProgramFault> {
        let saved = |buffer: &Buffer| matches!(buffer.lifetime, Lifetime::Saved | Lifetime::Hosted);
        let mut all = self.buffers.iter().enumerate();
        let kept = all.find(|(number, buffer)| saved(buffer) && self.tracker.holds(*number));
        kept.map_or(Ok(()), |(_, buffer)| Err(ProgramFault::Kept { buffer: buffer.name.clone() }))
    }
}
