"""Megatron-LM's own parser: argparse, `validate_args`, and the `TransformerConfig` that it makes of both."""

import os
import sys
import types
import warnings

warnings.filterwarnings("ignore")
os.environ.update(RANK="0", CUDA_DEVICE_MAX_CONNECTIONS="1")
import torch

# The parser asks which device it is on: one of Hopper, or of Blackwell where the plan is for that.
device = types.SimpleNamespace(major=9, minor=0, name="H100", multi_processor_count=132, total_memory=80 << 30)
torch.cuda.get_device_properties = lambda *_, **__: device
torch.cuda.get_device_capability = lambda *_, **__: (device.major, device.minor)
import megatron.core.utils
from packaging.version import Version

# Transformer Engine is CUDA's: what the parser allows is what it allows beside this release of it.
megatron.core.utils.get_te_version = lambda: Version("2.8.0")
from megatron.training import arguments
from megatron.training.argument_utils import core_transformer_config_from_args

import common


def stages(config, plan):
    """Layers of each virtual stage as the engine lays them out."""
    layout = config.pipeline_model_parallel_layout
    if layout is None:
        return [plan["job"]["model"]["layers"] // len(plan["stages"])] * len(plan["stages"])
    count = lambda chunk, stage: sum("decoder" in str(kind) for kind in layout.layout[stage][chunk])
    pp = plan["mesh"]["pp"]
    return [count(v // pp, v % pp) for v in range(len(plan["stages"]))]


def look(plan, folder):
    argv, environment = common.captured(folder)
    device.major = 10 if any(name in (folder / "PLAN.md").read_text() for name in ("b200", "b300")) else 9
    script = next(i for i, word in enumerate(argv) if word.endswith(".py"))
    mesh, job = plan["mesh"], plan["job"]
    model, o = job["model"], job["optimizer"]
    os.environ["WORLD_SIZE"] = str(mesh["ranks"])
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = environment.get("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    sys.argv = argv[script:] + ["--no-rope-fusion"]
    args = arguments.validate_args(arguments.parse_args(), {})
    args.padded_vocab_size = args.padded_vocab_size or args.vocab_size
    config = core_transformer_config_from_args(args)
    experts = model["family"].get("experts")
    full = max(stage["full"] for stage in plan["stages"])
    selective = any(stage["selective"] for stage in plan["stages"])
    wanted = {
        "data_parallel_size": mesh["dp"],
        "tensor_model_parallel_size": mesh["tp"],
        "pipeline_model_parallel_size": mesh["pp"],
        "context_parallel_size": mesh["cp"],
        "virtual_pipeline_model_parallel_size": plan["chunks"] if plan["chunks"] > 1 else None,
        "sequence_parallel": plan["sequence_parallel"] and mesh["tp"] > 1,
        "micro_batch_size": plan["microbatch"],
        "global_batch_size": job["global_batch"],
        "train_iters": job["steps"],
        "use_distributed_optimizer": plan["zero"] > 0,
        "use_megatron_fsdp": plan["zero"] > 1,
        "use_tp_pp_dp_mapping": mesh.get("order") == "tp-pp-data",
        "num_layers": model["layers"],
        "hidden_size": model["hidden"],
        "ffn_hidden_size": model["ffn"],
        "num_attention_heads": model["heads"],
        "num_query_groups": model["kv_heads"],
        "kv_channels": model["head_dim"],
        "vocab_size": model["vocab"],
        "swiglu": not model["gpt2"],
        "normalization": "LayerNorm" if model["gpt2"] else "RMSNorm",
        "add_bias_linear": model["gpt2"],
        "untie_embeddings_and_output_weights": not model["tied"],
        "recompute_granularity": "full" if full else "selective" if selective else None,
        "params_dtype": {"fp32": "torch.float32", "fp16": "torch.float16"}.get(job["precision"], "torch.bfloat16"),
        "fp8": "hybrid" if job["precision"] == "fp8" else None,
        "lr": o["lr"],
        "min_lr": o["min_lr"],
        "lr_warmup_iters": o["warmup_steps"],
        "adam_beta1": o["beta1"],
        "adam_beta2": o["beta2"],
        "weight_decay": o["weight_decay"],
        "clip_grad": o["clip"],
        "optimizer_cpu_offload": o["offload"],
    }
    found = {key: getattr(args, key) for key in wanted}
    # Groups count only where there are fewer than heads.
    found["num_query_groups"] = config.num_query_groups
    found["params_dtype"] = str(args.params_dtype)
    if model["family"].get("decoder_layers"):
        wanted["decoder_num_layers"], found["decoder_num_layers"] = model["family"]["decoder_layers"], args.decoder_num_layers
    else:
        wanted["seq_length"], found["seq_length"] = job["seq"], args.seq_length
        wanted["layers"] = [stage["layers"] for stage in plan["stages"]]
        found["layers"] = stages(config, plan)
    if full:
        wanted["recompute_num_layers"], found["recompute_num_layers"] = full, args.recompute_num_layers
    if mesh["cp"] > 1:
        wanted["cp_comm_type"] = "p2p" if plan["ring"] else "all_gather"
        found["cp_comm_type"] = config.cp_comm_type[0] if isinstance(config.cp_comm_type, list) else config.cp_comm_type
    if plan["zero"] > 1:
        wanted["data_parallel_sharding_strategy"] = {2: "optim_grads", 3: "optim_grads_params"}[plan["zero"]]
        found["data_parallel_sharding_strategy"] = args.data_parallel_sharding_strategy
    if plan["zero"]:
        wanted["instances"], found["instances"] = mesh["data"] // mesh["shard"], args.num_distributed_optimizer_instances
    if experts:
        wanted |= {
            "expert_model_parallel_size": mesh["ep"],
            "expert_tensor_parallel_size": mesh.get("etp", mesh["tp"]),
            "num_experts": experts["count"],
            "moe_router_topk": experts["top_k"],
            "moe_ffn_hidden_size": experts["ffn"],
            "moe_shared_expert_intermediate_size": experts["shared_ffn"] or None,
            "moe_expert_capacity_factor": None if experts["capacity"] == "dropless" else experts["capacity"],
            "moe_aux_loss_coeff": experts["balance"],
        }
        found |= {key: getattr(args, key) for key in wanted if key not in found}
        frequency = config.moe_layer_freq
        found["routed"] = sum(frequency) if isinstance(frequency, list) else model["layers"] // frequency
        wanted["routed"] = model["layers"] - experts["dense_layers"]
    if not model["learned"] and not model["gpt2"]:
        wanted["rotary_base"], found["rotary_base"] = model["rope_theta"], args.rotary_base
    return wanted, found


common.check(
    look,
    [
        ("an argument that no release has", "llama-tp", common.replace("train.sh", "--hidden-size", "--hidden-sise")),
        ("a pipeline that does not divide the layers", "gpt3-1f1b", common.replace("train.sh", "parallel-size 16", "parallel-size 7")),
        ("a layout of too few layers", "llama-uneven", common.replace("train.sh", "Et*19", "Et*18")),
        ("heads that tensor parallelism does not divide", "llama-tp", common.replace("train.sh", "heads 32", "heads 30")),
    ],
)
