//! A draft as a plan.
//!
//! In: a settled [`Draft`]. Out: the plan, or which of its values are not known.
//!
//! Invariant: no value is made up: what no file and no default says is named.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_planner::job::{
    Architecture, DROPLESS, ExpertGroups, Experts, Family, Job, Latent, Model, OptimizerName, Tuning,
};
use meshwright_planner::plan::{Plan, RecomputeModule, Stage, layers_of};
use meshwright_planner::schedule::Schedule;
use serde_json::{Value, json};

use super::draft::Draft;

/// What a plan cannot do without.
pub const NEEDED: &str = "
    layers hidden heads kv_heads ffn vocab seq precision devices dp tp pp cp ep zero microbatch global_batch recompute
    optimizer
";

/// Further ones that a plan cannot do without where files are about them.
const NEEDED_IF_SAID: &str = "
    experts top_k expert_ffn dense_layers chunks schedule shard sequence_parallel etp recompute_layers modules
    head_dim gated decoder_layers lora_rank layout_text
";

/// Keys whose values are not known and would have to be.
pub fn missing(draft: &Draft) -> Vec<&'static str> {
    let needed = NEEDED.split_whitespace().filter(|key| draft.value(key).is_none());
    let said = NEEDED_IF_SAID.split_whitespace().filter(|key| draft.lacks(key));
    needed.chain(said).collect()
}

/// The plan; nothing where a value is missing. It need not satisfy its check.
pub fn build(draft: &Draft, name: &str) -> Option<Plan> {
    if !missing(draft).is_empty() {
        return None;
    }
    let job = job(draft, name)?;
    let depth = job.model.depth();
    let mut plan = Plan::single(job, draft.count("microbatch")?);
    let tp = draft.count("tp")?;
    let etp = draft.count("etp").filter(|etp| *etp != tp);
    plan.mesh = Mesh {
        dp: draft.count("dp")?,
        pp: draft.count("pp")?,
        tp,
        cp: draft.count("cp")?,
        ep: draft.count("ep")?,
        etp: etp.filter(|_| plan.job.model.experts().is_some()),
        shard: draft.count("shard"),
        order: draft
            .text("order")
            .and_then(|name| Order::ALL.into_iter().find(|order| order.name() == name))
            .unwrap_or_default(),
    };
    plan.zero = u8::try_from(draft.count("zero")?).unwrap_or(u8::MAX);
    plan.sequence_parallel = draft.flag("sequence_parallel");
    plan.ring = draft.flag("ring") && plan.mesh.cp > 1;
    if plan.mesh.pp > 1 {
        let name = draft.text("schedule").unwrap_or("1f1b");
        plan.schedule = Schedule::ALL.iter().copied().find(|schedule| schedule.name() == name)?;
        plan.chunks = draft.count("chunks").unwrap_or(1);
    }
    plan.stages = stages(draft, depth, plan.mesh.pp, plan.chunks)?;
    recompute(draft, &mut plan);
    Some(plan)
}

/// The job; nothing where one of its values is missing.
pub fn job(draft: &Draft, name: &str) -> Option<Job> {
    let model = model(draft, name)?;
    let mut job = Job::of(model, draft.count("seq")?, draft.count("global_batch")?);
    job.precision = draft.text("precision")?.parse().ok()?;
    job.target_seq =
        draft.count("target_seq").filter(|_| job.model.family.as_ref().is_some_and(|f| f.decoder_layers.is_some()));
    job.steps = draft.count("steps").filter(|steps| *steps > 0).unwrap_or(job.steps);
    job.seed = draft.count("seed").unwrap_or(0) as u64;
    job.cuda_graphs = draft.flag("cuda_graphs");
    let o = &mut job.optimizer;
    o.name = serde_json::from_value::<OptimizerName>(draft.value("optimizer")?.clone()).ok()?;
    o.offload = draft.flag("offload");
    o.warmup_steps = draft.count("warmup").unwrap_or(o.warmup_steps);
    for (key, place) in [
        ("lr", &mut o.lr),
        ("min_lr", &mut o.min_lr),
        ("beta1", &mut o.beta1),
        ("beta2", &mut o.beta2),
        ("eps", &mut o.eps),
        ("weight_decay", &mut o.weight_decay),
        ("clip", &mut o.clip),
    ] {
        *place = draft.float(key).map_or(*place, |x| x as f32);
    }
    // A warm-up of more than all, or a least rate above the highest, is the schedule's own affair.
    o.min_lr = o.min_lr.min(o.lr);
    job.tuning = tuning(draft);
    Some(job)
}

fn tuning(draft: &Draft) -> Option<Tuning> {
    if draft.text("tuning") != Some("lora") {
        return None;
    }
    let rank = draft.count("lora_rank")?;
    let mut all =
        json!({ "method": "lora", "rank": rank, "alpha": draft.float("lora_alpha").unwrap_or(2.0 * rank as f64) });
    if let Some(base) = draft.text("base") {
        all["base"] = base.into();
    }
    if let Some(targets) = draft.value("targets") {
        all["targets"] = targets.clone();
    }
    serde_json::from_value(all).ok()
}

fn model(draft: &Draft, name: &str) -> Option<Model> {
    let architecture = match draft.text("architecture") {
        Some("gpt2") => Architecture::Gpt2,
        _ => Architecture::Llama,
    };
    let (hidden, heads) = (draft.count("hidden")?, draft.count("heads")?);
    let usual_width = hidden.checked_div(heads).filter(|width| width * heads == hidden);
    let gated = draft.value("gated").and_then(Value::as_bool);
    let learned = draft.text("positions").map(|kind| kind == "learned");
    let family = Family {
        head_dim: draft.count("head_dim").filter(|width| Some(*width) != usual_width && *width > 0),
        decoder_layers: draft.count("decoder_layers"),
        bidirectional: draft.flag("bidirectional"),
        gated: gated.filter(|gated| *gated != (architecture == Architecture::Llama)),
        learned_positions: learned.filter(|learned| *learned != (architecture == Architecture::Gpt2)),
        parallel_block: draft.flag("parallel_block"),
        experts: experts(draft),
        latent: draft.count("kv_rank").map(|kv_rank| Latent {
            q_rank: draft.count("q_rank").unwrap_or(0),
            kv_rank,
            nope: draft.count("nope").unwrap_or(0),
            rope: draft.count("rope").unwrap_or(0),
            value: draft.count("value").unwrap_or(0),
        }),
        ..Family::default()
    };
    let stated = draft.text("model").unwrap_or(name);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = stated.chars().map(plain).take(64).collect();
    let name = name.trim_start_matches(['-', '.']).to_owned();
    Some(Model {
        name: if name.is_empty() { "imported".to_owned() } else { name },
        architecture,
        layers: draft.count("layers")?,
        hidden,
        heads,
        kv_heads: draft.count("kv_heads")?,
        ffn: draft.count("ffn")?,
        vocab: draft.count("vocab")?,
        tied: draft.flag("tied"),
        rope_theta: draft.float("rope_theta").unwrap_or(10_000.0) as f32,
        family: (family != Family::default()).then_some(family),
    })
}

fn experts(draft: &Draft) -> Option<Experts> {
    Some(Experts {
        count: draft.count("experts").filter(|count| *count > 0)?,
        top_k: draft.count("top_k")?,
        groups: groups(draft),
        ffn: draft.count("expert_ffn")?,
        shared_ffn: draft.count("shared_ffn").unwrap_or(0),
        dense_layers: draft.count("dense_layers").unwrap_or(0),
        every: draft.count("every").unwrap_or(1),
        capacity: draft.float("capacity").filter(|capacity| *capacity > 0.0).map_or(DROPLESS, |capacity| {
            // Its own digits where it came by half of them.
            (capacity as f32).to_string().parse().unwrap_or(capacity)
        }),
        balance: draft.float("balance").unwrap_or(0.0) as f32,
    })
}

/// Groups of experts, where a token chooses some of several.
fn groups(draft: &Draft) -> Option<ExpertGroups> {
    let (count, top) = (draft.count("expert_groups")?, draft.count("top_groups")?);
    (top < count).then_some(ExpertGroups { count, top })
}

/// Layers of each virtual stage.
pub fn split(draft: &Draft, depth: usize, pp: usize, chunks: usize) -> Option<Vec<usize>> {
    const MOST: usize = 4096;
    let count = pp.checked_mul(chunks).filter(|count| *count > 0 && *count <= MOST)?;
    if let Some(Value::Array(layers)) = draft.value("layout").filter(|_| pp > 1) {
        return layers.iter().map(|n| n.as_u64().map(|n| n as usize)).collect();
    }
    if pp == 1 {
        return Some(vec![depth]);
    }
    let (first, last) = (draft.count("first_layers"), draft.count("last_layers"));
    if first.is_some() || last.is_some() {
        // Each end's are spread over its own chunks, the rest evenly over what is between.
        let ends = usize::from(first.is_some()) + usize::from(last.is_some());
        let rest = depth.checked_sub(first.unwrap_or(0) + last.unwrap_or(0))?;
        let inner = pp.checked_sub(ends).filter(|inner| *inner > 0)?;
        if !rest.is_multiple_of(inner * chunks)
            || !first.unwrap_or(0).is_multiple_of(chunks)
            || !last.unwrap_or(0).is_multiple_of(chunks)
        {
            return None;
        }
        let each = |stage: usize| match (stage == 0, stage + 1 == pp, first, last) {
            (true, _, Some(first), _) => first / chunks,
            (_, true, _, Some(last)) => last / chunks,
            _ => rest / inner / chunks,
        };
        return Some((0..count).map(|virtual_stage| each(virtual_stage % pp)).collect());
    }
    let (embedding, loss) = (usize::from(draft.flag("counts_embedding")), usize::from(draft.flag("counts_loss")));
    if embedding + loss > 0 {
        let each = (depth + embedding + loss) / count;
        let of = |stage: usize| {
            each.checked_sub(embedding * usize::from(stage == 0) + loss * usize::from(stage + 1 == count))
        };
        return ((depth + embedding + loss).is_multiple_of(count))
            .then(|| (0..count).map(of).collect::<Option<_>>())?;
    }
    if depth.is_multiple_of(count) {
        return Some(vec![depth / count; count]);
    }
    // What no rule of its own spreads: as DeepSpeed's and nanotron's balance does, near enough.
    let uneven = ["deepspeed", "nanotron", "gpt-neox"].contains(&draft.engine.as_str());
    uneven.then(|| layers_of(depth, count))
}

fn stages(draft: &Draft, depth: usize, pp: usize, chunks: usize) -> Option<Vec<Stage>> {
    let layers = split(draft, depth, pp, chunks)?;
    Some(layers.into_iter().map(|layers| Stage { layers, full: 0, selective: 0, offload: 0 }).collect())
}

fn recompute(draft: &Draft, plan: &mut Plan) {
    match draft.text("recompute").unwrap_or("none") {
        "full" => plan.stages.iter_mut().for_each(|stage| stage.full = stage.layers),
        "full-leading" => {
            let most = draft.count("recompute_layers").unwrap_or(1);
            plan.stages.iter_mut().for_each(|stage| stage.full = most.min(stage.layers));
        }
        "full-share" => {
            let every = draft.count("recompute_every").unwrap_or(1).max(1);
            plan.stages.iter_mut().for_each(|stage| stage.full = stage.layers / every);
        }
        "selective" => {
            let names: Vec<&str> = match draft.value("modules") {
                Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            // Norms, and experts' activations, are what a stage's own selective recomputation is.
            let own = names.is_empty()
                || (names.contains(&"layernorm") && names.iter().all(|name| ["layernorm", "moe_act"].contains(name)));
            if own {
                plan.stages.iter_mut().for_each(|stage| stage.selective = stage.layers);
                return;
            }
            let known = |name: &&str| RecomputeModule::ALL.into_iter().find(|module| module.name() == *name);
            let modules = names.iter().filter_map(known).filter(|module| module.is_of(&plan.job.model));
            plan.recompute_modules = modules.collect();
        }
        _ => {}
    }
}
