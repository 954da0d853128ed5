"""Times ways to a usable model on any storage, cold and warm, to the end of a first forward.

    python benchmarks/cold_load.py FOLDER [--beneath FOLDER] [--rounds 5] [--only cold|warm]

Each figure is taken in a process of its own in which torch, transformers and the way's own library are imported
already, all ways in turns, so that a machine that gets slower does so for all. "raw read" reads the same bytes in
parallel, into a buffer that is thrown away, and counts that and the first forward of a model that is in the page cache:
the limit. Ways that give tensors and no model count what it takes transformers to make one of them. Every way must give
the same logits; one whose library is not installed is left out (pip install --group benchmark brings them), and of a
checkpoint in .bin files so are those that read safetensors only.

Beneath the table: how far what nbloader told was from what was resident, and its ETA from what was left, in cold loads.
Where nbloader reads into memory, past the page cache, only the ETA can be held against something.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

LIBRARIES = {"fastsafetensors": "fastsafetensors", "run:ai streamer": "runai_model_streamer"}
FOR_BIN = ("plain from_pretrained", "nbloader", "raw read")
WAYS = ("plain from_pretrained", "nbloader", "safetensors load_file", *LIBRARIES, "raw read")

_CODE = """
import ctypes, json, mmap, os, statistics, sys, threading, time
from collections import deque
from pathlib import Path
import torch, transformers, nbloader
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer
from nbloader._system.page_cache import resident_bytes

way, folder = sys.argv[1:]
if way == "fastsafetensors":
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup
if way == "run:ai streamer":
    from runai_model_streamer import SafetensorsStreamer
transformers.utils.logging.disable_progress_bar()
shards = sorted(Path(folder).glob("*.safetensors")) or sorted(Path(folder).glob("*.bin"))
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

def read_tensors():
    names = [os.fspath(shard) for shard in shards]
    if way == "fastsafetensors":
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: names})
        files = loader.copy_files_to_device()
        return {name: files.get_tensor(name) for name in loader.get_keys()}
    if way == "run:ai streamer":
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(names)
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}
    return {key: tensor for shard in shards for key, tensor in load_file(shard).items()}

def watch(job):
    handles = [(os.open(shard, os.O_RDONLY), os.path.getsize(shard)) for shard in shards]
    total, seen = sum(size for _, size in handles), []
    while not job.done():
        state = job.state
        true = sum(resident_bytes(file, 0, size) for file, size in handles)
        if 0 < state.bytes_read < total:
            seen.append((state.now, state.fraction, abs(state.bytes_read - true) / total, state.eta))
        time.sleep(0.02)
    end = job.state.elapsed
    late = [(abs(now + eta - end), end - now) for now, share, _, eta in seen
            if share >= 0.2 and eta is not None and end - now > 0.1]
    in_memory = any(line.code == "reading_into_memory" for line in job.state.log)
    off = 0 if in_memory else max(off for *_, off, _ in seen)
    of_left = [wrong / left for wrong, left in late]
    of_all = max((wrong for wrong, _ in late), default=0) / end
    return [off, statistics.median(of_left), max(of_left), of_all, len(seen), in_memory] if late else None

def forward():
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[5]])).logits

cpu, began = time.process_time(), time.perf_counter()
if way == "watched":
    print(json.dumps(watch(nbloader.start(folder))))
    sys.exit()
if way == "nbloader":
    model, tokenizer = nbloader.load(folder, progress=False, reload=True)
elif way == "raw read":
    read_raw()
else:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if way == "plain from_pretrained":
        model = model_class.from_pretrained(folder)
    else:
        model = model_class.from_pretrained(None, config=config, state_dict=read_tensors())
passed = time.perf_counter() - began
cpu = time.process_time() - cpu
if way == "raw read":
    model = model_class.from_pretrained(folder)
    forward()  # reads what a storage that drops its cache has lost at this opening
    libc = ctypes.CDLL(None)
    for storage in (parameter.untyped_storage() for parameter in model.parameters()):
        start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = storage.data_ptr() + storage.nbytes() - start
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(max(0, length)), mmap.MADV_DONTNEED)
began, cpu_began = time.perf_counter(), time.process_time()
logits = forward()
passed, cpu = passed + time.perf_counter() - began, cpu + time.process_time() - cpu_began
print(json.dumps([passed, cpu, logits.double().sum().item()]))
"""


def weights_of(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint: safetensors where there are any."""
    return list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))


def set_cache(folders: list[Path], warm: bool) -> None:
    """Make every file of the folders resident, or drop it from the page cache."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb", buffering=0) as file:
            if warm:
                while file.read(8 << 20):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(way: str, folder: Path) -> list[float] | None:
    """Return seconds and CPU seconds to the end of a first forward, and the logits' sum."""
    done = subprocess.run([sys.executable, "-c", _CODE, way, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}:\n{done.stderr}")
    found: list[float] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, beneath: list[Path], ways: list[str], rounds: int, warm: bool) -> None:
    """Print the rows of one state of the page cache."""
    rows: dict[str, list[list[float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
            set_cache([folder, *beneath], warm)
            rows[way].append(measure(way, folder) or [])
    sums = {row[2] for found in rows.values() for row in found}
    if len(sums) > 1:
        raise SystemExit(f"The ways do not agree on the logits: {sums}")
    size = sum(path.stat().st_size for path in weights_of(folder))
    middles = {way: statistics.median(row[0] for row in found) for way, found in rows.items()}
    plain, raw = middles["plain from_pretrained"], middles["raw read"]
    for way, found in rows.items():
        totals = [row[0] for row in found]
        state = "warm" if warm else "cold"
        print(
            f"| {state} | {way} | {min(totals):.2f} s | {middles[way]:.2f} s | {max(totals):.2f} s "
            f"| {size / middles[way] / 1e9:.2f} | {plain / middles[way]:.2f} | {middles[way] / raw:.2f} "
            f"| {statistics.median(row[1] for row in found):.2f} s |",
            flush=True,
        )


def watch(folder: Path, beneath: list[Path], rounds: int) -> None:
    """Print how true what nbloader tells is in cold loads."""
    found = []
    for _ in range(rounds):
        set_cache([folder, *beneath], warm=False)
        seen = measure("watched", folder)
        found += [seen] if seen else []
    for off, middle, most, of_all, samples, in_memory in found:
        truth = "" if in_memory else f"bytes read told and resident differ by at most {off:.1%} of all; "
        print(
            f"{samples:.0f} looks at a load: {truth}"
            f"ETA from 20 % on is off by {middle:.0%} of what was left in the median, {most:.0%} at most, "
            f"{of_all:.0%} of the whole load at most"
        )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint's folder")
    parser.add_argument("--beneath", type=Path, action="append", default=[], help="a folder that feeds this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("cold", "warm"), help="one state of the page cache")
    given = parser.parse_args()
    ways = [way for way in WAYS if way not in LIBRARIES or importlib.util.find_spec(LIBRARIES[way])]
    if not any(given.folder.glob("*.safetensors")):
        ways = [way for way in ways if way in FOR_BIN]
    size = sum(path.stat().st_size for path in weights_of(given.folder))
    print(f"{given.folder.name}: {size / 1e9:.2f} GB, {given.rounds} rounds, to the end of a first forward\n")
    print("| page cache | way | min | median | max | GB/s | plain / way | way / raw read | CPU |")
    print("|---|---|---|---|---|---|---|---|---|")
    for warm in (False, True):
        if given.only in (None, "warm" if warm else "cold"):
            compare(given.folder, given.beneath, ways, given.rounds, warm)
    if given.only != "warm":
        print()
        watch(given.folder, given.beneath, given.rounds)


if __name__ == "__main__":
    main()
