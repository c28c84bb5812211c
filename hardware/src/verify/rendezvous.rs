//! Messages and pipeline collectives match, and nobody waits in a circle: a dry run of all stages.
//!
//! Sends never wait; a receive waits for its message, a collective over the pipeline for all stages. Collectives over
//! other axes join ranks of one stage, which all run the same list.

use std::collections::HashMap;

use super::{Fault, Place, VerifyError, at};
use crate::mesh::Axis;
use crate::program::{Collective, Kind, Program};

struct Stage {
    /// Next instruction.
    next: usize,
    /// By receiver and line, sizes of messages sent.
    sent: HashMap<(usize, u32), Vec<usize>>,
    /// By sender and line, messages received.
    received: HashMap<(usize, u32), usize>,
    /// The pipeline collective it stands at.
    meeting: Option<(Collective, usize)>,
}

pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let stages = program.roles.len();
    let fresh = || Stage { next: 0, sent: HashMap::new(), received: HashMap::new(), meeting: None };
    let mut all: Vec<Stage> = (0..stages).map(|_| fresh()).collect();
    loop {
        let mut moved = false;
        for stage in 0..stages {
            while step(program, &mut all, stage)? {
                moved = true;
            }
        }
        if all.iter().all(|stage| stage.meeting.is_some()) && stages > 0 {
            meet(program, &mut all)?;
            moved = true;
        }
        if !moved {
            break;
        }
    }
    finish(program, &all)
}

/// Lets a stage do its next instruction, if it can.
fn step(program: &Program, all: &mut [Stage], stage: usize) -> Result<bool, VerifyError> {
    let index = all[stage].next;
    let Some(instr) = program.roles[stage].instrs.get(index) else { return Ok(false) };
    match &instr.kind {
        Kind::Send { to, tag, view } => all[stage].sent.entry((*to, *tag)).or_default().push(view.elems),
        Kind::Recv { from, tag, view } => {
            let received = all[stage].received.get(&(*from, *tag)).copied().unwrap_or(0);
            let sent = all[*from].sent.get(&(stage, *tag)).and_then(|sent| sent.get(received));
            let Some(&sent) = sent else { return Ok(false) };
            if sent != view.elems {
                let fault = Fault::Message { from: *from, sent, wanted: view.elems };
                return Err(at(program, stage, index, fault));
            }
            all[stage].received.insert((*from, *tag), received + 1);
        }
        Kind::Collective { op, axis: Axis::Pp, view } => {
            all[stage].meeting = Some((*op, view.elems));
            return Ok(false);
        }
        Kind::Collective { .. } | Kind::Load { .. } | Kind::Run { .. } | Kind::Move { .. } | Kind::Free { .. } => {}
    }
    all[stage].next += 1;
    Ok(true)
}

/// All stages stand at a pipeline collective: the same, if all is well.
fn meet(program: &Program, all: &mut [Stage]) -> Result<(), VerifyError> {
    if let Some(stage) = (1..all.len()).find(|&stage| all[stage].meeting != all[0].meeting) {
        return Err(at(program, stage, all[stage].next, Fault::Collective { other: 0 }));
    }
    for stage in all {
        stage.meeting = None;
        stage.next += 1;
    }
    Ok(())
}

fn finish(program: &Program, all: &[Stage]) -> Result<(), VerifyError> {
    for (stage, state) in all.iter().enumerate() {
        if state.next < program.roles[stage].instrs.len() {
            return Err(at(program, stage, state.next, Fault::Deadlock));
        }
        let left = |(&(to, tag), sent): (&(usize, u32), &Vec<usize>)| {
            let received = all[to].received.get(&(stage, tag)).copied().unwrap_or(0);
            (sent.len() > received).then(|| (to, sent.len() - received))
        };
        if let Some((to, count)) = state.sent.iter().filter_map(left).min() {
            return Err(VerifyError { place: Place::End { stage }, fault: Fault::Unreceived { to, count } });
        }
    }
    Ok(())
}
