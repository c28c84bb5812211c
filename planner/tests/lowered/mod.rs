//! A model whose numbers are worked out by hand, and what a rank does of its lowered plans.

use meshwright_hardware::op::Op;
use meshwright_hardware::program::Kind;
use meshwright_planner::job::{Architecture, DROPLESS, Experts, Family, Model};
use meshwright_planner::lower::{Lowered, lower};
use meshwright_planner::plan::Plan;

/// Six layers, 64 wide, of 8 heads.
pub fn model(family: Family) -> Model {
    Model {
        name: "by-hand".to_owned(),
        architecture: Architecture::Llama,
        layers: 6,
        hidden: 64,
        heads: 8,
        kv_heads: 4,
        ffn: 256,
        vocab: 512,
        tied: false,
        rope_theta: 1e4,
        family: Some(family),
    }
}

/// Two of four experts a token, 32 wide, in every layer, that drop none.
#[allow(dead_code, reason = "not every test has experts")]
pub fn experts() -> Experts {
    Experts {
        count: 4,
        top_k: 2,
        groups: None,
        ffn: 32,
        shared_ffn: 0,
        dense_layers: 0,
        every: 1,
        capacity: DROPLESS,
        balance: 0.0,
    }
}

/// The programs of a plan that has no fault.
pub fn lowered(plan: &Plan) -> Lowered {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    lower(plan).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()))
}

/// The ops of a rank's step.
fn ops(lowered: &Lowered) -> Vec<Op> {
    let runs = lowered.program.roles[0].instrs.iter();
    let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    blocks.flat_map(|block| lowered.program.blocks[block as usize].calls.iter().map(|call| call.op)).collect()
}

/// Their FLOPs, of those that count.
pub fn flops(lowered: &Lowered, counts: impl Fn(&Op) -> bool) -> f64 {
    ops(lowered).iter().filter(|op| counts(op)).map(Op::flops).sum()
}
