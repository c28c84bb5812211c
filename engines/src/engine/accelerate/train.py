Trains the model of config.json with the batch and the optimizer of plan.json, laid over devices as accelerate.yaml says.
"""

import contextlib
import glob
import json
import math
import os
import time

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed


def token_stream(plan, vocab):
    """Endless rows of tokens: of the user's text, else random ones."""
    length = plan["sequence"]
    if not os.environ.get("DATA"):
        while True:
            yield torch.randint(0, vocab, (length,))
    tokenizer = transformers.AutoTokenizer.from_pretrained(os.environ["TOKENIZER"])
    tokens = []
    while True:
        for path in sorted(glob.glob(os.environ["DATA"])):
            with open(path, encoding="utf-8") as text:
                for line in text:
                    tokens += tokenizer(line)["input_ids"]
                    while len(tokens) >= length:
                        yield torch.tensor(tokens[:length])
                        tokens = tokens[length:]


def batches(plan, config, rank, replicas):
    """Microbatches of one replica."""
    torch.manual_seed(plan["seed"] + rank)
    stream = token_stream(plan, config.vocab_size)
    for _ in range(rank):
        next(stream)
    while True:
        rows = []
        while len(rows) < plan["microbatch"]:
            rows.append(next(stream))
            for _ in range(replicas - 1 if os.environ.get("DATA") else 0):
                next(stream)
        tokens = torch.stack(rows)
        if plan["class"] == "BertForMaskedLM":
            chosen = torch.rand(tokens.shape) < 0.15
            yield {"input_ids": tokens.masked_fill(chosen, 0), "labels": tokens.masked_fill(~chosen, -100)}
        elif plan["target_sequence"]:
            yield {"input_ids": tokens, "labels": tokens[:, : plan["target_sequence"]].contiguous()}
        else:
            yield {"input_ids": tokens, "labels": tokens}


def make_optimizer(plan, model):
    """The plan's optimizer; matrices alone decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    if plan["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=plan["lr"], betas=(plan["beta1"], plan["beta2"]), eps=plan["eps"])
    momentum = plan["beta1"] if plan["optimizer"] == "sgd-momentum" else 0.0
    return torch.optim.SGD(groups, lr=plan["lr"], momentum=momentum)


def rate(plan, step):
    """Share of the peak learning rate: linear warm-up, then a cosine to `min_lr`."""
    if step < plan["warmup_steps"]:
        return (step + 1) / plan["warmup_steps"]
    done = (step - plan["warmup_steps"]) / max(1, plan["steps"] - plan["warmup_steps"])
    least = plan["min_lr"] / plan["lr"] if plan["lr"] else 0.0
    return least + (1 - least) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def main():
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    accelerator = Accelerator(gradient_accumulation_steps=plan["accumulation"])
    set_seed(plan["seed"])
    config = transformers.AutoConfig.from_pretrained(".")
    axes = accelerator.parallelism_config
    split = axes is not None and axes.cp_enabled
    kernel = {"attn_implementation": "sdpa"} if split else {}
    model = getattr(transformers, plan["class"])._from_config(config, **kernel)
    if plan["recompute"]:
        model.gradient_checkpointing_enable()
    model = accelerator.prepare(model)
    optimizer = accelerator.prepare(make_optimizer(plan, model))
    shared = axes.cp_size if axes is not None else 1
    rank, replicas = accelerator.process_index // shared, accelerator.num_processes // shared
    data = batches(plan, config, rank, replicas)
    model.train()
    for step in range(plan["steps"]):
        start, losses = time.perf_counter(), []
        for group in optimizer.param_groups:
            group["lr"] = plan["lr"] * rate(plan, step)
        for _ in range(plan["accumulation"]):
            batch = {name: rows.to(accelerator.device) for name, rows in next(data).items()}
            if split:
                # Ranks of a context have parts of a row: targets are shifted and positions counted before it is cut.
                tokens = batch["input_ids"]
                batch["shift_labels"] = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].contiguous()
                batch["position_ids"] = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens).contiguous()
            cut = contextlib.nullcontext()
            if split:
                rows = list(batch.values())
                cut = accelerator.maybe_context_parallel(
                    buffers=rows, buffer_seq_dims=[1] * len(rows), no_restore_buffers=set(rows)
                )
            with accelerator.accumulate(model), cut:
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients and plan["clip"]:
                    accelerator.clip_grad_norm_(model.parameters(), plan["clip"])
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        seconds = time.perf_counter() - start
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        tokens = plan["global_batch"] * plan["sequence"] / seconds
        accelerator.print(
            f"step: {step + 1} loss: {mean:.4f} step_time: {seconds:.4f} s tokens/s: {tokens:.0f} memory: {memory:.2f} GiB",
            flush=True,
        )
        folder = os.environ.get("CHECKPOINTS")
        if folder and (step + 1) % 1000 == 0:
            accelerator.save_state(os.path.join(folder, f"step-{step + 1}"))
    accelerator.end_training()


if __name__ == "__main__":
    main()
