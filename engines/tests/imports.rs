//! What is exported is read back as the plan that it was; what others write is read value by value.

mod plans;

use std::collections::BTreeMap;

use meshwright_engines::engine::{ENGINES, TextFile};
use meshwright_engines::export::export;
use meshwright_engines::import::{Imported, Knowledge, ValueOrigin, import};
use meshwright_engines::launch::Launch;
use meshwright_engines::launcher::LAUNCHERS;
use meshwright_planner::plan::Plan;
use plans::cases;

/// Files by name, and what is known of them.
fn read(files: &[(&str, &str)], known: &Knowledge) -> Result<Imported, String> {
    let files: Vec<TextFile> = files.iter().map(|(name, text)| TextFile::new(*name, *text)).collect();
    import(&files[..1], known, &|name| {
        let last = name.rsplit('/').next().unwrap_or(name);
        files.iter().find(|file| file.name == name || file.name == last).map(|file| file.text.clone())
    })
}

fn on(gpus: usize) -> Knowledge {
    Knowledge { gpus: Some(gpus), ..Knowledge::default() }
}

/// What an engine's words leave open: the model's name, a seed of 0, and the last digit of a rate that is written as a share.
fn plain(mut plan: Plan) -> Plan {
    "model".clone_into(&mut plan.job.model.name);
    plan.job.seed = plan.job.seed.max(1);
    let least = &mut plan.job.optimizer.min_lr;
    *least = format!("{least:.5e}").parse().unwrap();
    // Where every layer has experts, the width of a dense one is nobody's.
    let model = &mut plan.job.model;
    let routed = |layer: usize| model.kind(layer).experts;
    if let Some(ffn) = model.experts().map(|experts| experts.ffn).filter(|_| (0..model.depth()).all(routed)) {
        model.ffn = ffn;
    }
    plan
}

#[test]
fn a_plan_that_is_exported_is_read_back() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (case, plan) in cases() {
        for engine in ENGINES {
            let launch = Launch::new(plan.clone(), None);
            let Ok(done) = export(&launch, *engine, LAUNCHERS[0], false) else { continue };
            let mut files: Vec<(&str, &str)> =
                done.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
            files.sort_by_key(|(name, _)| *name != "train.sh");
            count += 1;
            let name = engine.about().name;
            // What the tokenizer alone has, and a base that this fork is not told, is the user's to say.
            let model = &plan.job.model;
            let values = [("vocab", model.vocab.to_string()), ("rope_theta", model.rope_theta.to_string())];
            let values = values.map(|(key, value)| (key.to_owned(), value)).to_vec();
            let known =
                if name == "deepspeed" { Knowledge { values, ..Knowledge::default() } } else { Knowledge::default() };
            match read(&files, &known) {
                Ok(imported) => match imported.plan {
                    Some(back) if plain(back.clone()) == plain(plan.clone()) => {}
                    Some(back) => wrong.push(format!(
                        "{case} by {name}:\n{}\n{}",
                        plain(plan.clone()).to_toml(),
                        plain(back).to_toml()
                    )),
                    None => wrong.push(format!("{case} by {name}: {:?} {:?}", imported.missing, imported.violations)),
                },
                Err(problem) => wrong.push(format!("{case} by {name}: {problem}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n=====\n"));
    assert!(count > 60, "{count}");
}

const SCRIPT: &str = r#"#!/bin/bash
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-1}
WORLD_SIZE=$(($GPUS_PER_NODE*$NNODES))
TP=${TP:-2}; PP=4
GBS=$((WORLD_SIZE * 16 / (TP * PP)))
if [ "$MODEL" = "big" ]; then LAYERS=64; else LAYERS=32; fi
DISTRIBUTED_ARGS="
    --nproc_per_node $GPUS_PER_NODE \
    --nnodes $NNODES
"
MODEL_ARGS=(
    --num-layers $LAYERS   # of the smaller
    --hidden-size 4096
    --num-attention-heads 32 --group-query-attention --num-query-groups 8
    --seq-length 4096 --max-position-embeddings 4096
    --swiglu --normalization RMSNorm --disable-bias-linear --position-embedding-type rope
    --untie-embeddings-and-output-weights
)
[[ -n "$FLASH" ]] && MODEL_ARGS+=(--use-flash-attn)
TRAINING="--micro-batch-size 1 --global-batch-size $GBS --bf16 --lr 3.0e-4 --train-iters 500"
echo "$TRAINING"
cmd="torchrun $DISTRIBUTED_ARGS pretrain_gpt.py ${MODEL_ARGS[@]} $TRAINING \
  --tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP} --sequence-parallel \
  --use-distributed-optimizer --tokenizer-type Llama2Tokenizer --my-fork-flag 3"
srun bash -c "$cmd 2>&1 | tee log.txt"
"#;

#[test]
fn a_script_is_read_as_bash_would_expand_it() {
    let imported = read(&[("train.sh", SCRIPT)], &Knowledge::default()).unwrap();
    let draft = &imported.draft;
    let plan =
        imported.plan.as_ref().unwrap_or_else(|| panic!("{:?} {:?} {draft:#?}", imported.missing, imported.violations));
    assert_eq!((plan.mesh.dp, plan.mesh.tp, plan.mesh.pp), (4, 2, 4));
    assert_eq!((plan.job.global_batch, plan.job.model.layers, plan.job.model.ffn), (64, 32, 10880));
    assert_eq!((plan.job.model.vocab, plan.zero, plan.sequence_parallel), (32000, 1, true));
    assert_eq!(draft.facts["ffn"].origin, ValueOrigin::Computed);
    assert_eq!(draft.facts["weight_decay"].origin, ValueOrigin::Default);
    assert!(draft.unpriced.contains(&"--my-fork-flag 3".to_owned()), "{:?}", draft.unpriced);
    assert!(draft.notes.iter().any(|note| note.contains("MODEL") && note.contains("TP")), "{:?}", draft.notes);
    let environment = BTreeMap::from([("MODEL".to_owned(), "big".to_owned())]);
    let big = read(&[("train.sh", SCRIPT)], &Knowledge { environment, ..Knowledge::default() }).unwrap();
    assert_eq!(big.plan.unwrap().job.model.layers, 64);
}

#[test]
fn what_a_script_asks_of_the_machine_is_unknown_and_not_guessed() {
    let script = SCRIPT
        .replace("TP=${TP:-2}", "TP=$(cat /etc/tp)")
        .replace("GBS=$((", "if [ -d /data ]; then EXTRA=--sequence-parallel; fi; GBS=$((");
    let script = script.replace("--sequence-parallel \\", "$EXTRA \\");
    let imported = read(&[("train.sh", &script)], &Knowledge::default()).unwrap();
    let facts = &imported.draft.facts;
    for key in ["tp", "dp", "global_batch", "sequence_parallel"] {
        assert_eq!(facts[key].origin, ValueOrigin::Unknown, "{key}: {:?}", facts[key]);
    }
    assert!(facts["tp"].why.contains("cat /etc/tp"), "{}", facts["tp"].why);
    assert!(imported.plan.is_none() && imported.missing.contains(&"tp"), "{:?}", imported.missing);
}

#[test]
fn hostile_texts_end_in_a_message_or_in_nothing() {
    let endless = "while true; do x=$((x+1)); done\nf() { f; f; }; f\nfor i in {1..200}; do for j in {1..200}; do y=$y$y$j; done; done\ntorchrun a.py --num-layers 2\n";
    let _ = read(&[("a.sh", endless)], &Knowledge::default());
    let double = format!("x=aaaaaaaaaa\n{}torchrun train.py --num-layers $x\n", "x=$x$x$x$x\n".repeat(60));
    let _ = read(&[("a.sh", &double)], &Knowledge::default());
    for text in [
        "\"".to_owned(),
        "$(".repeat(5000),
        "((((".repeat(5000),
        "if ".repeat(5000),
        "${a:-".repeat(5000),
        "a=(".to_owned(),
        "cat <<EOF\n".to_owned(),
    ] {
        assert!(read(&[("a.sh", &text)], &Knowledge::default()).is_err(), "{}", &text[..10.min(text.len())]);
    }
    let circle = "eval \"$x\"; x='eval \"$x\"'; eval \"$x\"; echo $(rm -rf /tmp/never) `touch /tmp/never`; torchrun pretrain_gpt.py --num-layers $((1/0))\n";
    let imported = read(&[("a.sh", circle)], &on(8)).unwrap();
    assert_eq!(imported.draft.facts["layers"].origin, ValueOrigin::Unknown);
    assert!(!std::path::Path::new("/tmp/never").exists());
}

#[test]
fn every_broken_rule_is_said_at_once_with_values_near() {
    let arguments = "--num-layers 30 --hidden-size 4096 --num-attention-heads 32 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 3 \
                     --global-batch-size 100 --tensor-model-parallel-size 3 --pipeline-model-parallel-size 4 --num-experts 6 \
                     --expert-model-parallel-size 4 --bf16 --fp16";
    let imported = read(&[("run.args", arguments)], &on(64)).unwrap();
    let said: Vec<String> =
        imported.violations.iter().map(|v| format!("{} {:?} {}", v.word, v.near, v.problem)).collect();
    let all = said.join("\n");
    for part in [
        "64 devices are no multiple of tp · pp · cp = 3 · 4 · 1",
        "--tensor-model-parallel-size [2, 4, 8] it must divide the heads, 32",
        "--num-layers [28, 32, 36]",
        "--expert-model-parallel-size [3, 6] it must divide the experts, 6",
        "--bf16 and --fp16",
    ] {
        assert!(all.contains(part), "`{part}` in\n{all}");
    }
}

#[test]
fn configurations_of_other_engines_are_read() {
    let plan = |files: &[(&str, &str)], gpus: usize| {
        let imported = read(files, &on(gpus)).unwrap();
        imported.plan.unwrap_or_else(|| panic!("{:?} {:?}", imported.missing, imported.violations))
    };
    let titan = "[model]\nname = \"llama3\"\nflavor = \"8B\"\n[training]\nlocal_batch_size = 1\nseq_len = 8192\nsteps = 1000\n[parallelism]\n\
                 data_parallel_replicate_degree = 1\ndata_parallel_shard_degree = -1\ntensor_parallel_degree = 2\n[activation_checkpoint]\nmode = \"selective\"\nselective_ac_option = \"op\"\n";
    let titan = plan(&[("llama3_8b.toml", titan)], 64);
    assert_eq!((titan.mesh.dp, titan.mesh.tp, titan.zero, titan.job.global_batch), (32, 2, 3, 32));
    assert_eq!((titan.stages[0].selective, titan.job.model.layers), (32, 32));
    let axolotl = "base_model: NousResearch/Llama-2-7b-hf\nadapter: qlora\nload_in_4bit: true\nlora_r: 32\nlora_alpha: 16\nsequence_len: 4096\n\
                   micro_batch_size: 2\ngradient_accumulation_steps: 4\nbf16: auto\noptimizer: paged_adamw_32bit\nlearning_rate: 0.0002\n\
                   gradient_checkpointing: true\nlora_target_linear: true\ndatasets: [{path: x, type: alpaca}]\n";
    let axolotl = plan(&[("qlora.yml", axolotl)], 8);
    assert_eq!((axolotl.job.global_batch, axolotl.microbatch, axolotl.job.tuning.unwrap().rank), (64, 2, 32));
    let deep = r#"{"train_batch_size": 256, "gradient_accumulation_steps": 4, "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}, "bf16": {"enabled": true}}"#;
    let config = r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "vocab_size": 32000}"#;
    let imported = read(
        &[("ds.json", deep), ("config.json", config)],
        &Knowledge { values: vec![("seq".into(), "2048".into())], ..on(16) },
    )
    .unwrap();
    let deep = imported.plan.unwrap_or_else(|| panic!("{:?} {:?}", imported.missing, imported.violations));
    assert_eq!((deep.microbatch, deep.zero, deep.job.optimizer.offload), (4, 3, true));
    let neox = "{\"pipe_parallel_size\": 1, \"model_parallel_size\": 2, \"num_layers\": 44, \"hidden_size\": 6144, \"num_attention_heads\": 64, \"seq_length\": 2048, \
                \"max_position_embeddings\": 2048, \"pos_emb\": \"rotary\", \"no_weight_tying\": true, \"gpt_j_residual\": true, \"vocab_file\": \"./20B_tokenizer.json\", \"tokenizer_type\": \"HFTokenizer\", \
                \"train_micro_batch_size_per_gpu\": 4, \"gradient_accumulation_steps\": 32, \"fp16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 1}, \"checkpoint-activations\": true, }";
    let neox = plan(&[("20B.yml", neox)], 96);
    assert_eq!((neox.mesh.tp, neox.mesh.dp, neox.job.global_batch, neox.job.model.vocab), (2, 48, 6144, 50277));
    assert!(neox.job.model.parallel_block() && neox.stages[0].full == 44);
}
