//! Whatever passes its checks can be predicted: nothing panics, nothing overflows, every figure is a number.

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::profile::Cluster;
use meshwright_planner::job::{Architecture, AttentionWindow, Experts, Family, Job, Latent, Model};
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::predict;
use proptest::prelude::*;

/// Sizes that files hold: usual ones, none, odd ones, and far too many.
fn size(usual: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        24 => Just(usual),
        4 => 1..=2 * usual,
        1 => Just(0),
        1 => (4_u32..64).prop_map(|bits| 1 << bits),
    ]
}

fn rarely<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => Just(None), 1 => value.prop_map(Some)]
}

fn experts() -> impl Strategy<Value = Experts> {
    let number = |usual: f64| prop_oneof![12 => Just(usual), 1 => Just(-1.0), 1 => Just(f64::NAN), 1 => Just(1e300), 1 => Just(1e-300)];
    (size(8), size(2), size(32), size(32), 0_usize..3, size(1), number(1.25), number(0.0)).prop_map(
        |(count, top_k, ffn, shared_ffn, dense_layers, every, capacity, balance)| {
            let balance = balance as f32;
            Experts { count, top_k, groups: None, ffn, shared_ffn, dense_layers, every, capacity, balance }
        },
    )
}

fn family() -> impl Strategy<Value = Family> {
    let latent = (size(8), size(8), size(8), size(4), size(8))
        .prop_map(|(q_rank, kv_rank, nope, rope, value)| Latent { q_rank, kv_rank, nope, rope, value });
    let flags = (any::<bool>(), any::<Option<bool>>(), any::<Option<bool>>(), any::<bool>());
    let window = (size(64), rarely(size(3))).prop_map(|(tokens, full_every)| AttentionWindow { tokens, full_every });
    let more = (rarely(size(128)), rarely(window), size(1000));
    (rarely(size(16)), rarely(size(2)), flags, more, rarely(experts()), rarely(latent)).prop_map(
        |(head_dim, decoder_layers, flags, (positions, window, unpriced), experts, latent)| {
            let (bidirectional, gated, learned_positions, parallel_block) = flags;
            Family {
                positions,
                window,
                unpriced,
                head_dim,
                decoder_layers,
                bidirectional,
                gated,
                learned_positions,
                parallel_block,
                experts,
                latent,
                mtp_layers: 0,
            }
        },
    )
}

fn model() -> impl Strategy<Value = Model> {
    // A pass costs time for each layer, so the deepest that may be are not among these.
    let layers = prop_oneof![9 => 1_usize..5, 1 => Just(0), 1 => Just(65_535), 1 => Just(usize::MAX)];
    let architecture = prop_oneof![Just(Architecture::Gpt2), Just(Architecture::Llama)];
    let sizes = (layers, size(64), size(4), size(2), size(32), size(256));
    (architecture, sizes, any::<bool>(), rarely(family())).prop_map(
        |(architecture, (layers, hidden, heads, kv_heads, ffn, vocab), tied, family)| Model {
            name: "any".to_owned(),
            architecture,
            layers,
            hidden,
            heads,
            kv_heads,
            ffn,
            vocab,
            tied,
            rope_theta: 10_000.0,
            family,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let sizes = (size(32), rarely(size(16)), rarely(size(4)), size(4));
    let job = (model(), sizes).prop_map(|(model, (seq, target_seq, packed, global_batch))| Job {
        packed,
        target_seq: target_seq.filter(|_| model.family.as_ref().is_some_and(|family| family.decoder_layers.is_some())),
        steps: 1,
        ..Job::of(model, seq, global_batch)
    });
    let axes = prop_oneof![Just((1, 1)), Just((2, 1)), Just((1, 2))];
    (job, size(2), axes, 0_u8..4, any::<bool>()).prop_map(|(job, microbatch, (dp, tp), zero, sequence_parallel)| {
        let mesh = Mesh { dp, tp, ..Mesh::ONE };
        Plan { zero, sequence_parallel, mesh, ..Plan::single(job, microbatch) }
    })
}

#[test]
fn what_is_checked_is_predicted() {
    let cluster = Cluster::parse("8x h100").unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4000));
    let predicted = std::cell::Cell::new(0);
    let outcome = runner.run(&plan(), |plan| {
        if plan.check().is_ok() {
            predicted.set(predicted.get() + 1);
            let figures = predict(&plan, &cluster).map_err(|error| TestCaseError::fail(error.to_string()))?.figures;
            prop_assert!(figures.step_time_s.is_finite() && figures.step_time_s > 0.0, "{figures:?}");
            prop_assert!(figures.mfu > 0.0 && figures.mfu <= 1.0, "{figures:?}");
            prop_assert!(figures.peak_memory_bytes > 0 && figures.peak_memory_bytes < 1 << 62, "{figures:?}");
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(predicted.get() > 100, "only {} of the plans passed", predicted.get());
}
