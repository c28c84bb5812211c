//! One small program for each fault, and what waits that are inserted owe to `verify`.

use super::*;
use crate::classes::Classes;
use crate::mesh::{Axis, Mesh};
use crate::op::Op;
use crate::program::*;

fn view(buffer: u32, offset: usize, elems: usize) -> View {
    View { buffer, offset, elems, shard: None }
}

fn instr(kind: Kind) -> Instr {
    Instr { kind, stream: Stream::Compute, waits: Vec::new(), microbatch: None, layer: None }
}

fn comm(kind: Kind) -> Instr {
    Instr { stream: Stream::Comm, ..instr(kind) }
}

fn accumulate(src: View, dst: View) -> Instr {
    instr(Kind::Run { block: 0, phase: Phase::Backward, args: vec![src, dst] })
}

/// Writes a view.
fn clear(view: View) -> Instr {
    let block = if view.elems == 4 { 1 } else { 2 };
    instr(Kind::Run { block, phase: Phase::Optimizer, args: vec![view] })
}

fn load(into: View) -> Instr {
    instr(Kind::Load { input: Input::Tokens, into })
}

fn program(mesh: Mesh, roles: Vec<Vec<Instr>>) -> Program {
    let buffer = |name: &str, lifetime| Buffer { name: name.to_owned(), elems: 8, lifetime, elem: Elem::F32 };
    let buffers = vec![buffer("w", Lifetime::Persistent), buffer("a", Lifetime::Saved), buffer("t", Lifetime::Scratch)];
    let formal = |name: &str| BlockParam { name: name.to_owned(), elems: 4 };
    let call = Call { op: Op::Accumulate { n: 4 }, args: [0, 1].map(|param| ArgView { param, offset: 0 }).to_vec() };
    let block = Block { name: "accumulate".to_owned(), params: vec![formal("src"), formal("dst")], calls: vec![call] };
    let roles = roles.into_iter().map(|instrs| RankProgram { buffers: buffers.clone(), instrs }).collect();
    let zero = |n: usize| Block {
        name: "zero".to_owned(),
        params: vec![BlockParam { name: "x".to_owned(), elems: n }],
        calls: vec![Call { op: Op::Zero { n }, args: vec![ArgView { param: 0, offset: 0 }] }],
    };
    Program { mesh, classes: Classes::ONE, blocks: vec![block, zero(4), zero(2)], roles }
}

fn one(instrs: Vec<Instr>) -> Program {
    program(Mesh::ONE, vec![instrs])
}

fn fault(program: Program) -> ProgramFault {
    verify(program).expect_err("it is unsound").fault
}

const W: fn(usize) -> View = |offset| view(0, offset, 4);
const A: fn() -> View = || view(1, 0, 4);
const T: fn() -> View = || view(2, 0, 4);

#[test]
fn a_sound_program_passes() {
    let free = instr(Kind::Free { buffers: vec![1] });
    verify(one(vec![clear(A()), clear(T()), accumulate(A(), W(0)), accumulate(T(), W(4)), free])).unwrap();
}

#[test]
fn what_is_out_of_range_is_refused() {
    assert!(matches!(
        fault(one(vec![load(view(9, 0, 4))])),
        ProgramFault::Unknown { what: "buffer", number: 9, last: 2 }
    ));
    assert!(matches!(fault(one(vec![load(view(0, 6, 4))])), ProgramFault::Bounds { elems: 8, end: 10, .. }));
    assert!(matches!(
        fault(one(vec![accumulate(W(0), view(0, 4, 3))])),
        ProgramFault::Size { wanted: 4, given: 3, .. }
    ));
    let short = instr(Kind::Run { block: 0, phase: Phase::Forward, args: vec![W(0)] });
    assert!(matches!(fault(one(vec![short])), ProgramFault::Arguments { given: 1, wanted: 2 }));
    let sharded = View { shard: Some(Axis::Dp), ..view(0, 0, 5) };
    let mesh = Mesh { dp: 2, pp: 1, tp: 1, ..Mesh::ONE };
    assert!(matches!(fault(program(mesh, vec![vec![load(sharded)]])), ProgramFault::Bounds { end: 10, .. }));
    assert!(matches!(fault(program(Mesh { pp: 2, ..Mesh::ONE }, vec![vec![]])), ProgramFault::Roles { .. }));
}

#[test]
fn elements_that_an_op_does_not_take_are_refused() {
    let elems = |program: Program, elem: Elem| {
        let mut program = program;
        program.roles[0].buffers[2].elem = elem;
        program
    };
    let sums = || one(vec![clear(T()), accumulate(T(), W(0))]);
    verify(elems(sums(), Elem::Bf16)).unwrap();
    assert!(matches!(fault(elems(sums(), Elem::U32)), ProgramFault::Elem { elem: "u32", wanted: "floats", .. }));
    verify(elems(one(vec![load(T())]), Elem::U32)).unwrap();
    assert!(matches!(fault(one(vec![load(T())])), ProgramFault::Elem { elem: "f32", wanted: "u32", .. }));
    let moved = || one(vec![instr(Kind::Move { from: W(0), to: T() })]);
    verify(moved()).unwrap();
    assert!(matches!(fault(elems(moved(), Elem::F16)), ProgramFault::Elem { elem: "f16", wanted: "f32", .. }));
}

#[test]
fn an_op_that_writes_what_it_reads_is_refused() {
    assert!(matches!(fault(one(vec![accumulate(W(0), view(0, 2, 4))])), ProgramFault::Alias { .. }));
}

#[test]
fn reads_of_nothing_are_refused() {
    assert!(matches!(fault(one(vec![accumulate(T(), W(0))])), ProgramFault::Unwritten { .. }));
    assert!(matches!(fault(one(vec![clear(view(2, 0, 2)), accumulate(T(), W(0))])), ProgramFault::Unwritten { .. }));
    let free = || instr(Kind::Free { buffers: vec![1] });
    assert!(matches!(fault(one(vec![clear(A()), free(), accumulate(A(), W(0))])), ProgramFault::Unwritten { .. }));
}

#[test]
fn what_is_kept_is_freed_once() {
    let free = |buffer| instr(Kind::Free { buffers: vec![buffer] });
    assert!(matches!(fault(one(vec![clear(A())])), ProgramFault::Kept { .. }));
    assert!(matches!(fault(one(vec![clear(A()), free(1), free(1)])), ProgramFault::Free { .. }));
    assert!(matches!(fault(one(vec![free(2)])), ProgramFault::Free { .. }));
}

#[test]
fn messages_match_in_number_and_size() {
    let mesh = Mesh { pp: 2, ..Mesh::ONE };
    let send = |elems| instr(Kind::Send { to: 1, tag: 0, view: view(0, 0, elems) });
    let recv = |elems| instr(Kind::Recv { from: 0, tag: 0, view: view(0, 0, elems) });
    verify(program(mesh, vec![vec![send(4), send(8)], vec![recv(4), recv(8)]])).unwrap();
    assert!(matches!(
        fault(program(mesh, vec![vec![send(4)], vec![recv(8)]])),
        ProgramFault::Message { sent: 4, wanted: 8, .. }
    ));
    assert!(matches!(fault(program(mesh, vec![vec![send(4)], vec![]])), ProgramFault::Unreceived { to: 1, count: 1 }));
    assert!(matches!(fault(program(mesh, vec![vec![], vec![recv(4)]])), ProgramFault::Deadlock));
    let mut unlike = program(mesh, vec![vec![send(4)], vec![recv(4)]]);
    unlike.roles[1].buffers[0].elem = Elem::Bf16;
    assert!(matches!(fault(unlike), ProgramFault::Elem { elem: "bf16", wanted: "f32", .. }));
    let own = instr(Kind::Send { to: 0, tag: 0, view: W(0) });
    assert!(matches!(fault(program(mesh, vec![vec![own], vec![]])), ProgramFault::Oneself));
}

#[test]
fn stages_that_wait_in_a_circle_are_refused() {
    let mesh = Mesh { pp: 2, ..Mesh::ONE };
    let send = |to| instr(Kind::Send { to, tag: 0, view: W(0) });
    let recv = |from| instr(Kind::Recv { from, tag: 0, view: W(4) });
    verify(program(mesh, vec![vec![send(1), recv(1)], vec![send(0), recv(0)]])).unwrap();
    assert!(matches!(
        fault(program(mesh, vec![vec![recv(1), send(1)], vec![recv(0), send(0)]])),
        ProgramFault::Deadlock
    ));
}

#[test]
fn pipeline_collectives_are_the_same_on_all_stages() {
    let mesh = Mesh { pp: 2, ..Mesh::ONE };
    let sum = |elems| instr(Kind::Collective { op: Collective::AllReduce, axis: Axis::Pp, view: view(0, 0, elems) });
    verify(program(mesh, vec![vec![sum(4)], vec![sum(4)]])).unwrap();
    assert!(matches!(fault(program(mesh, vec![vec![sum(4)], vec![sum(8)]])), ProgramFault::Collective { other: 0 }));
    assert!(matches!(fault(program(mesh, vec![vec![sum(4)], vec![]])), ProgramFault::Deadlock));
    let odd = instr(Kind::Collective { op: Collective::AllGather, axis: Axis::Dp, view: view(0, 0, 5) });
    assert!(matches!(
        fault(program(Mesh { dp: 2, ..Mesh::ONE }, vec![vec![odd]])),
        ProgramFault::Uneven { elems: 5, ranks: 2 }
    ));
}

#[test]
fn collectives_are_the_same_in_all_classes_of_replicas() {
    let sum = |axis, elems| instr(Kind::Collective { op: Collective::AllReduce, axis, view: view(0, 0, elems) });
    let of = |mesh, roles| Program { classes: Classes::of_sizes(vec![2, 2]), ..program(mesh, roles) };
    let mesh = Mesh { dp: 4, ep: 2, ..Mesh::ONE };
    let more = vec![clear(T()), clear(T()), sum(Axis::Ep, 4), sum(Axis::Dp, 4)];
    verify(of(mesh, vec![more.clone(), vec![clear(T()), sum(Axis::Dp, 4)]])).unwrap();
    let fault_of = |first: Vec<Instr>, second: Vec<Instr>| fault(of(mesh, vec![first, second]));
    assert!(matches!(fault_of(more.clone(), vec![sum(Axis::Dp, 8)]), ProgramFault::Collective { other: 0 }));
    assert!(matches!(fault_of(more, vec![]), ProgramFault::Deadlock));
    // Groups of one place on the expert axis hold replicas of both classes.
    assert!(matches!(fault_of(vec![sum(Axis::Edp, 4)], vec![]), ProgramFault::Deadlock));
    let lists = |count| vec![Vec::new(); count];
    assert!(matches!(fault(of(mesh, lists(3))), ProgramFault::Roles { roles: 3, stages: 1, classes: 2 }));
    let less = Mesh { dp: 3, ..Mesh::ONE };
    assert!(matches!(fault(of(less, lists(2))), ProgramFault::Classes { replicas: 4, dp: 3 }));
}

/// Compute writes, comm sums, compute reads: twice over, in two places.
fn two_streams() -> Program {
    let sum = |offset| comm(Kind::Collective { op: Collective::AllReduce, axis: Axis::Dp, view: W(offset) });
    let mesh = Mesh { dp: 2, ..Mesh::ONE };
    let again = [clear(T()), clear(W(0)), sum(0), clear(W(4)), sum(4), accumulate(W(0), T()), accumulate(W(4), T())];
    program(mesh, vec![again.to_vec()])
}

fn with_waits(program: Program) -> Program {
    Program::clone(&verify_with_waits(program).unwrap())
}

#[test]
fn inserting_waits_finds_what_else_is_wrong() {
    let fault = |list| verify_with_waits(one(list)).expect_err("it is unsound").fault;
    assert!(matches!(fault(vec![accumulate(T(), W(0))]), ProgramFault::Unwritten { .. }));
    assert!(matches!(fault(vec![clear(T()), accumulate(T(), view(0, 6, 4))]), ProgramFault::Bounds { .. }));
}

#[test]
fn waits_are_added_where_streams_share_and_nowhere_else() {
    let program = with_waits(two_streams());
    let waits: Vec<Vec<u32>> = program.roles[0].instrs.iter().map(|instr| instr.waits.clone()).collect();
    assert_eq!(waits, [vec![], vec![], vec![1], vec![], vec![3], vec![2], vec![4]]);
    verify(program).unwrap();
}

/// Compute writes what comm sums and the host's stream clears, then adds both.
fn three_streams() -> Program {
    let sum = comm(Kind::Collective { op: Collective::AllReduce, axis: Axis::Dp, view: W(0) });
    let host = Instr { stream: Stream::Host, ..clear(W(4)) };
    let mesh = Mesh { dp: 2, ..Mesh::ONE };
    let list = [clear(T()), clear(W(0)), clear(W(4)), sum, host, accumulate(W(0), T()), accumulate(W(4), T())];
    program(mesh, vec![list.to_vec()])
}

#[test]
fn each_stream_waits_for_each_other_once() {
    let program = with_waits(three_streams());
    let waits: Vec<Vec<u32>> = program.roles[0].instrs.iter().map(|instr| instr.waits.clone()).collect();
    assert_eq!(waits, [vec![], vec![], vec![], vec![1], vec![2], vec![3], vec![4]]);
    verify(program).unwrap();
}

#[test]
fn every_wait_added_is_needed() {
    [two_streams(), three_streams()].into_iter().for_each(is_needed);
}

fn is_needed(program: Program) {
    let whole = with_waits(program);
    for index in 0..whole.roles[0].instrs.len() {
        let mut less = whole.clone();
        if !std::mem::take(&mut less.roles[0].instrs[index].waits).is_empty() {
            assert!(matches!(fault(less), ProgramFault::Race { .. }), "instruction {index}");
        }
    }
    let mut later = whole.clone();
    later.roles[0].instrs[2].waits = vec![2];
    assert!(matches!(fault(later), ProgramFault::Wait { wait: 2 }));
}

#[test]
fn a_fault_says_where_it_is() {
    let message = verify(one(vec![clear(T()), accumulate(T(), view(0, 6, 4))])).unwrap_err().to_string();
    assert_eq!(message, "role 0, instruction 1 (accumulate): `w` ends at 8, the part used at 10");
}
