//! Numbers in range, sizes that agree, and no op that writes what it also uses.

use std::ops::Range;

use super::{ProgramFault, ProgramPlace, VerifyError, at};
use crate::op::{DtypeClass, Mode};
use crate::program::{Block, Buffer, Kind, Lifetime, Program, View};

/// Two formals that must not share elements; `exact` ones may be the very same view.
struct Apart {
    written: usize,
    other: usize,
    exact: bool,
}

/// What a block wants of its arguments.
#[derive(Default)]
struct Wants {
    /// Formals with the elements that calls take of them, each pair once, in the order of calls.
    elems: Vec<(u32, DtypeClass)>,
    apart: Vec<Apart>,
}

pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let (roles, stages, classes) = (program.roles.len(), program.mesh.pp, program.classes.count());
    if roles != stages * classes {
        return Err(VerifyError {
            place: ProgramPlace::Program,
            fault: ProgramFault::Roles { roles, stages, classes },
        });
    }
    let replicas = program.classes.sizes().iter().sum();
    if classes > 1 && (replicas != program.mesh.dp || program.classes.sizes().contains(&0)) {
        let fault = ProgramFault::Classes { replicas, dp: program.mesh.dp };
        return Err(VerifyError { place: ProgramPlace::Program, fault });
    }
    let mut wants = Vec::with_capacity(program.blocks.len());
    for (number, block) in program.blocks.iter().enumerate() {
        let of_call = |(call, fault)| VerifyError { place: ProgramPlace::Block { block: number, call }, fault };
        wants.push(check_block(block).map_err(of_call)?);
    }
    for (number, role) in program.roles.iter().enumerate() {
        for (index, instr) in role.instrs.iter().enumerate() {
            let checked = check_instr(program, number, &instr.kind, &wants);
            checked.map_err(|fault| at(program, number, index, fault))?;
            if let Some(&wait) = instr.waits.iter().find(|&&wait| wait as usize >= index) {
                return Err(at(program, number, index, ProgramFault::Wait { wait }));
            }
        }
    }
    Ok(())
}

/// Checks calls against signatures; gives what they want of actual arguments.
fn check_block(block: &Block) -> Result<Wants, (usize, ProgramFault)> {
    let Wants { mut elems, mut apart } = Wants::default();
    for (index, call) in block.calls.iter().enumerate() {
        let signature = call.op.signature();
        if signature.len() != call.args.len() {
            return Err((index, ProgramFault::Arguments { given: call.args.len(), wanted: signature.len() }));
        }
        for (arg, param) in call.args.iter().zip(&signature) {
            let formal = known("formal", &block.params, arg.param).map_err(|fault| (index, fault))?;
            let end = arg.offset + param.elems;
            if end > formal.elems {
                return Err((index, ProgramFault::Bounds { name: formal.name.clone(), elems: formal.elems, end }));
            }
            if !elems.contains(&(arg.param, param.takes)) {
                elems.push((arg.param, param.takes));
            }
        }
        for (i, (arg, param)) in call.args.iter().zip(&signature).enumerate() {
            if param.mode == Mode::In {
                continue;
            }
            for (j, (other, used)) in call.args.iter().zip(&signature).enumerate() {
                if i == j || (used.mode != Mode::In && j < i) {
                    continue;
                }
                let exact = call.op.may_run_in_place();
                if arg.param != other.param {
                    let (written, other) = (arg.param as usize, other.param as usize);
                    if !apart.iter().any(|a| (a.written, a.other) == (written, other) && a.exact == exact) {
                        apart.push(Apart { written, other, exact });
                    }
                } else if !(exact && arg.offset == other.offset)
                    && overlap(&(arg.offset..arg.offset + param.elems), &(other.offset..other.offset + used.elems))
                {
                    let name = |param: u32| block.params[param as usize].name.clone();
                    return Err((index, ProgramFault::Alias { written: name(arg.param), other: name(other.param) }));
                }
            }
        }
    }
    Ok(Wants { elems, apart })
}

fn check_instr(program: &Program, role: usize, kind: &Kind, wants: &[Wants]) -> Result<(), ProgramFault> {
    let buffers = &program.roles[role].buffers;
    let view = |view: &View| check_view(program, buffers, view);
    match kind {
        Kind::Load { into, .. } => {
            view(into)?;
            taken(&buffers[into.buffer as usize], DtypeClass::Ids)
        }
        Kind::Send { to: peer, view: message, .. } | Kind::Recv { from: peer, view: message, .. } => {
            if *peer == program.class_and_stage(role).1 {
                return Err(ProgramFault::Oneself);
            }
            known("stage", &program.roles[..program.mesh.pp], *peer as u32)?;
            view(message)
        }
        Kind::Collective { op, axis, view: vector } => {
            view(vector)?;
            let ranks = program.mesh.size(*axis);
            if op.shares() && !vector.elems.is_multiple_of(ranks) {
                return Err(ProgramFault::Uneven { elems: vector.elems, ranks });
            }
            if op.sums() { taken(&buffers[vector.buffer as usize], DtypeClass::Float) } else { Ok(()) }
        }
        Kind::Move { from, to } => {
            view(from)?;
            view(to)?;
            if from.elems != to.elems {
                return Err(ProgramFault::Size { name: "to".to_owned(), wanted: from.elems, given: to.elems });
            }
            let (from, to) = (&buffers[from.buffer as usize], &buffers[to.buffer as usize]);
            if from.elem != to.elem {
                let (elem, wanted) = (to.elem.name(), from.elem.name());
                return Err(ProgramFault::Elem { name: to.name.clone(), elem, wanted });
            }
            Ok(())
        }
        Kind::Free { buffers: freed } => freed.iter().try_for_each(|&buffer| {
            let declared = known("buffer", buffers, buffer)?;
            match declared.lifetime {
                Lifetime::Saved | Lifetime::Hosted => Ok(()),
                Lifetime::Persistent | Lifetime::HostPersistent | Lifetime::Scratch => {
                    Err(ProgramFault::Free { buffer: declared.name.clone(), why: "only saved ones are" })
                }
            }
        }),
        Kind::Run { block, args, .. } => {
            let callee = known("block", &program.blocks, *block)?;
            if args.len() != callee.params.len() {
                return Err(ProgramFault::Arguments { given: args.len(), wanted: callee.params.len() });
            }
            for (arg, formal) in args.iter().zip(&callee.params) {
                view(arg)?;
                if arg.elems != formal.elems {
                    return Err(ProgramFault::Size {
                        name: formal.name.clone(),
                        wanted: formal.elems,
                        given: arg.elems,
                    });
                }
            }
            let Wants { elems, apart } = &wants[*block as usize];
            elems
                .iter()
                .try_for_each(|&(formal, takes)| taken(&buffers[args[formal as usize].buffer as usize], takes))?;
            check_apart(program, callee, args, apart)
        }
    }
}

fn taken(buffer: &Buffer, takes: DtypeClass) -> Result<(), ProgramFault> {
    if takes.accepts(buffer.elem) {
        return Ok(());
    }
    let wanted = match takes {
        DtypeClass::Float | DtypeClass::Sum | DtypeClass::State => "floats",
        DtypeClass::Full => "f32",
        DtypeClass::Ids => "u32",
        DtypeClass::Any => "any",
    };
    Err(ProgramFault::Elem { name: buffer.name.clone(), elem: buffer.elem.name(), wanted })
}

fn check_apart(program: &Program, block: &Block, args: &[View], apart: &[Apart]) -> Result<(), ProgramFault> {
    let shares = |pair: &&Apart| {
        let (a, b) = (&args[pair.written], &args[pair.other]);
        a.buffer == b.buffer && !(pair.exact && a == b) && overlap(&a.extent(&program.mesh), &b.extent(&program.mesh))
    };
    match apart.iter().find(shares) {
        Some(pair) => {
            let name = |formal: usize| block.params[formal].name.clone();
            Err(ProgramFault::Alias { written: name(pair.written), other: name(pair.other) })
        }
        None => Ok(()),
    }
}

fn check_view(program: &Program, buffers: &[Buffer], view: &View) -> Result<(), ProgramFault> {
    let buffer = known("buffer", buffers, view.buffer)?;
    let end = view.extent(&program.mesh).end;
    if end > buffer.elems {
        return Err(ProgramFault::Bounds { name: buffer.name.clone(), elems: buffer.elems, end });
    }
    Ok(())
}

fn known<'a, T>(what: &'static str, all: &'a [T], number: u32) -> Result<&'a T, ProgramFault> {
    let missing = ProgramFault::Unknown { what, number: number as usize, last: all.len().saturating_sub(1) };
    all.get(number as usize).ok_or(missing)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
