//! What is read was written, what is kept is freed, and streams wait for what they share.

use super::{ProgramFault, ProgramPlace, VerifyError, at};
use crate::hazards::{BufferAccess, Latest, Tracker, accesses, formal_uses};
use crate::program::{Lifetime, Program, Stream};

pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let uses: Vec<_> = program.blocks.iter().map(formal_uses).collect();
    for (number, role) in program.roles.iter().enumerate() {
        let mut tracker = Tracker::new(&role.buffers);
        let mut covered = [Latest::default(); Stream::COUNT];
        for (index, instr) in role.instrs.iter().enumerate() {
            let stream = instr.stream as usize;
            for &wait in &instr.waits {
                let other = &mut covered[stream][role.instrs[wait as usize].stream as usize];
                *other = (*other).max(Some(wait));
            }
            let mut fault = None;
            accesses(instr, &uses, &program.mesh, &role.buffers, |access| {
                let touch = tracker.touch(&access, stream, index as u32);
                let name = || role.buffers[access.buffer as usize].name.clone();
                let BufferAccess { start, end, .. } = access;
                let early = |(needed, covered): (&Option<u32>, &Option<u32>)| needed.filter(|_| needed > covered);
                let found = if let Some(needed) = touch.others.iter().zip(&covered[stream]).find_map(early) {
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
            if let Some(fault) = fault {
                return Err(at(program, number, index, fault));
            }
        }
        let saved = |(_, buffer): &(usize, &crate::program::Buffer)| {
            matches!(buffer.lifetime, Lifetime::Saved | Lifetime::Hosted)
        };
        let kept = role.buffers.iter().enumerate().filter(saved).find(|(buffer, _)| tracker.holds(*buffer));
        if let Some((_, buffer)) = kept {
            let fault = ProgramFault::Kept { buffer: buffer.name.clone() };
            return Err(VerifyError { place: ProgramPlace::End { role: number }, fault });
        }
    }
    Ok(())
}
