"""What Hugging Face's transformers makes of configurations: the sizes that an architecture takes where a file does not state
them, and the parameters of the models that it builds, on the meta device, without memory.

Writes planner/src/models/defaults.json and the counts of planner/tests/configurations.json anew.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

PLANNER = Path(__file__).parent.parent / "planner"
# Keys that change sizes, and that files leave out; others are needed.
OPTIONAL = (
    "num_key_value_heads head_dim d_kv intermediate_size ffn_dim d_ff num_local_experts num_experts n_routed_experts "
    "moe_num_experts moe_intermediate_size n_shared_experts moe_num_shared_experts shared_expert_intermediate_size "
    "num_sparse_encoder_layers num_sparse_decoder_layers first_k_dense_replace moe_layer_start_index "
    "kv_lora_rank q_lora_rank feed_forward_proj embedding_size word_embed_proj_dim"
).split()
# What a class builds for which it has no key.
UNNAMED = {"hunyuan_v1_moe": {"num_shared_expert": 1}}


def defaults(kind):
    """Sizes that do not follow from others: equal in two models."""
    make = CONFIG_MAPPING[kind]
    usual, other = make().to_dict(), make(hidden_size=960, num_attention_heads=60, num_hidden_layers=5).to_dict()
    same = {key: usual.get(key) for key in OPTIONAL if usual.get(key) == other.get(key)}
    # They follow from `multi_query`, and from the parts of a head.
    derived = {"multi_query": "num_key_value_heads", "qk_head_dim": "head_dim"}
    dropped = [size for key, size in derived.items() if key in usual]
    stated = {key: value for key, value in same.items() if value is not None and key not in dropped}
    return stated | UNNAMED.get(kind, {})


def parameters(sizes):
    """Of the model that transformers builds from a file."""
    sizes = dict(sizes)
    config = CONFIG_MAPPING[sizes.pop("model_type")](**sizes)
    for auto in [AutoModelForSeq2SeqLM, AutoModelForMaskedLM, AutoModelForCausalLM]:
        if type(config) in auto._model_mapping and (auto is not AutoModelForMaskedLM or config.model_type == "bert"):
            with torch.device("meta"):
                return sum(weight.numel() for weight in auto.from_config(config).parameters())
    raise SystemExit(f"no model of {config.model_type}")


def main():
    path = PLANNER / "src/models/defaults.json"
    table = json.loads(path.read_text())
    table["transformers"] = transformers.__version__
    table["architectures"] = {kind: defaults(kind) for kind in table["architectures"]}
    rows = ",\n".join(f"    {json.dumps(kind)}: {json.dumps(sizes)}" for kind, sizes in table["architectures"].items())
    version = json.dumps(transformers.__version__)
    path.write_text(f'{{\n  "transformers": {version},\n  "architectures": {{\n{rows}\n  }}\n}}\n')
    path = PLANNER / "tests/configurations.json"
    cases = json.loads(path.read_text())
    for case in cases:
        if "parameters" in case:
            case["parameters"] = parameters(case["config"])
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
