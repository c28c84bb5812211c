//! What a calibration has, for small grids.

use super::*;

fn config(ranks: usize, ops: Vec<Op>) -> CalibrateConfig {
    let (device, elem, budget) = (Backend::CPU, Elem::F32, Duration::from_millis(300));
    CalibrateConfig { device, ranks, threads_per_rank: 1, elem, ops, budget }
}

#[test]
fn more_work_takes_longer_and_every_class_has_a_curve() {
    let ops = vec![
        Op::Zero { n: 1 << 14 },
        Op::Zero { n: 1 << 22 },
        Op::Loss { rows: 64, vocab: 32, words: 32, shards: 1, scale: 1.0 },
        Op::Embed { rows: 64, cols: 32, vocab: 8, shards: 1 },
    ];
    // Time enough for every size of a message, also on a busy machine.
    let config = CalibrateConfig { budget: Duration::from_secs(3), ..config(2, ops) };
    let curves = calibrate(&config).unwrap();
    let classes: Vec<&str> = curves.keys().map(String::as_str).collect();
    let communication = [
        "all-gather",
        "all-reduce",
        "all-to-all",
        "embed",
        "load",
        "loss",
        "recv",
        "reduce-scatter",
        "rotate",
        "send",
        "zero",
    ];
    assert_eq!(classes, communication);
    let [small, large] = [0, 1].map(|i| curves["zero"].samples()[i].seconds);
    assert!(large > 20.0 * small, "256 times the work: {small} s, then {large} s");
    assert_eq!(curves["all-reduce"].samples()[3].dims, [2.0, (1 << 24) as f64]);
    assert_eq!(curves["send"].arity(), 1);
}

#[test]
fn every_default_op_runs_in_two_bytes() {
    let small = |op: &Op| footprint(op) <= 1 << 17;
    let ops: Vec<Op> = default_ops(Elem::Bf16, false).into_iter().filter(small).collect();
    let classes: std::collections::BTreeSet<&str> = ops.iter().map(Op::class).collect();
    let config = CalibrateConfig { elem: Elem::Bf16, budget: Duration::ZERO, ..config(1, ops) };
    let curves = calibrate(&config).unwrap();
    assert!(classes.iter().all(|class| curves.contains_key(*class)), "{classes:?}");
}

#[test]
fn one_rank_has_nobody_to_talk_to() {
    let curves = calibrate(&config(1, vec![Op::Accumulate { n: 4096 }])).unwrap();
    assert_eq!(curves.keys().collect::<Vec<_>>(), ["accumulate", "load"]);
}

#[test]
fn the_default_grid_covers_every_class_and_fits_the_arena() {
    let ops = default_ops(Elem::F32, false);
    let classes: std::collections::BTreeSet<&str> = ops.iter().map(Op::class).collect();
    let all = Op::samples(&Sizes::edges()).into_iter().flat_map(|(_, ops)| ops).map(|op| op.class());
    assert_eq!(classes, all.collect());
    assert!(ops.iter().all(|op| footprint(op) <= ARENA));
}
