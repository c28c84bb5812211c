"""Accelerate's own parser: its launcher's arguments, `ParallelismConfig`, transformers' configuration, and the script compiled."""

import json
import os
import warnings

warnings.filterwarnings("ignore")
import transformers
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils.launch import prepare_multi_gpu_env

import common

NAMES = {
    "gpt2": ("n_layer", "n_embd", "n_inner", "n_head"),
    "bert": ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    "llama": ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    "mixtral": ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    "t5": ("num_layers", "d_model", "d_ff", "num_heads"),
}


def look(plan, folder):
    argv, _ = common.captured(folder)
    os.chdir(folder)
    file = yaml.safe_load((folder / "accelerate.yaml").read_text())
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    for section in ("fsdp_config", "parallelism_config"):
        unknown = set(file.get(section, {})) - known
        if unknown:
            raise ValueError(f"unknown keys in {section}: {unknown}")
    args = _validate_launch_command(parser.parse_args(argv[argv.index("launch") + 1 :]))[0]
    environment = prepare_multi_gpu_env(args) if args.num_processes > 1 else {}
    os.environ.update(environment)
    compile((folder / "train.py").read_text(), "train.py", "exec")
    config = transformers.AutoConfig.from_pretrained(folder)
    getattr(transformers, json.loads((folder / "plan.json").read_text())["class"])
    stated = json.loads((folder / "plan.json").read_text())
    mesh, job = plan["mesh"], plan["job"]
    model, o = job["model"], job["optimizer"]
    replicas = mesh["data"] // mesh["shard"] if plan["zero"] else 1
    axes = ParallelismConfig() if plan["zero"] else None
    layers, hidden, ffn, heads = NAMES[config.model_type]
    experts = model["family"].get("experts")
    wanted = {
        "ranks": mesh["ranks"],
        "sharded": plan["zero"] > 0,
        "mixed precision": {"bf16": "bf16", "fp16": "fp16"}.get(job["precision"], "no"),
        "layers": model["layers"],
        "hidden": model["hidden"],
        "ffn": experts["ffn"] if experts else model["ffn"],
        "heads": model["heads"],
        "vocabulary": model["vocab"],
        "tied": model["tied"],
        "microbatch": plan["microbatch"],
        "accumulation": plan["microbatches"],
        "sequence": job["seq"],
        "steps": job["steps"],
        "lr": o["lr"],
        "decay": o["weight_decay"],
        "clip": o["clip"],
    }
    found = {
        "ranks": args.num_processes,
        "sharded": args.use_fsdp,
        "mixed precision": args.mixed_precision,
        "layers": getattr(config, layers),
        "hidden": getattr(config, hidden),
        "ffn": getattr(config, ffn),
        "heads": getattr(config, heads),
        "vocabulary": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "microbatch": stated["microbatch"],
        "accumulation": stated["accumulation"],
        "sequence": stated["sequence"],
        "steps": stated["steps"],
        "lr": stated["lr"],
        "decay": stated["weight_decay"],
        "clip": stated["clip"],
    }
    if axes:
        wanted |= {
            "version": 2,
            "dp_replicate": replicas,
            "dp_shard": mesh["dp"] // replicas,
            "tp": mesh["tp"],
            "cp": mesh["cp"],
            "reshard": "true" if plan["zero"] == 3 else "false",
            "recompute": "true" if any(s["full"] for s in plan["stages"]) else "false",
        }
        found |= {
            "version": int(environment["FSDP_VERSION"]),
            "dp_replicate": axes.dp_replicate_size,
            "dp_shard": axes.dp_shard_size,
            "tp": axes.tp_size,
            "cp": axes.cp_size,
            "reshard": environment["FSDP_RESHARD_AFTER_FORWARD"].lower(),
            "recompute": environment["FSDP_ACTIVATION_CHECKPOINTING"].lower(),
        }
        layer = environment["FSDP_TRANSFORMER_CLS_TO_WRAP"]
        module = __import__(f"transformers.models.{config.model_type}.modeling_{config.model_type}", fromlist=[layer])
        getattr(module, layer)
    if experts:
        wanted |= {"experts": experts["count"], "top-k": experts["top_k"]}
        found |= {"experts": config.num_local_experts, "top-k": config.num_experts_per_tok}
    if config.model_type in ("llama", "mixtral"):
        wanted |= {"rope": model["rope_theta"], "key/value heads": model["kv_heads"], "head width": model["head_dim"]}
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", getattr(config, "rope_theta", None))
        found |= {"rope": theta, "key/value heads": config.num_key_value_heads, "head width": config.head_dim}
    return wanted, found


common.check(
    look,
    [
        ("a key that no release has", "llama-fsdp", common.replace("accelerate.yaml", "num_processes", "num_proceses")),
        ("a layer that there is not", "llama-fsdp", common.replace("accelerate.yaml", "LlamaDecoderLayer", "LlamaLayer")),
        ("an axis of no ranks", "llama-fsdp", common.replace("accelerate.yaml", '_tp_size": 1', '_tp_size": 0')),
    ],
)
