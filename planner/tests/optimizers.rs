//! What optimizers keep and do, worked out by hand.

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::op::Op;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::program::{Kind, RankProgram};
use meshwright_planner::job::Job;
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::predict::{declared, predict};

const NAMES: [&str; 7] = ["adamw", "adamw-8bit", "adafactor", "lion", "muon", "sgd", "sgd-momentum"];

/// Of a layer of LLaMA 3 8B: queries, keys and values; output; gate and up; down.
const MATRICES: [[usize; 2]; 4] = [[6144, 4096], [4096, 4096], [28_672, 4096], [4096, 14_336]];
/// Of its two tables.
const TABLE: usize = 128_256 * 4096;

/// A plan of LLaMA 3 8B in bf16 on one rank.
fn plan(optimizer: &str) -> Plan {
    let model = toml::to_string(&models::load("llama3-8b").unwrap()).unwrap();
    let text = format!(
        "seq = 64\nglobal_batch = 8\nprecision = \"bf16\"\n[optimizer]\nname = \"{optimizer}\"\n[model]\n{model}"
    );
    Plan::single(Job::from_toml("job.toml", &text).unwrap(), 1)
}

/// Bytes of what is kept beside weights, their gradients and fp32 weights.
fn state(role: &RankProgram) -> usize {
    let kept =
        role.buffers.iter().filter(|buffer| ["m", "v", "factors"].contains(&buffer.name.split('.').next().unwrap()));
    kept.map(|buffer| buffer.bytes() as usize).sum()
}

#[test]
fn states_take_the_bytes_of_their_papers() {
    let layer: usize = MATRICES.iter().map(|[rows, cols]| rows * cols).sum::<usize>() + 2 * 4096;
    let all = 32 * layer + 2 * TABLE + 4096;
    let factored: usize = MATRICES.iter().map(|[rows, cols]| rows + cols).sum::<usize>() + 2 * 4096;
    let by_hand = |name: &str| match name {
        "adamw" => 8 * all,
        // Two bytes, and two scales of four for 256 weights.
        "adamw-8bit" => 2 * all + 8 * all / 256,
        "adafactor" => 4 * (32 * factored + 2 * (128_256 + 4096) + 4096),
        "lion" | "sgd-momentum" => 4 * all,
        "muon" => 4 * 32 * layer + 8 * (2 * TABLE + 4096),
        _ => 0,
    };
    for name in NAMES {
        let plan = plan(name);
        assert_eq!(state(&lower(&plan).unwrap().program.roles[0]), by_hand(name), "{name}");
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan, "{name}");
    }
}

#[test]
fn muon_multiplies_its_matrices_five_times_over() {
    let flops = |zero: u8| {
        let plan = Plan { zero, mesh: Mesh { dp: 2, ..Mesh::ONE }, ..plan("muon") };
        let program = lower(&plan).unwrap().program;
        let runs = program.roles[0].instrs.iter();
        let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
        let ops = blocks.flat_map(|block| program.blocks[block as usize].calls.iter().map(|call| call.op));
        ops.filter(|op| matches!(op, Op::Orthogonalize { .. })).map(|op| op.flops()).sum::<f64>()
    };
    // X·Xᵀ, its square and their product with X, 5 times.
    let matrix = |[rows, cols]: &[usize; 2]| {
        let (narrow, wide) = (*rows.min(cols) as f64, *rows.max(cols) as f64);
        5.0 * (2.0 * narrow * narrow * wide + 2.0 * narrow.powi(3) + 2.0 * narrow * narrow * wide)
    };
    let by_hand = 32.0 * MATRICES.iter().map(matrix).sum::<f64>();
    assert_eq!(flops(0), by_hand);
    assert_eq!(flops(1), by_hand / 2.0);
}

/// On every axis, with every ZeRO stage: sound programs, of the bytes foretold.
#[test]
fn every_optimizer_lowers_on_every_axis() {
    for name in NAMES {
        for (mesh, zero) in [
            (Mesh { dp: 4, ..Mesh::ONE }, 3),
            (Mesh { dp: 2, tp: 2, ..Mesh::ONE }, 2),
            (Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE }, 1),
        ] {
            let mut plan = Plan { mesh, zero, ..plan(name) };
            plan.stages = vec![Stage { layers: 32 / mesh.pp, ..plan.stages[0] }; mesh.pp];
            plan.check().unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
            let lowered = lower(&plan).unwrap_or_else(|error| panic!("{name}, {}: {error}", plan.summary()));
            let bytes: Vec<u64> = lowered.program.roles.iter().map(RankProgram::bytes).collect();
            assert_eq!(declared(&plan), bytes, "{name}, {}", plan.summary());
        }
    }
}

#[test]
fn an_offloaded_optimizer_is_in_the_hosts_memory_and_updates_there() {
    let (here, mut plan) = (plan("adamw"), plan("adamw"));
    plan.job.optimizer.offload = true;
    let [on_device, offloaded] = [&here, &plan].map(|plan| lower(plan).unwrap().program);
    let all =
        (32 * (MATRICES.iter().map(|[rows, cols]| rows * cols).sum::<usize>() + 2 * 4096) + 2 * TABLE + 4096) as u64;
    // Two moments and fp32 weights are gone from the device; on the host gradients and weights in bf16 are beside them.
    assert_eq!(on_device.roles[0].bytes() - offloaded.roles[0].bytes(), 12 * all);
    assert_eq!(offloaded.roles[0].hosted_bytes(), (12 + 4 + 2) * all);
    let cluster = Cluster::parse("1x h100").unwrap();
    let [on_device, offloaded] = [&here, &plan].map(|plan| predict(plan, &cluster).unwrap().figures.step_time_s);
    // 30 bytes a parameter at 25 GB/s, beside what goes down and comes up.
    let by_hand = 30.0 * all as f64 / 25e9;
    assert!(offloaded - on_device > 0.95 * by_hand, "{offloaded} for {on_device}");
    assert!(offloaded - on_device < by_hand + 8.0 * all as f64 / 64e9, "{offloaded} for {on_device}");
}
