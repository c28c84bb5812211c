"""What every engine's check needs: the cases, their plans, a child process for each, and what is compared.

In: folders that `meshwright export` wrote, the plans they were written from. Out: a line of JSON a case.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib
import traceback

CASES = pathlib.Path(__file__).resolve().parents[2] / "engines" / "tests" / "cases"

STUB = """#!/usr/bin/env python3
import json, os, sys
json.dump({"argv": sys.argv, "env": dict(os.environ)}, open(os.environ["CAPTURED"], "w"))
"""


def plan_of(folder):
    """A folder's plan, with what files leave out filled in as Meshwright does: the case it was made of, or what was found for it."""
    case = CASES / f"{folder.name}.toml"
    with open(case if case.exists() else folder / "plan.toml", "rb") as file:
        plan = tomllib.load(file)
    mesh = plan["mesh"]
    for axis in ("dp", "pp", "tp", "cp", "ep"):
        mesh.setdefault(axis, 1)
    mesh["data"] = mesh["dp"] * mesh["cp"]
    mesh["ranks"] = mesh["data"] * mesh["tp"] * mesh["pp"]
    mesh.setdefault("shard", mesh["data"])
    for key, usual in (("zero", 0), ("chunks", 1), ("sequence_parallel", False), ("ring", False)):
        plan.setdefault(key, usual)
    plan["microbatches"] = plan["job"]["global_batch"] // (mesh["dp"] * plan["microbatch"])
    # Stages that are alike stand once.
    plan["stages"] = [dict(stage) for stage in plan["stages"] for _ in range(stage.pop("count", 1))]
    for stage in plan["stages"]:
        for key in ("full", "selective", "offload"):
            stage.setdefault(key, 0)
    model = plan["job"]["model"]
    model.setdefault("rope_theta", 10000.0)
    family = model.setdefault("family", {})
    model["head_dim"] = family.get("head_dim", model["hidden"] // model["heads"])
    model["gpt2"] = model["architecture"] == "gpt2"
    model["learned"] = family.get("learned_positions", model["gpt2"])
    experts = family.get("experts")
    if experts:
        for key, usual in (("shared_ffn", 0), ("dense_layers", 0), ("capacity", 1.25), ("balance", 0.0)):
            experts.setdefault(key, usual)
    optimizer = plan["job"].setdefault("optimizer", {})
    usual = {"offload": False, "lr": 3e-4, "min_lr": 3e-5, "warmup_steps": 100, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    for key, value in {**usual, "weight_decay": 0.1, "clip": 1.0, "name": "adamw"}.items():
        optimizer.setdefault(key, value)
    return plan


def captured(folder):
    """The command that a folder's script starts, and its environment: the script is run with stubs of what it starts."""
    with tempfile.TemporaryDirectory() as stubs:
        for name in ("torchrun", "accelerate", "python3"):
            path = pathlib.Path(stubs) / name
            path.write_text(STUB.replace("/usr/bin/env python3", sys.executable))
            path.chmod(0o755)
        record = pathlib.Path(stubs) / "captured.json"
        environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "HOME": "/", "CAPTURED": str(record)}
        subprocess.run(["bash", str(folder / "train.sh")], env=environment, check=True, capture_output=True)
        found = json.loads(record.read_text())
    return found["argv"], found["env"]


def differences(wanted, found):
    """What an engine understood otherwise than it was meant."""

    def same(a, b):
        if isinstance(a, bool) or isinstance(b, bool):
            return bool(a) == bool(b)
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
        return a == b

    return [[key, wanted[key], found.get(key)] for key in wanted if not same(wanted[key], found.get(key))]


def in_child(work):
    """The answer of a function, run in a process of its own: parsers keep state."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        noise = io.StringIO()
        try:
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                answer = work()
        except BaseException as error:  # a parser may call exit
            last = noise.getvalue().strip().splitlines()[-1:] if isinstance(error, SystemExit) else []
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = " ".join([type(error).__name__, str(error), *last])
            answer = {"accepted": False, "error": f"{words} ({os.path.basename(where.filename)}:{where.lineno})"}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe, default=str)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"accepted": False, "error": "the parser ended the process"}


def folders_of_plans(root):
    """Whether a folder holds what was planned, not the cases."""
    return root.parent.name == "planned"


def check(look, negatives=()):
    """Looks at every folder under the first argument, then at what has to be refused of the cases, and prints what was found.

    `look(plan, folder)` gives what was wanted and what was found; `negatives` are a name, a case, and a change of its folder.
    """

    def answer(folder):
        wanted, found = look(plan_of(folder), folder)
        return {"accepted": True, "compared": len(wanted), "unequal": differences(wanted, found)}

    root = pathlib.Path(sys.argv[1])
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        print(json.dumps({"case": folder.name, **in_child(lambda: answer(folder))}), flush=True)
    for name, case, change in () if folders_of_plans(root) else negatives:
        with tempfile.TemporaryDirectory() as copy:
            subprocess.run(["cp", "-r", str(root / case), copy], check=True)
            change(pathlib.Path(copy) / case)
            found = in_child(lambda: answer(pathlib.Path(copy) / case))
        print(json.dumps({"negative": name, "refused": not found["accepted"], "error": found.get("error")}), flush=True)


def replace(file, old, new):
    """A change of a file for `negatives`."""

    def change(folder):
        path = folder / file
        text = path.read_text()
        assert old in text, f"{old} in {path}"
        path.write_text(text.replace(old, new, 1))

    return change
