//! Tokens on their way to experts, in the format and number that a stack sends, beside numbers worked out by hand.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Elem, Kind};
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{ExpertGroups, Experts, Family, Job, Software};
use meshwright_planner::plan::Plan;

use self::lowered::{experts, flops, lowered, model};

mod lowered;

/// Bytes of the exchanges of a rank's step, layer after layer, and of what it keeps in eight bits; FLOPs of its experts.
fn exchanged(dispatches_narrow: bool) -> (Vec<u64>, u64, f64) {
    let family = Family { experts: Some(experts()), ..Family::default() };
    let software = Software { keeps_narrow: true, dispatches_narrow, ..Software::default() };
    let job = Job { steps: 1, precision: Precision::Fp8, software, ..Job::of(model(family), 64, 2) };
    let plan = Plan { mesh: Mesh { dp: 2, ep: 2, ..Mesh::ONE }, ..Plan::single(job, 1) };
    let plan = lowered(&plan);
    let role = &plan.program.roles[0];
    let bytes = role.instrs.iter().filter_map(|instr| match &instr.kind {
        Kind::Collective { op: Collective::AllToAll, axis: Axis::Ep, view } => Some(role.view_bytes(view).0),
        _ => None,
    });
    let narrow = role.buffers.iter().filter(|buffer| buffer.elem == Elem::F8).map(|buffer| buffer.bytes()).sum();
    (bytes.collect(), narrow, flops(&plan, |op| matches!(op, Op::ExpertMatmul { .. })))
}

/// 64 tokens to two experts, 64 wide: 8,192 numbers, of which only forward's way there is in eight bits; backward's gradients and what
/// comes back stay in 16 (DeepSeek-AI 2024, section 3.3.3). They are kept as they came: a byte less each, of every layer.
#[test]
fn tokens_are_sent_in_eight_bits_and_come_back_in_sixteen() {
    let (wide, kept, products) = exchanged(false);
    let (narrow, more, same) = exchanged(true);
    let layers = wide.len() / 4;
    assert!(layers > 0 && wide.iter().all(|bytes| *bytes == 2 * 8192), "{wide:?}");
    let [there, back] = [8192, 2 * 8192];
    assert_eq!(narrow[..2 * layers], [there, back].repeat(layers));
    assert_eq!(narrow[2 * layers..], vec![back; 2 * layers]);
    assert!(more >= kept + (layers * 8192) as u64, "{more} {kept}");
    assert_eq!(products, same);
}

/// What no router does is refused by the key: four experts in three groups; one group with one expert for two.
#[test]
fn groups_of_experts_hold_what_tokens_go_to() {
    let refused = |groups: ExpertGroups| {
        let family = Family { experts: Some(Experts { groups: Some(groups), ..experts() }), ..Family::default() };
        model(family).check().err().map(|fault| fault.key)
    };
    assert_eq!(refused(ExpertGroups { count: 2, top: 1 }), None);
    for (count, top) in [(3, 1), (4, 1), (2, 0), (2, 3), (0, 0)] {
        let key = refused(ExpertGroups { count, top }).unwrap_or_default();
        assert!(key.ends_with("experts.groups"), "{count} {top}: {key}");
    }
}
