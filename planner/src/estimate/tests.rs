//! Closed forms against the papers they are from, and against each other.

use meshwright_hardware::profile::{Cluster, Knobs, catalog};
use meshwright_hardware::topology::Topology;
use meshwright_hardware::units::Precision;

use super::*;
use crate::models::load;

fn shape(name: &str) -> Shape {
    Shape::from(&load(name).unwrap())
}

/// GPT-3 on Selene as Narayanan et al. ran it, unless a test says otherwise.
fn layout() -> Layout {
    Layout {
        seq: 2048,
        span: 2048,
        micro: 1,
        global: 1536,
        precision: Precision::Fp16,
        graphs: false,
        tp: 8,
        sp: false,
        pp: 8,
        vpp: 1,
        dp: 8,
        cp: 1,
        ep: 1,
        etp: 1,
        zero: 0,
        shard: 64,
        recompute: Recompute::Full(1.0),
        schedule: Schedule::OneFOneB,
        offload: 0.0,
        state_bytes: 12.0,
        frozen_bytes: 2.0,
        trained: 1.0,
    }
}

/// Runs a test on 64 DGX A100 with a stack whose knobs are all as usual.
fn on_selene<T>(stack: &str, test: impl Fn(&Site) -> T) -> T {
    let topology = Topology::of(&Cluster::parse("65x dgx-a100-80gb").unwrap());
    let (device, stack) = (catalog().device("a100-80gb").unwrap(), catalog().stack(stack).unwrap());
    let knobs = Knobs { saved: 1.0, ..Knobs::default() };
    test(&Site { device, stack, knobs: &knobs, topology: &topology, per_node: 8, power: 1.0 })
}

#[test]
fn a_gpt_layer_keeps_what_korthikanti_et_al_count() {
    // Korthikanti et al. 2022, §4.1: s·b·h·(34 + 5·a·s/h); with TP §4.2.1: s·b·h·(10 + 24/t + 5·a·s/(h·t)).
    let gpt = shape("gpt3-175b");
    let (s, h, a) = (2048.0, 12288.0, 96.0);
    on_selene("megatron-2021", |site| {
        for tp in [1.0, 8.0] {
            let layout = Layout { tp: tp as usize, recompute: Recompute::None, ..layout() };
            let paper = s * h * (10.0 + 24.0 / tp + 5.0 * a * s / (h * tp));
            let ours = memory::saved_by_layers(&gpt, &layout, site)[0];
            assert!((ours / paper - 1.0).abs() < 1e-9, "tp {tp}: {ours} against {paper}");
            let selective = Layout { recompute: Recompute::Selective, ..layout.clone() };
            let ours = memory::saved_by_layers(&gpt, &selective, site)[0];
            assert!((ours / (s * h * (10.0 + 24.0 / tp)) - 1.0).abs() < 1e-9, "tp {tp}");
        }
        let full = memory::saved_by_layers(&gpt, &layout(), site)[0];
        assert_eq!(full, 2.0 * s * h);
    });
}

#[test]
fn a_pipeline_idles_as_narayanan_et_al_say() {
    // Narayanan et al. 2021, §2.2: bubble over ideal time is (p − 1)/m, and that over v when interleaved.
    let mut gpt = shape("gpt3-175b");
    gpt.vocab = 1; // no head to speak of, so that stages are alike
    on_selene("megatron-2021", |site| {
        let share = |vpp: usize| {
            let found = estimate(
                &gpt,
                &Layout { vpp, ..layout() },
                &Site { knobs: &Knobs { pp: 0.0, ..site.knobs.clone() }, ..*site },
            );
            found.pipeline / found.compute
        };
        assert!((share(1) / (7.0 / 192.0) - 1.0).abs() < 0.02, "{}", share(1));
        assert!((share(1) / share(3) - 3.0).abs() < 0.01);
    });
}

#[test]
fn zero_shards_states_as_rajbhandari_et_al_say() {
    // Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter, of which each stage shards more.
    let model = shape("llama2-7b");
    on_selene("megatron-2021", |site| {
        let states = |zero| {
            let layout = Layout { tp: 1, pp: 1, dp: 64, zero, shard: 64, ..layout() };
            memory::peak(&model, &layout, site, true).states() / model.parameters(0)
        };
        for (zero, bytes) in [(0, 16.0), (1, 4.0 + 12.0 / 64.0), (2, 2.0 + 14.0 / 64.0), (3, 16.0 / 64.0)] {
            assert!((states(zero) / bytes - 1.0).abs() < 0.01, "zero {zero}: {}", states(zero));
        }
    });
}

#[test]
fn every_expert_lives_once_in_each_of_its_groups() {
    let model = shape("mixtral-8x22b");
    let whole = memory::parameters(&model, &Layout { tp: 1, pp: 1, dp: 64, ..layout() });
    for (ep, etp) in [(2, 1), (8, 1), (4, 2), (1, 8)] {
        let held = memory::parameters(&model, &Layout { tp: 8, pp: 1, dp: 8, ep, etp, ..layout() });
        assert!((held.expert * (ep * etp) as f64 / whole.expert - 1.0).abs() < 1e-9);
    }
}

#[test]
fn more_of_anything_takes_longer() {
    let model = shape("llama3-8b");
    on_selene("megatron-core", |site| {
        let base = Layout {
            tp: 2,
            pp: 2,
            dp: 16,
            sp: true,
            precision: Precision::Bf16,
            recompute: Recompute::None,
            ..layout()
        };
        let time = |layout: &Layout| estimate(&model, layout, site).step_time;
        let least = time(&base);
        assert!(time(&Layout { global: 2 * base.global, ..base.clone() }) > 1.8 * least);
        assert!(time(&Layout { seq: 4096, span: 4096, ..base.clone() }) > 2.0 * least);
        assert!(time(&Layout { recompute: Recompute::Full(1.0), ..base.clone() }) > 1.2 * least);
        assert!(time(&Layout { recompute: Recompute::Selective, ..base.clone() }) > least);
        let fp8 = Layout { precision: Precision::Fp8, ..base.clone() };
        assert!(estimate(&model, &fp8, &Site { device: catalog().device("h100").unwrap(), ..*site }).step_time < least);
        let vanishing = Layout { schedule: Schedule::ZeroBubble2p, ..base.clone() };
        assert!(time(&vanishing) < least);
    });
}

#[test]
fn layers_that_do_not_divide_go_to_inner_stages() {
    assert_eq!(layers_of(22, 8), [2, 3, 3, 3, 3, 3, 3, 2]);
    assert_eq!(layers_of(5, 2), [3, 2]);
    assert_eq!(layers_of(7, 1), [7]);
}
