"""MaxText's own parser: `pyconfig.initialize`, with as many devices as the plan has; the products of axes are ours to check."""

import os
import math
import warnings

warnings.filterwarnings("ignore")
import common


def initialize(folder, devices, slices):
    """The configuration as MaxText understands it, in a process that has so many devices."""
    from maxtext.configs import pyconfig

    c = pyconfig.initialize(
        ["train", str(folder / "maxtext.yml"), "run_name=check", "base_output_directory=out"]
        + ["skip_jax_distributed_system=true", "hardware=cpu", f"num_slices={slices}"]
    )
    return c


def look(plan, folder):
    mesh, job = plan["mesh"], plan["job"]
    model, o = job["model"], job["optimizer"]
    common.captured(folder)
    yaml = (folder / "maxtext.yml").read_text()
    slices = int(next(line.split(": ")[1] for line in yaml.splitlines() if line.startswith("num_slices:")))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={mesh['ranks']}"
    c = initialize(folder, mesh["ranks"], slices)
    axis = lambda name: getattr(c, f"ici_{name}_parallelism") * getattr(c, f"dcn_{name}_parallelism")
    names = ("tensor", "tensor_sequence", "context", "expert", "fsdp", "data", "pipeline")
    inside = math.prod(getattr(c, f"ici_{name}_parallelism") for name in names)
    between = math.prod(getattr(c, f"dcn_{name}_parallelism") for name in names)
    shards = mesh["shard"] // (mesh["cp"] * mesh["ep"]) if plan["zero"] == 3 else 1
    spread = plan["sequence_parallel"] and mesh["tp"] > 1
    recompute = "full" if any(s["full"] for s in plan["stages"]) else "none"
    recompute = "minimal_with_context" if any(s["selective"] for s in plan["stages"]) else recompute
    wanted = {
        "within a node": mesh["ranks"] // slices,
        "nodes": slices,
        "tensor": mesh["tp"],
        "context": mesh["cp"],
        "expert": mesh["ep"],
        "fsdp": shards,
        "data": mesh["data"] // (mesh["cp"] * mesh["ep"] * shards),
        "stages": mesh["pp"],
        "sharded optimizer": plan["zero"] == 1,
        "batch": job["global_batch"],
        "accumulation": 1 if mesh["pp"] > 1 else plan["microbatches"],
        "sequence": job["seq"],
        "steps": job["steps"],
        "layers": model["layers"],
        "hidden": model["hidden"],
        "ffn": model["ffn"],
        "heads": model["heads"],
        "key/value heads": model["kv_heads"],
        "head width": model["head_dim"],
        "vocabulary": model["vocab"],
        "tied": model["tied"],
        "recompute": recompute,
        "dtype": "float32" if job["precision"] == "fp32" else "bfloat16",
        "quantization": job["precision"] if job["precision"] in ("fp8", "int8") else "",
        "beta1": o["beta1"],
        "beta2": o["beta2"],
        "decay": o["weight_decay"],
        "clip": o["clip"],
        "lr": o["lr"],
        "least lr": o["min_lr"] / o["lr"],
        "warm-up": o["warmup_steps"] / job["steps"],
        "host": o["offload"],
    }
    found = {
        "within a node": inside,
        "nodes": between,
        "tensor": axis("tensor_sequence" if spread else "tensor"),
        "context": axis("context"),
        "expert": axis("expert"),
        "fsdp": axis("fsdp"),
        "data": axis("data"),
        "stages": axis("pipeline"),
        "sharded optimizer": c.shard_optimizer_over_data,
        "batch": c.global_batch_size_to_train_on,
        "accumulation": c.gradient_accumulation_steps,
        "sequence": c.max_target_length,
        "steps": c.steps,
        "layers": c.num_decoder_layers,
        "hidden": c.emb_dim,
        "ffn": c.mlp_dim,
        "heads": c.num_query_heads,
        "key/value heads": c.num_kv_heads,
        "head width": c.head_dim,
        "vocabulary": c.vocab_size,
        "tied": c.logits_via_embedding,
        "recompute": c.remat_policy or "none",
        "dtype": str(getattr(c.dtype, "__name__", c.dtype)),
        "quantization": str(getattr(c.quantization, "value", c.quantization) or ""),
        "beta1": c.adam_b1,
        "beta2": c.adam_b2,
        "decay": c.adam_weight_decay,
        "clip": c.gradient_clipping_threshold,
        "lr": c.learning_rate,
        "least lr": c.learning_rate_final_fraction,
        "warm-up": c.warmup_steps_fraction,
        "host": c.optimizer_memory_host_offload,
    }
    if mesh["pp"] > 1:
        wanted |= {"layers a stage": plan["stages"][0]["layers"], "microbatches": plan["microbatches"]}
        found |= {"layers a stage": c.num_layers_per_pipeline_stage, "microbatches": c.num_pipeline_microbatches}
    experts = model["family"].get("experts")
    if experts:
        room = -1.0 if experts["capacity"] == "dropless" else experts["capacity"]
        wanted |= {"experts": experts["count"], "top-k": experts["top_k"], "expert width": experts["ffn"], "capacity": room}
        found |= {"experts": c.num_experts, "top-k": c.num_experts_per_tok, "expert width": c.moe_mlp_dim, "capacity": c.capacity_factor}
    return wanted, found


common.check(
    look,
    [
        ("a key that no release has", "llama-fsdp", common.replace("maxtext.yml", "remat_policy", "remat_polici")),
        ("a decoder that there is not", "llama-fsdp", common.replace("maxtext.yml", '"llama2"', '"llama9"')),
        ("a pipeline that does not divide the layers", "llama-gpipe", common.replace("maxtext.yml", "pipeline_stage: 8", "pipeline_stage: 7")),
    ],
)
