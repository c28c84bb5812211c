//! Hugging Face Accelerate with FSDP2: its YAML, a `config.json`, and a training script.
//!
//! In: a launch. Out: `accelerate.yaml`, `config.json`, `train.py`, and the command.
//!
//! Axes and what is sharded are the YAML's; batch and optimizer the script's, which reads them from `plan.json` beside it. Tensor
//! parallelism is left out: transformers cuts weights over it only as it loads them.

use meshwright_hardware::mesh::{Axis, Order};
use meshwright_hardware::profile::DeviceKind;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::OptimizerName;
use meshwright_planner::plan::Plan;

use super::hugging_face;
use super::script::{script, stamp, tf32};
use super::{About, Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::{Section, Whence, json_object};
use meshwright_planner::ability::{Ability, Families, Losses, Reach};

/// The engine.
pub struct Accelerate;

/// The script that trains.
const TRAIN: &str = include_str!("accelerate/train.py");

static ABOUT: About = About {
    name: "accelerate",
    title: "Hugging Face Accelerate, FSDP2",
    version: "accelerate 1.15.0 and transformers 5.23.0",
    dated: "2026-11",
    stacks: &["fsdp", "torchtune", "llm-foundry", "nemo-automodel"],
    usual_stack: "nemo-automodel",
    devices: &[DeviceKind::Gpu],
    ability: Ability {
        engine: "Hugging Face Accelerate, FSDP2",
        tp: [false, false],
        cp: [true, false],
        ep: [false, false],
        schedules: &[],
        uneven: false,
        zero: &[0, 2, 3],
        zero_in_pipelines: &[],
        hybrid: true,
        full: Reach::Everywhere,
        selective: Reach::Nowhere,
        precisions: &[Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp16],
        optimizers: &[OptimizerName::AdamW, OptimizerName::Sgd, OptimizerName::SgdMomentum],
        optimizer_on_host: false,
        orders: &[Order::TpDataPp],
        models: Families {
            gpt2: true,
            llama: true,
            experts: true,
            latent: false,
            encoder: true,
            encoder_decoder: true,
            parallel_block: false,
        },
        rules,
    },
    log: "`step_time` on each line",
};

/// Decisions that cannot stand beside each other.
fn rules(plan: &mut Plan, losses: &mut Losses) {
    hugging_face::fit(&mut plan.job, losses);
    let cp = plan.mesh.cp;
    if plan.zero == 0 && cp > 1 {
        losses.instead("context parallelism without sharded weights", "ZeRO-2");
        plan.zero = 2;
    }
    if plan.zero == 0 && plan.stages.iter().any(|stage| stage.full > 0) && plan.mesh.ranks() > 1 {
        losses.instead("recomputation without sharded weights", "ZeRO-2");
        plan.zero = 2;
    }
    if plan.zero > 0 && plan.mesh.is_hybrid() && !plan.mesh.shard.is_none_or(|shard| shard.is_multiple_of(cp)) {
        losses.instead("ZeRO over a part of a context's ranks", "ZeRO over all replicas");
        plan.mesh.shard = None;
    }
    if cp > 1 && (!plan.job.model.causal() || plan.job.target() > 0) {
        losses.never("context parallelism of what is no decoder");
    }
    if std::mem::take(&mut plan.job.cuda_graphs) {
        losses.instead("CUDA graphs", "kernels launched one by one");
    }
}

impl Engine for Accelerate {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, launch: &Launch) -> Vec<Section> {
        vec![parallelism(launch), batch(launch)]
    }

    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile> {
        let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).expect("it is plain") + "\n";
        let [axes, batch] = settings else { unreachable!("two sections") };
        // JSON is YAML; a comment says which release reads it.
        let yaml = format!("# {}\n{}", stamp(self), pretty(&json_object(std::slice::from_ref(axes))));
        let model = hugging_face::config(&launch.plan.job, launch.dropout());
        let command = "export DATA TOKENIZER CHECKPOINTS\nexec accelerate launch --config_file accelerate.yaml --num_machines \"$NNODES\" --machine_rank \"$NODE_RANK\" \\\n  --main_process_ip \"$MASTER_ADDR\" --main_process_port \"$MASTER_PORT\" train.py";
        vec![
            script(self, launch, command),
            TextFile::new("accelerate.yaml", yaml),
            TextFile::new("config.json", pretty(&model)),
            TextFile::new("plan.json", pretty(&json_object(std::slice::from_ref(batch)))),
            TextFile::new("train.py", format!("\"\"\"{}\n{TRAIN}", stamp(self))),
        ]
    }

    fn environment(&self, launch: &Launch) -> Vec<Variable> {
        tf32(launch).into_iter().collect()
    }

    fn yours(&self) -> &'static [Placeholder] {
        &[
            Placeholder { name: "DATA", until: "", what: "text files, one glob; without it random tokens" },
            Placeholder { name: "TOKENIZER", until: "", what: "a Hugging Face tokenizer, for DATA" },
            Placeholder { name: "CHECKPOINTS", until: "", what: "folder of checkpoints; without it none are written" },
        ]
    }

    fn notes(&self, launch: &Launch) -> Vec<String> {
        let mut notes = Vec::new();
        if launch.plan.job.target() > 0 {
            notes.push("Relative positions are T5's; their table is not priced.".to_owned());
        }
        notes
    }
}

fn parallelism(launch: &Launch) -> Section {
    let (plan, mesh) = (&launch.plan, launch.plan.mesh);
    let mut section = Section::new("axes", Whence::Plan);
    let sharded = plan.zero > 0;
    let kind = match (sharded, launch.ranks()) {
        (true, _) => "FSDP",
        (false, 1) => "NO",
        (false, _) => "MULTI_GPU",
    };
    section.text("compute_environment", "LOCAL_MACHINE").text("distributed_type", kind);
    section.text(
        "mixed_precision",
        match plan.job.precision {
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
            _ => "no",
        },
    );
    section.int("num_machines", launch.nodes).int("num_processes", launch.ranks()).int("machine_rank", 0);
    section.text("rdzv_backend", "static").bool("same_network", true).text("main_training_function", "main");
    if sharded {
        let layer = hugging_face::classes(&plan.job).layer;
        section.int("fsdp_config.fsdp_version", 2);
        section.text("fsdp_config.fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP");
        section.text("fsdp_config.fsdp_transformer_layer_cls_to_wrap", layer);
        section.bool("fsdp_config.fsdp_reshard_after_forward", plan.zero == 3);
        section.text("fsdp_config.fsdp_state_dict_type", "SHARDED_STATE_DICT");
        section.bool("fsdp_config.fsdp_activation_checkpointing", launch.full() > 0);
        section.bool("fsdp_config.fsdp_cpu_ram_efficient_loading", false);
        section.bool("fsdp_config.fsdp_offload_params", false);
        let replicas = mesh.size(Axis::Replica);
        section.int("parallelism_config.parallelism_config_dp_replicate_size", replicas);
        section.int("parallelism_config.parallelism_config_dp_shard_size", mesh.dp / replicas);
        section.int("parallelism_config.parallelism_config_tp_size", mesh.tp);
        section.int("parallelism_config.parallelism_config_cp_size", mesh.cp);
        if mesh.cp > 1 {
            section.text("parallelism_config.parallelism_config_cp_comm_strategy", "allgather");
        }
    }
    section
}

fn batch(launch: &Launch) -> Section {
    let (plan, job, o) = (&launch.plan, &launch.plan.job, &launch.plan.job.optimizer);
    let mut section = Section::new("batch", Whence::Job);
    section.int("sequence", job.seq).int("target_sequence", job.target()).int("microbatch", plan.microbatch);
    section.int("accumulation", plan.microbatches()).int("global_batch", job.global_batch).int("steps", job.steps);
    section.int("seed", usize::try_from(job.seed).unwrap_or(0)).text("class", hugging_face::classes(job).trains);
    let alone = plan.zero == 0 && launch.full() > 0;
    section.bool("recompute", alone).text("optimizer", o.name.name()).float("lr", o.lr).float("min_lr", o.min_lr);
    section.int("warmup_steps", o.warmup_steps).float("beta1", o.beta1).float("beta2", o.beta2).float("eps", o.eps);
    section.float("weight_decay", o.weight_decay).float("clip", o.clip);
    section
}
