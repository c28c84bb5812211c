"""Plans that the search finds for an engine, exported to it.

In: an engine, how many, a folder. Out: a folder a plan, as `meshwright plan --export` writes it; on the last line what was found.

Jobs are drawn by a fixed seed. A job that nothing fits is drawn again; an export that is refused counts.
"""

import json
import pathlib
import random
import shutil
import subprocess
import sys

DENSE = ["llama2-7b", "llama3-8b", "llama3.2-1b", "llama2-70b", "llama3-70b", "qwen2.5-72b"]
GPT = ["gpt2-xl", "gpt2-124m", "gpt3-175b"]
EXPERTS = ["mixtral-8x7b", "qwen3-30b-a3b", "mixtral-8x22b"]
GPUS = ["dgx-a100-80gb", "dgx-h100", "dgx-a100-40gb", "dgx-h200", "dgx-b200"]
TPUS = ["tpu-v5p", "tpu-v4", "tpu-v6e"]
# By engine: the stack that is priced, models, systems.
DRAWN = {
    "megatron-lm": ("megatron-core", DENSE + GPT + EXPERTS + ["bert-large", "deepseek-v3"], GPUS),
    "torchtitan": ("torchtitan", DENSE + EXPERTS[:2], GPUS),
    "deepspeed": ("megatron-deepspeed-2023", DENSE + GPT, GPUS),
    "maxtext": ("maxtext", DENSE + EXPERTS + GPT[:1], TPUS),
}


def job(draw, engine):
    """Arguments of `plan`."""
    stack, models, systems = DRAWN[engine]
    model, system = draw.choice(models), draw.choice(systems)
    size = 2 ** draw.randint(0, 5)
    cluster = f"{8 * size}x {system}" if engine == "maxtext" else f"{size}x {system}"
    positions = {"bert-large": [512], "gpt2-xl": [1024], "gpt2-124m": [1024]}
    seq = draw.choice(positions.get(model, [2048, 4096, 8192, 16384, 32768]))
    batch = draw.choice([1, 3, 5]) * 2 ** draw.randint(4, 10)
    precision = draw.choice(["bf16", "bf16", "bf16", "bf16" if engine == "maxtext" else "fp32"])
    words = ["plan", model, "--cluster", cluster, "--seq", seq, "--global-batch", batch, "--precision", precision]
    return [str(word) for word in [*words, "--stack", stack, "--to", engine, "--top", 1]]


def main():
    binary, engine, wanted, root = sys.argv[1], sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4])
    draw, found, unfit, refused = random.Random(engine), 0, 0, []
    while found + len(refused) < wanted:
        folder = root / f"planned-{found + len(refused):03}"
        arguments = job(draw, engine)
        done = subprocess.run([binary, *arguments, "--export", str(folder)], capture_output=True, text=True)
        if done.returncode == 0:
            found += 1
        elif "cannot express the plan" in done.stderr:
            refused.append(" ".join(arguments) + "\n" + done.stderr)
            shutil.rmtree(folder, ignore_errors=True)
        elif done.returncode == 3:
            unfit += 1
        else:
            sys.exit(f"{' '.join(arguments)}\n{done.stderr}")
    print("".join(refused), file=sys.stderr)
    print(json.dumps({"planned": found, "refused": len(refused), "nothing_fits": unfit}))


main()
