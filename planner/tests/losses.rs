//! How the loss is made of logits, beside numbers worked out by hand: what of them stands at once, and that nothing else changes.

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::op::{Layout, Op};
use meshwright_hardware::profile::LossKernel;
use meshwright_hardware::program::Kind;
use meshwright_planner::job::Job;
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};

/// Tokens of a microbatch, columns of LLaMA 3 8B's activations, its words.
const TOKENS: usize = 8192;
const WIDE: usize = 4096;
const WORDS: usize = 128_256;

/// One sequence a step of LLaMA 3 8B, whose layers keep their inputs alone.
fn plan(loss: LossKernel, tp: usize) -> Plan {
    let job = Job { loss: Some(loss), ..Job::of(models::load("llama3-8b").unwrap(), TOKENS, 1) };
    let stages = vec![Stage { layers: 32, full: 32, selective: 0, offload: 0 }];
    Plan { stages, mesh: Mesh { tp, ..Mesh::ONE }, ..Plan::single(job, 1) }
}

/// The ops of a step of a rank.
fn ops(plan: &Plan) -> Vec<Op> {
    let program = lower(plan).unwrap().program;
    let runs = program.roles[0].instrs.iter();
    let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    blocks.flat_map(|block| program.blocks[block as usize].calls.iter().map(|call| call.op)).collect()
}

/// Bytes of a rank's working memory.
fn work(plan: &Plan) -> u64 {
    let program = lower(plan).unwrap().program;
    program.roles[0].buffers.iter().filter(|buffer| buffer.name == "work").map(|buffer| buffer.bytes()).sum()
}

/// In bf16 beside the norm's result and gradient: logits alone, with their gradient, with one or two copies in fp32, with an eighth of one.
#[test]
fn copies_of_logits_are_those_of_each_kernel() {
    let logits = (TOKENS * WORDS) as u64;
    let normed = work(&plan(LossKernel::Fused, 1)) - 2 * logits;
    assert!(normed <= 4 * (TOKENS * WIDE) as u64, "{normed}");
    for (loss, bytes) in [
        (LossKernel::Compiled, 4.0),
        (LossKernel::Parallel, 6.0),
        (LossKernel::ParallelFused, 10.0),
        (LossKernel::Eager, 10.0),
        (LossKernel::Gathered, 10.0),
        (LossKernel::Chunked, 2.5),
    ] {
        let beside = work(&plan(loss, 1)) as f64 - bytes * logits as f64;
        assert!((0.0..=normed as f64).contains(&beside), "{loss:?}: {beside}");
    }
}

/// By hand: two ranks make logits of half the words each, 2 bytes a logit; gathered, a rank has them of all words, in fp32 and their
/// log-softmax too: 10 bytes a word and token.
#[test]
fn gathered_logits_stand_on_every_rank() {
    let words = (TOKENS * WORDS) as u64;
    let [whole, gathered] = [LossKernel::Fused, LossKernel::Gathered].map(|loss| work(&plan(loss, 2)));
    let beside = gathered - words * 11;
    assert!(beside <= whole, "{gathered} {whole}");
    assert!(beside < 4 * (TOKENS * WIDE) as u64, "{beside}");
}

/// By hand: of half the words each rank has four copies in fp32 at most, instead of its logits: 16 bytes for each of these.
#[test]
fn an_eager_loss_over_ranks_has_four_copies_in_place_of_logits() {
    let own = (TOKENS * WORDS / 2) as u64;
    let [fused, eager] = [LossKernel::Fused, LossKernel::Eager].map(|loss| work(&plan(loss, 2)));
    assert_eq!(eager - fused, (16 - 2) * own);
}

/// Of 8,192 tokens logits of 256 stand at once, as 32 times as many words as columns have it; products are the same.
#[test]
fn a_linear_loss_has_logits_of_some_tokens_at_a_time() {
    for tp in [1, 4] {
        let [whole, parts] = [LossKernel::Fused, LossKernel::Linear].map(|loss| plan(loss, tp));
        // On four ranks words are eight times as many as columns.
        let at_once = if tp == 1 { 256 } else { 1024 };
        let of_head = |plan: &Plan, layout| {
            let is = |op: &&Op| match op {
                Op::Matmul { layout: other, n, .. } if *other == layout => *n == WORDS / tp,
                _ => false,
            };
            let all = ops(plan);
            let found: Vec<f64> = all.iter().filter(is).map(|op| op.flops()).collect();
            (found.len(), found.iter().sum::<f64>())
        };
        let flops = 2.0 * (TOKENS * WIDE * WORDS / tp) as f64;
        assert_eq!(of_head(&whole, Layout::Nt), (1, flops));
        assert_eq!(of_head(&parts, Layout::Nt), (TOKENS / at_once, flops));
        let all = |plan: &Plan| {
            let products = ops(plan).into_iter().filter(|op| matches!(op, Op::Matmul { .. }));
            products.map(|op| op.flops()).sum::<f64>()
        };
        assert_eq!(all(&whole), all(&parts));
        // What is left of working memory is a layer's, which four ranks do not share as logits.
        let (logits, [whole, parts]) = (2 * (TOKENS * WORDS / tp) as u64, [&whole, &parts].map(work));
        assert!(whole >= logits && parts < if tp == 1 { logits } else { whole }, "{whole} {parts}");
    }
}
