//! MaxText: a YAML of its own over `base.yml`, with each axis cut into what lies within a node (ici) and between nodes (dcn).
//!
//! In: a launch. Out: `maxtext.yml`, and the command.
//!
//! ZeRO-3 is the fsdp axis, ZeRO-1 the data axis with its optimizer sharded. A pipeline is one program over all stages: GPipe.

use meshwright_hardware::mesh::{Axis, Mesh, Order};
use meshwright_hardware::profile::DeviceKind;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, DROPLESS, OptimizerName};
use meshwright_planner::plan::Plan;
use meshwright_planner::schedule::Schedule;

use super::script::{script, stamp};
use super::{About, Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::{Section, Whence, Word, yaml};
use meshwright_planner::ability::{Ability, Families, Losses, Reach};

/// The engine.
pub struct MaxText;

/// Its configuration.
const CONFIG: &str = "maxtext.yml";

static ABOUT: About = About {
    name: "maxtext",
    title: "MaxText",
    version: "maxtext 0.2.5",
    dated: "2026-11",
    stacks: &["maxtext", "t5x"],
    usual_stack: "maxtext",
    devices: &[DeviceKind::Gpu, DeviceKind::Tpu],
    ability: Ability {
        engine: "MaxText",
        tp: [true, true],
        cp: [true, true],
        ep: [true, false],
        schedules: &[(Schedule::GPipe, false)],
        uneven: false,
        zero: &[0, 1, 3],
        zero_in_pipelines: &[0, 1, 3],
        hybrid: true,
        full: Reach::Everywhere,
        selective: Reach::Everywhere,
        precisions: &[Precision::Fp32, Precision::Bf16, Precision::Fp8, Precision::Int8],
        optimizers: &[OptimizerName::AdamW],
        optimizer_on_host: true,
        orders: &[Order::TpDataPp],
        models: Families {
            gpt2: true,
            llama: true,
            experts: true,
            latent: false,
            encoder: false,
            encoder_decoder: false,
            parallel_block: false,
        },
        rules,
    },
    log: "`seconds`, on lines that begin with `completed step:`",
};

/// Decisions that cannot stand beside each other.
fn rules(plan: &mut Plan, losses: &mut Losses) {
    fit_model(plan, losses);
    let Mesh { cp, ep, pp, .. } = plan.mesh;
    if pp > 1 && !plan.microbatches().is_multiple_of(pp) {
        losses.never(format!("{} microbatches over {pp} stages: they have to be a multiple", plan.microbatches()));
    }
    if plan.zero > 0 && plan.mesh.is_hybrid() {
        if plan.zero == 1 {
            losses.instead("ZeRO-1 over a part of the replicas", "ZeRO-3 over it");
            plan.zero = 3;
        }
        if !plan.mesh.shard.is_none_or(|shard| shard.is_multiple_of(cp * ep)) {
            losses.instead("ZeRO over a part of a context's or of the experts' ranks", "ZeRO over all replicas");
            plan.mesh.shard = None;
        }
    }
    if !plan.mesh.dp.is_multiple_of(ep) {
        losses.never(format!(
            "experts over {ep} ranks, some of one context: they have to divide the {} replicas",
            plan.mesh.dp
        ));
    }
    if plan.zero < 3 && cp * ep > 1 {
        losses.instead("context or expert parallelism without sharded weights", "ZeRO-3");
        plan.zero = 3;
    }
    if std::mem::take(&mut plan.job.cuda_graphs) {
        losses.instead("CUDA graphs", "what XLA makes of kernels");
    }
    if plan.job.precision == Precision::Fp8 && pp == 1 && plan.microbatches() > 1 {
        losses.instead("fp8 beside gradient accumulation", "bf16");
        plan.job.precision = Precision::Bf16;
    }
    let (warmup, steps) = (plan.job.optimizer.warmup_steps, plan.job.steps);
    if warmup > steps {
        losses.instead(format!("warm-up of {warmup} steps of {steps}"), format!("of {steps}"));
        plan.job.optimizer.warmup_steps = steps;
    }
}

impl Engine for MaxText {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, launch: &Launch) -> Vec<Section> {
        vec![model(launch), parallelism(launch), batch(launch), memory(launch), optimizer(launch), watch(launch)]
    }

    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile> {
        let head = format!("# {}\n# {}\nbase_config: \"base.yml\"\n", stamp(self), launch.plan.summary());
        let command = format!(
            "if (( NNODES > 1 )); then\n  export NNODES NODE_RANK JAX_COORDINATOR_IP=\"$MASTER_ADDR\" JAX_COORDINATOR_PORT=\"$MASTER_PORT\"\nfi\n\
             exec python3 -m maxtext.trainers.pre_train.train {CONFIG} run_name=\"$RUN\" base_output_directory=\"$OUTPUT\" $DATA"
        );
        vec![script(self, launch, &command), TextFile::new(CONFIG, head + &yaml(settings))]
    }

    fn environment(&self, launch: &Launch) -> Vec<Variable> {
        if launch.on_tpus() {
            return Vec::new();
        }
        let scheduler = "--xla_gpu_enable_latency_hiding_scheduler=true";
        let why = "so that collectives run beside kernels, as priced";
        let share = "what a plan may take of a device's memory; JAX allocates it at once";
        vec![
            Variable { name: "XLA_FLAGS", value: scheduler.to_owned(), why },
            Variable { name: "XLA_PYTHON_CLIENT_MEM_FRACTION", value: "0.94".to_owned(), why: share },
        ]
    }

    fn yours(&self) -> &'static [Placeholder] {
        &[
            Placeholder { name: "RUN", until: "plan", what: "name of the run" },
            Placeholder { name: "OUTPUT", until: "output", what: "folder or gs:// bucket of logs and checkpoints" },
            Placeholder {
                name: "DATA",
                until: "",
                what: "such as 'dataset_type=hf hf_path=… tokenizer_path=…'; without it synthetic tokens",
            },
        ]
    }

    fn notes(&self, launch: &Launch) -> Vec<String> {
        let mut notes = vec!["Weight decay is of all parameters here, of matrices alone in the plan.".to_owned()];
        if launch.plan.mesh.pp > 1 && launch.plan.zero < 3 {
            notes.push("Replicas lie outside the pipeline here, inside it in the plan.".to_owned());
        }
        notes
    }
}

fn fit_model(plan: &mut Plan, losses: &mut Losses) {
    let gpt = plan.job.model.architecture == Architecture::Gpt2;
    let model = &mut plan.job.model;
    if model.learned_positions() != gpt || model.gated() == gpt {
        losses.never("positions or gates unlike those of the usual decoder of its architecture");
    }
    if gpt && model.kv_heads != model.heads {
        losses.never("grouped keys and values in GPT-3's layers");
    }
    let Some(experts) = model.family.as_mut().and_then(|family| family.experts.as_mut()) else { return };
    if experts.every > 1 || experts.dense_layers > 0 || experts.shared_ffn > 0 || experts.groups.is_some() {
        losses.never("experts in some layers alone, in groups, or beside shared ones");
    }
    if gpt {
        losses.never("experts in GPT-3's layers");
    }
}

fn model(launch: &Launch) -> Section {
    let (job, model) = (&launch.plan.job, &launch.plan.job.model);
    let gpt = model.architecture == Architecture::Gpt2;
    let mut section = Section::new("model", Whence::Job);
    let block = if gpt {
        "gpt3"
    } else if model.experts().is_some() {
        "mixtral"
    } else {
        "llama2"
    };
    section.text("decoder_block", block).int("base_num_decoder_layers", model.layers);
    section.int("base_emb_dim", model.hidden).int("base_mlp_dim", model.ffn);
    section.int("base_num_query_heads", model.heads).int("base_num_kv_heads", model.kv_heads);
    section.int("head_dim", model.head_dim()).int("vocab_size", model.vocab);
    section.bool("logits_via_embedding", model.tied).bool("enable_dropout", false);
    if gpt {
        section.set("mlp_activations", Word::List(vec!["gelu".into()]));
        section.int("trainable_position_size", job.positions());
        section.bool("fused_qkv", true).bool("normalize_embedding_logits", false);
    } else {
        section.set("mlp_activations", Word::List(vec!["silu".into(), "linear".into()]));
        section.int("rope_max_timescale", model.rope_theta.round() as usize);
    }
    if let Some(experts) = model.experts() {
        section.int("num_experts", experts.count).int("num_experts_per_tok", experts.top_k);
        section.int("base_moe_mlp_dim", experts.ffn);
        let dropless = experts.capacity == DROPLESS;
        section.bool("sparse_matmul", dropless).bool("megablox", dropless);
        section.float("capacity_factor", if dropless { -1.0 } else { experts.capacity as f32 });
        section.float("load_balance_loss_weight", experts.balance);
    }
    section
}

/// Axes in the order in which they vary over ranks, fastest first: name, and size.
fn axes(plan: &Plan) -> Vec<(&'static str, usize)> {
    let Mesh { tp, cp, ep, pp, .. } = plan.mesh;
    let shards = if plan.zero == 3 { plan.mesh.size(Axis::Shard) / (cp * ep) } else { 1 };
    let replicas = plan.mesh.data() / (cp * ep * shards);
    let tensor = if plan.shards_tokens() { "tensor_sequence" } else { "tensor" };
    vec![(tensor, tp), ("context", cp), ("expert", ep), ("fsdp", shards), ("data", replicas), ("pipeline", pp)]
}

fn parallelism(launch: &Launch) -> Section {
    let plan = &launch.plan;
    let mut section = Section::new("parallelism", Whence::Plan);
    section.int("num_slices", launch.nodes);
    let mut left = launch.per_node;
    for (axis, size) in axes(plan) {
        let inside = (1..=size).rev().find(|inside| left.is_multiple_of(*inside) && size.is_multiple_of(*inside));
        let inside = inside.unwrap_or(1);
        left /= inside;
        section.int(&format!("ici_{axis}_parallelism"), inside);
        section.int(&format!("dcn_{axis}_parallelism"), size / inside);
    }
    if plan.mesh.cp > 1 {
        section.text("context_parallel_strategy", if plan.ring { "ring" } else { "all_gather" });
    }
    if plan.mesh.pp > 1 {
        section.int("num_layers_per_pipeline_stage", plan.stages[0].layers);
        section.int("num_pipeline_microbatches", plan.microbatches());
    }
    section.bool("shard_optimizer_over_data", plan.zero == 1);
    section
}

fn batch(launch: &Launch) -> Section {
    let (plan, job) = (&launch.plan, &launch.plan.job);
    let mut section = Section::new("batch and precision", Whence::Job);
    // All microbatches of a pipeline are one batch.
    let steps = if plan.mesh.pp > 1 { 1 } else { plan.microbatches() };
    section.float("per_device_batch_size", job.global_batch as f32 / (steps * launch.ranks()) as f32);
    section.int("gradient_accumulation_steps", steps).int("max_target_length", job.seq).int("steps", job.steps);
    section.text("dtype", if job.precision == Precision::Fp32 { "float32" } else { "bfloat16" });
    section.text("weight_dtype", "float32").text("grad_dtype", "float32");
    section.text("matmul_precision", if job.precision == Precision::Fp32 { "highest" } else { "default" });
    let narrow = match job.precision {
        Precision::Fp8 => "fp8",
        Precision::Int8 => "int8",
        _ => "",
    };
    section.text("quantization", narrow).int("init_weights_seed", usize::try_from(job.seed).unwrap_or(0));
    section
}

fn memory(launch: &Launch) -> Section {
    let mut section = Section::new("memory", Whence::Plan);
    let policy = match (launch.full() > 0, launch.selective()) {
        (true, _) => "full",
        // Keeps products of matrices and attention's outputs.
        (_, true) => "minimal_with_context",
        _ => "none",
    };
    section.text("remat_policy", policy);
    section.bool("optimizer_memory_host_offload", launch.plan.job.optimizer.offload);
    section
}

fn optimizer(launch: &Launch) -> Section {
    let (job, o) = (&launch.plan.job, &launch.plan.job.optimizer);
    let mut section = Section::new("optimizer", Whence::Job);
    section.text("opt_type", "adamw").float("adam_b1", o.beta1).float("adam_b2", o.beta2).float("adam_eps", o.eps);
    section.float("adam_weight_decay", o.weight_decay).float("gradient_clipping_threshold", o.clip);
    section.float("learning_rate", o.lr).text("lr_schedule_type", "cosine");
    section.float("learning_rate_final_fraction", if o.lr > 0.0 { o.min_lr / o.lr } else { 0.0 });
    section.float("warmup_steps_fraction", o.warmup_steps as f32 / job.steps as f32);
    section
}

fn watch(launch: &Launch) -> Section {
    let mut section = Section::new("run", Whence::Engine);
    section.text("hardware", if launch.on_tpus() { "tpu" } else { "gpu" });
    section.text("dataset_type", "synthetic").bool("enable_checkpointing", false).int("log_period", 10);
    section
}
