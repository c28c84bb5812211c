//! Valid inputs of every kind.
//!
//! In: files of this project, and texts that stand here. Out: texts by kind.

use std::path::{Path, PathBuf};

use meshwright_engines::engine::ENGINES;
use meshwright_engines::export::export;
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::LAUNCHERS;
use meshwright_hardware::profile::{Cluster, Machine};
use meshwright_planner::plan::Plan;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The texts of these files, or of all files of folders, in the order of their names.
pub fn files(paths: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for path in paths.iter().map(|path| root(path)) {
        if path.is_dir() {
            let mut inside: Vec<PathBuf> =
                std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inside.sort();
            all.extend(inside.into_iter().filter(|path| path.is_file()));
        } else {
            all.push(path);
        }
    }
    all.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Plans of all kinds.
pub fn plans() -> Vec<String> {
    let mut all = files(&["engines/tests/cases", "tests/cases/tiny.toml", "tests/cases/pools-shares.toml"]);
    let sites = "[sites]\ncount = 2\nevery = 100\nfragments = 2\noverlap = 3\nbits = 8\n";
    let halves = all[all.len() - 2]
        .replace("global_batch = 8", "global_batch = 16")
        .replace("[mesh]", &format!("{sites}[mesh]"));
    let two = all[all.len() - 2]
        .replace("layers = 2 }]", "layers = 1 }, { layers = 1, full = 1 }]")
        .replace("pp = 1", "pp = 2");
    all.extend([halves, two]);
    all
}

/// Jobs with every table.
pub fn jobs() -> Vec<String> {
    let small = files(&["tests/cases/small-job.toml"]).remove(0);
    let goal = "[goal]\nobjective = \"cost\"\ndeadline = \"30 d\"\nbudget = \"$2M\"\nheadroom = 0.1\n";
    let more = "[fix]\ntp = 2\nzero = 1\nmicrobatch = 1\n[optimizer]\nlr = 1e-3\nbeta2 = 0.98\n[tuning]\nmethod = \"lora\"\nrank = 8\n";
    let tokens = small.replace("steps = 100000\n", "");
    vec![
        small.clone(),
        format!("{small}{goal}"),
        format!("{small}{more}"),
        format!("{tokens}[goal]\ntokens = \"300 G tokens\"\n"),
    ]
}

/// Configurations of Hugging Face that are read.
pub fn configurations() -> Vec<String> {
    let text = files(&["planner/tests/configurations.json"]).remove(0);
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    all.iter().filter(|case| case["parameters"].is_number()).map(|case| case["config"].to_string()).collect()
}

/// Machines of the catalog, and one whose curves are measured.
pub fn machines() -> Vec<String> {
    let of = |cluster: &str| Cluster::parse(cluster).unwrap().pools.remove(0);
    let mut all: Vec<Machine> = ["2x h100", "1x dgx-a100-80gb", "4x tpu-v5p", "2x trn2"]
        .iter()
        .filter_map(|name| Some(Cluster::parse(name).ok()?.pools.remove(0)))
        .collect();
    all.push(Machine { nodes: 2, ..of("1x dgx-h100") });
    let mut texts: Vec<String> = all.iter().map(Machine::to_toml).collect();
    let made_up = files(&["tests/cases/machine.toml"]).remove(0);
    let curves = "[device.calibrated]\ndate = \"2026-01-01\"\nmachine = \"x\"\nversions = \"y\"\n[device.curves]\n\
                  matmul-nt = { samples = [[1e6, 1e-4, 100.0, 100.0, 50.0], [1e9, 1e-1, 1000.0, 1000.0, 500.0]] }\nadamw = { samples = [[1e6, 1e-4, 1e6], [1e8, 1e-2, 1e8]] }\n";
    texts.extend([format!("{made_up}{curves}"), made_up]);
    texts
}

/// Text of a cluster on the command line.
pub fn clusters() -> Vec<String> {
    [
        "512x dgx-a100-80gb",
        "8x h100",
        "8x dgx-h100 + 16x dgx-a100-80gb",
        "4x(125x dgx-h100) @ 10 Gbit/s 50 ms",
        "64x tpu-v5p",
        "2x(8x h100 + 8x a100-80gb) @ 1 GB/s 1 s",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The header of a table of published runs, and some of its rows.
pub fn tables() -> Vec<String> {
    ["tests/published/runs.csv", "tests/published/runs-2.csv"]
        .iter()
        .flat_map(|file| {
            let text = files(&[file]).remove(0);
            let (header, rows) = text.split_once('\n').unwrap();
            // No row of these has a line's end in it.
            let rows: Vec<&str> = rows.lines().collect();
            let chosen = rows
                .chunks(rows.len().div_ceil(20))
                .map(|chunk| format!("{header}\n{}\n", chunk[..chunk.len().min(2)].join("\n")));
            chosen.collect::<Vec<String>>()
        })
        .filter(|text| meshwright::validate::table::read_table("runs.csv", text).is_ok())
        .collect()
}

/// Scenarios of `compare`.
pub fn scenarios() -> Vec<String> {
    let swept = "[defaults]\njob = \"gpt3-175b\"\nseq = 2048\nglobal_batch = 1536\ntokens = \"300G\"\n[sweep]\ncluster = [\"128x dgx-a100-80gb\", \"128x dgx-h100\"]\n\
                 pricing = [\"aws on-demand\", \"aws 1y\"]\n";
    let listed = "[[scenario]]\nname = \"a\"\njob = \"llama3-8b\"\ncluster = \"8x h100\"\nprice = \"$2.50\"\ndeadline = \"30 d\"\nbudget = \"$500k\"\n\
                  [[scenario]]\nname = \"b\"\njob = \"llama3-8b\"\ncluster = \"8x h100\"\nobjective = \"energy\"\nsteps = 9\nprecision = \"fp8\"\n";
    [swept, listed].map(str::to_owned).to_vec()
}

/// Files of prices.
pub fn prices() -> Vec<String> {
    let all = files(&["hardware/profiles/prices/rent.toml"]).remove(0);
    let mut all: Vec<String> = all.split("\n\n").skip(1).take(20).map(str::to_owned).collect();
    let own = "[currency]\nname = \"EUR\"\nusd = 1.1\n[[rent]]\ndevice = \"h100\"\ncloud = \"mine\"\nterm = \"1y\"\nusd_per_device_hour = 2.0\n\
               date = \"2026-11-01\"\n[[server]]\nsystem = \"dgx-h100\"\nper_device = 30000\ndate = \"2026\"\n[own]\npue = 1.1\nusd_per_kwh = 0.2\n";
    all.push(own.to_owned());
    all
}

/// What parts a launch file from what lies beside it, and a file's name from its text.
pub const FILE: &str = "\n=== ";

/// A folder of launch files as one text; what is started stands first.
fn folder(files: &[(&str, &str)]) -> String {
    files.iter().map(|(name, text)| format!("{FILE}{name}\n{text}")).collect()
}

/// Folders that each engine trains by, and configurations of others.
pub fn launches() -> Vec<String> {
    let mut all = Vec::new();
    for text in files(&["engines/tests/cases"]).iter().step_by(3) {
        let plan = Plan::from_toml("plan.toml", text).unwrap();
        for engine in ENGINES {
            let Ok(done) = export(&Launch::new(plan.clone(), None), *engine, LAUNCHERS[0], false) else { continue };
            let mut files: Vec<(&str, &str)> =
                done.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
            files.sort_by_key(|(name, _)| *name != "train.sh");
            all.push(folder(&files));
        }
    }
    let deep = r#"{"train_batch_size": 256, "gradient_accumulation_steps": 4, "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}, "bf16": {"enabled": true}}"#;
    let config = r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "vocab_size": 32000}"#;
    all.push(folder(&[("ds.json", deep), ("config.json", config)]));
    all.extend(OTHERS.iter().map(|(name, text)| folder(&[(name, text), ("config.json", config)])));
    all
}

/// Launch files of engines to which nothing is exported.
const OTHERS: &[(&str, &str)] = &[
    (
        "titan.toml",
        "[model]\nname = \"llama3\"\nflavor = \"8B\"\n[training]\nlocal_batch_size = 1\nseq_len = 8192\nsteps = 1000\n[parallelism]\n\
         data_parallel_replicate_degree = 1\ndata_parallel_shard_degree = -1\ntensor_parallel_degree = 2\n[activation_checkpoint]\nmode = \"selective\"\nselective_ac_option = \"op\"\n",
    ),
    (
        "titan.py",
        "from torchtitan.trainer import Trainer\ndef llama3_8b() -> Trainer.Config:\n    config = Trainer.Config()\n    config.training.local_batch_size = 1\n    config.training.seq_len = 8192\n\
         \x20   config.parallelism.tensor_parallel_degree = 2\n    config.activation_checkpoint = SelectiveAC.Config()\n    return config\n",
    ),
    (
        "qlora.yml",
        "base_model: NousResearch/Llama-2-7b-hf\nadapter: qlora\nload_in_4bit: true\nlora_r: 32\nlora_alpha: 16\nsequence_len: 4096\nmicro_batch_size: 2\n\
         gradient_accumulation_steps: 4\nbf16: auto\noptimizer: paged_adamw_32bit\nlearning_rate: 0.0002\ngradient_checkpointing: true\nlora_target_linear: true\n",
    ),
    (
        "factory.yaml",
        "model_name_or_path: meta-llama/Meta-Llama-3-8B\nstage: sft\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\ncutoff_len: 2048\n\
         per_device_train_batch_size: 1\ngradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\nbf16: true\ndeepspeed: examples/deepspeed/ds_z3_config.json\n",
    ),
    (
        "nano.yaml",
        "model:\n  dtype: bfloat16\n  model_config:\n    hidden_size: 1024\n    intermediate_size: 4096\n    num_attention_heads: 16\n    num_hidden_layers: 24\n    num_key_value_heads: 16\n\
         \x20   vocab_size: 50272\n    tie_word_embeddings: true\nparallelism:\n  dp: 2\n  tp: 2\n  pp: 2\n  pp_engine: 1f1b\n  tp_mode: REDUCE_SCATTER\ntokens:\n  sequence_length: 2048\n\
         \x20 micro_batch_size: 4\n  batch_accumulation_per_replica: 8\n  train_steps: 100\noptimizer:\n  zero_stage: 1\n  weight_decay: 0.01\n",
    ),
    (
        "foundry.yaml",
        "variables:\n  max_seq_len: 2048\nmodel:\n  name: mpt_causal_lm\n  d_model: 2048\n  n_heads: 16\n  n_layers: 24\n  expansion_ratio: 4\n  max_seq_len: ${variables.max_seq_len}\n  vocab_size: 50368\n\
         global_train_batch_size: 512\ndevice_train_microbatch_size: 4\nmax_duration: 24800ba\nprecision: amp_bf16\nfsdp_config:\n  sharding_strategy: FULL_SHARD\n  activation_checkpointing: false\n",
    ),
    (
        "neox.yml",
        "{\"pipe_parallel_size\": 1, \"model_parallel_size\": 2, \"num_layers\": 44, \"hidden_size\": 6144, \"num_attention_heads\": 64, \"seq_length\": 2048, \"max_position_embeddings\": 2048,\n\
         \"pos_emb\": \"rotary\", \"no_weight_tying\": true, \"train_micro_batch_size_per_gpu\": 4, \"gradient_accumulation_steps\": 32, \"fp16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 1}}",
    ),
    (
        "train.sh",
        "#!/bin/bash\n#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nGPUS=8\nNNODES=${SLURM_NNODES:-1}\nWORLD=$(($GPUS*$NNODES))\nTP=${TP:-2}; PP=4\nGBS=$((WORLD * 16 / (TP * PP)))\n\
         if [ \"$MODEL\" = \"big\" ]; then LAYERS=64; else LAYERS=32; fi\nfor i in 1 2 3; do X=\"$X $i\"; done\nMODEL_ARGS=(\n  --num-layers $LAYERS # of the smaller\n  --hidden-size 4096 --num-attention-heads 32\n  --group-query-attention --num-query-groups 8\n\
         \x20 --seq-length 4096 --max-position-embeddings 4096 --swiglu --disable-bias-linear\n)\n[[ -n \"$FLASH\" ]] && MODEL_ARGS+=(--use-flash-attn)\nTRAIN=\"--micro-batch-size 1 --global-batch-size $GBS --bf16 --lr 3.0e-4 --train-iters 500\"\n\
         torchrun --nproc_per_node $GPUS --nnodes $NNODES pretrain_gpt.py ${MODEL_ARGS[@]} $TRAIN \\\n  --tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP} --sequence-parallel --use-distributed-optimizer 2>&1 | tee log.txt\n",
    ),
    (
        "train.args",
        "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024 --micro-batch-size 4 --global-batch-size 64 \
         --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 3 --num-experts 8 --moe-router-topk 2 --expert-model-parallel-size 2 --bf16",
    ),
    (
        "trainer.sh",
        "accelerate launch --num_processes 8 --mixed_precision bf16 train.py --model_name_or_path ./ --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --learning_rate 2e-5 \
         --max_seq_length 2048 --deepspeed ds.json --gradient_checkpointing True\n",
    ),
];

/// Logs of engines.
pub fn logs() -> Vec<String> {
    let lines = |line: &dyn Fn(usize) -> String| (1..12).map(line).collect::<Vec<_>>().join("\n");
    vec![
        lines(&|i| {
            format!(
                " iteration {i:8}/ 500 | consumed samples: {} | elapsed time per iteration (ms): {}.5 | throughput per GPU (TFLOP/s/GPU): 410.2 | learning rate: 3E-4 | global batch size: 64 | lm loss: 1.{i}E+00 | loss scale: 1.0 |",
                i * 64,
                1000 + i % 3
            )
        }),
        lines(&|i| {
            format!(
                "[titan] 2026-01-01 00:00:0{} - root - INFO - step: {i} loss: 8.1{i} memory: 36.82GiB(38.7%) tps: 6,5{}0 tflops: 400.1 mfu: 40.2%",
                i % 10,
                i % 10
            )
        }),
        lines(&|i| {
            format!(
                "completed step: {i}, seconds: 1.{}, TFLOP/s/device: 180.1, Tokens/s/device: 4100.2, total_weights: 65536, loss: 9.{i}",
                i % 4
            )
        }),
        lines(&|i| {
            format!(
                "{{'loss': 1.{i}, 'grad_norm': 0.5, 'learning_rate': 2e-05, 'epoch': 0.{i}}} {i}/100 [00:1{}<10:00,  1.2{i}s/it]",
                i % 10
            )
        }),
        format!("step,seconds,loss\n{}", lines(&|i| format!("{i},1.{i},2.{i}"))),
    ]
}

/// Arguments, a line each.
pub fn arguments() -> Vec<String> {
    [
        "plan\nllama3-8b\n--cluster\n8x h100\n--seq\n8192\n--global-batch\n64\n--tokens\n300G\n--objective\ncost\n--deadline\n60d\n--headroom\n0.05\n--price\n$2.50",
        "plan\njob.toml\n--cluster\n8x h100\n--tp\n2\n--pp\n2\n--zero\n1\n--microbatch\n2\n--precision\nbf16\n--budget\n$2M\n--top\n5\n-o\nplan.toml\n--json",
        "simulate\nplan.toml\n--cluster\n8x h100\n--stack\nideal\n--trace\ntrace.json\n--json",
        "explain\nplan.toml\n--cluster\n8x h100\n--no-search\n--mtbf\n1 h",
        "run\nplan.toml\n--device\ncpu\n--steps\n9\n--checkpoint-every\n5\n-o\nruns/a\n--resume",
        "report\nruns/a\n--within\n5\n--json",
        "compare\njob.toml\n--cluster\n8x h100\n--cluster\n8x a100-80gb\n--price\n$2\n--steps\n100\n-o\nout.csv",
        "hardware\ncalibrate\n--seconds\n5\n-o\nme.toml\n--precision\nbf16",
        "demo\n--seconds\n30\n--device\ncpu",
        "import\ntrain.sh\n--gpus\n8\n--set\nvocab=32000\n--env\nTP=2\n-o\nplan.toml",
        "export\nplan.toml\n--to\nmegatron-lm\n--launcher\nslurm\n-o\nlaunch",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Quantities as flags and files have them.
pub fn quantities() -> Vec<String> {
    [
        "80 GiB",
        "2.0 TB/s",
        "400 Gbit/s",
        "312 TFLOP/s",
        "5 us",
        "60d",
        "$1.23",
        "$1.5M",
        "1.5 MUSD",
        "300G",
        "15T",
        "300 G tokens",
        "700 W",
        "8.54 B",
        "1e15 FLOP",
        "bf16",
        "cost",
        "1f1b",
    ]
    .map(str::to_owned)
    .to_vec()
}
