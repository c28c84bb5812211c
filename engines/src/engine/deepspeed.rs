//! DeepSpeed: its JSON, and a command line for Megatron-DeepSpeed's `pretrain_gpt.py`.
//!
//! In: a launch. Out: `deepspeed.json`, and the script.
//!
//! Batch, precision, clipping and ZeRO are DeepSpeed's to say; the model, its axes and the learning rate are the script's.

use meshwright_hardware::mesh::Order;
use meshwright_hardware::profile::DeviceKind;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::{Architecture, OptimizerName};
use meshwright_planner::plan::Plan;
use meshwright_planner::schedule::Schedule;

use super::script::{script, tf32, torchrun};
use super::{About, Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::{Section, Whence, bash_arrays, bash_words, json_object};
use meshwright_planner::ability::{Ability, Families, Losses, Reach};

/// The engine.
pub struct DeepSpeed;

/// Its configuration.
const CONFIG: &str = "deepspeed.json";

static ABOUT: About = About {
    name: "deepspeed",
    title: "DeepSpeed, by Megatron-DeepSpeed",
    version: "deepspeed 0.19.8",
    dated: "2026-11",
    stacks: &["deepspeed", "megatron-deepspeed"],
    usual_stack: "megatron-deepspeed-2023",
    devices: &[DeviceKind::Gpu],
    ability: Ability {
        engine: "DeepSpeed, by Megatron-DeepSpeed",
        tp: [true, true],
        cp: [false, false],
        ep: [false, false],
        schedules: &[(Schedule::OneFOneB, false)],
        uneven: false,
        zero: &[0, 1, 2, 3],
        zero_in_pipelines: &[0, 1],
        hybrid: false,
        full: Reach::Everywhere,
        selective: Reach::Nowhere,
        precisions: &[Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp16],
        optimizers: &[OptimizerName::AdamW],
        optimizer_on_host: true,
        orders: &[Order::TpDataPp],
        models: Families {
            gpt2: true,
            llama: true,
            experts: false,
            latent: false,
            encoder: false,
            encoder_decoder: false,
            parallel_block: false,
        },
        rules,
    },
    log: "`elapsed time per iteration (ms)` of the last rank's output",
};

/// Decisions that cannot stand beside each other.
fn rules(plan: &mut Plan, losses: &mut Losses) {
    let model = &plan.job.model;
    if model.head_dim() * model.heads != model.hidden {
        losses.never("heads that together are not as wide as the model");
    }
    if !model.kv_heads.is_multiple_of(plan.mesh.tp) {
        losses.never(format!("tensor parallelism of {} over {} key/value heads", plan.mesh.tp, model.kv_heads));
    }
    if plan.job.optimizer.offload && plan.zero == 0 {
        losses.instead("an optimizer on the host without ZeRO", "one on the device");
        plan.job.optimizer.offload = false;
    }
    if std::mem::take(&mut plan.job.cuda_graphs) {
        losses.instead("CUDA graphs", "kernels launched one by one");
    }
}

impl Engine for DeepSpeed {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, launch: &Launch) -> Vec<Section> {
        let mut all = vec![configuration(launch)];
        all.extend([model(launch), parallelism(launch), batch(launch), memory(launch), optimizer(launch)]);
        all
    }

    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile> {
        let (config, arguments) = settings.split_first().expect("the configuration comes first");
        let mut json = json_object(std::slice::from_ref(config));
        json["comment"] = super::script::stamp(self).into();
        let json = serde_json::to_string_pretty(&json).expect("it is texts and numbers") + "\n";
        let command = format!(
            "exec {}\"$MEGATRON_DEEPSPEED/pretrain_gpt.py\" {} --deepspeed --deepspeed_config {CONFIG} \\\n  --data-path $DATA_PATH --tokenizer-type HFTokenizer --tokenizer-model \"$TOKENIZER\"",
            torchrun(launch),
            bash_words(arguments)
        );
        let body = format!("{}{command}", bash_arrays(arguments));
        vec![script(self, launch, &body), TextFile::new(CONFIG, json)]
    }

    fn environment(&self, launch: &Launch) -> Vec<Variable> {
        let mut all: Vec<Variable> = tf32(launch).into_iter().collect();
        if launch.plan.mesh.tp > 1 && !launch.narrow() {
            let why = "so that collectives are issued before the kernels they overlap with";
            all.push(Variable { name: "CUDA_DEVICE_MAX_CONNECTIONS", value: "1".to_owned(), why });
        }
        all
    }

    fn yours(&self) -> &'static [Placeholder] {
        &[
            Placeholder {
                name: "MEGATRON_DEEPSPEED",
                until: "Megatron-DeepSpeed",
                what: "a clone of deepspeedai/Megatron-DeepSpeed",
            },
            Placeholder { name: "DATA_PATH", until: "data/text_document", what: "prefix of .bin and .idx files" },
            Placeholder { name: "TOKENIZER", until: "tokenizer", what: "a Hugging Face tokenizer" },
        ]
    }

    fn notes(&self, launch: &Launch) -> Vec<String> {
        let vocab = launch.plan.job.model.vocab;
        vec![format!("The vocabulary is the tokenizer's: it has to have {vocab} tokens.")]
    }
}

/// What stands in the JSON.
fn configuration(launch: &Launch) -> Section {
    let (plan, job) = (&launch.plan, &launch.plan.job);
    let mut section = Section::new("DEEPSPEED", Whence::Plan);
    section.int("train_batch_size", job.global_batch).int("train_micro_batch_size_per_gpu", plan.microbatch);
    section.int("gradient_accumulation_steps", plan.microbatches()).float("gradient_clipping", job.optimizer.clip);
    match job.precision {
        Precision::Bf16 => {
            section.bool("bf16.enabled", true).text("data_types.grad_accum_dtype", "fp32");
        }
        Precision::Fp16 => drop(section.bool("fp16.enabled", true).int("fp16.loss_scale", 0)),
        _ => {}
    }
    section.int("zero_optimization.stage", plan.zero.into());
    if plan.zero > 0 {
        section.bool("zero_optimization.overlap_comm", true).bool("zero_optimization.contiguous_gradients", true);
    }
    if job.optimizer.offload {
        section.text("zero_optimization.offload_optimizer.device", "cpu");
        section.bool("zero_optimization.offload_optimizer.pin_memory", true);
    }
    section.int("steps_per_print", 1).bool("wall_clock_breakdown", false);
    section
}

fn model(launch: &Launch) -> Section {
    let (job, model) = (&launch.plan.job, &launch.plan.job.model);
    let mut section = Section::new("MODEL", Whence::Job);
    section.int("--num-layers", model.layers).int("--hidden-size", model.hidden);
    section.int("--ffn-hidden-size", model.ffn).int("--num-attention-heads", model.heads);
    if model.kv_heads != model.heads {
        section.int("--num-key-value-heads", model.kv_heads);
    }
    section.int("--seq-length", job.seq).int("--max-position-embeddings", job.positions());
    section.flag("--swiglu", model.gated());
    if model.architecture == Architecture::Llama {
        section.text("--normalization", "rmsnorm").flag("--disable-bias-linear", true);
    }
    if !model.learned_positions() {
        section.flag("--use-rotary-position-embeddings", true);
    }
    section.flag("--untie-embeddings-and-output-weights", !model.tied);
    section.float("--attention-dropout", launch.dropout()).float("--hidden-dropout", launch.dropout());
    section.flag("--use-flash-attn-v2", launch.hardware.as_ref().is_none_or(|hardware| !hardware.unfused));
    section
}

fn parallelism(launch: &Launch) -> Section {
    let plan = &launch.plan;
    let mut section = Section::new("PARALLELISM", Whence::Plan);
    section.int("--tensor-model-parallel-size", plan.mesh.tp).int("--pipeline-model-parallel-size", plan.mesh.pp);
    section.flag("--no-pipeline-parallel", plan.mesh.pp == 1).flag("--sequence-parallel", plan.shards_tokens());
    section.int("--zero-stage", plan.zero.into());
    section
}

fn batch(launch: &Launch) -> Section {
    let job = &launch.plan.job;
    let mut section = Section::new("BATCH", Whence::Job);
    section.int("--micro-batch-size", launch.plan.microbatch).int("--global-batch-size", job.global_batch);
    section.int("--train-iters", job.steps).int("--seed", job.seed.max(1) as usize);
    section.flag("--bf16", job.precision == Precision::Bf16).flag("--fp16", job.precision == Precision::Fp16);
    section
}

fn memory(launch: &Launch) -> Section {
    let mut section = Section::new("MEMORY", Whence::Plan);
    let full = launch.full() > 0;
    section.flag("--checkpoint-activations", full).flag("--deepspeed-activation-checkpointing", full);
    section.flag("--cpu-optimizer", launch.plan.job.optimizer.offload);
    section
}

fn optimizer(launch: &Launch) -> Section {
    let o = &launch.plan.job.optimizer;
    let mut section = Section::new("OPTIMIZER", Whence::Job);
    section.text("--optimizer", "adam").float("--adam-beta1", o.beta1).float("--adam-beta2", o.beta2);
    section.float("--adam-eps", o.eps).float("--lr", o.lr).float("--min-lr", o.min_lr);
    section.text("--lr-decay-style", "cosine").int("--lr-warmup-iters", o.warmup_steps);
    section.float("--weight-decay", o.weight_decay).float("--clip-grad", o.clip);
    section.int("--log-interval", 1).int("--eval-iters", 0);
    section
}
