//! Runs ops on a device, with all arguments of a width in one buffer, and compares every element of it with the reference.
//!
//! In: how a device is made, a family of ops. Out: a panic that names the op, the argument and the element.
//!
//! Invariant: what an op does not write keeps its bits, and the same operands give the same bits again.

use meshwright_executor::ExecutorError;
use meshwright_executor::device::{Access, Device, Region, StepArgs};
use meshwright_executor::kernels::AdamWSettings;
use meshwright_hardware::mesh::{Axis, Coord, Rank};
use meshwright_hardware::op::{Mode, Op, Param};
use meshwright_hardware::program::{Buffer, Elem, Lifetime};

use super::cases::{Case, each_case, is_ids, rounded};

/// How a device is made.
pub type Make<'a> = &'a dyn Fn(Rank, &[Buffer]) -> Result<Box<dyn Device>, ExecutorError>;

/// In what attention multiplies weights of values, and gradients of scores, where elements are of two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// In fp32.
    Full,
    /// In the elements' format, as matrix units do (Dao et al. 2022). What that leaves is of the size of the terms, which are
    /// as large as the greatest result: of these cases, rounded so in f64, up to 1.8 roundings of it.
    Narrow,
}

/// Error of an element against its own size or the mean size of its argument's, whichever is greater: of sums in fp32, and of
/// the one rounding, to nearest, of what is stored in two bytes.
fn tolerance(elem: Elem) -> f64 {
    let sums = 2e-5;
    match elem {
        Elem::F32 | Elem::U32 => sums,
        Elem::Bf16 => sums + 2f64.powi(-8),
        Elem::F16 => sums + 2f64.powi(-11),
        Elem::F8 => sums + 2f64.powi(-4),
    }
}

/// Half the distance between the smallest numbers of fp16.
const TINY: f64 = 1.0 / (1 << 25) as f64;

/// An optimizer step, with clipping or without, and scaled gradients.
pub fn step(clip: f32) -> StepArgs {
    let (bias1, bias2, grad_scale) = (0.271, 0.0975, 1.0);
    let adamw =
        AdamWSettings { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, bias1, bias2, grad_scale };
    StepArgs { adamw, clip, loss_scale: 4.0 }
}

/// An argument's elements as the host gives them.
fn held(param: &Param, values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| if is_ids(param) { f32::from_bits(x as u32) } else { x as f32 }).collect()
}

fn buffer(elems: usize, elem: Elem) -> Buffer {
    Buffer { name: "arena".to_owned(), elems, lifetime: Lifetime::Scratch, elem }
}

fn write(device: &mut dyn Device, region: Region, values: &[f32]) {
    let mut copy = |host: &mut [f32]| {
        host.copy_from_slice(values);
        Ok(())
    };
    device.with_host(region, Access::Change, &mut copy).unwrap();
}

fn read(device: &mut dyn Device, region: Region) -> Vec<f32> {
    let mut values = Vec::new();
    let mut copy = |host: &mut [f32]| {
        values = host.to_vec();
        Ok(())
    };
    device.with_host(region, Access::Change, &mut copy).unwrap();
    values
}

/// Runs every op of a family once with its arguments on cache lines, once wherever they fall, twice each; weights and
/// activations are of `elem`.
pub fn family(make: Make, elem: Elem, scores: Scores, name: &str) {
    each_case(name, elem, |Case { op, given, want, step }| {
        for line in [16, 1] {
            let at = op.second_shard();
            let first = run_op(make, elem, op, given, line, at, step);
            compare(op, elem, scores, want, &first);
            let again = run_op(make, elem, op, given, line, at, step);
            if scores == Scores::Narrow && elem != Elem::F32 && matches!(op, Op::AttentionGrad(_)) {
                // cuDNN adds gradients of queries in whatever order blocks of keys are done.
                compare(op, elem, scores, want, &again);
            } else {
                assert!(first == again, "{op:?} in {elem:?} gave other bits the second time");
            }
        }
    });
}

/// The arguments' bits after the op; checks that nothing else changed.
fn run_op(
    make: Make,
    elem: Elem,
    op: &Op,
    given: &[Vec<f64>],
    line: usize,
    at: Coord,
    step: &StepArgs,
) -> Vec<Vec<u32>> {
    let signature = op.signature();
    // Words, and what is of `elem`, if that is narrower.
    let elems = if elem == Elem::F32 { vec![elem] } else { vec![Elem::F32, elem] };
    let (mut regions, mut arenas) = (Vec::new(), vec![vec![0.123_f32; 7]; elems.len()]);
    for (param, values) in signature.iter().zip(given) {
        let buffer = if param.takes.may_be_narrow() { elems.len() - 1 } else { 0 };
        let arena = &mut arenas[buffer];
        arena.resize(arena.len().next_multiple_of(line), 0.456);
        regions.push(Region { buffer, start: arena.len(), elems: param.elems });
        arena.extend(held(param, values));
        arena.extend([0.789; 5]);
    }
    let buffers: Vec<Buffer> = arenas.iter().zip(&elems).map(|(arena, &elem)| buffer(arena.len(), elem)).collect();
    let mut device = make(0, &buffers).unwrap();
    let all = |buffer: usize| Region { buffer, start: 0, elems: arenas[buffer].len() };
    for (buffer, arena) in arenas.iter().enumerate() {
        write(device.as_mut(), all(buffer), arena);
    }
    let contents = |device: &mut dyn Device| -> Vec<Vec<f32>> {
        (0..arenas.len()).map(|buffer| read(device, all(buffer))).collect()
    };
    let before = contents(device.as_mut());
    device.run(op, &regions, at, step).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    let after = contents(device.as_mut());
    let written = |buffer: usize, at: usize| {
        let inside =
            |region: &Region| region.buffer == buffer && (region.start..region.start + region.elems).contains(&at);
        regions.iter().zip(&signature).any(|(region, param)| param.mode != Mode::In && inside(region))
    };
    for (buffer, (before, after)) in before.iter().zip(&after).enumerate() {
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            let same = before.to_bits() == after.to_bits() || written(buffer, at);
            assert!(same, "{op:?} in {elem:?} changed element {at} of buffer {buffer} beside {regions:?}");
        }
    }
    let bits = |region: &Region| {
        let part = &after[region.buffer][region.start..region.start + region.elems];
        part.iter().map(|x| x.to_bits()).collect()
    };
    regions.iter().map(bits).collect()
}

fn compare(op: &Op, elem: Elem, scores: Scores, want: &[Vec<f64>], got: &[Vec<u32>]) {
    let attends = op.class().contains("attention");
    let rounds = attends && scores == Scores::Narrow && elem != Elem::F32;
    let given = op.signature().into_iter().zip(want).filter(|(p, _)| p.mode == Mode::In && !is_ids(p));
    let operands =
        given.map(|(_, x)| x.iter().map(|x| x.abs()).sum::<f64>() / x.len().max(1) as f64).fold(0.0, f64::max);
    // A gradient of scores is a difference, of which rounding leaves something of its terms' size where it is nothing.
    let least = if attends { operands / 100.0 } else { 1e-6 };
    for ((param, want), got) in op.signature().iter().zip(want).zip(got).filter(|((p, _), _)| p.mode != Mode::In) {
        let mean = want.iter().map(|x| x.abs()).sum::<f64>() / want.len().max(1) as f64;
        let greatest = want.iter().map(|x| x.abs()).fold(0.0, f64::max);
        let elem = if param.takes.may_be_narrow() { elem } else { Elem::F32 };
        let tiny = if elem == Elem::F16 { TINY } else { 0.0 };
        for (i, (want, got)) in want.iter().zip(got).enumerate() {
            let got = if is_ids(param) { f64::from(*got) } else { f64::from(f32::from_bits(*got)) };
            let size =
                if rounds && param.takes.may_be_narrow() { 2.0 * greatest } else { want.abs().max(mean).max(least) };
            let allowed = tolerance(elem) * size + tiny;
            // Not `>`: a NaN must fail too.
            assert!(
                (got - want).abs() <= allowed,
                "{op:?} in {elem:?}: {}[{i}] is {got}, should be {want}",
                param.name
            );
        }
    }
}

/// The whole suite, for a device whose attention multiplies in fp32.
pub fn all(make: Make, elems: &[Elem], families: &[&str]) {
    for &elem in elems {
        families.iter().for_each(|name| family(make, elem, Scores::Full, name));
        let others: [fn(Make, Elem); 6] = [host, bytes, order, in_place, overflow, extremes];
        others.iter().for_each(|check| check(make, elem));
    }
    refusals(make);
}

/// Buffers start as zeros, keep what is written, rounded, and are counted.
pub fn host(make: Make, elem: Elem) {
    let mut device = make(3, &[buffer(5, elem), buffer(1000, elem)]).unwrap();
    let second = Region { buffer: 1, start: 0, elems: 1000 };
    assert_eq!(read(device.as_mut(), second), [0.0; 1000]);
    let part = Region { start: 37, elems: 3, ..second };
    // Of words, any bits come back.
    let odd = if elem == Elem::F32 { f32::from_bits(7) } else { 1.0 / 3.0 };
    write(device.as_mut(), part, &[1.0, -2.0, odd]);
    write(device.as_mut(), Region { start: 38, elems: 1, ..second }, &[4.0]);
    assert_eq!(read(device.as_mut(), part), [1.0, 4.0, rounded(elem, f64::from(odd)) as f32]);
    let all = read(device.as_mut(), second);
    assert!(all[..37].iter().chain(&all[40..]).all(|&x| x == 0.0));
    assert_eq!(read(device.as_mut(), Region { buffer: 0, start: 0, elems: 5 }), [0.0; 5]);
    let declared = elem.bytes() * 1005;
    assert!((declared..=declared + 4 * 64).contains(&device.buffer_bytes()), "{} bytes", device.buffer_bytes());
}

/// Elements are lent as they lie: what is moved as bytes is the same there, and neighbours stay, also those of the same word.
pub fn bytes(make: Make, elem: Elem) {
    let (mut device, width) = (make(0, &[buffer(40, elem)]).unwrap(), elem.bytes() as usize);
    let region = |start, elems| Region { buffer: 0, start, elems };
    let mut values: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
    write(device.as_mut(), region(0, 40), &values);
    for (from, to, n) in [(0, 20, 20), (1, 10, 3), (3, 8, 5), (2, 7, 4), (39, 0, 1)] {
        let mut moved = Vec::new();
        let mut take = |bytes: &mut [u8]| {
            moved = bytes.to_vec();
            Ok(())
        };
        device.with_bytes(region(from, n), Access::Read, &mut take).unwrap();
        let mut put = |bytes: &mut [u8]| {
            bytes.copy_from_slice(&moved);
            Ok(())
        };
        device.with_bytes(region(to, n), Access::Write, &mut put).unwrap();
        values.copy_within(from..from + n, to);
        assert_eq!(read(device.as_mut(), region(0, 40)), values, "{n} elements of {elem:?} from {from} to {to}");
    }
    let mut turn = |bytes: &mut [u8]| {
        bytes.rotate_left(width);
        Ok(())
    };
    device.with_bytes(region(5, 7), Access::Change, &mut turn).unwrap();
    values[5..12].rotate_left(1);
    assert_eq!(read(device.as_mut(), region(0, 40)), values);
    assert!(device.with_bytes(region(36, 5), Access::Read, &mut |_| Ok(())).is_err());
}

/// Each op sees what those before it and the host wrote.
pub fn order(make: Make, elem: Elem) {
    let n = 300;
    let mut device = make(0, &[buffer(n, elem), buffer(n, elem)]).unwrap();
    let [a, b] = [0, 1].map(|buffer| Region { buffer, start: 0, elems: n });
    write(device.as_mut(), a, &vec![1.0; n]);
    let at = Coord::FIRST;
    for round in 0..40 {
        device.run(&Op::Zero { n }, &[b], at, &step(0.0)).unwrap();
        device.run(&Op::Accumulate { n }, &[a, b], at, &step(0.0)).unwrap();
        if round % 10 == 9 {
            assert_eq!(read(device.as_mut(), b), vec![(round / 10 + 1) as f32; n]);
            device.run(&Op::Zero { n }, &[a], at, &step(0.0)).unwrap();
            write(device.as_mut(), a, &vec![(round / 10 + 2) as f32; n]);
        }
    }
}

/// `a + b` written over `a` or `b`.
pub fn in_place(make: Make, elem: Elem) {
    let op = Op::Add { rows: 2, cols: 2, bias: true };
    for operand in 0..2 {
        let mut device = make(0, &[4, 4, 2].map(|elems| buffer(elems, elem))).unwrap();
        let regions = [4, 4, 2].iter().enumerate().map(|(buffer, &elems)| Region { buffer, start: 0, elems });
        let mut regions: Vec<Region> = regions.collect();
        for (region, values) in regions.iter().zip([&[1.0, 2.0, 3.0, 4.0][..], &[10.0, 20.0, 30.0, 40.0], &[0.5, 0.25]])
        {
            write(device.as_mut(), *region, values);
        }
        regions.push(regions[operand]);
        device.run(&op, &regions, Coord::FIRST, &step(0.0)).unwrap();
        assert_eq!(read(device.as_mut(), regions[operand]), [11.5, 22.25, 33.5, 44.25]);
    }
}

/// A norm that is not finite updates nothing.
pub fn overflow(make: Make, elem: Elem) {
    let master = elem != Elem::F32;
    let op = Op::AdamW { n: 40, decayed: 20, shards: 1, axis: Axis::Data, master };
    for norm in [f32::INFINITY, f32::NAN, 9.0] {
        let signature = op.signature();
        let elems = |param: &Param| param.takes.elem(elem);
        let buffers: Vec<Buffer> = signature.iter().map(|param| buffer(param.elems, elems(param))).collect();
        let mut device = make(0, &buffers).unwrap();
        let regions = signature.iter().enumerate().map(|(buffer, p)| Region { buffer, start: 0, elems: p.elems });
        let regions: Vec<Region> = regions.collect();
        regions.iter().for_each(|region| write(device.as_mut(), *region, &vec![0.5; region.elems]));
        write(device.as_mut(), regions[0], &[norm]);
        device.run(&op, &regions, Coord::FIRST, &step(1.0)).unwrap();
        for (i, &region) in regions.iter().enumerate().skip(2) {
            let kept = read(device.as_mut(), region) == vec![0.5; region.elems];
            assert_eq!(kept, !norm.is_finite(), "argument {i} under a norm of {norm}");
        }
    }
}

/// What is too large for fp16 becomes infinite, what is too small zero, and what is not a number stays so, in sums too.
pub fn extremes(make: Make, elem: Elem) {
    let values = [7e4, -1e9, 1e-8, f32::NAN, f32::INFINITY, 60000.0];
    let n = values.len();
    let mut device = make(0, &[buffer(n, elem), buffer(n, elem)]).unwrap();
    let [a, b] = [0, 1].map(|buffer| Region { buffer, start: 0, elems: n });
    let same = |got: &[f32], want: &[f64]| {
        let pairs = got.iter().zip(want);
        pairs.into_iter().all(|(a, b)| f64::from(*a) == rounded(elem, *b) || (a.is_nan() && b.is_nan()))
    };
    write(device.as_mut(), a, &values);
    let held = read(device.as_mut(), a);
    assert!(same(&held, &values.map(f64::from)), "{elem:?}: {held:?}");
    write(device.as_mut(), b, &values);
    device.run(&Op::Accumulate { n }, &[a, b], Coord::FIRST, &step(0.0)).unwrap();
    let want: Vec<f64> = held.iter().map(|&x| f64::from(x) + f64::from(x)).collect();
    let got = read(device.as_mut(), b);
    assert!(same(&got, &want), "{elem:?}: {got:?} for {want:?}");
}

/// Overlaps, wrong sizes, regions outside their buffer.
pub fn refusals(make: Make) {
    let mut device = make(0, &[buffer(8, Elem::F32)]).unwrap();
    let part = |start, elems| Region { buffer: 0, start, elems };
    let (op, at) = (Op::Accumulate { n: 4 }, Coord::FIRST);
    for regions in [
        vec![part(0, 4), part(3, 4)],
        vec![part(0, 4), part(6, 4)],
        vec![part(0, 4), part(4, 3)],
        vec![part(0, 4)],
        vec![part(0, 4), Region { buffer: 1, start: 0, elems: 4 }],
    ] {
        let error = device.run(&op, &regions, at, &step(0.0)).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{regions:?}");
    }
    assert!(device.with_host(part(4, 5), Access::Change, &mut |_| Ok(())).is_err());
    device.run(&op, &[part(0, 4), part(4, 4)], at, &step(0.0)).unwrap();
}
