//! What fine-tuning changes in a program, worked out by hand: packed samples.

use meshwright_hardware::op::Op;
use meshwright_hardware::program::Kind;
use meshwright_planner::job::Job;
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::Plan;

/// A job of LLaMA 3 8B: one sequence a step.
fn job(seq: usize, keys: &str) -> Job {
    let model = toml::to_string(&models::load("llama3-8b").unwrap()).unwrap();
    let text = format!("seq = {seq}\nglobal_batch = 1\nprecision = \"bf16\"\n{keys}\n[model]\n{model}");
    Job::from_toml("job.toml", &text).unwrap()
}

/// FLOPs of the ops of a step that count, on all stages.
fn flops(plan: &Plan, counts: impl Fn(&Op) -> bool) -> f64 {
    let program = lower(plan).unwrap().program;
    let runs = program.roles.iter().flat_map(|role| &role.instrs);
    let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    let ops = blocks.flat_map(|block| program.blocks[block as usize].calls.iter().map(|call| call.op));
    ops.filter(counts).map(|op| op.flops()).sum()
}

#[test]
fn packed_samples_attend_each_to_itself() {
    let [whole, packed] = ["", "packed = 256"].map(|keys| Plan::single(job(4096, keys), 1));
    let attention = |op: &Op| matches!(op, Op::Attention(_) | Op::AttentionGrad(_));
    // 32 layers of 32 heads of 128: two products of half the scores, the diagonal included; backward five to their two.
    let by_hand = |samples: f64, s: f64| 3.5 * 32.0 * samples * 4.0 * 32.0 * 128.0 * s * (s + 1.0) / 2.0;
    assert_eq!(flops(&whole, attention), by_hand(1.0, 4096.0));
    assert_eq!(flops(&packed, attention), by_hand(16.0, 256.0));
    let others = |op: &Op| !attention(op);
    assert_eq!(flops(&whole, others), flops(&packed, others));
    // PaLM's convention: 12 · layers · hidden · tokens that attend to each other, for each token.
    let [whole, packed] = [whole, packed].map(|plan| plan.job.model_flops_per_step());
    assert_eq!(whole - packed, 12.0 * 32.0 * 4096.0 * (4096.0 - 256.0) * 4096.0);
}

#[test]
fn context_parallelism_cuts_every_packed_sample() {
    let cut = |cp: usize| {
        let mut plan = Plan::single(job(4096, "packed = 256"), 1);
        plan.mesh.cp = cp;
        plan.check().map(|()| plan)
    };
    let attention = |op: &Op| matches!(op, Op::ContextAttention(_));
    // Of each sample's scores a rank of two makes half of its queries', half of which are masked.
    let by_hand = 32.0 * 16.0 * 4.0 * 32.0 * 128.0 * 128.0 * 256.0 / 2.0;
    assert_eq!(flops(&cut(2).unwrap(), attention), by_hand);
    let fault = cut(256).unwrap_err();
    assert!(fault.key == "mesh.cp" && fault.problem.contains("`packed` = 256"), "{fault:?}");
}

#[test]
fn a_packed_job_reads_back_and_a_usual_one_says_nothing_of_it() {
    let [usual, packed] = ["", "packed = 256"].map(|keys| Plan::single(job(4096, keys), 1));
    assert_eq!(Plan::from_toml("plan.toml", &packed.to_toml()).unwrap(), packed);
    assert!(!usual.to_toml().contains("packed"));
}
