"""Times planning and loading by the number of shards and tensors: the cost of a load should grow linearly.

    python benchmarks/scaling.py [--rounds 5]

The checkpoints are Llamas of tiny tensors, so that what is counted is the cost of each tensor and each shard; they are
made in a temporary folder. Loads are warm and in one process, plain from_pretrained and nbloader in turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import nbloader
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._options.options import LoadOptions
from nbloader._planning.plan import make_plan
from nbloader._reading.parts import make_parts
from nbloader._system.page_cache import Missing

SIZES = ((100, 1), (100, 10), (1000, 1), (1000, 10), (1000, 100), (20_000, 1), (20_000, 100))
_TENSORS_PER_LAYER = 9


def make(folder: Path, tensors: int, shards: int) -> int:
    """Write a checkpoint of about so many tensors, and return how many there are."""
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1, vocab_size=8,
        num_hidden_layers=tensors // _TENSORS_PER_LAYER, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    names = list(shapes)
    share = -(-len(names) // shards)
    weight_map = {}
    for number in range(shards):
        part = names[number * share : (number + 1) * share]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: torch.zeros(shapes[name]) for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return len(names)


def plan(folder: Path) -> None:
    """Do what a load plans before it reads: headers, sizes, and the order of reading."""
    checkpoint = read_checkpoint(folder)
    make_plan(checkpoint, LoadOptions())
    missing = [[Missing(0, shard.bytes, shard.bytes)] for shard in checkpoint.shards]
    make_parts(missing, [(tensor.shard, tensor.begin, tensor.end) for tensor in checkpoint.tensors.values()])


def seconds(work: Callable[[], Any]) -> float:
    """Return what it takes, without clearing up behind the load before."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    transformers.utils.logging.disable_progress_bar()
    print("| tensors | shards | planning | plain from_pretrained | nbloader | plain / nbloader |")
    print("|---|---|---|---|---|---|")
    for wanted, shards in SIZES:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            tensors = make(folder, wanted, shards)
            ways: dict[str, Callable[[], Any]] = {
                "planning": lambda: plan(folder),  # noqa: B023 - called before the next round of the loop
                "plain": lambda: transformers.LlamaForCausalLM.from_pretrained(folder),  # noqa: B023
                "nbloader": lambda: nbloader.load(folder, progress=False, reload=True),  # noqa: B023
            }
            for work in ways.values():
                work()
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, work in ways.items():
                    times[way].append(seconds(work))
        planning, plain, ours = (statistics.median(found) for found in times.values())
        print(
            f"| {tensors} | {shards} | {planning:.3f} s | {plain:.2f} s | {ours:.2f} s | {plain / ours:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
