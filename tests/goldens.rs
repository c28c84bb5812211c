//! Losses and gradients against PyTorch's, in both dresses. `scripts/goldens.py` made the files.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwright_executor::device::Backend;
use meshwright_executor::train::{TrainConfig, Trainer};
use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, Job, Model, Optimizer};
use meshwright_planner::lower::lower;
use meshwright_planner::plan::{Plan, Stage};
use safetensors::SafeTensors;

struct Golden {
    params: BTreeMap<String, Vec<f32>>,
    grads: BTreeMap<String, Vec<f32>>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

fn golden(architecture: &str) -> Golden {
    let file = |ending: &str| format!("{}/tests/goldens/{architecture}.{ending}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(file("safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        tensors.tensor(name).unwrap().data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
    };
    let under = |prefix: &str| {
        let named = tensors.names().into_iter().filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), name)));
        named.map(|(short, name)| (short, words(name).into_iter().map(f32::from_le_bytes).collect())).collect()
    };
    let ids = |name: &str| words(name).into_iter().map(u32::from_le_bytes).collect();
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file("json")).unwrap()).unwrap();
    let list = |key: &str| json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    Golden {
        params: under("param/"),
        grads: under("grad/"),
        ids: ids("ids"),
        targets: ids("targets"),
        losses: list("losses"),
        grad_norms: list("grad_norms"),
    }
}

fn trainer(architecture: Architecture, mesh: Mesh, golden: &Golden) -> Trainer {
    let llama = architecture == Architecture::Llama;
    let model = Model {
        name: "golden".to_owned(),
        architecture,
        layers: 2,
        hidden: 32,
        heads: 4,
        kv_heads: if llama { 2 } else { 4 },
        ffn: if llama { 64 } else { 128 },
        vocab: 64,
        tied: !llama,
        family: None,
        rope_theta: 1e4,
    };
    let optimizer = Optimizer::default();
    let job = Job { precision: Precision::Fp32, steps: 20, optimizer, ..Job::of(model, 16, 4) };
    let stages = vec![Stage { layers: 2 / mesh.pp, full: 0, selective: 0, offload: 0 }; mesh.pp];
    let plan = Plan { zero: 1, mesh, stages, ..Plan::single(job, 1) };
    plan.check().unwrap();
    let lowered = lower(&plan).unwrap();
    let config = TrainConfig {
        steps: 20,
        seed: 0,
        lr_peak: 1e-2,
        lr_min: 1e-3,
        warmup_steps: 5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
        loss_scaling: Default::default(),
        microbatch_size: 1,
        num_microbatches: plan.microbatches(),
        shares: Vec::new(),
        seq: 16,
        global_batch: 4,
        device: Backend::CPU,
        threads_per_rank: 1,
        traced: true,
        checkpoints: None,
        text: None,
    };
    let (ids, targets) = (golden.ids.clone(), golden.targets.clone());
    let source = move |step: usize, index: usize| {
        let at = (step * 4 + index) * 16;
        (ids[at..at + 16].to_vec(), targets[at..at + 16].to_vec())
    };
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(source)).unwrap();
    trainer.set_params(&golden.params).unwrap();
    trainer
}

const MESHES: [Mesh; 3] =
    [Mesh::ONE, Mesh { dp: 2, pp: 1, tp: 2, ..Mesh::ONE }, Mesh { dp: 1, pp: 2, tp: 2, ..Mesh::ONE }];

fn agrees(architecture: Architecture, name: &str) {
    let golden = golden(name);
    for mesh in MESHES {
        let mut trainer = trainer(architecture, mesh, &golden);
        for step in 0..golden.losses.len() {
            let outcome = trainer.step().unwrap();
            if step == 0 {
                assert_grads(&trainer.gather_grads().unwrap(), &golden.grads, mesh);
            }
            let off = (outcome.loss / golden.losses[step] - 1.0).abs();
            assert!(off < 1e-4, "{mesh:?} step {step}: loss {} for {}", outcome.loss, golden.losses[step]);
            let off = (outcome.grad_norm / golden.grad_norms[step] - 1.0).abs();
            assert!(off < 2e-3, "{mesh:?} step {step}: norm {} for {}", outcome.grad_norm, golden.grad_norms[step]);
        }
    }
}

fn assert_grads(ours: &BTreeMap<String, Vec<f32>>, golden: &BTreeMap<String, Vec<f32>>, mesh: Mesh) {
    assert!(ours.keys().eq(golden.keys()), "{:?} for {:?}", ours.keys(), golden.keys());
    for (name, wanted) in golden {
        let scale = wanted.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (i, (a, b)) in ours[name].iter().zip(wanted).enumerate() {
            assert!((a - b).abs() <= 2e-5 * scale + 1e-8, "{mesh:?} {name}[{i}]: {a} for {b}");
        }
    }
}

#[test]
fn gpt2_agrees_with_pytorch() {
    agrees(Architecture::Gpt2, "gpt2");
}

#[test]
fn llama_agrees_with_pytorch() {
    agrees(Architecture::Llama, "llama");
}

/// Weights that a whole-model finite difference moves: one of every kind.
fn probe(name: &str) -> usize {
    name.len() * 7 % 16
}

fn gradients_are_finite_differences(architecture: Architecture, name: &str) {
    let golden = golden(name);
    let loss = |params: &BTreeMap<String, Vec<f32>>| {
        let mut trainer = trainer(architecture, Mesh { dp: 1, pp: 2, tp: 1, ..Mesh::ONE }, &golden);
        trainer.set_params(params).unwrap();
        trainer.step().unwrap().loss
    };
    let mut exact = trainer(architecture, Mesh { dp: 1, pp: 2, tp: 1, ..Mesh::ONE }, &golden);
    exact.step().unwrap();
    let grads = exact.gather_grads().unwrap();
    for (name, grad) in &grads {
        let (at, step) = (probe(name), 2e-2f32);
        let moved = |by: f32| {
            let mut params = golden.params.clone();
            params.get_mut(name).unwrap()[at] += by;
            loss(&params)
        };
        // Central differences of two widths, extrapolated (Richardson 1911): the error falls with the fourth power.
        let slope = |h: f32| (moved(h) - moved(-h)) / (2.0 * f64::from(h));
        let difference = (4.0 * slope(step / 2.0) - slope(step)) / 3.0;
        let off = (difference - f64::from(grad[at])).abs();
        assert!(off < 2e-2 * f64::from(grad[at].abs()) + 1e-4, "{name}[{at}]: {} for {difference}", grad[at]);
    }
}

#[test]
fn gpt2_gradients_are_finite_differences() {
    gradients_are_finite_differences(Architecture::Gpt2, "gpt2");
}

#[test]
fn llama_gradients_are_finite_differences() {
    gradients_are_finite_differences(Architecture::Llama, "llama");
}
