//! Megatron-LM: a command line for `pretrain_gpt.py`, `pretrain_bert.py` or `pretrain_t5.py`.
//!
//! In: a launch. Out: arrays of arguments by what they are about, and the command.
//!
//! Uneven stages are `--pipeline-model-parallel-layout`, ZeRO-1 the distributed optimizer, ZeRO-2 and 3 Megatron-FSDP.

use meshwright_hardware::mesh::{Axis, Order};
use meshwright_hardware::profile::DeviceKind;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::OptimizerName;
use meshwright_planner::plan::Plan;
use meshwright_planner::schedule::Schedule;

use super::script::{script, tf32, torchrun};
use super::{About, Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::{Section, Whence, bash_arrays, bash_words};
use meshwright_planner::ability::{Ability, Families, Losses, Reach};

mod model;

/// The engine.
pub struct MegatronLm;

static ABOUT: About = About {
    name: "megatron-lm",
    title: "Megatron-LM",
    version: "megatron-core 0.19.2",
    dated: "2026-11",
    stacks: &["megatron", "megascale", "nemo-20"],
    usual_stack: "megatron-core",
    devices: &[DeviceKind::Gpu],
    ability: Ability {
        engine: "Megatron-LM",
        tp: [true, true],
        cp: [true, true],
        ep: [true, true],
        schedules: &[(Schedule::OneFOneB, true)],
        uneven: true,
        zero: &[0, 1, 2, 3],
        zero_in_pipelines: &[0, 1],
        hybrid: true,
        full: Reach::Leading,
        selective: Reach::Everywhere,
        precisions: &[
            Precision::Fp32,
            Precision::Tf32,
            Precision::Bf16,
            Precision::Fp16,
            Precision::Fp8,
            Precision::Fp4,
        ],
        optimizers: &[OptimizerName::AdamW, OptimizerName::Sgd, OptimizerName::SgdMomentum],
        optimizer_on_host: true,
        orders: &[Order::TpDataPp, Order::TpPpData],
        models: Families {
            gpt2: true,
            llama: true,
            experts: true,
            latent: true,
            encoder: true,
            encoder_decoder: true,
            parallel_block: false,
        },
        rules,
    },
    log: "`elapsed time per iteration (ms)` of the last rank's output",
};

/// Decisions that cannot stand beside each other.
fn rules(plan: &mut Plan, losses: &mut Losses) {
    if plan.job.target() > 0 && plan.mesh.pp > 1 {
        losses.never("pipeline stages of an encoder-decoder, which megatron-core has none of since 0.12");
    }
    if plan.mesh.order == Order::TpPpData && plan.mesh.cp > 1 {
        losses.instead("context parallelism outside the pipeline", "ranks by tp-data-pp");
        plan.mesh.order = Order::default();
    }
    if plan.chunks > 1 && !plan.microbatches().is_multiple_of(plan.mesh.pp) {
        let (microbatches, pp) = (plan.microbatches(), plan.mesh.pp);
        losses.never(format!("{microbatches} microbatches interleaved over {pp} stages: they have to be a multiple"));
    }
    if plan.mesh.ep > 1 && plan.mesh.tp > 1 && !plan.sequence_parallel {
        losses.instead("experts beside tensor parallelism without sequence parallelism", "sequence parallelism");
        plan.sequence_parallel = true;
    }
    let (warmup, steps) = (plan.job.optimizer.warmup_steps, plan.job.steps);
    if warmup >= steps && warmup > 0 {
        losses.instead(format!("warm-up of {warmup} steps of {steps}"), format!("of {}", steps - 1));
        plan.job.optimizer.warmup_steps = steps - 1;
    }
}

impl Engine for MegatronLm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, launch: &Launch) -> Vec<Section> {
        let mut all = model::sections(launch);
        all.extend([parallelism(launch), batch(launch), memory(launch), precision(launch), optimizer(launch)]);
        let mut watch = Section::new("WATCH", Whence::Engine);
        watch.int("--log-interval", 1).flag("--log-throughput", true).int("--eval-iters", 0);
        all.push(watch);
        all
    }

    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile> {
        let entry = model::entry(launch);
        let data = "if [[ -n \"$DATA_PATH\" ]]; then\n  DATA=(--data-path $DATA_PATH --split 99,1,0 --tokenizer-type HuggingFaceTokenizer --tokenizer-model \"$TOKENIZER\")\nelse\n  DATA=(--mock-data --tokenizer-type NullTokenizer)\nfi\nif [[ -n \"$CHECKPOINTS\" ]]; then\n  DATA+=(--save \"$CHECKPOINTS\" --load \"$CHECKPOINTS\" --save-interval 1000)\nfi";
        let command =
            format!("exec {}\"$MEGATRON/{entry}\" {} \"${{DATA[@]}}\"", torchrun(launch), bash_words(settings));
        vec![script(self, launch, &format!("{}{data}\n\n{command}", bash_arrays(settings)))]
    }

    fn environment(&self, launch: &Launch) -> Vec<Variable> {
        let plan = &launch.plan;
        let mut all: Vec<Variable> = tf32(launch).into_iter().collect();
        // Megatron-FSDP wants several queues; so do devices since Blackwell, which order kernels by priority.
        if (plan.mesh.tp > 1 || plan.mesh.cp > 1) && plan.zero < 2 && !launch.narrow() {
            let why = "so that collectives are issued before the kernels they overlap with";
            all.push(Variable { name: "CUDA_DEVICE_MAX_CONNECTIONS", value: "1".to_owned(), why });
        }
        all
    }

    fn yours(&self) -> &'static [Placeholder] {
        &[
            Placeholder {
                name: "MEGATRON",
                until: "Megatron-LM",
                what: "a clone of NVIDIA/Megatron-LM at core_v0.19.2",
            },
            Placeholder { name: "DATA_PATH", until: "", what: "prefix of .bin and .idx files; without it mock data" },
            Placeholder { name: "TOKENIZER", until: "", what: "a Hugging Face tokenizer, for DATA_PATH" },
            Placeholder { name: "CHECKPOINTS", until: "", what: "folder of checkpoints; without it none are written" },
        ]
    }

    fn notes(&self, launch: &Launch) -> Vec<String> {
        let mut notes = Vec::new();
        if launch.selective() {
            notes.push(
                "Selective recomputation is of norms, and of experts' activations; Megatron-LM keeps the activations of dense layers, \
                 which the plan makes again: memory may be higher by these."
                    .to_owned(),
            );
        }
        if model::entry(launch) != "pretrain_gpt.py" {
            notes.push(format!("`{}` has no mock data: set DATA_PATH and TOKENIZER.", model::entry(launch)));
        }
        if launch.plan.job.seed == 0 {
            notes.push("Megatron-LM's seeds begin at 1; the plan's 0 is written as 1.".to_owned());
        }
        if launch.plan.job.precision == Precision::Fp4 {
            notes.push("NVFP4 needs Transformer Engine 2.7 or later and a Blackwell.".to_owned());
        }
        if launch.plan.job.target() > 0 && !launch.plan.job.model.learned_positions() {
            notes.push("Relative positions are T5's; their table is not priced.".to_owned());
        }
        notes
    }
}

/// How layers are laid over virtual stages: `Et*3|t*4|…|t*3L`.
fn layout(layers: &[usize]) -> String {
    let last = layers.len() - 1;
    let part = |(stage, &layers): (usize, &usize)| {
        let own = match layers {
            0 => String::new(),
            1 => "t".to_owned(),
            many => format!("t*{many}"),
        };
        let (first, end) = (if stage == 0 { "E" } else { "" }, if stage == last { "L" } else { "" });
        // What stands alone needs no comma, what follows a repetition does not either.
        format!("{first}{own}{end}")
    };
    layers.iter().enumerate().map(part).collect::<Vec<_>>().join("|")
}

fn parallelism(launch: &Launch) -> Section {
    let plan = &launch.plan;
    let mesh = plan.mesh;
    let mut section = Section::new("PARALLELISM", Whence::Plan);
    section.int("--tensor-model-parallel-size", mesh.tp).int("--pipeline-model-parallel-size", mesh.pp);
    if mesh.cp > 1 {
        section.int("--context-parallel-size", mesh.cp);
        section.text("--cp-comm-type", if plan.ring { "p2p" } else { "all_gather" });
    }
    section.flag("--sequence-parallel", plan.shards_tokens());
    if plan.job.model.experts().is_some() {
        section.int("--expert-model-parallel-size", mesh.ep);
        section.int("--expert-tensor-parallel-size", mesh.etp.unwrap_or(mesh.tp));
    }
    if !launch.even() {
        section.text("--pipeline-model-parallel-layout", layout(&launch.layers()));
    } else if plan.chunks > 1 {
        section.int("--num-virtual-stages-per-pipeline-rank", plan.chunks);
    }
    section.flag("--use-tp-pp-dp-mapping", mesh.order == Order::TpPpData);
    zero(launch, &mut section);
    section
}

/// What is sharded over replicas, and what runs beside that.
fn zero(launch: &Launch, section: &mut Section) {
    let plan = &launch.plan;
    let sharded = ["no_shard", "optim", "optim_grads", "optim_grads_params"][usize::from(plan.zero.min(3))];
    section.flag("--use-distributed-optimizer", plan.zero > 0);
    if plan.zero > 1 {
        section.flag("--use-megatron-fsdp", true).text("--data-parallel-sharding-strategy", sharded);
        section.text("--ckpt-format", "fsdp_dtensor");
    }
    if plan.zero > 0 && plan.mesh.is_hybrid() {
        section.int("--num-distributed-optimizer-instances", plan.mesh.size(Axis::Replica));
    }
    section.flag("--overlap-grad-reduce", plan.mesh.data() > 1);
    section.flag("--overlap-param-gather", plan.mesh.data() > 1 && plan.zero > 0);
}

fn batch(launch: &Launch) -> Section {
    let job = &launch.plan.job;
    let mut section = Section::new("BATCH", Whence::Job);
    section.int("--micro-batch-size", launch.plan.microbatch).int("--global-batch-size", job.global_batch);
    section.int("--train-iters", job.steps).int("--seed", job.seed.max(1) as usize);
    section
}

fn memory(launch: &Launch) -> Section {
    let mut section = Section::new("MEMORY", Whence::Plan);
    if launch.full() > 0 {
        section.text("--recompute-granularity", "full").text("--recompute-method", "block");
        section.int("--recompute-num-layers", launch.full());
    } else if launch.selective() {
        let mut modules = vec!["layernorm".to_owned()];
        modules.extend(launch.plan.job.model.experts().map(|_| "moe_act".to_owned()));
        section.text("--recompute-granularity", "selective");
        section.set("--recompute-modules", crate::setting::Word::List(modules));
    }
    if launch.plan.job.optimizer.offload {
        section.flag("--optimizer-cpu-offload", true).flag("--use-precision-aware-optimizer", true);
    }
    if launch.plan.job.cuda_graphs {
        section.text("--cuda-graph-impl", "local");
    }
    section
}

fn precision(launch: &Launch) -> Section {
    let mut section = Section::new("PRECISION", Whence::Job);
    match launch.plan.job.precision {
        Precision::Fp32 | Precision::Tf32 => {}
        Precision::Fp16 => drop(section.flag("--fp16", true)),
        Precision::Fp8 => {
            let recipe = if launch.narrow() { "mxfp8" } else { "tensorwise" };
            section.flag("--bf16", true).text("--fp8-format", "hybrid").text("--fp8-recipe", recipe);
        }
        Precision::Fp4 => drop(section.flag("--bf16", true).text("--fp4-format", "e2m1")),
        Precision::Bf16 | Precision::Int8 => drop(section.flag("--bf16", true)),
    }
    section
}

fn optimizer(launch: &Launch) -> Section {
    let o = &launch.plan.job.optimizer;
    let mut section = Section::new("OPTIMIZER", Whence::Job);
    match o.name {
        OptimizerName::Sgd => drop(section.text("--optimizer", "sgd").float("--sgd-momentum", 0.0)),
        OptimizerName::SgdMomentum => drop(section.text("--optimizer", "sgd").float("--sgd-momentum", o.beta1)),
        _ => {
            section.text("--optimizer", "adam").float("--adam-beta1", o.beta1).float("--adam-beta2", o.beta2);
            section.float("--adam-eps", o.eps);
        }
    }
    section.float("--lr", o.lr).float("--min-lr", o.min_lr).text("--lr-decay-style", "cosine");
    section.int("--lr-warmup-iters", o.warmup_steps);
    section.float("--weight-decay", o.weight_decay).float("--clip-grad", o.clip);
    section
}
