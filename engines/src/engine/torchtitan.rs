//! torchtitan: a module of Python that builds a `Trainer.Config`, for `torchtitan.train`.
//!
//! In: a launch. Out: the module, and the command.
//!
//! ZeRO-3 is FSDP that reshards after forward, ZeRO-2 FSDP that does not; stages are lists of modules, so that any split can be
//! said. Experts are Qwen3's, the only ones without shared experts.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::profile::DeviceKind;
use meshwright_hardware::units::Precision;
use meshwright_planner::job::OptimizerName;
use meshwright_planner::plan::Plan;
use meshwright_planner::schedule::Schedule;

use super::script::{script, stamp, tf32, torchrun};
use super::{About, Engine, Placeholder, TextFile, Variable};
use crate::launch::Launch;
use crate::setting::{Section, Setting, Whence, Word};
use meshwright_planner::ability::{Ability, Families, Losses, Reach};

mod model;

/// The engine.
pub struct Torchtitan;

/// The module's file; torchtitan takes its name without the end.
const MODULE: &str = "meshwright_plan";

static ABOUT: About = About {
    name: "torchtitan",
    title: "torchtitan",
    version: "torchtitan 0.3.0",
    dated: "2026-11",
    stacks: &["torchtitan"],
    usual_stack: "torchtitan",
    devices: &[DeviceKind::Gpu],
    ability: Ability {
        engine: "torchtitan",
        tp: [true, true],
        cp: [true, false],
        ep: [false, true],
        schedules: &[(Schedule::OneFOneB, true), (Schedule::GPipe, false), (Schedule::DualPipeV, true)],
        uneven: true,
        zero: &[0, 2, 3],
        zero_in_pipelines: &[0, 2, 3],
        hybrid: true,
        full: Reach::Everywhere,
        selective: Reach::Everywhere,
        precisions: &[Precision::Fp32, Precision::Tf32, Precision::Bf16, Precision::Fp8, Precision::Fp4],
        optimizers: &[OptimizerName::AdamW],
        optimizer_on_host: true,
        orders: &[Order::TpDataPp],
        models: Families {
            gpt2: false,
            llama: true,
            experts: true,
            latent: false,
            encoder: false,
            encoder_decoder: false,
            parallel_block: false,
        },
        rules,
    },
    log: "`tps` a device, on lines that begin with `step:`",
};

/// Decisions that cannot stand beside each other.
fn rules(plan: &mut Plan, losses: &mut Losses) {
    model::fit(plan, losses);
    let Mesh { tp, cp, ep, pp, .. } = plan.mesh;
    if plan.zero == 0 && cp * ep > 1 {
        losses.instead("context or expert parallelism without sharded weights", "ZeRO-2");
        plan.zero = 2;
    }
    if plan.zero > 0 && plan.mesh.is_hybrid() && !plan.mesh.shard.is_none_or(|shard| shard.is_multiple_of(cp)) {
        losses.instead("ZeRO over a part of a context's ranks", "ZeRO over all replicas");
        plan.mesh.shard = None;
    }
    if plan.job.optimizer.offload && plan.zero == 0 {
        losses.instead("an optimizer on the host without sharded weights", "one on the device");
        plan.job.optimizer.offload = false;
    }
    let kv = plan.job.model.kv_heads;
    if !kv.is_multiple_of(tp) {
        losses.never(format!("tensor parallelism of {tp} over {kv} key/value heads: it has to divide them"));
    }
    if pp > 1 && plan.job.model.tied {
        losses.never("a head tied to the embedding, on several pipeline stages");
    }
    if pp > 1 && std::mem::take(&mut plan.job.cuda_graphs) {
        losses.instead("CUDA graphs beside pipeline stages", "kernels launched one by one");
    }
    let rounds = (plan.microbatches() / pp).max(1);
    if plan.chunks > 1 && plan.schedule == Schedule::OneFOneB && !plan.microbatches().is_multiple_of(rounds) {
        losses.never(format!(
            "{} microbatches interleaved over {pp} stages: not {rounds} equal rounds",
            plan.microbatches()
        ));
    }
    let (warmup, steps) = (plan.job.optimizer.warmup_steps, plan.job.steps);
    if warmup > steps {
        losses.instead(format!("warm-up of {warmup} steps of {steps}"), format!("of {steps}"));
        plan.job.optimizer.warmup_steps = steps;
    }
}

impl Engine for Torchtitan {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, launch: &Launch) -> Vec<Section> {
        vec![training(launch), parallelism(launch), memory(launch), optimizer(launch), watch()]
    }

    fn files(&self, launch: &Launch, settings: &[Section]) -> Vec<TextFile> {
        let mut text = format!("\"\"\"{}\n\n{}\n\"\"\"\n\n", stamp(self), launch.plan.summary());
        text += &model::imports(&launch.plan.job);
        text += &model::spec(&launch.plan.job);
        text += "def plan() -> Trainer.Config:\n    spec = model_spec()\n    c = Trainer.Config(\n        model_spec=spec,\n        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec))),\n        dataloader=HuggingFaceTextDataLoader.Config(dataset=os.environ.get(\"DATASET\", \"c4\")),\n        hf_assets_path=os.environ.get(\"TOKENIZER\", \"tokenizer\"),\n    )\n";
        for Section { title, settings, .. } in settings {
            text += &format!("    # {title}\n");
            for Setting { key, value, .. } in settings {
                text += &format!("    c.{key} = {}\n", value.python());
            }
        }
        text += "    return c\n";
        let command = format!(
            "export DATASET TOKENIZER PYTHONPATH=\".${{PYTHONPATH:+:$PYTHONPATH}}\"\nexec {}-m torchtitan.train --module {MODULE} --config plan",
            torchrun(launch)
        );
        vec![script(self, launch, &command), TextFile::new(format!("{MODULE}.py"), text)]
    }

    fn environment(&self, launch: &Launch) -> Vec<Variable> {
        tf32(launch).into_iter().collect()
    }

    fn yours(&self) -> &'static [Placeholder] {
        &[
            Placeholder { name: "TOKENIZER", until: "tokenizer", what: "folder with a Hugging Face tokenizer" },
            Placeholder { name: "DATASET", until: "c4", what: "a data set that torchtitan knows" },
        ]
    }

    fn notes(&self, launch: &Launch) -> Vec<String> {
        let mut notes = vec!["Weight decay is of all parameters here, of matrices alone in the plan.".to_owned()];
        if launch.plan.job.model.experts().is_some() {
            notes.push("Experts are Qwen3's: queries and keys have norms, which are not priced.".to_owned());
        }
        notes
    }
}

fn training(launch: &Launch) -> Section {
    let (plan, job) = (&launch.plan, &launch.plan.job);
    let mut section = Section::new("batch and precision", Whence::Job);
    // All microbatches of a pipeline's step are one local batch.
    let local = if plan.mesh.pp > 1 { plan.microbatch * plan.microbatches() } else { plan.microbatch };
    section.int("training.local_batch_size", local).int("training.global_batch_size", job.global_batch);
    section.int("training.seq_len", job.seq).int("training.steps", job.steps);
    let format = if matches!(job.precision, Precision::Fp32 | Precision::Tf32) { "float32" } else { "bfloat16" };
    section.text("training.mixed_precision_param", format).text("training.mixed_precision_reduce", "float32");
    section.int("debug.seed", usize::try_from(job.seed).unwrap_or(0));
    section
}

fn parallelism(launch: &Launch) -> Section {
    let plan = &launch.plan;
    let Mesh { dp, cp, tp, pp, ep, .. } = plan.mesh;
    let mut section = Section::new("parallelism", Whence::Plan);
    let shard = if plan.zero == 0 { 1 } else { plan.mesh.shard.map_or(dp, |shard| shard / cp) };
    section.int("parallelism.data_parallel_replicate_degree", dp / shard);
    section.int("parallelism.data_parallel_shard_degree", shard);
    let reshard = if plan.zero == 3 { "always" } else { "never" };
    section.text("parallelism.fsdp_reshard_after_forward", reshard);
    section.int("parallelism.tensor_parallel_degree", tp);
    section.bool("parallelism.enable_sequence_parallel", plan.shards_tokens());
    section.int("parallelism.context_parallel_degree", cp).int("parallelism.expert_parallel_degree", ep);
    section.int("parallelism.pipeline_parallel_degree", pp);
    if pp > 1 {
        let name = match plan.schedule {
            Schedule::GPipe => "GPipe",
            Schedule::DualPipeV => "DualPipeV",
            _ if plan.chunks > 1 => "Interleaved1F1B",
            _ => "1F1B",
        };
        section.text("parallelism.pipeline_parallel_schedule", name);
        section.int("parallelism.pipeline_parallel_microbatch_size", plan.microbatch);
        section.set("parallelism.module_fqns_per_model_part", Word::Code(parts(&launch.layers())));
    }
    section
}

/// The modules of each virtual stage, as a list of lists in Python.
fn parts(layers: &[usize]) -> String {
    let mut first = 0;
    let mut lines = Vec::new();
    for (stage, &count) in layers.iter().enumerate() {
        let range = format!("*[f\"layers.{{i}}\" for i in range({first}, {})]", first + count);
        let line = match (stage == 0, stage + 1 == layers.len()) {
            (true, false) => format!("[\"tok_embeddings\", {range}]"),
            (false, true) => format!("[{range}, \"norm\", \"lm_head\"]"),
            (false, false) => format!("[{range}]"),
            (true, true) => format!("[\"tok_embeddings\", {range}, \"norm\", \"lm_head\"]"),
        };
        lines.push(format!("        {line},\n"));
        first += count;
    }
    format!("[\n{}    ]", lines.concat())
}

fn memory(launch: &Launch) -> Section {
    let mut section = Section::new("memory and kernels", Whence::Plan);
    let recompute = match (launch.full() > 0, launch.selective()) {
        (true, _) => "FullAC.Config()",
        (_, true) => "SelectiveAC.Config()",
        _ => "None",
    };
    section.set("activation_checkpoint", Word::Code(recompute.to_owned()));
    section.bool("training.enable_cpu_offload", launch.plan.job.optimizer.offload);
    section.bool("training.disable_cuda_graphs", !launch.plan.job.cuda_graphs);
    section.bool("compile.enable", true);
    section
}

fn optimizer(launch: &Launch) -> Section {
    let o = &launch.plan.job.optimizer;
    let mut section = Section::new("optimizer", Whence::Job);
    let number = |x: f32| Word::Float(x).python();
    let adamw = format!(
        "default_adamw(lr={}, betas=({}, {}), eps={}, weight_decay={})",
        number(o.lr),
        number(o.beta1),
        number(o.beta2),
        number(o.eps),
        number(o.weight_decay)
    );
    section.set("optimizer", Word::Code(adamw)).int("lr_scheduler.warmup_steps", o.warmup_steps);
    section.text("lr_scheduler.decay_type", "cosine");
    section.set("lr_scheduler.min_lr_factor", Word::Code(format!("{} / {}", number(o.min_lr), number(o.lr))));
    let clip = if o.clip > 0.0 { number(o.clip) } else { "float(\"inf\")".to_owned() };
    section.set("training.max_norm", Word::Code(clip));
    section
}

fn watch() -> Section {
    let mut section = Section::new("what is logged", Whence::Engine);
    section.int("metrics.log_freq", 1);
    section
}
