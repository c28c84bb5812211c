//! Lowered programs beside numbers worked out by hand: parameters, FLOPs and bytes of state of a rank, feature by feature.
//!
//! In: plans. Out: their programs' buffers and ops.

use std::collections::BTreeMap;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::Op;
use meshwright_hardware::program::{Collective, Instr, Kind, RankProgram};
use meshwright_planner::job::{Architecture, Family, Job, Model};
use meshwright_planner::lower::{Lowered, lower};
use meshwright_planner::plan::Plan;

/// One sequence of 16 tokens a replica, in bf16, on one stage.
fn plan(model: Model, mesh: Mesh) -> Plan {
    let job = Job { steps: 1, ..Job::of(model, 16, mesh.dp) };
    Plan { mesh, ..Plan::single(job, 1) }
}

/// Two layers, 64 wide, of 8 heads.
fn model(architecture: Architecture) -> Model {
    Model {
        name: "by-hand".to_owned(),
        architecture,
        layers: 2,
        hidden: 64,
        heads: 8,
        kv_heads: 8,
        ffn: 256,
        vocab: 512,
        tied: true,
        rope_theta: 1e4,
        family: None,
    }
}

fn lowered(plan: &Plan) -> Lowered {
    plan.check().unwrap_or_else(|fault| panic!("{}: {fault:?}", plan.summary()));
    lower(plan).unwrap_or_else(|error| panic!("{}: {error}", plan.summary()))
}

/// Elements of the model's parameters, each once.
fn parameters(lowered: &Lowered) -> usize {
    let all = lowered.params.roles.iter().flatten().map(|spec| (spec.name.as_str(), spec.elems()));
    all.collect::<BTreeMap<_, _>>().values().sum()
}

/// Elements of a rank's buffers whose names begin so.
fn elems(lowered: &Lowered, name: &str) -> usize {
    let all = lowered.program.roles.iter().flat_map(|role| &role.buffers);
    all.filter(|buffer| buffer.name.starts_with(name)).map(|buffer| buffer.elems).sum()
}

/// Bytes of weights, gradients, moments and fp32 weights of a rank.
fn state(lowered: &Lowered) -> u64 {
    let all = lowered.program.roles.iter().flat_map(|role| &role.buffers);
    let of = ["weights.", "grads.", "m.", "v.", "master."];
    all.filter(|buffer| of.iter().any(|name| buffer.name.starts_with(name))).map(|buffer| buffer.bytes()).sum()
}

/// FLOPs of a rank's step in ops that `counts`.
fn flops(lowered: &Lowered, counts: impl Fn(&Op) -> bool) -> f64 {
    let instrs = lowered.program.roles.iter().flat_map(|role| &role.instrs);
    let blocks = instrs.filter_map(|instr| if let Kind::Run { block, .. } = instr.kind { Some(block) } else { None });
    let calls = blocks.flat_map(|block| &lowered.program.blocks[block as usize].calls);
    calls.map(|call| call.op).filter(|op| counts(op)).map(|op| op.flops()).sum()
}

fn is_product(op: &Op) -> bool {
    matches!(op, Op::Matmul { .. } | Op::ExpertMatmul { .. })
}

/// Of GPT-2's layer, on each of `tp` ranks: four matrices of attention, two of feed-forward; half of the biases and all norms.
fn gpt2_layer(tp: usize) -> [usize; 2] {
    let matrices = (4 * 64 * 64 + 2 * 64 * 256) / tp;
    [matrices, (3 * 64 + 256) / tp + 2 * 64 + 4 * 64]
}

/// Elements of each sum of gradients over tensor parallelism in a step, where they stand in a bank: start and length.
fn sums_of_parts(lowered: &Lowered) -> Vec<(usize, usize)> {
    let instrs = lowered.program.roles.iter().flat_map(|role| role.instrs.iter().map(move |instr| (role, instr)));
    let sum = |(role, instr): (&RankProgram, &Instr)| match instr.kind {
        Kind::Collective { op: Collective::AllReduce, axis: Axis::Tp, view } => {
            let bank = role.buffers[view.buffer as usize].name.starts_with("grads.");
            bank.then_some((view.offset, view.elems))
        }
        _ => None,
    };
    instrs.filter_map(sum).collect()
}

#[test]
fn vocabularies_are_padded_to_128_rows_a_rank_where_ranks_do_not_divide_them() {
    for (vocab, tp, each) in [(512, 2, 256), (515, 1, 515), (515, 2, 384), (515, 8, 128), (50_257, 4, 12_672)] {
        for tied in [true, false] {
            let model = Model { vocab, tied, ..model(Architecture::Gpt2) };
            let plan = plan(model, Mesh { tp, ..Mesh::ONE });
            let found = lowered(&plan);
            let [matrices, vectors] = gpt2_layer(1);
            let tables = if tied { 1 } else { 2 };
            let wanted = tables * vocab * 64 + 16 * 64 + 2 * (matrices + vectors) + 2 * 64;
            assert_eq!(parameters(&found), wanted, "{}", plan.summary());
            assert_eq!(plan.job.model.parameters(16), wanted as u64);
            // Banks are filled up to lines of 16 elements.
            let [matrices, vectors] = gpt2_layer(tp);
            let own = tables * each * 64 + 16 * 64 + 2 * (matrices + vectors) + 2 * 64;
            let held = elems(&found, "weights.");
            assert!((own..own + 200).contains(&held), "{held} for {own}: {}", plan.summary());
            // Two bytes of a weight; of fp32, its gradient, two moments and itself.
            assert_eq!(state(&found), 18 * held as u64);
            // Three products of 2·tokens·parameters each; what pads the head is computed as well.
            assert_eq!(flops(&found, is_product), (6 * 16 * (each * 64 + 2 * matrices)) as f64);
            let logits =
                |op: &Op| matches!(op, Op::Loss { vocab: columns, words, .. } if (*columns, *words) == (each, vocab));
            assert_eq!(flops(&found, logits), (6 * 16 * each) as f64);
        }
    }
}

#[test]
fn ranks_beyond_the_key_and_value_heads_hold_copies_of_them() {
    for (kv_heads, tp, own) in [(8, 8, 1), (4, 2, 2), (2, 2, 1), (2, 4, 1), (1, 2, 1), (1, 8, 1)] {
        for (architecture, biases) in [(Architecture::Llama, 0), (Architecture::Gpt2, 1)] {
            let model = Model { kv_heads, ..model(architecture) };
            let plan = plan(model, Mesh { tp, ..Mesh::ONE });
            let found = lowered(&plan);
            // Heads are 8 wide. The model has its heads once, whatever ranks hold.
            let ffn = (3 - biases) * 64 * 256;
            let layer = 2 * 64 * 64 + 2 * kv_heads * 8 * 64 + ffn;
            let vectors = biases * (64 + 2 * kv_heads * 8 + 256 + 2 * 64) + (2 + 2 * biases) * 64;
            let rest = 512 * 64 + biases * 16 * 64 + (1 + biases) * 64;
            assert_eq!(parameters(&found), 2 * (layer + vectors) + rest, "{}", plan.summary());
            // A rank has its heads of queries and `own` of keys and of values, and computes as much.
            let (queries, shared) = (64 * 64 / tp, 2 * own * 8 * 64);
            let layer = 2 * queries + shared + ffn / tp;
            let vectors = biases * (64 / tp + 2 * own * 8 + 256 / tp + 2 * 64) + (2 + 2 * biases) * 64;
            let rest = 512 * 64 / tp + biases * 16 * 64 + (1 + biases) * 64;
            let (held, wanted) = (elems(&found, "weights."), 2 * (layer + vectors) + rest);
            assert!((wanted..wanted + 200).contains(&held), "{held} for {wanted}: {}", plan.summary());
            assert_eq!(state(&found), 18 * held as u64);
            assert_eq!(flops(&found, is_product), (6 * 16 * (512 * 64 / tp + 2 * layer)) as f64);
            // What copies have of a gradient is added up once a step, a layer's weight and bias each.
            let copied = if tp > kv_heads { 2 * (1 + biases) } else { 0 };
            let sums = sums_of_parts(&found);
            assert_eq!(sums.len(), copied, "{sums:?}");
            assert_eq!(sums.iter().filter(|&&sum| sum == (queries, shared)).count(), if copied > 0 { 2 } else { 0 });
        }
    }
}

#[test]
fn encoder_decoders_have_any_width_learned_positions_and_tokens_that_ranks_share() {
    for (tp, sequence_parallel) in [(1, false), (2, false), (2, true)] {
        for learned in [true, false] {
            // 17 wide heads; of a sequence 6 tokens are read and 4 written.
            let family = Family { decoder_layers: Some(1), learned_positions: Some(learned), ..Family::default() };
            let sizes = Model { hidden: 68, heads: 4, kv_heads: 4, ..model(Architecture::Gpt2) };
            let model = Model { layers: 2, family: Some(family), ..sizes };
            let job = Job { target_seq: Some(4), ..Job::of(model, 6, 1) };
            let plan = Plan { mesh: Mesh { tp, ..Mesh::ONE }, sequence_parallel, ..Plan::single(job, 1) };
            let found = lowered(&plan);
            let (attention, ffn, norm) = (4 * 68 * 68, 2 * 68 * 256, 2 * 68);
            let vectors = [4 * 68 + norm, 256 + 68 + norm];
            // Three layers, attention to the encoder in one, norms behind both halves; a table of positions for both.
            let layers = 4 * (attention + vectors[0]) + 3 * (ffn + vectors[1]) + 2 * norm;
            assert_eq!(parameters(&found), 512 * 68 + if learned { 6 * 68 } else { 0 } + layers, "{}", plan.summary());
            // Each half computes for its own tokens, keys and values of the encoder's for all that was read.
            let (read, written) = (6 * 2 * (attention + ffn), 4 * (attention + ffn + 512 * 68));
            let across = 4 * 2 * 68 * 68 + 6 * 2 * 68 * 68;
            assert_eq!(flops(&found, is_product), (6 * (read + written + across) / tp) as f64);
            // What a piece gives to the next: both streams, each of which begins a line.
            let sharers = if sequence_parallel { tp } else { 1 };
            let (first, second) = (6 / sharers * 68, 4 / sharers * 68);
            assert_eq!(elems(&found, "flow."), first.next_multiple_of(16) + second);
            let attends = |op: &Op| matches!(op, Op::ContextAttention(_));
            assert_eq!(flops(&found, attends), (4 * 4 * 6 * 68 / tp) as f64);
        }
    }
}

#[test]
fn dropless_experts_have_their_even_share() {
    for (capacity, each) in [("\"dropless\"", 4), ("1.25", 5), ("4", 16)] {
        let experts = toml::from_str(&format!("count = 8\ntop_k = 2\nffn = 32\ncapacity = {capacity}")).unwrap();
        let family = Family { experts: Some(experts), ..Family::default() };
        let plan = plan(Model { family: Some(family), ..model(Architecture::Llama) }, Mesh::ONE);
        let found = lowered(&plan);
        assert_eq!(Plan::from_toml("plan.toml", &plan.to_toml()).unwrap(), plan);
        // Two of eight experts for each of 16 tokens: four for each expert. Gate, up and down in each of two layers.
        let of_experts = |op: &Op| matches!(op, Op::ExpertMatmul { .. });
        assert_eq!(flops(&found, of_experts), (6 * 2 * 8 * each * 3 * 64 * 32) as f64);
        let layer = 4 * 64 * 64 + 8 * 3 * 64 * 32 + 8 * 64 + 2 * 64;
        assert_eq!(parameters(&found), 512 * 64 + 2 * layer + 64);
    }
}
