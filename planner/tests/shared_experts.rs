//! Experts that a part of tensor parallelism shares, beside numbers worked out by hand.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Kind, RankProgram};
use meshwright_planner::job::{Family, Job};
use meshwright_planner::lower::Lowered;
use meshwright_planner::plan::Plan;

use self::lowered::{experts, flops, lowered, model};

mod lowered;

/// Elements of a rank's weights of experts.
fn experts_on(role: &RankProgram) -> usize {
    role.buffers
        .iter()
        .filter(|b| b.name.starts_with("weights.") && b.name.ends_with(".experts"))
        .map(|b| b.elems)
        .sum()
}

/// Four tensor ranks, of which two share each expert: a rank has half of each of two experts of four, routes its own quarter of the
/// tokens, and gets those of the other rank before its products.
#[test]
fn experts_of_a_part_of_tensor_parallelism_are_shared_by_neighbours() {
    let family = Family { experts: Some(experts()), ..Family::default() };
    let of = |ep, etp| {
        let job = Job { steps: 1, ..Job::of(model(family.clone()), 64, 1) };
        let mesh = Mesh { tp: 4, ep, etp, ..Mesh::ONE };
        Plan { mesh, sequence_parallel: true, ..Plan::single(job, 1) }
    };
    let each = 3 * 32 * 64;
    let [all, some, whole] = [of(1, None), of(2, Some(2)), of(4, Some(1))].map(|plan| lowered(&plan));
    // As many weights on a rank, however they are cut.
    for plan in [&all, &some, &whole] {
        assert_eq!(experts_on(&plan.program.roles[0]), 6 * each);
    }
    // 64 tokens to two experts, products of three passes, over four ranks.
    let products = 6.0 * (3 * 64 * 2 * each) as f64 * 2.0 / 4.0;
    for plan in [&all, &some, &whole] {
        assert_eq!(flops(plan, |op| matches!(op, Op::ExpertMatmul { .. })), products);
    }
    let travels = |plan: &Lowered, wanted: Collective, over: Axis| {
        let views = plan.program.roles[0].instrs.iter().filter_map(|instr| match &instr.kind {
            Kind::Collective { op, axis, view } if (*op, *axis) == (wanted, over) => Some(view.elems),
            _ => None,
        });
        views.collect::<Vec<_>>()
    };
    // Slots of two ranks' tokens: gathered forward and with their gradients, and summed likewise.
    let slots = 64 / 4 * 2 * 64;
    assert_eq!(travels(&some, Collective::AllGather, Axis::Etp), [2 * slots; 12]);
    assert_eq!(travels(&some, Collective::ReduceScatter, Axis::Etp), [2 * slots; 12]);
    assert_eq!(travels(&some, Collective::AllToAll, Axis::Ep), [slots; 24]);
    assert!(travels(&whole, Collective::AllGather, Axis::Etp).is_empty());
}
