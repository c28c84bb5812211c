"""torchtitan's own parser: `ConfigManager` on the module, then `ParallelDims` on as many ranks as the plan has."""

import os
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
import torchtitan.components.quantization.float8 as float8

# The converter asks which device it is on.
float8.has_cuda_capability = lambda *_: True
from torchtitan.config.manager import ConfigManager
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC

import common


def look(plan, folder):
    argv, environment = common.captured(folder)
    module = argv.index("torchtitan.train")
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    c = ConfigManager().parse_args(argv[module + 1 :])
    mesh, job = plan["mesh"], plan["job"]
    model, o = job["model"], job["optimizer"]
    p, t, spec = c.parallelism, c.training, c.model_spec.model
    dims = ParallelDims.from_config(p, mesh["ranks"])
    spec.update_from_config(config=c)
    shard = 1 if plan["zero"] == 0 else mesh["shard"] // mesh["cp"]
    recompute = FullAC.Config if any(s["full"] for s in plan["stages"]) else None
    recompute = SelectiveAC.Config if any(s["selective"] for s in plan["stages"]) else recompute
    adamw = c.optimizer.param_groups[0]
    layer = spec.layers[0]
    attention = layer.attention
    wanted = {
        "dp_replicate": mesh["dp"] // shard,
        "dp_shard": shard,
        "tp": mesh["tp"],
        "cp": mesh["cp"],
        "pp": mesh["pp"],
        "ep": mesh["ep"],
        "sequence parallel": plan["sequence_parallel"] and mesh["tp"] > 1,
        "reshard": "always" if plan["zero"] == 3 else "never",
        "local batch": plan["microbatch"] * (plan["microbatches"] if mesh["pp"] > 1 else 1),
        "global batch": job["global_batch"],
        "sequence": job["seq"],
        "steps": job["steps"],
        "parameters in": "float32" if job["precision"] in ("fp32", "tf32") else "bfloat16",
        "recompute": recompute and recompute.__qualname__,
        "offload": o["offload"],
        "lr": o["lr"],
        "betas": [o["beta1"], o["beta2"]],
        "decay": o["weight_decay"],
        "least lr": o["min_lr"] / o["lr"],
        "warm-up": o["warmup_steps"],
        "clip": o["clip"],
        "layers": model["layers"],
        "hidden": model["hidden"],
        "vocabulary": model["vocab"],
        "heads": model["heads"],
        "key/value heads": model["kv_heads"],
        "tied": model["tied"],
    }
    found = {
        "dp_replicate": dims.dp_replicate,
        "dp_shard": dims.dp_shard,
        "tp": dims.tp,
        "cp": dims.cp,
        "pp": dims.pp,
        "ep": dims.ep,
        "sequence parallel": p.enable_sequence_parallel and dims.tp > 1,
        "reshard": p.fsdp_reshard_after_forward,
        "local batch": t.local_batch_size,
        "global batch": t.global_batch_size,
        "sequence": t.seq_len,
        "steps": t.steps,
        "parameters in": t.mixed_precision_param,
        "recompute": c.activation_checkpoint and type(c.activation_checkpoint).__qualname__,
        "offload": t.enable_cpu_offload,
        "lr": adamw.optimizer_kwargs["lr"],
        "betas": list(adamw.optimizer_kwargs["betas"]),
        "decay": adamw.optimizer_kwargs["weight_decay"],
        "least lr": c.lr_scheduler.min_lr_factor,
        "warm-up": c.lr_scheduler.warmup_steps,
        "clip": t.max_norm,
        "layers": len(spec.layers),
        "hidden": spec.dim,
        "vocabulary": spec.vocab_size,
        "heads": attention.n_heads,
        "key/value heads": attention.n_kv_heads or attention.n_heads,
        "tied": spec.enable_weight_tying,
    }
    if mesh["pp"] > 1:
        names = {"1f1b": "1F1B", "gpipe": "GPipe", "dualpipe-v": "DualPipeV"}
        wanted["schedule"] = "Interleaved1F1B" if plan["schedule"] == "1f1b" and plan["chunks"] > 1 else names[plan["schedule"]]
        found["schedule"] = p.pipeline_parallel_schedule
        torch.distributed.pipelining.schedules.get_schedule_class(p.pipeline_parallel_schedule)
        wanted["stages"] = [stage["layers"] for stage in plan["stages"]]
        found["stages"] = [sum(name.startswith("layers.") for name in part) for part in p.module_fqns_per_model_part]
        wanted["microbatch"], found["microbatch"] = plan["microbatch"], p.pipeline_parallel_microbatch_size
    experts = model["family"].get("experts")
    if experts:
        inner = layer.moe.routed_experts.inner_experts
        wanted |= {"experts": experts["count"], "top-k": experts["top_k"], "expert width": experts["ffn"]}
        found |= {"experts": inner.num_experts, "top-k": layer.moe.router.top_k, "expert width": inner.hidden_dim}
    else:
        wanted["ffn"], found["ffn"] = model["ffn"], layer.feed_forward.w1.out_features
    return wanted, found


common.check(
    look,
    [
        ("a field that no release has", "llama-fsdp", common.replace("meshwright_plan.py", "training.seq_len", "training.sequence")),
        ("axes that are not the ranks", "llama-fsdp", common.replace("meshwright_plan.py", "shard_degree = 64", "shard_degree = 48")),
        ("CUDA graphs beside a pipeline", "llama-gpipe", common.replace("meshwright_plan.py", "graphs = True", "graphs = False")),
    ],
)
