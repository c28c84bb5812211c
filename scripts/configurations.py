"""What Hugging Face's transformers makes of configurations: the sizes that an architecture takes where a file does not state
them, and the parameters of the models that it builds, on the meta device, without memory.

Writes planner/src/models/defaults.json and the counts of planner/tests/configurations.json anew.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

PLANNER = Path(__file__).parent.parent / "planner"
# Keys that change sizes, and that files leave out; others are needed.
OPTIONAL = (
    "num_key_value_heads head_dim d_kv intermediate_size ffn_dim d_ff num_local_experts num_experts n_routed_experts "
    "moe_num_experts moe_intermediate_size n_shared_experts moe_num_shared_experts shared_expert_intermediate_size "
    "num_sparse_encoder_layers num_sparse_decoder_layers first_k_dense_replace moe_layer_start_index "
    "n_group topk_group kv_lora_rank q_lora_rank feed_forward_proj embedding_size word_embed_proj_dim"
).split()
# Families with layers of state space, linear attention or convolutions, and what files leave out of these.
HYBRIDS = (
    "mamba mamba2 falcon_mamba jamba nemotron_h bamba falcon_h1 granitemoehybrid qwen3_next qwen3_5_text qwen3_5_moe_text "
    "lfm2 lfm2_moe"
).split()
HYBRID = (
    "state_size expand conv_kernel n_groups mamba_d_state mamba_d_conv mamba_expand mamba_n_groups mamba_d_head mamba_n_heads "
    "mamba_head_dim mamba_num_heads ssm_state_size attn_layer_period attn_layer_offset expert_layer_period expert_layer_offset "
    "linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads "
    "conv_L_cache block_multiple_of shared_intermediate_size num_dense_layers moe_shared_expert_intermediate_size"
).split()
# The same of families whose positions are learned.
LEARNED = "max_position_embeddings n_positions type_vocab_size".split()
FAMILIES_OF_LEARNED = (
    "gpt2 openai-gpt gpt_neo opt gpt_bigcode bert roberta xlm-roberta camembert electra bart mbart".split()
)
# The same of vision parts.
VISION = (
    "embed_dim hidden_size intermediate_size depth num_hidden_layers mlp_ratio patch_size temporal_patch_size in_channels "
    "num_channels image_size spatial_merge_size out_hidden_size num_position_embeddings deepstack_visual_indexes "
    "projector_input_dim projector_output_dim vision_output_dim pos_emb_height pos_emb_width"
).split()
# What a class builds for which it has no key.
UNNAMED = {"hunyuan_v1_moe": {"num_shared_expert": 1}, "llama4_text": {"num_shared_expert": 1}}
# Families that guess masked tokens; others also have such a head.
MASKED = "bert roberta xlm-roberta camembert electra".split()
# Classes that are not in transformers; their files state all sizes.
FOREIGN = ["chatglm", "internlm2", "kimi_k2"]


def defaults(kind):
    """Sizes that do not follow from others: equal in two models."""
    if kind in FOREIGN:
        return {}
    if kind.endswith(".vision"):
        vision = CONFIG_MAPPING[kind.removesuffix(".vision")]().vision_config.to_dict()
        return {key: vision[key] for key in VISION if vision.get(key) is not None}
    if kind in HYBRIDS:
        usual = CONFIG_MAPPING[kind]().to_dict()
        return {key: usual[key] for key in HYBRID if isinstance(usual.get(key), int)}
    make, wide = CONFIG_MAPPING[kind], {"hidden_size": 960, "num_attention_heads": 60}
    # GPT-Neo's list of layers has to be as long as there are.
    deep = {} if kind == "gpt_neo" else {"num_hidden_layers": 5}
    usual, other = make().to_dict(), make(**wide, **deep).to_dict()
    keys = OPTIONAL + (LEARNED if kind in FAMILIES_OF_LEARNED else [])
    same = {key: usual.get(key) for key in keys if usual.get(key) == other.get(key)}
    # They follow from `multi_query`, and from the parts of a head.
    derived = {"multi_query": "num_key_value_heads", "qk_head_dim": "head_dim"}
    dropped = [size for key, size in derived.items() if key in usual]
    stated = {key: value for key, value in same.items() if value is not None and key not in dropped}
    return stated | UNNAMED.get(kind, {})


def parameters(sizes):
    """Of the model that transformers builds from a file."""
    sizes = dict(sizes)
    config = CONFIG_MAPPING[sizes.pop("model_type")](**sizes)
    seeing = [AutoModelForImageTextToText] if "text_config" in sizes else []
    for auto in [*seeing, AutoModelForSeq2SeqLM, AutoModelForMaskedLM, AutoModelForCausalLM]:
        if type(config) in auto._model_mapping and (auto is not AutoModelForMaskedLM or config.model_type in MASKED):
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
        if "parameters" in case and case["config"]["model_type"] not in FOREIGN:
            case["parameters"] = parameters(case["config"])
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
