//! What fine-tuning changes in a program, worked out by hand: packed samples, adapters, frozen and packed weights.

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Elem, Kind, RankProgram};
use meshwright_planner::job::Job;
use meshwright_planner::lower::lower;
use meshwright_planner::models;
use meshwright_planner::plan::{Plan, Stage};
use meshwright_planner::predict::declared;

/// A job of LLaMA 3 8B: one sequence a step.
fn job(seq: usize, keys: &str) -> Job {
    let model = toml::to_string(&models::load("llama3-8b").unwrap()).unwrap();
    let text = format!("seq = {seq}\nglobal_batch = 1\nprecision = \"bf16\"\n{keys}\n[model]\n{model}");
    Job::from_toml("job.toml", &text).unwrap()
}

/// Adapters of rank 16 of all linear layers.
fn lora(base: &str) -> Job {
    job(1024, &format!("[tuning]\nmethod = \"lora\"\nrank = 16\nbase = \"{base}\""))
}

/// Parameters of the linear layers of one of LLaMA 3 8B's 32 layers: queries and outputs, keys and values, feed-forward part.
const LINEAR: usize = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336;
/// Of its adapters of rank 16: inputs and outputs of each.
const ADAPTERS: usize = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14_336));
/// Of its two tables, one of them the head.
const TABLE: usize = 128_256 * 4096;

/// Bytes of a stage's buffers whose names begin so.
fn bytes(role: &RankProgram, what: &str) -> u64 {
    role.buffers.iter().filter(|buffer| buffer.name.starts_with(what)).map(|buffer| buffer.bytes()).sum()
}

/// FLOPs of the ops of a step that count, on all stages.
fn flops(plan: &Plan, counts: impl Fn(&Op) -> bool) -> f64 {
    let program = lower(plan).unwrap().program;
    let runs = program.roles.iter().flat_map(|role| &role.instrs);
    let blocks = runs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    let ops = blocks.flat_map(|block| program.blocks[block as usize].calls.iter().map(|call| call.op));
    ops.filter(counts).map(|op| op.flops()).sum()
}

#[test]
fn packed_samples_attend_each_to_itself() {
    let [whole, packed] = ["", "packed = 256"].map(|keys| Plan::single(job(4096, keys), 1));
    let attention = |op: &Op| matches!(op, Op::Attention(_) | Op::AttentionGrad(_));
    // 32 layers of 32 heads of 128: two products of half the scores, the diagonal included; backward five to their two.
    let by_hand = |samples: f64, s: f64| 3.5 * 32.0 * samples * 4.0 * 32.0 * 128.0 * s * (s + 1.0) / 2.0;
    assert_eq!(flops(&whole, attention), by_hand(1.0, 4096.0));
    assert_eq!(flops(&packed, attention), by_hand(16.0, 256.0));
    let others = |op: &Op| !attention(op);
    assert_eq!(flops(&whole, others), flops(&packed, others));
    // PaLM's convention: 12 · layers · hidden · tokens that attend to each other, for each token.
    let [whole, packed] = [whole, packed].map(|plan| plan.job.model_flops_per_step());
    assert_eq!(whole - packed, 12.0 * 32.0 * 4096.0 * (4096.0 - 256.0) * 4096.0);
}

#[test]
fn context_parallelism_cuts_every_packed_sample() {
    let cut = |cp: usize| {
        let mut plan = Plan::single(job(4096, "packed = 256"), 1);
        plan.mesh.cp = cp;
        plan.check().map(|()| plan)
    };
    let attention = |op: &Op| matches!(op, Op::ContextAttention(_));
    // Of each sample's scores a rank of two makes half of its queries', half of which are masked.
    let by_hand = 32.0 * 16.0 * 4.0 * 32.0 * 128.0 * 128.0 * 256.0 / 2.0;
    assert_eq!(flops(&cut(2).unwrap(), attention), by_hand);
    let fault = cut(256).unwrap_err();
    assert!(fault.key == "mesh.cp" && fault.problem.contains("`packed` = 256"), "{fault:?}");
}

#[test]
fn a_packed_job_reads_back_and_a_usual_one_says_nothing_of_it() {
    let [usual, packed] = ["", "packed = 256"].map(|keys| Plan::single(job(4096, keys), 1));
    assert_eq!(Plan::from_toml("plan.toml", &packed.to_toml()).unwrap(), packed);
    assert!(!usual.to_toml().contains("packed"));
}

#[test]
fn adapters_are_what_peft_counts() {
    // `trainable params: 41,943,040`, as PEFT prints for rank 16 and all linear layers of LLaMA 3 8B.
    assert_eq!(lora("model").trained_parameters(), 41_943_040);
    assert_eq!(32 * ADAPTERS, 41_943_040);
    let queries_and_values = job(1024, "[tuning]\nmethod = \"lora\"\nrank = 8\ntargets = [\"q\", \"v\"]");
    assert_eq!(queries_and_values.trained_parameters(), 32 * 8 * (4096 + 4096 + 4096 + 1024));
}

#[test]
fn a_frozen_base_takes_two_passes_of_three_and_its_adapters_all() {
    let plan = Plan::single(lora("model"), 1);
    let products = |op: &Op| matches!(op, Op::Matmul { .. });
    let by_hand = 1024.0 * (4.0 * (32 * LINEAR + TABLE) as f64 + 6.0 * (32 * ADAPTERS) as f64);
    assert_eq!(flops(&plan, products), by_hand);
    let attention = 12.0 * 32.0 * 4096.0 * 1024.0 * 1024.0;
    assert_eq!(plan.job.model_flops_per_step(), by_hand + attention);
    let embeds = |op: &Op| matches!(op, Op::EmbedGrad { .. } | Op::BiasGrad { .. });
    assert_eq!(flops(&plan, embeds), 0.0);
}

#[test]
fn a_frozen_base_has_weights_and_no_state() {
    let role = &lower(&Plan::single(lora("model"), 1)).unwrap().program.roles[0];
    let (all, trained) = (32 * LINEAR + 2 * TABLE + 65 * 4096, 32 * ADAPTERS as u64);
    // Weights in bf16; of adapters gradients, two moments and fp32 weights.
    assert_eq!(bytes(role, "weights"), 2 * (all as u64 + trained));
    let state = ["grads", "m.", "v.", "master"].map(|what| bytes(role, what));
    assert_eq!(state, [4 * trained; 4]);
}

#[test]
fn four_bit_weights_take_their_bits_and_are_made_wide_for_each_product() {
    let mut plan = Plan::single(lora("nf4"), 1);
    let role = &lower(&plan).unwrap().program.roles[0];
    let packed = role.buffers.iter().filter(|buffer| buffer.name.ends_with(".packed"));
    let bits: u64 = packed.inspect(|buffer| assert_eq!(buffer.elem, Elem::U32)).map(|buffer| 8 * buffer.bytes()).sum();
    // 4 bits, 8 for 64 weights and 32 for 256 of these.
    assert_eq!(bits as f64, (32 * LINEAR) as f64 * (4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0)));
    let wide = |plan: &Plan| flops(plan, |op| matches!(op, Op::Dequantize { .. }));
    assert_eq!(wide(&plan), 2.0 * (32 * LINEAR) as f64);
    // All but the last product of a layer, of which nothing is needed, is made again.
    plan.stages[0].full = 32;
    assert_eq!(wide(&plan), (32 * (3 * LINEAR - 4096 * 14_336)) as f64);
}

#[test]
fn eight_bit_weights_take_a_byte_and_the_scales_of_their_blocks() {
    let role = &lower(&Plan::single(lora("fp8"), 1)).unwrap().program.roles[0];
    let packed = role.buffers.iter().filter(|buffer| buffer.name.ends_with(".packed"));
    let bytes: u64 = packed.map(|buffer| buffer.bytes()).sum();
    assert_eq!(bytes as usize, 32 * LINEAR + 32 * LINEAR / (128 * 128) * 4);
}

#[test]
fn every_known_model_has_the_adapters_that_are_counted() {
    for name in models::names() {
        let mut job = lora("model");
        (job.model, job.seq) = (models::load(name).unwrap(), 64);
        let plan = Plan::single(job, 1);
        let lowered = lower(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
        let specs = lowered.params.roles[0].iter();
        let trained: usize = specs.filter(|spec| spec.grads.is_some()).map(|spec| spec.elems()).sum();
        assert_eq!(trained as u64, plan.job.trained_parameters(), "{name}");
    }
}

/// On every axis, with every ZeRO stage: sound programs, of the bytes foretold.
#[test]
fn fine_tuning_lowers_on_every_axis() {
    for (name, base) in [("llama3-8b", "nf4"), ("gpt2-124m", "model"), ("mixtral-8x7b", "fp8")] {
        for (mesh, zero) in [
            (Mesh { dp: 4, ..Mesh::ONE }, 3),
            (Mesh { dp: 2, tp: 2, ..Mesh::ONE }, 2),
            (Mesh { dp: 2, pp: 2, tp: 2, ..Mesh::ONE }, 1),
            (Mesh { cp: 2, pp: 2, ..Mesh::ONE }, 0),
        ] {
            let mut job = lora(base);
            (job.model, job.seq, job.global_batch) = (models::load(name).unwrap(), 64, 8);
            // So that ranks of tensor parallelism share the table.
            job.model.vocab = job.model.vocab.next_multiple_of(2);
            let mut plan = Plan { mesh, zero, sequence_parallel: mesh.tp > 1, ..Plan::single(job, 1) };
            plan.stages = vec![Stage { layers: plan.stages[0].layers / mesh.pp, ..plan.stages[0] }; mesh.pp];
            plan.check().unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
            let lowered = lower(&plan).unwrap_or_else(|error| panic!("{name}, {}: {error}", plan.summary()));
            let bytes: Vec<u64> = lowered.program.roles.iter().map(RankProgram::bytes).collect();
            assert_eq!(declared(&plan), bytes, "{name}, {}", plan.summary());
        }
    }
}
