//! The model in Megatron-LM's arguments.
//!
//! In: a launch. Out: what the model is; its experts; its latent attention; the script that trains it.

use meshwright_planner::job::{Architecture, Experts, Model};

use crate::launch::Launch;
use crate::setting::{Section, Whence};

/// The script that trains a model.
pub fn entry(launch: &Launch) -> &'static str {
    let job = &launch.plan.job;
    if job.target() > 0 {
        "pretrain_t5.py"
    } else if job.model.causal() {
        "pretrain_gpt.py"
    } else {
        "pretrain_bert.py"
    }
}

/// The model's sections.
pub fn sections(launch: &Launch) -> Vec<Section> {
    let mut all = vec![shape(launch)];
    all.extend(launch.plan.job.model.experts().map(|experts| mixture(&launch.plan.job.model, experts)));
    all.extend(latent(&launch.plan.job.model));
    all
}

fn shape(launch: &Launch) -> Section {
    let (job, model) = (&launch.plan.job, &launch.plan.job.model);
    let mut section = Section::new("MODEL", Whence::Job);
    if job.target() > 0 {
        section.int("--encoder-num-layers", model.layers).int("--decoder-num-layers", model.depth() - model.layers);
        section.int("--encoder-seq-length", job.seq).int("--decoder-seq-length", job.target());
    } else {
        section.int("--num-layers", model.layers).int("--seq-length", job.seq);
    }
    section.int("--max-position-embeddings", job.positions()).int("--hidden-size", model.hidden);
    section.int("--ffn-hidden-size", model.ffn).int("--num-attention-heads", model.heads);
    if model.kv_heads != model.heads {
        section.flag("--group-query-attention", true).int("--num-query-groups", model.kv_heads);
    }
    if model.head_dim() * model.heads != model.hidden {
        section.int("--kv-channels", model.head_dim());
    }
    section.flag("--swiglu", model.gated());
    if model.architecture == Architecture::Llama {
        section.text("--normalization", "RMSNorm").flag("--disable-bias-linear", true);
    }
    positions(model, job.target() > 0, &mut section);
    section.flag("--untie-embeddings-and-output-weights", !model.tied);
    section.float("--attention-dropout", launch.dropout()).float("--hidden-dropout", launch.dropout());
    if launch.hardware.as_ref().is_some_and(|hardware| hardware.unfused) {
        section.text("--attention-backend", "unfused");
    }
    section.int("--vocab-size", model.vocab);
    section.int("--make-vocab-size-divisible-by", padding(model, launch.plan.mesh.tp));
    section
}

fn positions(model: &Model, two: bool, section: &mut Section) {
    let kind = match model.architecture {
        _ if model.learned_positions() => "learned_absolute",
        Architecture::Llama => "rope",
        Architecture::Gpt2 if two => "relative",
        Architecture::Gpt2 => "none",
    };
    section.text("--position-embedding-type", kind);
    if kind == "rope" {
        section.int("--rotary-base", model.rope_theta.round() as usize);
    }
}

/// What the table's rows on a rank are a multiple of, so that it is padded as the plan's is: to 128, or not at all.
fn padding(model: &Model, tp: usize) -> usize {
    let rows = model.vocab_on(tp);
    if rows.is_multiple_of(128) { 128 } else { 1 }
}

fn mixture(model: &Model, experts: &Experts) -> Section {
    let mut section = Section::new("EXPERTS", Whence::Job);
    section.int("--num-experts", experts.count).int("--moe-router-topk", experts.top_k);
    if let Some(groups) = experts.groups {
        section.int("--moe-router-num-groups", groups.count).int("--moe-router-group-topk", groups.top);
    }
    section.int("--moe-ffn-hidden-size", experts.ffn);
    if experts.shared_ffn > 0 {
        section.int("--moe-shared-expert-intermediate-size", experts.shared_ffn);
    }
    let routed: Vec<bool> = (0..model.depth()).map(|layer| model.kind(layer).experts).collect();
    if !routed.iter().all(|routed| *routed) {
        section.text("--moe-layer-freq", frequency(&routed));
    }
    section.flag("--moe-grouped-gemm", true).text("--moe-token-dispatcher-type", "alltoall");
    if experts.balance > 0.0 {
        section.text("--moe-router-load-balancing-type", "aux_loss").float("--moe-aux-loss-coeff", experts.balance);
    } else {
        section.text("--moe-router-load-balancing-type", "none");
    }
    if !experts.is_dropless() {
        section.float("--moe-expert-capacity-factor", experts.capacity as f32);
        section.flag("--moe-pad-expert-input-to-capacity", true);
    }
    section
}

/// Which layers have experts, as a list in Python: runs of layers alike.
fn frequency(routed: &[bool]) -> String {
    let run = |layers: &[bool]| format!("[{}]*{}", usize::from(layers[0]), layers.len());
    routed.chunk_by(|a, b| a == b).map(run).collect::<Vec<_>>().join("+")
}

fn latent(model: &Model) -> Option<Section> {
    let latent = model.family.as_ref()?.latent.as_ref()?;
    let mut section = Section::new("LATENT", Whence::Job);
    section.flag("--multi-latent-attention", true);
    if latent.q_rank > 0 {
        section.int("--q-lora-rank", latent.q_rank);
    }
    section.int("--kv-lora-rank", latent.kv_rank).int("--qk-head-dim", latent.nope);
    section.int("--qk-pos-emb-head-dim", latent.rope).int("--v-head-dim", latent.value);
    Some(section)
}
