#!/usr/bin/env python3
"""Writes the numerics goldens: two tiny decoders trained by plain PyTorch in float64.

Inputs: none (everything is drawn from fixed seeds).
Outputs, for each architecture D of gpt2 and llama, under tests/goldens/ (or the folder given as first argument):
  D.safetensors  F32 `param/NAME` initial parameters, F32 `grad/NAME` gradients of the step-0 mean cross-entropy before
                 clipping, I32 `ids` and `targets` of shape [steps, batch, seq].
  D.json         sizes, hyperparameters, `losses` (before each update) and `grad_norms` (before clipping), 20 steps.
Invariant: the model starts from exactly the F32 values in the file, and all arithmetic after that is float64, so the
goldens carry no rounding of their own beyond the F32 the gradients are stored in.

Linear weights are [out, in]. `attention.qkv` packs rows [q | k | v], a llama `mlp.up` packs rows [gate | up].

Install (a CPU build is enough; the script itself uses no network):
  python3 -m venv venv && venv/bin/pip install torch safetensors numpy
  venv/bin/python scripts/goldens.py
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SIZES = dict(layers=2, hidden=32, heads=4, vocab=64, seq=16, batch=4)
DRESSES = {
    "gpt2": dict(SIZES, kv_heads=4, ffn=128, norm="layernorm", activation="gelu_tanh", tied=True, seed=1),
    "llama": dict(SIZES, kv_heads=2, ffn=64, norm="rmsnorm", activation="swiglu", tied=False, rope_theta=1e4, seed=2),
}
EPS = 1e-5
OPTIMIZER = dict(
    steps=20, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1,
    peak_lr=1e-2, min_lr=1e-3, warmup_steps=5, clip_norm=1.0, clip_eps=1e-6,
)


def init_params(m, generator):
    """F32 parameters by name: weights with spread, gains near one and nonzero biases, so that no error hides."""
    gpt2 = m["norm"] == "layernorm"
    h, head_dim = m["hidden"], m["hidden"] // m["heads"]
    params = {}

    def draw(name, shape, std, mean=0.0):
        params[name] = mean + std * torch.randn(shape, generator=generator, dtype=torch.float32)

    def norm(name):
        draw(f"{name}.weight", [h], 0.1, mean=1.0)
        if gpt2:
            draw(f"{name}.bias", [h], 0.1)

    def linear(name, rows, columns):
        draw(f"{name}.weight", [rows, columns], 0.15)
        if gpt2:
            draw(f"{name}.bias", [rows], 0.1)

    draw("embed.tokens", [m["vocab"], h], 0.2)
    if gpt2:
        draw("embed.positions", [m["seq"], h], 0.1)
    for layer in range(m["layers"]):
        name = f"layers.{layer}"
        norm(f"{name}.attention.norm")
        linear(f"{name}.attention.qkv", (m["heads"] + 2 * m["kv_heads"]) * head_dim, h)
        linear(f"{name}.attention.out", h, m["heads"] * head_dim)
        norm(f"{name}.mlp.norm")
        linear(f"{name}.mlp.up", m["ffn"] if gpt2 else 2 * m["ffn"], h)
        linear(f"{name}.mlp.down", h, m["ffn"])
    norm("final.norm")
    if not m["tied"]:
        draw("head.weight", [m["vocab"], h], 0.15)
    return params


def linear(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def normalize(m, p, name, x):
    weight = p[f"{name}.weight"]
    if m["norm"] == "layernorm":
        return F.layer_norm(x, weight.shape, weight, p[f"{name}.bias"], EPS)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def rotate(m, x):
    """RoPE on [batch, heads, seq, head_dim], the two-halves (Hugging Face `rotate_half`) convention."""
    seq, dim = x.shape[-2:]
    frequency = m["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angle = torch.outer(torch.arange(seq, dtype=x.dtype), frequency).repeat(1, 2)
    low, high = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-high, low], dim=-1) * angle.sin()


def attention(m, p, name, x):
    batch, seq, hidden = x.shape
    heads, kv_heads = m["heads"], m["kv_heads"]
    head_dim = hidden // heads
    widths = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    q, k, v = (
        part.view(batch, seq, -1, head_dim).transpose(1, 2)
        for part in linear(p, f"{name}.qkv", x).split(widths, dim=-1)
    )
    if "rope_theta" in m:
        q, k = rotate(m, q), rotate(m, k)
    # Query head i reads key-value head i // (heads / kv_heads).
    k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(head_dim)
    future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    out = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    return linear(p, f"{name}.out", out.transpose(1, 2).reshape(batch, seq, hidden))


def mlp(m, p, name, x):
    up = linear(p, f"{name}.up", x)
    if m["activation"] == "swiglu":
        gate, up = up.chunk(2, dim=-1)
        return linear(p, f"{name}.down", F.silu(gate) * up)
    return linear(p, f"{name}.down", F.gelu(up, approximate="tanh"))


def mean_loss(m, p, ids, targets):
    x = F.embedding(ids, p["embed.tokens"])
    if "embed.positions" in p:
        x = x + p["embed.positions"]
    for layer in range(m["layers"]):
        name = f"layers.{layer}"
        x = x + attention(m, p, f"{name}.attention", normalize(m, p, f"{name}.attention.norm", x))
        x = x + mlp(m, p, f"{name}.mlp", normalize(m, p, f"{name}.mlp.norm", x))
    head = p["embed.tokens"] if m["tied"] else p["head.weight"]
    logits = F.linear(normalize(m, p, "final.norm", x), head)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def learning_rate(step):
    o = OPTIMIZER
    if step < o["warmup_steps"]:
        return o["peak_lr"] * (step + 1) / o["warmup_steps"]
    progress = (step - o["warmup_steps"]) / (o["steps"] - o["warmup_steps"])
    return o["min_lr"] + 0.5 * (o["peak_lr"] - o["min_lr"]) * (1 + math.cos(math.pi * progress))


def decays(name, parameter):
    """Linear weights, token embedding and head decay; positions, norms and biases do not."""
    return parameter.dim() == 2 and name != "embed.positions"


def train(m, params, ids, targets):
    """Trains from `params`; returns step-0 gradients, and loss and unclipped gradient norm of every step."""
    o = OPTIMIZER
    p = {name: value.double().requires_grad_() for name, value in params.items()}
    groups = [
        dict(params=[v for n, v in p.items() if decays(n, v)], weight_decay=o["weight_decay"]),
        dict(params=[v for n, v in p.items() if not decays(n, v)], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    first_grads, losses, norms = {}, [], []
    for step in range(o["steps"]):
        optimizer.zero_grad()
        loss = mean_loss(m, p, ids[step], targets[step])
        loss.backward()
        if step == 0:
            first_grads = {name: value.grad.clone() for name, value in p.items()}
        norm = torch.stack([value.grad.square().sum() for value in p.values()]).sum().sqrt().item()
        clip = min(1.0, o["clip_norm"] / (norm + o["clip_eps"]))
        for value in p.values():
            value.grad.mul_(clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    return first_grads, losses, norms


def draw_tokens(m, generator):
    """Noisy arithmetic sequences, so that the loss falls; targets are the ids one position on."""
    steps, batch, seq, vocab = OPTIMIZER["steps"], m["batch"], m["seq"], m["vocab"]
    start = torch.randint(vocab, (steps, batch, 1), generator=generator)
    stride = torch.randint(1, 4, (steps, batch, 1), generator=generator)
    noise = torch.randint(vocab, (steps, batch, seq + 1), generator=generator)
    noisy = torch.rand((steps, batch, seq + 1), generator=generator) < 0.1
    tokens = torch.where(noisy, noise, (start + stride * torch.arange(seq + 1)) % vocab)
    return tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()


def write(architecture, m, folder):
    generator = torch.Generator().manual_seed(m["seed"])
    params = init_params(m, generator)
    ids, targets = draw_tokens(m, generator)
    grads, losses, norms = train(m, params, ids, targets)
    tensors = {f"param/{name}": value for name, value in params.items()}
    tensors |= {f"grad/{name}": value.float() for name, value in grads.items()}
    tensors |= {"ids": ids.int(), "targets": targets.int()}
    save_file(tensors, folder / f"{architecture}.safetensors")
    golden = dict(architecture=architecture, model=dict(m, norm_eps=EPS), optimizer=OPTIMIZER, losses=losses, grad_norms=norms)
    (folder / f"{architecture}.json").write_text(json.dumps(golden, indent=2) + "\n")
    print(f"{architecture}: loss {losses[0]:.6f} -> {losses[-1]:.6f}, gradient norm {norms[0]:.6f} -> {norms[-1]:.6f}")


def main():
    torch.use_deterministic_algorithms(True)
    default = Path(__file__).resolve().parent.parent / "tests" / "goldens"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    for architecture, m in DRESSES.items():
        write(architecture, m, folder)


if __name__ == "__main__":
    main()
