//! Attention within windows beside numbers worked out by hand: FLOPs of its ops, and of a step.

use meshwright_hardware::op::Op;
use meshwright_planner::job::{AttentionWindow, Family, Job};
use meshwright_planner::plan::Plan;

use self::lowered::{flops, lowered, model};

mod lowered;

/// Of 48 tokens each sees itself and the 15 before it, every third layer all before it: so many pairs, four FLOPs a column of a head,
/// backward five products to two.
#[test]
fn layers_with_a_window_attend_to_it_alone() {
    let of = |full_every| {
        let family = Family { window: Some(AttentionWindow { tokens: 16, full_every }), ..Family::default() };
        Plan::single(Job { steps: 1, ..Job::of(model(family), 48, 1) }, 1)
    };
    let pairs = [48 * 49 / 2, 16 * 17 / 2 + 32 * 16].map(|pairs| pairs as f64);
    let attention = |plan: &Plan| {
        let all = lowered(plan);
        [
            flops(&all, |op| matches!(op, Op::Attention(_) | Op::AttentionGrad(_))),
            flops(&all, |op| matches!(op, Op::WindowAttention { .. } | Op::WindowAttentionGrad { .. })),
        ]
    };
    let by_hand = |layers: f64, pairs: f64| 3.5 * layers * 4.0 * 64.0 * pairs;
    assert_eq!(attention(&of(Some(3))), [by_hand(2.0, pairs[0]), by_hand(4.0, pairs[1])]);
    assert_eq!(attention(&of(None)), [0.0, by_hand(6.0, pairs[1])]);
    // A window as long as the sequence is none.
    let mut short = of(None);
    short.job.seq = 16;
    assert_eq!(attention(&short)[1], 0.0);
    // PaLM's convention: 12 · hidden · tokens seen, layer by layer.
    let seen = |full_every| of(full_every).job.model_flops_per_step();
    assert_eq!(seen(Some(3)) - seen(None), 12.0 * 64.0 * 2.0 * (48.0 - 16.0) * 48.0);
    let mut cut = of(None);
    (cut.mesh.cp, cut.job.global_batch) = (2, 1);
    let fault = cut.check().unwrap_err();
    assert!(fault.key == "mesh.cp" && fault.problem.contains("whole sequences"), "{fault:?}");
}
