//! Programs as text: one line a thing, for people to read and edit, and back.
//!
//! In and out: a [`Program`]. The form, by example:
//!
//! ```text
//! mesh dp=1 pp=2 tp=1 cp=1 ep=1
//! block 0 "layer forward"
//!   param x elems=64
//!   call norm kind="rms" rows=8 cols=8 : 0+0 1+0 2+0 3+0
//! role 0
//!   buffer 0 weights.embed elems=512 persistent width=4
//!   3 message send to=1 tag=0 : 4+0:64 ; waits=1,2 mb=0 layer=2
//! ```
//!
//! A block's arguments are `formal+offset`, an instruction's are `buffer+offset:elems`, with `@axis` where each rank has its
//! shard. Where replicas do unlike things, `classes 2 6` after the mesh says how many are in each class; roles are those of the
//! first class's stages, then of the next. Blocks, buffers and instructions stand in order; their numbers are for the reader, and are checked.
//!
//! Invariant: `parse(print(p)) == p`.

mod parse;
mod print;

pub use parse::{TextError, parse};
pub use print::print;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::Classes;
    use crate::mesh::{Axis, Mesh};
    use crate::op::{ActivationKind, AttentionDims, Layout, NormKind, Op};
    use crate::program::*;
    use proptest::prelude::*;

    fn sample() -> Program {
        let ops = [
            Op::Norm { kind: NormKind::Rms, rows: 8, cols: 4 },
            Op::Matmul { layout: Layout::Tn, m: 2, n: 3, k: 4, bias: false, accumulate: true },
            Op::Attention(AttentionDims { batch: 1, seq: 8, heads: 2, kv_heads: 1, head_dim: 2, causal: true }),
            Op::Activation { kind: ActivationKind::SwiGlu, rows: 2, cols: 2 },
            Op::Loss { rows: 2, vocab: 4, words: 4, shards: 1, scale: 0.1 },
            Op::Rope { rows: 8, seq: 8, stride: 8, heads: 3, head_dim: 2, theta: 1e4, cp: 1, inverse: true },
        ];
        let call = |op: &Op| Call { op: *op, args: (0..3).map(|param| ArgView { param, offset: 7 }).collect() };
        let param = |name: &str| BlockParam { name: name.to_owned(), elems: 64 };
        let block = Block {
            name: "layer forward".to_owned(),
            params: vec![param("x"), param("d.x")],
            calls: ops.iter().map(call).collect(),
        };
        let view = View { buffer: 0, offset: 3, elems: 5, shard: Some(Axis::Tp) };
        let plain = View { shard: None, ..view };
        let kinds = [
            Kind::Load { input: Input::Targets, into: plain },
            Kind::Run { block: 0, phase: Phase::Recompute, args: vec![view, plain] },
            Kind::Send { to: 1, tag: 3, view },
            Kind::Recv { from: 0, tag: 0, view: plain },
            Kind::Collective { op: Collective::ReduceScatter, axis: Axis::Dp, view: plain },
            Kind::Free { buffers: vec![0, 1] },
            Kind::Move { from: view, to: plain },
        ];
        let instr = |(i, kind): (usize, Kind)| Instr {
            stream: match kind {
                Kind::Send { .. } => Stream::Message,
                Kind::Move { .. } => Stream::Host,
                _ => Stream::Compute,
            },
            kind,
            waits: (0..i as u32 / 2).collect(),
            microbatch: (i % 2 == 0).then_some(i as u32),
            layer: (i > 3).then_some(9),
        };
        let buffer = |name: &str, lifetime| Buffer { name: name.to_owned(), elems: 99, lifetime, elem: Elem::Bf16 };
        let buffers =
            vec![buffer("a.b", Lifetime::Persistent), buffer("c", Lifetime::Saved), buffer("d", Lifetime::Scratch)];
        let role = RankProgram { buffers, instrs: kinds.into_iter().enumerate().map(instr).collect() };
        Program {
            mesh: Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE },
            classes: Classes::ONE,
            blocks: vec![block],
            roles: vec![role.clone(), role],
        }
    }

    #[test]
    fn a_program_of_everything_reads_back() {
        for classes in [Classes::ONE, Classes::of_sizes(vec![1, 1])] {
            let shard = (classes.count() > 1).then_some(2);
            let mesh = Mesh { etp: (classes.count() > 1).then_some(1), shard, ..sample().mesh };
            let program = Program { mesh, classes, ..sample() };
            let text = print(&program);
            assert_eq!(parse(&text).unwrap(), program, "{text}");
        }
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let text = print(&sample());
        for line in [
            "mesh dp=2 pp=2 tp=2 cp=1 ep=1",
            "block 0 \"layer forward\"",
            "  param x elems=64",
            "  call norm cols=4 kind=\"rms\" rows=8 : 0+7 1+7 2+7",
            "  buffer 0 a.b elems=99 persistent bf16",
            "  2 message send to=1 tag=3 : 0+3:5@tp ; waits=0 mb=2",
            "  5 compute free : 0 1 ; waits=0,1 layer=9",
        ] {
            assert!(text.lines().any(|other| other == line), "`{line}` in\n{text}");
        }
    }

    #[test]
    fn errors_name_the_line_and_what_was_expected() {
        for (line, broken, expected) in [
            (1, "mesh dp=2 pp=2", "tp"),
            (3, "  param x elems=many", "elems"),
            (5, "  call norm cols=4 : 0+7", "norm"),
            (5, "  call dance : 0+7", "dance"),
            (12, "  buffer 0 a.b elems=99 forever bf16", "forever"),
            (16, "  1 compute jump", "jump"),
        ] {
            let mut lines: Vec<String> = print(&sample()).lines().map(str::to_owned).collect();
            lines[line - 1] = broken.to_owned();
            let error = parse(&lines.join("\n")).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn numbers_of_any_size_read_back(offset in 0usize..usize::MAX / 2, scale: f32, waits: Vec<u32>) {
            prop_assume!(scale.is_finite());
            let mut program = sample();
            program.blocks[0].calls[4].op = Op::Loss { rows: 2, vocab: 4, words: 4, shards: 1, scale };
            program.blocks[0].calls[4].args[0].offset = offset;
            program.roles[0].instrs[0].waits = waits;
            prop_assert_eq!(parse(&print(&program)).unwrap(), program);
        }
    }
}
