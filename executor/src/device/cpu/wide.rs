//! Ops over elements of two bytes, run by kernels of fp32 on widened copies: a slice of rows at a time, so that copies stay in
//! the cache.
//!
//! In: an op and its arguments, some of two bytes. Out: the arguments written, rounded once.
//!
//! Invariant: how an op is cut depends on its dims alone, so the number of threads changes no bit.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{Mode, Op, Rows};

use super::run::{RawArg, RawArgs, add_in_place, run_kernel};
use super::{StepArgs, Team};
use crate::kernels::{narrow_all, widen_all};

/// Floats of a slice's copies, about: 1 MiB.
const FLOATS: usize = 1 << 18;

/// Runs an op; `space` grows to what the copies need. `in_place` is the operand that an addition is written over, if one.
/// False, and nothing written, if there is no kernel for the op.
pub(super) fn run(
    team: &Team,
    space: &mut Vec<f32>,
    op: &Op,
    args: &RawArgs,
    in_place: Option<usize>,
    (at, step): (Coord, &StepArgs),
) -> bool {
    let signature = op.signature();
    // What cannot be cut is one row.
    let (cut, rows) = (op.rows().is_some(), op.rows().unwrap_or(Rows { count: 1, unit: 1 }));
    let whole: Vec<bool> = signature.iter().map(|param| cut && param.whole).collect();
    let of_row = |i: usize| signature[i].elems / rows.count;
    let halves = |of_whole: bool| {
        let (whole, args) = (&whole, &args.0);
        (0..args.len()).filter(move |&i| args[i].half.is_some() && whole[i] == of_whole)
    };
    let by_row: usize = halves(false).map(of_row).sum();
    let count = rows.at_once(by_row, FLOATS);
    let fixed: usize = halves(true).map(|i| signature[i].elems).sum();
    space.resize(space.len().max(fixed + count * by_row), 0.0);
    let (fixed, moving) = space.split_at_mut(fixed);
    let mut copies: Vec<Option<RawArg>> = vec![None; signature.len()];
    let mut rest = fixed;
    for i in halves(true) {
        let (copy, tail) = std::mem::take(&mut rest).split_at_mut(signature[i].elems);
        if signature[i].mode != Mode::Out {
            widen(team, args.0[i], copy);
        }
        (copies[i], rest) = (Some(RawArg::words_of(copy)), tail);
    }
    for row in (0..rows.count).step_by(count) {
        let rows = (rows.count - row).min(count);
        let part = |i: usize| args.0[i].part(row * of_row(i), rows * of_row(i));
        let mut rest = &mut *moving;
        for i in halves(false) {
            let (copy, tail) = std::mem::take(&mut rest).split_at_mut(rows * of_row(i));
            if signature[i].mode != Mode::Out {
                widen(team, part(i), copy);
            }
            (copies[i], rest) = (Some(RawArg::words_of(copy)), tail);
        }
        let all = (0..signature.len()).map(|i| copies[i].unwrap_or(if whole[i] { args.0[i] } else { part(i) }));
        let (op, all) = (op.over(rows), RawArgs(all.collect()));
        match (op, in_place) {
            // Copies are apart; what was fp32 is where it was.
            (Op::Add { rows, cols, bias }, Some(operand)) if args.0[operand].half.is_none() => {
                add_in_place(team, rows, cols, bias, operand, &all);
            }
            _ if !run_kernel(team, &op, &all, at, step) => return false,
            _ => {}
        }
        halves(false).filter(|&i| signature[i].mode != Mode::In).for_each(|i| narrow(team, all.read(i), part(i)));
    }
    for i in halves(true).filter(|&i| signature[i].mode != Mode::In) {
        let copy = RawArgs(vec![copies[i].expect("it was made above")]);
        narrow(team, copy.read(0), args.0[i]);
    }
    true
}

fn widen(team: &Team, from: RawArg, to: &mut [f32]) {
    let half = from.half.expect("only elements of two bytes are copied");
    // SAFETY: arguments are in bounds, and nobody writes them meanwhile.
    widen_all(team, half, unsafe { from.halves() }, to);
}

fn narrow(team: &Team, from: &[f32], to: RawArg) {
    let half = to.half.expect("only elements of two bytes are copied");
    // SAFETY: arguments are in bounds, and what is written is no other's.
    narrow_all(team, half, from, unsafe { to.halves() });
}
