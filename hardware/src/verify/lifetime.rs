//! What is read was written, what is kept is freed, and streams wait for what they share.

use super::{Fault, Place, VerifyError, at};
use crate::hazards::{Access, Tracker, accesses, formal_uses};
use crate::program::{Lifetime, Program};

pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let uses: Vec<_> = program.blocks.iter().map(formal_uses).collect();
    for (number, role) in program.roles.iter().enumerate() {
        let mut tracker = Tracker::new(&role.buffers);
        let mut covered = [None; 2];
        for (index, instr) in role.instrs.iter().enumerate() {
            let stream = instr.stream as usize;
            let others = instr.waits.iter().filter(|&&wait| role.instrs[wait as usize].stream != instr.stream);
            covered[stream] = covered[stream].max(others.max().copied());
            let mut fault = None;
            accesses(instr, &uses, &program.mesh, &role.buffers, |access| {
                let touch = tracker.touch(&access, stream, index as u32);
                let name = || role.buffers[access.buffer as usize].name.clone();
                let Access { start, end, .. } = access;
                let found = if touch.other > covered[stream] {
                    touch.other.map(|needed| Fault::Race { buffer: name(), needed })
                } else if access.reads && !touch.held {
                    Some(Fault::Unwritten { buffer: name(), start, end })
                } else if access.frees && !touch.held_any {
                    Some(Fault::Free { buffer: name(), why: "it holds nothing" })
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
            let fault = Fault::Kept { buffer: buffer.name.clone() };
            return Err(VerifyError { place: Place::End { role: number }, fault });
        }
    }
    Ok(())
}
