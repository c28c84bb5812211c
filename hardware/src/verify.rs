//! Verification: only programs that pass are simulated and run.
//!
//! In: a [`Program`]. Out: [`Verified`], or the first thing that is wrong, by role, instruction and buffer.
//!
//! Checked: numbers are in range and sizes agree (`shape`); no op writes what it also uses (`shape`); what is read was
//! written, what is kept is freed, streams wait for what they share (`lifetime`); messages and collectives of several roles match
//! and nobody waits in a circle (`rendezvous`).
//!
//! Invariant: a [`Verified`] cannot be made in any other way, nor changed.

mod lifetime;
mod rendezvous;
mod shape;
#[cfg(test)]
mod tests;

use crate::program::Program;

/// A program that is sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified(Program);

impl std::ops::Deref for Verified {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

/// What is wrong with a program, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct VerifyError {
    /// Where.
    pub place: ProgramPlace,
    /// What.
    pub fault: ProgramFault,
}

/// A place in a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramPlace {
    /// The program as a whole.
    Program,
    /// A block and the call in it.
    Block {
        /// Its number.
        block: usize,
        /// Number of the call.
        call: usize,
    },
    /// An instruction.
    Instr {
        /// Its role: the stage, where all replicas do the same.
        role: usize,
        /// Its number.
        instr: usize,
        /// What it does.
        name: String,
    },
    /// The end of a role's list.
    End {
        /// The role.
        role: usize,
    },
}

impl std::fmt::Display for ProgramPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProgramPlace::Program => write!(f, "program"),
            ProgramPlace::Block { block, call } => write!(f, "block {block}, call {call}"),
            ProgramPlace::Instr { role, instr, name } => write!(f, "role {role}, instruction {instr} ({name})"),
            ProgramPlace::End { role } => write!(f, "role {role}, at its end"),
        }
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    /// Not one instruction list a class of replicas and stage.
    #[error("{roles} instruction lists for {stages} stages of {classes} classes of replicas")]
    Roles {
        /// Lists.
        roles: usize,
        /// Stages.
        stages: usize,
        /// Classes.
        classes: usize,
    },
    /// Classes that are not all replicas.
    #[error(
        "the classes have {replicas} replicas, the mesh {dp}; they must be as many, and one at least in each class"
    )]
    Classes {
        /// In all classes.
        replicas: usize,
        /// In the mesh.
        dp: usize,
    },
    /// A number of a block, formal, buffer, stage or instruction that is none.
    #[error("{what} {number} is not there; the last is {last}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The number.
        number: usize,
        /// The greatest that is.
        last: usize,
    },
    /// Too few or too many arguments.
    #[error("{given} arguments where {wanted} are due")]
    Arguments {
        /// Given.
        given: usize,
        /// Due.
        wanted: usize,
    },
    /// A part that goes over the end.
    #[error("`{name}` ends at {elems}, the part used at {end}")]
    Bounds {
        /// Of the buffer or formal.
        name: String,
        /// Its size.
        elems: usize,
        /// Where the part ends.
        end: usize,
    },
    /// A view of another size than the formal it stands for.
    #[error("`{name}` wants {wanted} elements, the view has {given}")]
    Size {
        /// Of the formal.
        name: String,
        /// Due.
        wanted: usize,
        /// Given.
        given: usize,
    },
    /// Elements of a kind that what uses them does not take.
    #[error("`{name}` has elements of {elem} where {wanted} are due")]
    Elem {
        /// Of the buffer.
        name: String,
        /// Its elements.
        elem: &'static str,
        /// Due.
        wanted: &'static str,
    },
    /// An op that writes an argument which shares elements with another.
    #[error("`{written}` is written while `{other}`, which shares elements with it, is used")]
    Alias {
        /// The argument written.
        written: String,
        /// The other.
        other: String,
    },
    /// A vector that a group cannot share evenly.
    #[error("{elems} elements cannot be shared by {ranks} ranks")]
    Uneven {
        /// Of the vector.
        elems: usize,
        /// In the group.
        ranks: usize,
    },
    /// A message to oneself.
    #[error("a stage cannot exchange messages with itself")]
    Oneself,
    /// A read of what nobody wrote.
    #[error("`{buffer}` is read at {start}..{end}, where nothing has been written")]
    Unwritten {
        /// The buffer.
        buffer: String,
        /// First element.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// A free of what is not kept, or is empty.
    #[error("`{buffer}` is freed, but {why}")]
    Free {
        /// The buffer.
        buffer: String,
        /// Why it cannot be.
        why: &'static str,
    },
    /// Something kept that nobody frees.
    #[error("`{buffer}` still holds something; free it")]
    Kept {
        /// The buffer.
        buffer: String,
    },
    /// Two streams that touch the same elements in no certain order.
    #[error("`{buffer}` was last used by instruction {needed} of another stream; wait for it")]
    Race {
        /// The buffer.
        buffer: String,
        /// The instruction to wait for.
        needed: u32,
    },
    /// A wait for something that is not earlier.
    #[error("it waits for instruction {wait}, which is not an earlier one")]
    Wait {
        /// For what.
        wait: u32,
    },
    /// A receive that meets a message of another size.
    #[error("it receives {wanted} elements, stage {from} sends {sent}")]
    Message {
        /// The sender.
        from: usize,
        /// Sent.
        sent: usize,
        /// Expected.
        wanted: usize,
    },
    /// A message that nobody receives.
    #[error("{count} messages to stage {to} are never received")]
    Unreceived {
        /// The receiver.
        to: usize,
        /// How many.
        count: usize,
    },
    /// A collective unlike that of another role of its group.
    #[error("role {other} takes part in another collective: kind or size differ")]
    Collective {
        /// The role.
        other: usize,
    },
    /// Roles that wait for each other for ever.
    #[error("it waits for ever")]
    Deadlock,
}

/// Checks a program.
///
/// # Errors
/// The first fault found.
pub fn verify(program: Program) -> Result<Verified, VerifyError> {
    shape::check(&program)?;
    rendezvous::check(&program)?;
    lifetime::check(&program)?;
    Ok(Verified(program))
}

/// Inserts the waits that a program needs between its streams, and none that an earlier one of the same streams makes idle, in
/// place of those that it has; checks all else. What it gives passes [`verify`].
///
/// # Errors
/// The first fault found.
pub fn verify_with_waits(mut program: Program) -> Result<Verified, VerifyError> {
    program.roles.iter_mut().flat_map(|role| &mut role.instrs).for_each(|instr| instr.waits.clear());
    shape::check(&program)?;
    rendezvous::check(&program)?;
    lifetime::check_with_waits(&mut program)?;
    Ok(Verified(program))
}

fn at(program: &Program, role: usize, instr: usize, fault: ProgramFault) -> VerifyError {
    let name = match &program.roles[role].instrs[instr].kind {
        crate::program::Kind::Run { block, .. } if *block as usize >= program.blocks.len() => "run".to_owned(),
        _ => program.roles[role].instrs[instr].name(program).to_owned(),
    };
    VerifyError { place: ProgramPlace::Instr { role, instr, name }, fault }
}
