"""Tries what a diagnosis recommends, and says how far what it foretold came true.

    python benchmarks/predictions.py [--size 1GB] [--slow FOLDER --beneath FOLDER] [--rounds 3]

Each case is a load that is slow for one reason. Its diagnosis names a remedy and the seconds that it saves; the load is
then repeated with the remedy, and what that saved is held against what was foretold. Each load is in a process of its
own in which the libraries are imported already; weights are cold where the case is about storage, in memory else.

``--slow`` is a folder on slow storage that holds a checkpoint of safetensors, ``--beneath`` the folder that it shows,
where it shows one: both are made cold. Cases of storage are left out without it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

_CODE = """
import json, os, sys
import torch, transformers, transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama
import nbloader
model, choices, folders = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
if choices.get("quantization"):
    import bitsandbytes
for folder in folders:
    for top, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(top, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
job = nbloader.start(model, **choices)
job.result()
told = nbloader.diagnose(job)
print(json.dumps({
    "seconds": job.state.elapsed,
    "parts": dict(told.parts),
    "remedies": {remedy.code: remedy.seconds for remedy in told.remedies},
    "verdict": told.verdict,
}))
"""


class Case(NamedTuple):
    """A slow load, the remedy it should be told first, and the load with that remedy; folders to make cold for each."""

    name: str
    remedy: str
    model: str
    choices: Mapping[str, Any]
    better_model: str
    better: Mapping[str, Any]
    cold: tuple[str, ...] = ()
    better_cold: tuple[str, ...] = ()


def load(model: str, choices: Mapping[str, Any], cold: tuple[str, ...]) -> dict[str, Any]:
    """Return how long a load took, and its diagnosis."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, model, json.dumps(dict(choices)), *cold],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def make_cases(work: Path, size: str, slow: Path | None, beneath: Path | None) -> list[Case]:
    """Return the cases that can be tried here; what they need is made in `work`."""
    from support.pickles import as_pickle

    import nbloader
    from nbloader import LoadOptions
    from nbloader._convert import convert

    demo = nbloader.demo_checkpoint(size)
    pickled = as_pickle(demo, work / "pickled", is_zip=False)
    converted = Path(shutil.copytree(pickled, work / "converted"))
    convert(converted, LoadOptions())
    halved = work / "halved"
    made = nbloader.load(demo, progress=False, dtype="float16")
    made.model.save_pretrained(halved)
    made.tokenizer.save_pretrained(halved)
    cases = [
        Case("cast to float32", "dtype", str(demo), {"dtype": "float32"}, str(demo), {}),
        Case("cast to float16", "save", str(demo), {"dtype": "float16"}, str(halved), {}),
        Case("pickle", "convert", str(pickled), {}, str(converted), {}),
    ]
    if slow is not None:
        here, cold = str(slow), tuple(map(str, filter(None, (slow, beneath))))
        local = str(shutil.copytree(slow, work / "moved"))
        cases += [
            Case("one reader", "readers", here, {"readers": 1}, here, {}, cold, cold),
            Case("no reading ahead", "readahead", here, {"readahead": False}, here, {}, cold, cold),
            Case("slow storage, moved", "move", here, {}, local, {}, cold, (local,)),
            Case("slow storage, warm", "warm", here, {}, here, {}, cold),
        ]
    return cases


def tell(case: Case, rounds: int, out: Callable[[str], None]) -> None:
    """Try a case, and print its line."""
    before, after = [], []
    load(case.model, case.choices, case.cold)  # nothing that only the first one meets
    for _ in range(rounds):
        before.append(load(case.model, case.choices, case.cold))
        after.append(load(case.better_model, case.better, case.better_cold))
    first = before[-1]["remedies"]
    verdict = next(iter(first), "nothing")
    slow, fast = (statistics.median(run["seconds"] for run in runs) for runs in (before, after))
    told = [run["remedies"][case.remedy] for run in before if case.remedy in run["remedies"]]
    if not told:
        out(f"| {case.name} | {verdict} | {slow:.2f} s | {fast:.2f} s | – | {slow - fast:.2f} s | – |")
        return
    foretold = statistics.median(told)
    true = (slow - fast) / foretold
    seconds = " | ".join(f"{value:.2f} s" for value in (slow, fast, foretold, slow - fast))
    out(f"| {case.name} | {verdict} | {seconds} | {true:.2f} |")


def main() -> None:
    """Try every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=Path, help="a folder on slow storage, with a checkpoint")
    parser.add_argument("--beneath", type=Path, help="the folder that it shows")
    parser.add_argument("--size", default="1GB", help="of the demo checkpoint that the cases without storage load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--work", type=Path, help="a folder on the disk to move to; a temporary one else")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.work, ignore_cleanup_errors=True) as folder:
        cases = make_cases(Path(folder), asked.size, asked.slow, asked.beneath)
        print("| case | first verdict | before | with the remedy | foretold | saved | saved / foretold |")
        print("|---|---|---|---|---|---|---|")
        for case in cases:
            if asked.only is None or asked.only in case.name:
                tell(case, asked.rounds, lambda line: print(line, flush=True))
        print(f"\n{os.cpu_count()} cores; medians of {asked.rounds}.")


if __name__ == "__main__":
    main()
