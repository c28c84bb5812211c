//! The plan of a row.
//!
//! In: a [`Record`], its model, place and stack. Out: [`Plan`]s: one, or one for each way to fill in what it leaves open, the one to
//! be taken if it fits first.
//!
//! Invariant: nothing that was measured is read; what is filled in is named.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::profile::{AttentionKernel, Stack};
use meshwright_planner::job::{AdapterTarget, Base, Job, Method, Model, Tuning};
use meshwright_planner::plan::{Plan, RecomputeModule, Stage, layers_of};

use super::pipeline::schedule;
use super::recipe;
use super::record::{Record, Skip};
use super::words::{known_codes, precision, zero_said};

/// Rank of adapters where it is not stated.
const USUAL_RANK: usize = 16;

/// Tokens of a packed SQuAD sample (Rajpurkar et al. 2016: contexts of some 120 words with question and answer).
const SAMPLE: usize = 256;

/// Microbatches that are tried where none is stated, in the order in which the first that fits is taken.
const MICROBATCHES: [usize; 5] = [16, 8, 4, 2, 1];

/// What a plan is read from.
pub(super) struct Stated<'a> {
    pub(super) record: &'a Record<'a>,
    pub(super) model: &'a Model,
    pub(super) seq: usize,
    pub(super) target_seq: Option<usize>,
    pub(super) devices: usize,
    pub(super) slices: usize,
    pub(super) stack: &'a Stack,
}

/// Plans of a row.
pub(super) struct Candidates {
    /// The one to be taken if it fits first.
    pub(super) plans: Vec<Plan>,
    /// What was filled in, by column.
    pub(super) assumed: Vec<&'static str>,
}

/// What is kept of a layer's forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RowRecompute {
    /// All.
    All,
    /// All but attention's core (Korthikanti et al. 2022).
    AllButAttention,
    /// Outputs of matmuls, not of what stands between them.
    Matmuls,
    /// Only layers' inputs, of this share of the layers.
    Inputs(f64),
}

/// What a row may leave open.
#[derive(Clone, Copy, Debug)]
struct RowChoice {
    tp: usize,
    kept: RowRecompute,
    microbatch: usize,
    global: usize,
}

/// The plans of a row: its tensor parallelism as stated, with as little recomputation as fits, then with the largest microbatch.
pub(super) fn candidates(stated: &Stated) -> Result<Candidates, Skip> {
    let &Stated { record, stack, .. } = stated;
    let mut assumed: Vec<&'static str> = OPEN.iter().filter(|column| record.text(column).is_empty()).copied().collect();
    let size = |column| record.size(column).unwrap_or(1);
    let unknown_split = record.size("tp").is_none() && record.size("dp").is_none() && stated.devices > 1024;
    let tps = if unknown_split { vec![1, 2, 4, 8] } else { vec![size("tp")] };
    if unknown_split && record.size("global_batch").is_none() {
        return Err(Skip::new("neither split nor batch stated"));
    }
    known_codes(record)?;
    let written = |class: &str, text: &str| record.text(class).is_empty() && !record.text(text).is_empty();
    for (class, text) in [("recompute_class", "recompute"), ("precision_class", "precision")] {
        if written(class, text) {
            assumed.retain(|column| *column != class);
        }
    }
    let tuned = tuning(record).is_some();
    if tuned && number_after(record.text("notes"), "LoRA r").is_none() {
        assumed.push("lora_rank");
    }
    if zero_said(record).is_some() {
        assumed.retain(|column| *column != "zero_class");
    }
    if record
        .number("dp")
        .is_some_and(|dp| tps.len() == 1 && dp != (stated.devices / (tps[0] * size("pp") * size("cp"))) as f64)
    {
        assumed.push("dp");
    }
    let (mut plans, mut refused) = (Vec::new(), None);
    for tp in tps {
        let dp = stated.devices / (tp * size("pp") * size("cp"));
        if dp * tp * size("pp") * size("cp") != stated.devices {
            return Err(Skip::new("its plan is not of as many devices as it had"));
        }
        for kept in kept(record, stack) {
            for (microbatch, global) in batches(stated, dp) {
                if record.size("global_batch").is_some_and(|stated| stated != global)
                    && !assumed.contains(&"global_batch")
                {
                    assumed.push("global_batch");
                }
                let choice = RowChoice { tp, kept, microbatch, global };
                match plan(stated, &choice) {
                    Ok(plan) => plans.push(plan),
                    Err(skip) => refused = refused.or(Some(skip)),
                }
            }
        }
    }
    match refused {
        Some(skip) if plans.is_empty() => Err(skip),
        _ => Ok(Candidates { plans, assumed }),
    }
}

/// Columns of plan and model without which a row can be predicted.
const OPEN: [&str; 12] = [
    "seq_len",
    "heads",
    "vocab",
    "tp",
    "pp",
    "vpp",
    "dp",
    "zero_class",
    "micro_batch",
    "global_batch",
    "precision_class",
    "recompute_class",
];

/// Microbatch and sequences a step, the ones to be taken if they fit first. Of a batch that microbatches do not divide as much is
/// taken as they do.
fn batches(stated: &Stated, dp: usize) -> Vec<(usize, usize)> {
    let &Stated { record, stack, .. } = stated;
    let pp = record.size("pp").unwrap_or(1);
    let known = record.number("micro_batch").filter(|value| *value > 0.0).map(|micro| (micro.round() as usize).max(1));
    let Some(global) = record.size("global_batch") else {
        // Where no batch is stated, eight microbatches.
        let micro = known.unwrap_or(1);
        return vec![(micro, micro * dp * 8)];
    };
    let each = (global / dp).max(1);
    let whole = |micro: usize| (micro, (each / micro).max(1) * micro * dp);
    match known {
        Some(micro) => vec![whole(micro)],
        // torchtitan cuts a rank's batch into as many microbatches as there are stages (its `pipeline_parallel_microbatches`).
        None if pp > 1 && stack.casts => vec![whole((each / pp).max(1))],
        None => {
            let divides = |micro: &&usize| each.is_multiple_of(**micro);
            // A pipeline of stages that wait less than a fifth of the step has four times as many microbatches.
            let (mut large, small): (Vec<usize>, Vec<usize>) =
                MICROBATCHES.iter().filter(divides).partition(|micro| pp == 1 || each / **micro >= 4 * pp);
            large.extend(small.iter().rev());
            large.into_iter().map(whole).collect()
        }
    }
}

/// What is kept, in the order of how little is computed again.
fn kept(record: &Record, stack: &Stack) -> Vec<RowRecompute> {
    match record.text("recompute_class") {
        // These recipes recompute no more than modules that cost little.
        "" if record.text("recompute").is_empty() && stack.family == "megatron-core" => {
            vec![RowRecompute::All, RowRecompute::AllButAttention]
        }
        "" if record.text("recompute").is_empty() => {
            vec![RowRecompute::All, RowRecompute::AllButAttention, RowRecompute::Inputs(1.0)]
        }
        "" if record.text("recompute").to_lowercase().starts_with("full") => vec![RowRecompute::Inputs(1.0)],
        class => vec![kept_as(class, record.text("recompute"), record.text("framework"))],
    }
}

fn kept_as(class: &str, text: &str, framework: &str) -> RowRecompute {
    match class {
        "full" => RowRecompute::Inputs(1.0),
        "selective" if text.contains("every 2nd") => RowRecompute::Inputs(0.5),
        "selective" if text.contains("minimal") || text.contains("save linear") => RowRecompute::Matmuls,
        "selective" if framework.contains("torchtitan") || text.contains("per-op") => RowRecompute::Inputs(0.5),
        "selective" => RowRecompute::AllButAttention,
        "other" => RowRecompute::Inputs(1.0),
        _ => RowRecompute::All,
    }
}

/// The plan of a choice.
fn plan(stated: &Stated, choice: &RowChoice) -> Result<Plan, Skip> {
    let &Stated { record, model, devices, .. } = stated;
    let size = |column| record.size(column).unwrap_or(1);
    let (tp, pp, cp) = (choice.tp, size("pp"), size("cp"));
    let dp = devices / (tp * pp * cp);
    let (schedule, chunks) = schedule(record, stated.stack, (pp, model.depth()));
    let held = layers_of(model.depth(), pp * chunks);
    let away = offloaded(record.text("offload"), model.depth());
    let stage = |layers: usize| {
        let share = |of: f64| ((of * layers as f64).round() as usize).min(layers);
        let (full, selective) = match choice.kept {
            RowRecompute::Inputs(part) => (share(part), 0),
            RowRecompute::Matmuls => (0, layers),
            RowRecompute::All | RowRecompute::AllButAttention => (0, 0),
        };
        Stage { layers, full, selective, offload: share(away) }
    };
    let rows = choice.microbatch * stated.seq / cp;
    let plan = Plan {
        schedule,
        chunks,
        zero: if dp * cp > 1 { zero_in_a_pipeline(zero(record, stated.stack), pp, stated) } else { 0 },
        sequence_parallel: tp > 1 && sequence_parallel(record.text("sp"), stated.stack, (rows, tp)),
        mesh: mesh(stated, (dp, pp, tp, cp))?,
        recompute_modules: modules(stated, choice.kept),
        stages: held.into_iter().map(stage).collect(),
        ..Plan::single(job(stated, choice)?, choice.microbatch)
    };
    plan.check().map_err(|fault| Skip::fault("its plan is none that programs are made of", &fault))?;
    Ok(plan)
}

/// Modules that cost little beside what they save.
const CHEAP: [RecomputeModule; 3] = [RecomputeModule::Layernorm, RecomputeModule::MlaUpProj, RecomputeModule::MoeAct];

/// The modules that are made again: those that a row names; where it says no more than that it is selective, attention's core, which
/// stores no scores where it is tiled; where it says nothing, those of Megatron Core that cost little.
fn modules(stated: &Stated, kept: RowRecompute) -> Vec<RecomputeModule> {
    let Stated { record, model, stack, .. } = *stated;
    if kept != RowRecompute::AllButAttention {
        return Vec::new();
    }
    let text = record.text("recompute");
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let named: Vec<RecomputeModule> = RecomputeModule::ALL
        .into_iter()
        .filter(|module| words.contains(&module.name()) && module.is_of(model))
        .collect();
    match (named.is_empty(), text.is_empty() && stack.family == "megatron-core") {
        (true, true) => CHEAP.into_iter().filter(|module| module.is_of(model)).collect(),
        (true, false) if stack.attention == AttentionKernel::Unfused => vec![RecomputeModule::CoreAttn],
        _ => named,
    }
}

fn job(stated: &Stated, choice: &RowChoice) -> Result<Job, Skip> {
    let &Stated { record, .. } = stated;
    let tuned = matches!(record.text("task"), "sft" | "lora" | "qlora");
    let packed = tuned && record.text("notes").contains("packed SQuAD");
    let precise = record.text("precision");
    let graphs = record.text("notes").split_once("cuda_graph=");
    Ok(Job {
        target_seq: stated.target_seq,
        optimizer: recipe::optimizer(record),
        loss: recipe::loss(record),
        no_dropout: record.text("notes").contains("dropout=0"),
        packed: packed.then_some(SAMPLE).filter(|sample| *sample < stated.seq),
        pure: precise.contains("pure") || precise.contains("+SR"),
        precision: precision(record),
        stack: Some(stated.stack.name.clone()),
        tuning: tuning(record),
        cuda_graphs: graphs.is_some_and(|(_, scope)| !scope.starts_with("none")),
        ..Job::of(stated.model.clone(), stated.seq, choice.global)
    })
}

/// The mesh, with experts over as many ranks as stated.
fn mesh(stated: &Stated, (dp, pp, tp, cp): (usize, usize, usize, usize)) -> Result<Mesh, Skip> {
    let &Stated { record, model, .. } = stated;
    let shard = shard(stated, dp * cp, cp);
    let dense = Mesh { dp, pp, tp, cp, ep: 1, etp: None, shard, order: Order::default() };
    if model.experts().is_none() {
        return Ok(dense);
    }
    let (notes, framework) = (record.text("sharding_notes"), record.text("framework"));
    let ep = record.size("ep").unwrap_or(1).min((dp * cp * tp).max(1));
    let folded = framework.contains("Bridge") || framework.contains("Folding");
    let etp = match number_after(&notes.to_lowercase(), "etp=").or(number_after(notes, "ETP")) {
        Some(etp) => etp.max(1),
        None if notes.contains("expert-TP = TP") => tp,
        None if folded => 1,
        None => tp,
    };
    Ok(Mesh { ep, etp: (ep > 1 && etp < tp).then_some(etp), ..dense })
}

/// Of how many ranks that hold the same weights ZeRO shards over, where it is a part of them; of slices of a pod over each.
fn shard(stated: &Stated, ranks: usize, cp: usize) -> Option<usize> {
    let &Stated { record, slices, stack, .. } = stated;
    let (text, notes) = (record.text("zero_stage").to_lowercase(), record.text("sharding_notes").to_lowercase());
    let group = number_after(&notes, "shard group=").map(|size| size * if notes.contains("x cp") { cp } else { 1 });
    let way = text.split_once("-way").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    let said = way.or(number_after(&text, "over ")).or(number_after(&text, "shard size ")).or(group);
    let shard = said.unwrap_or(if slices > 1 { ranks / slices } else { ranks });
    (zero(record, stack) > 0 && (2..ranks).contains(&shard) && ranks.is_multiple_of(shard)).then_some(shard)
}

/// What is trained of a row whose task is to tune adapters.
fn tuning(record: &Record) -> Option<Tuning> {
    let (task, notes) = (record.text("task"), record.text("notes"));
    let base = match task {
        "qlora" => Base::Nf4,
        // MLPerf's runs keep frozen weights in the format of their products.
        "lora" if record.text("precision_class").contains("fp8") => Base::Fp8,
        "lora" => Base::Model,
        _ => return None,
    };
    use AdapterTarget::{K, O, Q, V};
    let targets = match notes {
        _ if notes.contains("on q,v") => vec![Q, V],
        _ if notes.contains("on q,k,v,o") || notes.contains("on attention") => vec![Q, K, V, O],
        _ => AdapterTarget::ALL.to_vec(),
    };
    let rank = number_after(notes, "LoRA r").unwrap_or(USUAL_RANK);
    Some(Tuning { method: Method::Lora, rank, alpha: rank as f32, targets, base })
}

fn zero(record: &Record, stack: &Stack) -> u8 {
    let text = record.text("zero_stage").to_lowercase();
    match record.text("zero_class") {
        _ if text.contains("zero2") => 2,
        "3" => 3,
        "2" => 2,
        "1" => 1,
        "0" => 0,
        _ => zero_said(record).unwrap_or(stack.zero),
    }
}

/// In a pipeline PyTorch's FSDP gathers weights once a step and scatters gradients behind the last microbatch alone (torchtitan's
/// `reshard_after_forward`, by default not in a pipeline; Grattafiori et al. 2024, §3.3.2: gradients add up in fp32 over microbatches,
/// then are scattered): what ZeRO-1 keeps and sends.
fn zero_in_a_pipeline(zero: u8, pp: usize, stated: &Stated) -> u8 {
    let fsdp = stated.stack.family == "fsdp" || stated.record.text("sharding_notes").contains("FSDP");
    if pp > 1 && fsdp { zero.min(1) } else { zero }
}

/// Sequence parallelism as stated, else as the stack has it where TP divides a microbatch's tokens on a rank.
fn sequence_parallel(code: &str, stack: &Stack, (rows, tp): (usize, usize)) -> bool {
    match code {
        "1" => true,
        "0" => false,
        _ => stack.sequence_parallel && rows.is_multiple_of(tp),
    }
}

fn number_after(text: &str, word: &str) -> Option<usize> {
    let (_, after) = text.split_once(word)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The share of layers whose activations wait on the host.
fn offloaded(text: &str, layers: usize) -> f64 {
    if !text.contains("activation") {
        return 0.0;
    }
    match number_after(text, "offload ") {
        Some(count) => (count as f64 / layers as f64).min(1.0),
        None if text.contains("fine-grained") => 0.3,
        // Named activations: recomputation leaves little else.
        None => 0.0,
    }
}
