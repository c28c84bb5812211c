//! What holds for every op, and what some of them count.

use std::collections::BTreeSet;

use super::*;
use crate::classes::Classes;
use crate::program::*;

fn all(sizes: &Sizes) -> impl Iterator<Item = Op> + use<> {
    Op::samples(sizes).into_iter().flat_map(|(_, ops)| ops)
}

fn classes(sizes: &Sizes) -> BTreeSet<&'static str> {
    all(sizes).map(|op| op.class()).collect()
}

#[test]
fn every_class_is_timed_on_every_kind_of_device_and_tested() {
    let tested = classes(&Sizes::edges());
    for elem in [Elem::F32, Elem::Bf16] {
        assert_eq!(classes(&Sizes::cpu(elem)), tested);
        assert_eq!(classes(&Sizes::gpu(elem)), tested);
    }
}

#[test]
fn an_op_is_the_same_after_json() {
    for op in all(&Sizes::edges()).chain(all(&Sizes::cpu(Elem::Bf16))) {
        let text = serde_json::to_string(&op).unwrap();
        assert_eq!(serde_json::from_str::<Op>(&text).unwrap(), op, "{text}");
    }
}

#[test]
fn an_op_writes_something_and_its_curve_is_of_positive_numbers() {
    for op in all(&Sizes::cpu(Elem::F32)) {
        assert!(op.work() > 0.0 && op.dims().iter().all(|dim| *dim > 0.0), "{op:?}");
        assert!(op.signature().iter().any(|param| param.mode != Mode::In), "{op:?}");
    }
    let mut arity = std::collections::BTreeMap::new();
    for op in all(&Sizes::edges()) {
        assert_eq!(*arity.entry(op.class()).or_insert(op.dims().len()), op.dims().len(), "{op:?}");
    }
}

#[test]
fn a_part_has_its_share_of_what_is_cut_and_all_of_what_is_whole() {
    for op in all(&Sizes::edges()) {
        let Some(rows) = op.rows() else {
            assert_eq!(op.over(1), op);
            continue;
        };
        assert!(rows.count.is_multiple_of(rows.unit), "{op:?}");
        let part = op.over(rows.unit);
        for (all, part) in op.signature().iter().zip(part.signature()) {
            let wanted = if all.whole { all.elems } else { all.elems / rows.count * rows.unit };
            assert_eq!(part.elems, wanted, "{} of {op:?}", all.name);
        }
    }
}

/// By the reference, in parts as in one.
#[test]
fn parts_do_what_the_whole_does() {
    for op in all(&Sizes::edges()).filter(|op| op.flops() < 2e5) {
        let Some(rows) = op.rows().filter(|rows| rows.count > rows.unit) else { continue };
        let draw = |(param, seed): (&Param, usize)| -> Vec<f64> {
            (0..param.elems)
                .map(|i| match param.values {
                    Values::Any => ((i * 37 + seed * 11) % 64) as f64 / 64.0 - 0.4,
                    Values::Below(most) | Values::Distinct(most) => (i * 7 % most) as f64,
                })
                .collect()
        };
        let signature = op.signature();
        let mut whole: Vec<Vec<f64>> = signature.iter().zip(0..).map(draw).collect();
        op.settle(&mut whole);
        let (mut parts, at) = (whole.clone(), op.second_shard());
        op.reference(&mut whole, at, &StepSettings::PLAIN);
        for row in (0..rows.count).step_by(rows.unit) {
            let part = |i: usize| {
                let each = signature[i].elems / rows.count;
                if signature[i].whole { 0..signature[i].elems } else { row * each..(row + rows.unit) * each }
            };
            let mut some: Vec<Vec<f64>> = (0..parts.len()).map(|i| parts[i][part(i)].to_vec()).collect();
            op.over(rows.unit).reference(&mut some, at, &StepSettings::PLAIN);
            some.iter().enumerate().for_each(|(i, some)| parts[i][part(i)].copy_from_slice(some));
        }
        for ((param, whole), parts) in signature.iter().zip(&whole).zip(&parts) {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * (1.0 + a.abs()) || (a.is_nan() && b.is_nan());
            assert!(whole.iter().zip(parts).all(near), "{} of {op:?}", param.name);
        }
    }
}

#[test]
fn ranks_that_share_a_sequence_hold_each_position_once() {
    for (seq, cp) in [(8, 1), (8, 2), (6, 3), (2, 4)] {
        let mut all: Vec<usize> = (0..cp).flat_map(|r| (0..seq).map(move |at| position(at, seq, cp, r))).collect();
        all.sort_unstable();
        assert_eq!(all, (0..seq * cp).collect::<Vec<_>>());
    }
}

#[test]
fn matmul_counts_two_flops_a_multiply_and_every_operand_once() {
    let op = Op::Matmul { layout: Layout::Nt, m: 3, n: 5, k: 7, bias: false, accumulate: true };
    assert_eq!(op.flops(), 210.0);
    assert_eq!(op.bytes(), 4 * (21 + 35 + 2 * 15));
    assert_eq!(op.traffic([Elem::Bf16, Elem::Bf16, Elem::F32]).0, 2 * (21 + 35) + 4 * 2 * 15);
}

#[test]
fn gradients_of_weights_statistics_and_ids_have_four_bytes_in_every_format() {
    let bytes = |op: Op| op.traffic(op.signature().iter().map(|param| param.takes.elem(Elem::Bf16))).0;
    let gradient = Op::Matmul { layout: Layout::Tn, m: 3, n: 5, k: 7, bias: false, accumulate: true };
    assert_eq!(bytes(gradient), 2 * (21 + 35) + 4 * 2 * 15);
    assert_eq!(bytes(Op::Embed { rows: 4, cols: 8, vocab: 100, shards: 1 }), 4 * 4 + 2 * (2 * 4 * 8));
    assert_eq!(bytes(Op::Zero { n: 10 }), 40);
}

#[test]
fn causal_attention_counts_its_triangle() {
    let dims = AttentionDims { batch: 2, seq: 8, heads: 3, kv_heads: 1, head_dim: 4, causal: false };
    let causal = AttentionDims { causal: true, ..dims };
    assert_eq!(dims.forward_flops(), 4.0 * 2.0 * 3.0 * 4.0 * 64.0);
    assert_eq!(causal.forward_flops() * 16.0, dims.forward_flops() * 9.0);
}

/// A program that runs every op once, each in a block of its own.
fn program() -> Program {
    let (mut blocks, mut buffers, mut instrs) = (Vec::new(), Vec::new(), Vec::new());
    for op in all(&Sizes::edges()) {
        let signature = op.signature();
        let args = (0..signature.len() as u32).map(|param| ArgView { param, offset: 0 }).collect();
        let param = |param: &Param| BlockParam { name: param.name.to_owned(), elems: param.elems };
        let params = signature.iter().map(param).collect();
        let first = buffers.len() as u32;
        buffers.extend(signature.iter().map(|param| Buffer {
            name: format!("{}.{}.{}", blocks.len(), op.class(), param.name),
            elems: param.elems,
            lifetime: Lifetime::Persistent,
            elem: param.takes.elem(Elem::Bf16),
        }));
        let view = |(buffer, param): (u32, &Param)| View { buffer, offset: 0, elems: param.elems, shard: None };
        let kind = Kind::Run {
            block: blocks.len() as u32,
            phase: Phase::Forward,
            args: (first..).zip(signature.iter()).map(view).collect(),
        };
        instrs.push(Instr { stream: Stream::Compute, kind, waits: Vec::new(), microbatch: None, layer: None });
        blocks.push(Block { name: op.class().to_owned(), params, calls: vec![Call { op, args }] });
    }
    Program { mesh: Mesh::ONE, classes: Classes::ONE, blocks, roles: vec![RankProgram { buffers, instrs }] }
}

#[test]
fn every_op_reads_back_from_text_and_passes_the_verifier() {
    let program = program();
    assert_eq!(crate::text::parse(&crate::text::print(&program)).unwrap(), program);
    crate::verify::verify(program).unwrap();
}
