//! Runs on real devices that are kept under `reports/`: from the calibrated profile alone, step time is predicted within 10 %
//! and memory within 5 %. And what a calibration measures is what mixtures of experts and latent attention run.

use std::collections::BTreeMap;
use std::path::Path;

use meshwright::runs::RunDir;
use meshwright_executor::calibrate::default_ops;
use meshwright_hardware::elem::Elem;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, Experts, Family, Job, Latent, Model};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::predict;

/// The runs of a folder of `reports/`, each held to its prediction; their plans.
fn predicted_well(folder: &str, device: &str) -> Vec<Plan> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports").join(folder);
    let held = |run: std::fs::DirEntry| {
        let dir = RunDir::open(&run.path()).unwrap();
        let (plan, cluster) = (dir.plan().unwrap(), dir.cluster().unwrap());
        let predicted = predict(&plan, &cluster).unwrap();
        let measured = dir.measured(&predicted.lowered.program).unwrap();
        let predicted = predicted.figures;
        let off = |predicted: f64, measured: f64| (predicted / measured - 1.0).abs();
        let step = off(predicted.step_time_s, measured.step_time_s);
        let memory = off(predicted.peak_memory_bytes as f64, measured.peak_memory_bytes as f64);
        assert!(step < 0.1 && memory < 0.05, "{}: step {step}, memory {memory}", run.path().display());
        assert!(cluster.pools[0].device.calibrated.is_some() && measured.device.contains(device));
        plan
    };
    all.read_dir().unwrap().flatten().map(held).collect()
}

#[test]
fn runs_on_an_h200_are_predicted_from_its_calibration() {
    assert_eq!(predicted_well("h200", "H200").len(), 4);
}

#[test]
fn experts_and_latent_attention_are_predicted_from_a_processors_calibration() {
    let plans = predicted_well("experts", "cpu: ");
    let has = |plan: &Plan| {
        let latent = plan.job.model.family.as_ref().is_some_and(|family| family.latent.is_some());
        (plan.job.model.experts().map(|_| plan.mesh.ep), latent)
    };
    let mut kinds: Vec<(Option<usize>, bool)> = plans.iter().map(has).collect();
    kinds.sort_unstable();
    // Whole on every rank and spread over both; latent attention alone; both.
    assert_eq!(kinds, [(None, true), (Some(1), false), (Some(2), false), (Some(2), true)]);
}

/// A small mixture of experts, or a model of latent attention.
fn job(family: Family) -> Job {
    let model = Model {
        name: "small".to_owned(),
        architecture: Architecture::Llama,
        layers: 2,
        hidden: 256,
        heads: 8,
        kv_heads: 8,
        ffn: 1024,
        vocab: 256,
        tied: false,
        family: Some(family),
        rope_theta: 1e4,
    };
    Job { precision: Precision::Fp32, steps: 1, seed: 1, ..Job::of(model, 128, 4) }
}

/// Every op of such a program has a class that calibration times, at sizes about its own: of those that move more than a start
/// takes, the nearest differs by no more than 16 times in any dim.
#[test]
fn a_calibration_times_what_mixtures_and_latent_attention_run() {
    let experts = Experts {
        count: 8,
        top_k: 2,
        groups: None,
        ffn: 512,
        shared_ffn: 0,
        dense_layers: 0,
        every: 1,
        capacity: 1.25,
        balance: 0.01,
    };
    let latent = Latent { kv_rank: 64, q_rank: 128, nope: 32, rope: 32, value: 32 };
    let families =
        [Family { experts: Some(experts), ..Family::default() }, Family { latent: Some(latent), ..Family::default() }];
    let mut timed: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    for op in default_ops(Elem::F32, false) {
        timed.entry(op.class()).or_default().push(op.dims().to_vec());
    }
    let mut seen = Vec::new();
    for family in families {
        let lowered = lower(&Plan::single(job(family), 4)).unwrap();
        for call in lowered.program.blocks.iter().flat_map(|block| &block.calls) {
            let far = |dims: &Vec<f64>| {
                let ratio = |(a, b): (&f64, &f64)| (a / b).max(b / a);
                dims.iter().zip(&*call.op.dims()).map(ratio).fold(1.0, f64::max)
            };
            let nearest = timed.get(call.op.class()).into_iter().flatten().map(far).fold(f64::INFINITY, f64::min);
            let small = call.op.bytes() < 1 << 16 && nearest.is_finite();
            assert!(small || nearest <= 16.0, "{:?} is {nearest} times from what is timed", call.op);
            seen.push(call.op.class());
        }
    }
    for class in ["expert-matmul-tn", "route-grad", "dispatch", "combine-grad", "latent-pack-grad"] {
        assert!(seen.contains(&class), "{class}");
    }
}
