#!/usr/bin/env python3
"""Times the training of a decoder in idiomatic PyTorch, on CPU or CUDA: what the executor's throughput is held against.

Inputs: the model's and the batch's sizes as options. Outputs: a line of JSON with the median step time in seconds and
tokens per second; with --rounds, such a line for every line that comes in. Data are random tokens, which take as long as
any. In bf16, autocast runs over fp32 weights. On CUDA attention is whichever kernel PyTorch picks, cuDNN's or flash.
Invariant: a step is what the executor's is: gradients accumulated over microbatches, clipped to norm 1, one AdamW update;
linear layers have biases in the gpt2 architecture only.

  python3 -m venv venv && venv/bin/pip install torch numpy
  venv/bin/python benches/pytorch_train.py --architecture llama --layers 6 --hidden 384 --heads 6 --kv-heads 6 --ffn 1024 \\
      --vocab 256 --seq 256 --batch 8 --microbatch 4 --steps 20 --threads 2
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WARM_UP = 3


class Rope(nn.Module):
    """Rotary positions in the two-halves convention, with tables made once."""

    def __init__(self, seq, head_dim, theta):
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(seq), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x):
        low, high = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-high, low], dim=-1) * self.sin


class Attention(nn.Module):
    def __init__(self, a, gpt2):
        super().__init__()
        self.head_dim = a.hidden // a.heads
        self.widths = [a.hidden, a.kv_heads * self.head_dim, a.kv_heads * self.head_dim]
        self.qkv = nn.Linear(a.hidden, sum(self.widths), bias=gpt2)
        self.out = nn.Linear(a.hidden, a.hidden, bias=gpt2)
        self.rope = nn.Identity() if gpt2 else Rope(a.seq, self.head_dim, a.theta)

    def forward(self, x):
        batch, seq, hidden = x.shape
        parts = self.qkv(x).split(self.widths, dim=-1)
        q, k, v = (part.view(batch, seq, -1, self.head_dim).transpose(1, 2) for part in parts)
        grouped = self.widths[0] != self.widths[1]
        y = F.scaled_dot_product_attention(self.rope(q), self.rope(k), v, is_causal=True, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).reshape(batch, seq, hidden))


class Mlp(nn.Module):
    def __init__(self, a, gpt2):
        super().__init__()
        self.gpt2 = gpt2
        self.up = nn.Linear(a.hidden, a.ffn if gpt2 else 2 * a.ffn, bias=gpt2)
        self.down = nn.Linear(a.ffn, a.hidden, bias=gpt2)

    def forward(self, x):
        if self.gpt2:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, a, gpt2):
        super().__init__()
        norm = nn.LayerNorm if gpt2 else nn.RMSNorm
        self.attention_norm, self.mlp_norm = norm(a.hidden, eps=1e-5), norm(a.hidden, eps=1e-5)
        self.attention, self.mlp = Attention(a, gpt2), Mlp(a, gpt2)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    def __init__(self, a):
        super().__init__()
        gpt2 = a.architecture == "gpt2"
        self.tokens = nn.Embedding(a.vocab, a.hidden)
        self.positions = nn.Embedding(a.seq, a.hidden) if gpt2 else None
        self.layers = nn.ModuleList(Layer(a, gpt2) for _ in range(a.layers))
        self.norm = (nn.LayerNorm if gpt2 else nn.RMSNorm)(a.hidden, eps=1e-5)
        self.head = nn.Linear(a.hidden, a.vocab, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        if not a.untied:
            self.head.weight = self.tokens.weight

    def forward(self, ids, targets):
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def optimizer_of(model):
    """Fused AdamW; matrices decay, norms, biases and positions do not."""
    decays = lambda name, p: p.dim() == 2 and "positions" not in name
    named = list(model.named_parameters())
    groups = [
        dict(params=[p for n, p in named if decays(n, p)], weight_decay=0.1),
        dict(params=[p for n, p in named if not decays(n, p)], weight_decay=0.0),
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)


def train_step(loss_of, model, optimizer, tokens, microbatch, autocast):
    optimizer.zero_grad(set_to_none=True)
    parts = tokens.split(microbatch)
    for part in parts:
        with autocast():
            loss = loss_of(part[:, :-1], part[:, 1:])
        (loss / len(parts)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", choices=["gpt2", "llama"], default="llama")
    sizes = dict(layers=6, hidden=384, heads=6, kv_heads=6, ffn=1024, vocab=256, seq=256, batch=8, microbatch=4)
    for name, value in (sizes | dict(steps=20, threads=2)).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--theta", type=float, default=1e4)
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", action="store_true", help="time as many steps again for every line of input")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    a = parser.parse_args()
    if a.batch % a.microbatch or a.heads % a.kv_heads or a.hidden % a.heads:
        parser.error("microbatch must divide batch, kv-heads heads, and heads hidden")
    return a


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    with torch.device(a.device):
        model = Decoder(a)
    synchronize = torch.cuda.synchronize if a.device == "cuda" else lambda: None
    optimizer = optimizer_of(model)
    loss_of = torch.compile(model) if a.compile else model
    bf16 = a.precision == "bf16"
    autocast = lambda: torch.autocast(a.device, torch.bfloat16, enabled=bf16)

    def median(warm_up):
        times = []
        for step in range(warm_up + a.steps):
            tokens = torch.randint(a.vocab, (a.batch, a.seq + 1), device=a.device)
            synchronize()
            start = time.perf_counter()
            train_step(loss_of, model, optimizer, tokens, a.microbatch, autocast)
            synchronize()
            if step >= warm_up:
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def report(median):
        result = dict(
            tokens_per_s=a.batch * a.seq / median,
            step_time_s=median,
            parameters=sum(p.numel() for p in model.parameters()),
            torch=torch.__version__,
            threads=a.threads,
            compile=a.compile,
            device=torch.cuda.get_device_name() if a.device == "cuda" else "cpu",
            peak_bytes=torch.cuda.max_memory_allocated() if a.device == "cuda" else None,
        )
        print(json.dumps(result), flush=True)

    if not a.rounds:
        report(median(WARM_UP))
        return
    for _ in sys.stdin:
        report(median(WARM_UP))
        # The next contender has the device's memory to itself.
        optimizer.zero_grad(set_to_none=True)
        if a.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
