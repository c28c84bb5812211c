//! Messages and collectives of several roles match, and nobody waits in a circle: a dry run of all roles.
//!
//! Sends never wait; a receive waits for its message, a collective for all roles that have ranks in its groups: over the
//! pipeline those of a class, over replicas those of a stage. Other collectives join ranks of one role, which all run the
//! same list.

use rustc_hash::FxHashMap;

use super::{ProgramFault, ProgramPlace, VerifyError, at};
use crate::mesh::Axis;
use crate::program::{Collective, Elem, Kind, Program, View};

struct Role {
    /// Next instruction.
    next: usize,
    /// By receiving stage and line, messages sent.
    sent: FxHashMap<(usize, u32), Vec<Vector>>,
    /// By sending stage and line, messages received.
    received: FxHashMap<(usize, u32), usize>,
    /// The collective it stands at.
    meeting: Option<(Axis, Collective, Vector)>,
}

/// What crosses: how many elements of a kind.
type Vector = (usize, Elem);

struct Rendezvous<'a> {
    program: &'a Program,
    roles: Vec<Role>,
    /// By axis and role: the roles that its collectives join, itself among them.
    groups: [Vec<Vec<usize>>; Axis::ALL.len()],
}

pub(super) fn check(program: &Program) -> Result<(), VerifyError> {
    let fresh = || Role { next: 0, sent: FxHashMap::default(), received: FxHashMap::default(), meeting: None };
    let roles: Vec<Role> = program.roles.iter().map(|_| fresh()).collect();
    let mut run = Rendezvous { program, roles, groups: Axis::ALL.map(|axis| groups(program, axis)) };
    loop {
        let mut moved = false;
        for role in 0..program.roles.len() {
            while run.step(role)? {
                moved = true;
            }
            moved |= run.meet(role)?;
        }
        if !moved {
            return run.finish();
        }
    }
}

/// By role, the roles that groups of an axis join, directly or through others.
fn groups(program: &Program, axis: Axis) -> Vec<Vec<usize>> {
    let (mesh, classes) = (program.mesh, program.classes.count());
    let all = 0..program.roles.len();
    let stages = |role| program.class_and_stage(role);
    match axis {
        Axis::Tp | Axis::Etp | Axis::Cp => all.map(|role| vec![role]).collect(),
        Axis::Pp => all.map(|role| (0..mesh.pp).map(|stage| program.role(stages(role).0, stage)).collect()).collect(),
        Axis::Dp | Axis::Data | Axis::Ep | Axis::Edp | Axis::Shard | Axis::Eshard | Axis::Replica => {
            let mut joined: Vec<usize> = (0..classes).collect();
            let ranks = (0..mesh.ranks()).filter(|_| classes > 1);
            for coord in ranks.map(|rank| mesh.coord_of(rank)).filter(|at| at.pp == 0) {
                let peer = mesh.coord_of(mesh.group(mesh.rank_of(coord), axis)[0]);
                let [a, b] = [coord, peer].map(|at| joined[program.classes.of_replica(at.dp)]);
                joined.iter_mut().filter(|class| **class == a.max(b)).for_each(|class| *class = a.min(b));
            }
            let same = |role: usize| {
                let (class, stage) = stages(role);
                let others = (0..classes).filter(|&other| joined[other] == joined[class]);
                others.map(|other| program.role(other, stage)).collect()
            };
            all.map(same).collect()
        }
    }
}

impl Rendezvous<'_> {
    /// Lets a role do its next instruction, if it can.
    fn step(&mut self, role: usize) -> Result<bool, VerifyError> {
        let (program, index) = (self.program, self.roles[role].next);
        let (class, stage) = program.class_and_stage(role);
        let Some(instr) = program.roles[role].instrs.get(index) else { return Ok(false) };
        let buffer = |view: &View| &program.roles[role].buffers[view.buffer as usize];
        match &instr.kind {
            Kind::Send { to, tag, view } => {
                let message = (view.elems, buffer(view).elem);
                self.roles[role].sent.entry((*to, *tag)).or_default().push(message);
            }
            Kind::Recv { from, tag, view } => {
                let received = self.roles[role].received.get(&(*from, *tag)).copied().unwrap_or(0);
                let sender = &self.roles[program.role(class, *from)];
                let sent = sender.sent.get(&(stage, *tag)).and_then(|sent| sent.get(received));
                let Some(&(sent, elem)) = sent else { return Ok(false) };
                if sent != view.elems {
                    let fault = ProgramFault::Message { from: *from, sent, wanted: view.elems };
                    return Err(at(program, role, index, fault));
                }
                let into = buffer(view);
                if elem != into.elem {
                    let (name, wanted) = (into.name.clone(), elem.name());
                    return Err(at(program, role, index, ProgramFault::Elem { name, elem: into.elem.name(), wanted }));
                }
                self.roles[role].received.insert((*from, *tag), received + 1);
            }
            Kind::Collective { op, axis, view } if self.groups[*axis as usize][role].len() > 1 => {
                self.roles[role].meeting = Some((*axis, *op, (view.elems, buffer(view).elem)));
                return Ok(false);
            }
            Kind::Collective { .. } | Kind::Load { .. } | Kind::Run { .. } | Kind::Move { .. } | Kind::Free { .. } => {}
        }
        self.roles[role].next += 1;
        Ok(true)
    }

    /// Lets a role and all others of its group pass the collective they stand at: the same, if all is well.
    fn meet(&mut self, role: usize) -> Result<bool, VerifyError> {
        let Some((axis, ..)) = self.roles[role].meeting else { return Ok(false) };
        let group = &self.groups[axis as usize][role];
        if !group.iter().all(|&other| self.roles[other].meeting.is_some_and(|(at, ..)| at == axis)) {
            return Ok(false);
        }
        let first = group[0];
        if let Some(&unlike) = group.iter().find(|&&other| self.roles[other].meeting != self.roles[first].meeting) {
            return Err(at(self.program, unlike, self.roles[unlike].next, ProgramFault::Collective { other: first }));
        }
        for &other in group {
            self.roles[other].meeting = None;
            self.roles[other].next += 1;
        }
        Ok(true)
    }

    fn finish(&self) -> Result<(), VerifyError> {
        let program = self.program;
        for (role, state) in self.roles.iter().enumerate() {
            if state.next < program.roles[role].instrs.len() {
                return Err(at(program, role, state.next, ProgramFault::Deadlock));
            }
            let (class, stage) = program.class_and_stage(role);
            let left = |(&(to, tag), sent): (&(usize, u32), &Vec<Vector>)| {
                let receiver = &self.roles[program.role(class, to)];
                let received = receiver.received.get(&(stage, tag)).copied().unwrap_or(0);
                (sent.len() > received).then(|| (to, sent.len() - received))
            };
            if let Some((to, count)) = state.sent.iter().filter_map(left).min() {
                return Err(VerifyError {
                    place: ProgramPlace::End { role },
                    fault: ProgramFault::Unreceived { to, count },
                });
            }
        }
        Ok(())
    }
}
