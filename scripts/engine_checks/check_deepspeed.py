"""DeepSpeed's own parser: `DeepSpeedConfig` on the JSON. The arguments of Megatron-DeepSpeed have no parser on PyPI."""

import json
import os
import warnings

warnings.filterwarnings("ignore")
os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed.runtime.config as runtime

import common

# Top-level keys that DeepSpeed would pass over in silence.
KNOWN = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "bf16",
    "fp16", "data_types", "zero_optimization", "steps_per_print", "wall_clock_breakdown", "comment",
}


def look(plan, folder):
    argv, _ = common.captured(folder)
    config = json.loads((folder / argv[argv.index("--deepspeed_config") + 1]).read_text())
    unknown = set(config) - KNOWN
    if unknown:
        raise ValueError(f"unknown keys {unknown}")
    mesh, job = plan["mesh"], plan["job"]
    o = job["optimizer"]
    # Batches are shared among replicas: tensor and pipeline ranks have the same.
    runtime.dist.get_rank = lambda *_, **__: 0
    runtime.dist.get_world_size = lambda *_, **__: mesh["dp"]
    runtime.dist.is_initialized = lambda *_, **__: True
    c = runtime.DeepSpeedConfig(config)
    wanted = {
        "train_batch_size": job["global_batch"],
        "train_micro_batch_size_per_gpu": plan["microbatch"],
        "gradient_accumulation_steps": plan["microbatches"],
        "zero stage": plan["zero"],
        "clip": o["clip"],
        "bf16": job["precision"] == "bf16",
        "fp16": job["precision"] == "fp16",
        "host": o["offload"],
    }
    found = {
        "train_batch_size": c.train_batch_size,
        "train_micro_batch_size_per_gpu": c.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": c.gradient_accumulation_steps,
        "zero stage": c.zero_config.stage,
        "clip": c.gradient_clipping,
        "bf16": c.bfloat16_config.enabled,
        "fp16": c.float16_config.enabled,
        "host": c.zero_config.offload_optimizer is not None and c.zero_config.offload_optimizer.device == "cpu",
    }
    # What the script says again has to be the same.
    said = {argv[i]: argv[i + 1] for i in range(len(argv) - 1) if argv[i].startswith("--")}
    wanted |= {
        "--zero-stage": str(plan["zero"]),
        "--global-batch-size": str(job["global_batch"]),
        "--micro-batch-size": str(plan["microbatch"]),
        "--tensor-model-parallel-size": str(mesh["tp"]),
        "--pipeline-model-parallel-size": str(mesh["pp"]),
        "--num-layers": str(job["model"]["layers"]),
        "--seq-length": str(job["seq"]),
    }
    found |= {key: said.get(key) for key in wanted if key.startswith("--")}
    return wanted, found


common.check(
    look,
    [
        ("a batch that does not divide", "llama-zero2", common.replace("deepspeed.json", '"train_batch_size": 256', '"train_batch_size": 250')),
        ("a ZeRO stage that there is not", "llama-zero2", common.replace("deepspeed.json", '"stage": 2', '"stage": 4')),
        ("a key inside ZeRO that there is not", "llama-zero2", common.replace("deepspeed.json", "overlap_comm", "overlap_com")),
    ],
)
