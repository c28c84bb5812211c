"""`reports/engines.md` of what the checks found.

In: a folder with a file of JSON lines an engine. Out: Markdown.
"""

import json
import pathlib
import sys

READERS = {
    "megatron-lm": ("megatron-core 0.19.2", "argparse, `validate_args`, `TransformerConfig`; Transformer Engine's version taken as 2.8"),
    "torchtitan": ("torchtitan 0.3.0", "`ConfigManager`, `ParallelDims`, the model's own checks; the device taken as one that has fp8"),
    "deepspeed": ("deepspeed 0.19.8", "`DeepSpeedConfig`; arguments of Megatron-DeepSpeed are compared with the plan alone"),
    "maxtext": ("maxtext 0.2.5", "`pyconfig.initialize` on as many devices, products of axes"),
    "accelerate": ("accelerate 1.15.0, transformers 5.23.0", "its launcher's arguments, `ParallelismConfig`, `AutoConfig`"),
}

HEAD = """# Plans read by engines

`meshwright export` writes each plan of `engines/tests/cases/` for each engine that can express it; the engine's own parser reads it
in the release that is named, on a CPU. *Values* are compared with the plan after the engine has filled in and derived its own.
`scripts/engines check` makes this page.

| engine | release | read by | folders | accepted | values equal | refused by export | bad files refused |
|---|---|---|---|---|---|---|---|"""

PLANNED = """
## What is planned for an engine

`meshwright plan --to ENGINE --export` for jobs drawn by a fixed seed (`scripts/engine_checks/planned.py`): models, systems, sequences
and batches that somebody may ask for, under a stack of the engine. Folders go to the same parsers.

| engine | plans exported | jobs that nothing fits | refused by export | accepted by the parser | values equal |
|---|---|---|---|---|---|"""
COMPARED = lambda line: line["compared"]
UNEQUAL = lambda line: len(line["unequal"])


def main():
    lines, tables, faults = [], [], []
    for engine, (release, by) in READERS.items():
        path = pathlib.Path(sys.argv[1]) / f"{engine}.jsonl"
        if not path.exists():
            lines.append(f"| {engine} | {release} | not checked | | | | | |")
            continue
        found = [json.loads(line) for line in path.read_text().splitlines()]
        cases = [line for line in found if "case" in line]
        bad = [line for line in found if "negative" in line]
        accepted = [line for line in cases if line["accepted"]]
        compared = sum(line["compared"] for line in accepted)
        unequal = sum(len(line["unequal"]) for line in accepted)
        refused = next((line["refused_by_us"] for line in found if "refused_by_us" in line), "")
        caught = sum(line["refused"] for line in bad)
        lines.append(
            f"| {engine} | {release} | {by} | {len(cases)} | {len(accepted)} | {compared - unequal} of {compared} "
            f"| {refused} | {caught} of {len(bad)} |"
        )
        tables.append(f"- **{engine}**: " + ", ".join(line["case"] for line in cases))
        for line in cases:
            if not line["accepted"]:
                faults.append(f"- {engine}, {line['case']}: {line['error'].splitlines()[0]}")
            for key, wanted, got in line.get("unequal", []):
                faults.append(f"- {engine}, {line['case']}: {key} is {got}, not {wanted}")
        faults += [f"- {engine}: {line['negative']} was accepted" for line in bad if not line["refused"]]
    print(HEAD)
    print("\n".join(lines))
    print(PLANNED)
    for engine in READERS:
        path = pathlib.Path(sys.argv[1]) / f"{engine}.planned.jsonl"
        if path.exists():
            first, *found = [json.loads(line) for line in path.read_text().splitlines()]
            accepted = [line for line in found if line["accepted"]]
            compared, unequal = (sum(of(line) for line in accepted) for of in (COMPARED, UNEQUAL))
            print(
                f"| {engine} | {first['planned']} | {first['nothing_fits']} | {first['refused']} | {len(accepted)} "
                f"| {compared - unequal} of {compared} |"
            )
            for line in found:
                if not line["accepted"]:
                    faults.append(f"- {engine}, {line['case']}: {line['error'].splitlines()[0]}")
                faults += [f"- {engine}, {line['case']}: {k} is {got}, not {w}" for k, w, got in line.get("unequal", [])]
    print("\n## Cases\n\n" + "\n".join(tables))
    print("\n## Not as it should be\n\n" + ("\n".join(faults) or "Nothing."))


main()
