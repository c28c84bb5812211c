//! A layer that predicts a token further, beside numbers worked out by hand.

use meshwright_hardware::op::Op;
use meshwright_hardware::program::Kind;
use meshwright_planner::job::{Architecture, Family, Job, Model};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::Plan;

/// Two layers, 64 wide, of 8 heads; one sequence of 16 tokens.
fn plan(mtp_layers: usize) -> Plan {
    let model = Model {
        name: "by-hand".to_owned(),
        architecture: Architecture::Llama,
        layers: 2,
        hidden: 64,
        heads: 8,
        kv_heads: 8,
        ffn: 256,
        vocab: 512,
        tied: false,
        rope_theta: 1e4,
        family: Some(Family { mtp_layers, ..Family::default() }),
    };
    Plan::single(Job { steps: 1, ..Job::of(model, 16, 1) }, 1)
}

/// Parameters of a plan's program, and FLOPs of its products.
fn counted(plan: &Plan) -> [f64; 2] {
    plan.check().unwrap();
    let lowered = lower(plan).unwrap();
    let parameters: usize = lowered.params.roles[0].iter().map(|spec| spec.elems()).sum();
    let runs = lowered.program.roles[0].instrs.iter();
    let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    let ops = blocks.flat_map(|block| lowered.program.blocks[block as usize].calls.iter().map(|call| call.op));
    [parameters as f64, ops.filter(|op| matches!(op, Op::Matmul { .. })).map(|op| op.flops()).sum()]
}

/// DeepSeek-AI 2024b, §2.2: two norms and a projection of twice the width, a layer, a norm before the shared head; and the table's copy.
#[test]
fn a_layer_behind_the_last_predicts_a_token_further() {
    let [with, without] = [plan(1), plan(0)].map(|plan| (counted(&plan), plan));
    let (layer, joined, table) = (4.0 * 64.0 * 64.0 + 3.0 * 64.0 * 256.0, 2.0 * 64.0 * 64.0, 512.0 * 64.0);
    let norms = (2.0 + 2.0 + 1.0) * 64.0;
    assert_eq!(with.0[0] - without.0[0], layer + joined + norms + table);
    // Three passes of two FLOPs a parameter and token, the head's once more.
    let products = 6.0 * 16.0 * (layer + joined + table);
    assert_eq!(with.0[1] - without.0[1], products);
    // PaLM's convention counts its layer's norms among parameters, and its attention.
    let flops = |plan: &Plan| plan.job.model_flops_per_step();
    assert_eq!(flops(&with.1) - flops(&without.1), products + 6.0 * 16.0 * 2.0 * 64.0 + 16.0 * 12.0 * 16.0 * 64.0);
    // What models are known by has none of it.
    assert_eq!(with.1.job.model.parameters(16), without.1.job.model.parameters(16));
    let fault = plan(2).job.check().unwrap_err();
    assert_eq!(fault.key, "model.family.mtp_layers", "{fault:?}");
}
