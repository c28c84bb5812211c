//! Small programs whose times are worked out by hand, and the replay of what they give.

use super::*;
use crate::classes::Classes;
use crate::mesh::Mesh;
use crate::program::{Block, Collective, Instr, Phase, RankProgram, View};
use crate::replay;
use proptest::prelude::*;

const VIEW: View = View { buffer: 0, offset: 0, elems: 4, shard: None };

fn instr(kind: Kind, stream: Stream, waits: &[u32]) -> Instr {
    Instr { kind, stream, waits: waits.to_vec(), microbatch: None, layer: None }
}

fn run(waits: &[u32]) -> Instr {
    instr(Kind::Run { block: 0, phase: Phase::Forward, args: vec![VIEW] }, Stream::Compute, waits)
}

fn send(to: usize, waits: &[u32]) -> Instr {
    instr(Kind::Send { to, tag: 0, view: VIEW }, Stream::Comm, waits)
}

fn recv(from: usize) -> Instr {
    instr(Kind::Recv { from, tag: 0, view: VIEW }, Stream::Comm, &[])
}

fn all_reduce(axis: Axis, waits: &[u32]) -> Instr {
    instr(Kind::Collective { op: Collective::AllReduce, axis, view: VIEW }, Stream::Comm, waits)
}

fn program(mesh: Mesh, roles: Vec<Vec<Instr>>) -> Program {
    let block = Block { name: "work".to_owned(), params: Vec::new(), calls: Vec::new() };
    let roles = roles.into_iter().map(|instrs| RankProgram { buffers: Vec::new(), instrs }).collect();
    Program { mesh, classes: Classes::ONE, blocks: vec![block], roles }
}

fn durations(lanes: &[(Rank, usize, &[u64])]) -> Durations {
    Durations { lanes: lanes.iter().map(|&(rank, role, nanos)| lane(rank, role, nanos.to_vec())).collect() }
}

fn lane(rank: Rank, role: usize, nanos: Vec<u64>) -> LaneDurations {
    LaneDurations { rank, role, ranks: 1, nanos, overlap: true, contention: 0.0, beside: 0.0, host: Host::default() }
}

fn spans(trace: &Trace, lane: usize) -> Vec<(u64, u64)> {
    trace.lanes[lane].spans.iter().map(|span| (span.start.0, span.end.0)).collect()
}

/// Two microbatches through two stages: the second computes twice, the first sends while it computes.
fn pipeline() -> (Program, Durations) {
    let first = vec![run(&[]), send(1, &[0]), run(&[]), send(1, &[2])];
    let second = vec![recv(0), run(&[0]), recv(0), run(&[2])];
    let program = program(Mesh { pp: 2, ..Mesh::ONE }, vec![first, second]);
    (program, durations(&[(0, 0, &[10, 4, 10, 4]), (1, 1, &[1, 20, 1, 20])]))
}

#[test]
fn a_pipeline_overlaps_sends_with_compute() {
    let (program, durations) = pipeline();
    let trace = simulate(&program, &durations, true, Origin::Predicted).unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 14), (10, 20), (20, 24)]);
    // The first message is there at 14 and received by 15; the second waits in its buffer until 35 for the compute.
    assert_eq!(spans(&trace, 1), [(0, 15), (15, 35), (15, 25), (35, 55)]);
    assert_eq!(trace.step_time(), Nanos(55));
}

#[test]
fn without_overlap_both_streams_are_one() {
    let (program, durations) = pipeline();
    let trace = simulate(&program, &durations, false, Origin::Predicted).unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 14), (14, 24), (24, 28)]);
    assert_eq!(spans(&trace, 1), [(0, 15), (15, 35), (35, 36), (36, 56)]);
}

#[test]
fn a_collective_starts_with_its_slowest_rank() {
    let program = program(Mesh { dp: 2, ..Mesh::ONE }, vec![vec![run(&[]), all_reduce(Axis::Dp, &[0])]]);
    let both = durations(&[(0, 0, &[10, 3]), (1, 0, &[25, 3])]);
    let trace = simulate(&program, &both, true, Origin::Predicted).unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 28)]);
    assert_eq!(spans(&trace, 1), [(0, 25), (25, 28)]);
    let one = durations(&[(0, 0, &[10, 3])]);
    let trace = simulate(&program, &one, true, Origin::Predicted).unwrap();
    assert_eq!(trace.step_time(), Nanos(13), "a lane that stands for its stage waits for nobody of it");
}

#[test]
fn classes_of_replicas_meet_where_each_has_done_its_own() {
    let more = vec![run(&[]), run(&[]), all_reduce(Axis::Dp, &[1])];
    let mesh = Mesh { dp: 3, ..Mesh::ONE };
    let program = program(mesh, vec![more, vec![run(&[]), all_reduce(Axis::Dp, &[0])]]);
    let program = Program { classes: Classes::of_sizes(vec![1, 2]), ..program };
    assert_eq!([0, 1, 2].map(|rank| program.role_of(mesh.coord_of(rank))), [0, 1, 1]);
    let trace = simulate(&program, &durations(&[(0, 0, &[10, 10, 3]), (1, 1, &[30, 3])]), true, Origin::Predicted);
    let trace = trace.unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 20), (20, 33)]);
    assert_eq!(spans(&trace, 1), [(0, 30), (30, 33)]);
}

#[test]
fn a_lane_whose_device_cannot_overlap_does_not() {
    let (program, mut durations) = pipeline();
    durations.lanes[0].overlap = false;
    let trace = simulate(&program, &durations, true, Origin::Predicted).unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 14), (14, 24), (24, 28)]);
    assert_eq!(spans(&trace, 1), [(0, 15), (15, 35), (15, 29), (35, 55)]);
}

#[test]
fn moves_hold_up_neither_kernels_nor_messages() {
    let away = instr(Kind::Move { from: VIEW, to: VIEW }, Stream::Host, &[0]);
    let first = vec![run(&[]), away.clone(), send(1, &[0]), run(&[]), away];
    let program = program(Mesh { pp: 2, ..Mesh::ONE }, vec![first, vec![recv(0)]]);
    let durations = durations(&[(0, 0, &[10, 50, 4, 10, 50]), (1, 1, &[1])]);
    let trace = simulate(&program, &durations, true, Origin::Predicted).unwrap();
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 60), (10, 14), (10, 20), (60, 110)]);
    assert_eq!(spans(&trace, 1), [(0, 15)]);
}

#[test]
fn compute_beside_a_collective_takes_longer() {
    let reduce = |waits: &[u32]| Instr { stream: Stream::Comm, ..all_reduce(Axis::Dp, waits) };
    let program = program(Mesh { dp: 2, ..Mesh::ONE }, vec![vec![run(&[]), reduce(&[0]), run(&[]), run(&[])]]);
    let mut contended = durations(&[(0, 0, &[10, 60, 20, 100])]);
    contended.lanes[0].contention = 0.5;
    let trace = simulate(&program, &contended, true, Origin::Predicted).unwrap();
    // The collective is there from 10 to 70: 20 take 30, and of 100 the first 20 do.
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 70), (10, 40), (40, 150)]);
}

#[test]
fn a_collective_beside_compute_takes_its_share_from_it() {
    let reduce = |waits: &[u32]| Instr { stream: Stream::Comm, ..all_reduce(Axis::Dp, waits) };
    let program = program(Mesh { dp: 2, ..Mesh::ONE }, vec![vec![run(&[]), reduce(&[0]), run(&[]), run(&[])]]);
    let mut shared = durations(&[(0, 0, &[10, 60, 20, 100])]);
    shared.lanes[0].beside = 0.5;
    let trace = simulate(&program, &shared, true, Origin::Predicted).unwrap();
    // Kernels behind it start 30 later, and run beside it all the same.
    assert_eq!(spans(&trace, 0), [(0, 10), (10, 70), (40, 60), (60, 160)]);
}

#[test]
fn a_block_ends_no_sooner_than_its_last_kernel_is_issued() {
    let program = program(Mesh::ONE, vec![vec![run(&[]), run(&[]), run(&[]), run(&[])]]);
    let mut hosted = durations(&[(0, 0, &[10, 5, 100, 5])]);
    hosted.lanes[0].host = Host { starts: 7, nanos: vec![4, 20, 20, 20] };
    let trace = simulate(&program, &hosted, true, Origin::Predicted).unwrap();
    // The host is through at 11, 31, 51 and 71: it holds the second up, and is ahead from the third on.
    assert_eq!(spans(&trace, 0), [(7, 17), (17, 31), (31, 131), (131, 136)]);
}

#[test]
fn what_does_not_fit_or_never_ends_is_an_error() {
    let (program, _) = pipeline();
    let short = durations(&[(0, 0, &[10, 4, 10]), (1, 1, &[1, 20, 1, 20])]);
    let error = simulate(&program, &short, true, Origin::Predicted).unwrap_err();
    assert_eq!(error, SimulateError::Length { lane: 0, role: 0, given: 3, wanted: 4 });
    let alone = durations(&[(1, 1, &[1, 20, 1, 20])]);
    let error = simulate(&program, &alone, true, Origin::Predicted).unwrap_err();
    assert!(matches!(error, SimulateError::Stuck { lane: 0, role: 1, instr: 0, .. }), "{error}");
}

/// Two stages of two replicas that meet at the end of each.
fn replicas() -> Program {
    let first = vec![run(&[]), send(1, &[0]), run(&[]), send(1, &[2]), all_reduce(Axis::Dp, &[2]), run(&[4])];
    let second = vec![recv(0), run(&[0]), recv(0), run(&[2]), all_reduce(Axis::Dp, &[3]), run(&[4])];
    program(Mesh { dp: 2, pp: 2, tp: 1, ..Mesh::ONE }, vec![first, second])
}

proptest! {
    /// Durations → trace → durations → trace ends at the same trace, whatever waited for what. Ranks of a group have the
    /// same collectives' durations, as in a measured run the last to come sees the collective's own.
    #[test]
    fn the_replay_of_a_trace_is_that_trace(
        nanos in prop::collection::vec(prop::collection::vec(1..1000_u64, 6), 4),
        overlap in any::<bool>(),
    ) {
        let program = replicas();
        let lanes = nanos.iter().enumerate().map(|(rank, own)| {
            let role = program.mesh.coord_of(rank).pp;
            let first = program.mesh.group(rank, Axis::Dp)[0];
            let mut own = own.clone();
            own[4] = nanos[first][4];
            lane(rank, role, own)
        });
        let durations = Durations { lanes: lanes.collect() };
        let trace = simulate(&program, &durations, overlap, Origin::Measured).unwrap();
        let again = replay::durations(&program, &trace);
        prop_assert_eq!(&again, &durations);
        prop_assert_eq!(simulate(&program, &again, overlap, Origin::Measured).unwrap(), trace);
    }
}
