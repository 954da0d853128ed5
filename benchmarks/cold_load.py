"""Times ways to a usable model on any storage, from a cold page cache or a warm one, to the end of a first forward.

    python benchmarks/cold_load.py FOLDER [--beneath FOLDER] [--rounds 5] [--warm]

Each figure is taken in a process of its own in which torch and transformers are imported already, all ways in turns,
so that a machine that gets slower does so for all. "raw read" reads the same bytes in parallel, into a buffer that is
thrown away, and counts that and a forward pass: the limit. Every way must give the same logits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

WAYS = ("plain from_pretrained", "nbloader", "safetensors load_file", "raw read")

_CODE = """
import json, os, sys, threading, time
from collections import deque
from pathlib import Path
import torch, transformers, nbloader
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

way, folder = sys.argv[1:]
transformers.utils.logging.disable_progress_bar()
shards = sorted(Path(folder).glob("*.safetensors"))
config = AutoConfig.from_pretrained(folder)
model_class = getattr(transformers, config.architectures[0])

def read_raw():
    left, files = deque(), [os.open(path, os.O_RDONLY) for path in shards]
    for file in files:
        left.extend((file, offset) for offset in range(0, os.fstat(file).st_size, 4 << 20))
    def work():
        buffer = bytearray(4 << 20)
        while left:
            try:
                file, offset = left.popleft()
            except IndexError:
                return
            os.preadv(file, [buffer], offset)
    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

cpu, began = time.process_time(), time.perf_counter()
if way == "nbloader":
    model, tokenizer = nbloader.load(folder, progress=False)
elif way == "raw read":
    read_raw()
else:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if way == "plain from_pretrained":
        model = model_class.from_pretrained(folder)
    else:
        state = {}
        for shard in shards:
            state.update(load_file(shard))
        model = model_class.from_pretrained(None, config=config, state_dict=state)
loaded = time.perf_counter() - began
cpu = time.process_time() - cpu
if way == "raw read":
    model = model_class.from_pretrained(folder)
began = time.perf_counter()
with torch.inference_mode():
    logits = model(input_ids=torch.tensor([[5]])).logits
total = loaded + time.perf_counter() - began
print(json.dumps([loaded, total, cpu, logits.double().sum().item()]))
"""


def set_cache(folders: list[Path], warm: bool) -> None:
    """Make every file of the folders resident, or drop it from the page cache."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb", buffering=0) as file:
            if warm:
                while file.read(8 << 20):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(way: str, folder: Path) -> list[float]:
    """Return seconds to the end of loading and of a first forward, CPU seconds of loading, and the logits' sum."""
    done = subprocess.run([sys.executable, "-c", _CODE, way, str(folder)], capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint's folder, in safetensors")
    parser.add_argument("--beneath", type=Path, action="append", default=[], help="a folder that feeds this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", action="store_true", help="with the files in the page cache")
    given = parser.parse_args()
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
    rows: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for turn in range(given.rounds):
        for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
            set_cache([given.folder, *given.beneath], given.warm)
            rows[way].append(measure(way, given.folder))
    sums = {row[3] for found in rows.values() for row in found}
    if len(sums) > 1:
        raise SystemExit(f"The ways do not agree on the logits: {sums}")
    state = "warm" if given.warm else "cold"
    print(f"{given.folder}: {size / 1e9:.2f} GB, {state}, {given.rounds} rounds, to the end of a first forward\n")
    print("| way | min | median | max | GB/s | plain / way | CPU of loading |\n|---|---|---|---|---|---|---|")
    plain = statistics.median(row[1] for row in rows[WAYS[0]])
    for way, found in rows.items():
        totals = [row[1] for row in found]
        middle = statistics.median(totals)
        print(
            f"| {way} | {min(totals):.2f} s | {middle:.2f} s | {max(totals):.2f} s | {size / middle / 1e9:.2f} "
            f"| {plain / middle:.2f} | {statistics.median(row[2] for row in found):.2f} s |"
        )


if __name__ == "__main__":
    main()
