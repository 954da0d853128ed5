"""Times ways to a usable model on any storage, cold and warm, to the end of a first forward.

    python benchmarks/cold_load.py FOLDER [--beneath FOLDER] [--rounds 5] [--only cold|warm] [--new-kernel] [--ways ...]

Each figure is taken in a process of its own, all ways in turns, so that a machine that gets slower does so for all. The
libraries are imported before the clock starts; with --new-kernel, what a way imports counts. Ways that give tensors and
no model count what it takes transformers to make one of them. Every way must give the same logits; one whose library is
not installed is left out (pip install --group benchmark brings them), and of a checkpoint in .bin files so are those
that read safetensors only.

"overlap:N" is the simplest fast reader: N threads send 4 MB parts of the files to the null device, in order, while
from_pretrained runs. With "ahead:N", from_pretrained begins when they have ended. Neither shows progress, checks
anything or can be cancelled. Each is timed with several N, because the best one differs by storage.

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
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = {"fastsafetensors": "fastsafetensors", "run:ai streamer": "runai_model_streamer"}
READERS = ("overlap:4", "overlap:8", "overlap:32", "ahead:32")
FOR_BIN = ("plain from_pretrained", "nbloader", *READERS)
WAYS = ("plain from_pretrained", "nbloader", *READERS, "safetensors load_file", *LIBRARIES)

_CODE = """
import importlib, json, os, queue, statistics, sys, threading, time
from pathlib import Path

way, folder, new_kernel = sys.argv[1:]
kind, _, count = way.partition(":") if way.startswith(("overlap:", "ahead:")) else (way, "", "")
MODULES = {"nbloader": ["nbloader"], "watched": ["nbloader"], "fastsafetensors": ["fastsafetensors"],
           "run:ai streamer": ["runai_model_streamer"], "safetensors load_file": ["safetensors.torch"]}
shards = sorted(Path(folder).glob("*.safetensors")) or sorted(Path(folder).glob("*.bin"))

def import_libraries():
    for name in MODULES.get(way, []):
        importlib.import_module(name)
    if way in ("nbloader", "watched") and new_kernel == "True":
        return
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer
    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, json.loads((Path(folder) / "config.json").read_text())["architectures"][0])

def start_readers():
    parts = queue.SimpleQueue()
    for shard in shards:
        size = shard.stat().st_size
        for offset in range(0, size, 4 << 20):
            parts.put((shard, offset, min(4 << 20, size - offset)))
    null = os.open(os.devnull, os.O_WRONLY)
    def work():
        files = {}
        while True:
            try:
                shard, offset, left = parts.get_nowait()
            except queue.Empty:
                return
            if shard not in files:
                files[shard] = os.open(shard, os.O_RDONLY)
            while left:
                sent = os.sendfile(null, files[shard], offset, left)
                offset, left = offset + sent, left - sent
    threads = [threading.Thread(target=work) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    return threads

def read_tensors():
    names = [os.fspath(shard) for shard in shards]
    if way == "fastsafetensors":
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: names})
        files = loader.copy_files_to_device()
        return {name: files.get_tensor(name) for name in loader.get_keys()}
    if way == "run:ai streamer":
        from runai_model_streamer import SafetensorsStreamer
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(names)
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}
    from safetensors.torch import load_file
    return {key: tensor for shard in shards for key, tensor in load_file(shard).items()}

def load_plainly():
    global tokenizer
    threads = start_readers() if count else []
    import_libraries()
    from transformers import AutoConfig, AutoTokenizer
    import transformers
    config = AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if kind not in ("plain from_pretrained", "overlap", "ahead"):
        return model_class.from_pretrained(None, config=config, state_dict=read_tensors())
    if kind == "ahead":
        for thread in threads:
            thread.join()
    model = model_class.from_pretrained(folder)
    for thread in threads:
        thread.join()
    return model

def watch(job):
    from nbloader._system.page_cache import resident_bytes
    handles = [(os.open(shard, os.O_RDONLY), os.path.getsize(shard)) for shard in shards]
    total, seen = sum(size for _, size in handles), []
    while not job.done():
        state = job.state
        true = sum(resident_bytes(file, 0, size) for file, size in handles)
        told, later = state.bytes_read, job.state.bytes_read  # looking takes a while, in which both grow
        if 0 < told < total:
            seen.append((state.now, state.fraction, max(told - true, true - later, 0) / total, state.eta))
        time.sleep(0.02)
    end = job.state.elapsed
    late = [(abs(now + eta - end), end - now) for now, share, _, eta in seen
            if share >= 0.2 and eta is not None and end - now > 0.1]
    in_memory = any(line.code == "reading_into_memory" for line in job.state.log)
    off = 0 if in_memory else max(off for *_, off, _ in seen)
    of_left = [wrong / left for wrong, left in late]
    of_all = max((wrong for wrong, _ in late), default=0) / end
    return [off, statistics.median(of_left), max(of_left), of_all, len(seen), in_memory] if late else None

if new_kernel != "True":
    import_libraries()
cpu, began = time.process_time(), time.perf_counter()
if kind in ("nbloader", "watched"):
    import nbloader
if way == "watched":
    print(json.dumps(watch(nbloader.start(folder))))
    sys.exit()
if way == "nbloader":
    model, tokenizer = nbloader.load(folder, progress=False, reload=True)
else:
    model = load_plainly()
import torch
with torch.inference_mode():
    logits = model(input_ids=torch.tensor([[5]])).logits
print(json.dumps([time.perf_counter() - began, time.process_time() - cpu, logits.double().sum().item()]))
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


def measure(way: str, folder: Path, new_kernel: bool) -> list[float] | None:
    """Return seconds and CPU seconds to the end of a first forward, and the logits' sum."""
    command = [sys.executable, "-c", _CODE, way, str(folder), str(new_kernel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}:\n{done.stderr}")
    found: list[float] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(
    folder: Path, beneath: list[Path], ways: Sequence[str], rounds: int, *, warm: bool, new_kernel: bool
) -> None:
    """Print the rows of one state of the page cache."""
    rows: dict[str, list[list[float]]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
            set_cache([folder, *beneath], warm)
            measured = measure(way, folder, new_kernel) or []
            if turn:  # the first round warms up
                rows[way].append(measured)
    sums = {row[2] for found in rows.values() for row in found}
    if len(sums) > 1:
        raise SystemExit(f"The ways do not agree on the logits: {sums}")
    middles = {way: statistics.median(row[0] for row in found) for way, found in rows.items()}
    processor = {way: statistics.median(row[1] for row in found) for way, found in rows.items()}
    others = [way for way in ways if way != "nbloader"]
    best = min(others, key=middles.__getitem__, default="nbloader")
    state = ("warm" if warm else "cold") + (", new kernel" if new_kernel else "")
    for way, found in rows.items():
        totals = [row[0] for row in found]
        print(
            f"| {state} | {way} | {min(totals):.2f} s | {middles[way]:.2f} s | {max(totals):.2f} s "
            f"| {middles[way] / middles[ways[0]]:.2f} | {middles[way] / middles[best]:.2f} "
            f"| {processor[way]:.2f} s | {processor[way] / processor[best]:.2f} |",
            flush=True,
        )


def watch(folder: Path, beneath: list[Path], rounds: int, new_kernel: bool) -> None:
    """Print how true what nbloader tells is in cold loads."""
    found = []
    for _ in range(rounds):
        set_cache([folder, *beneath], warm=False)
        seen = measure("watched", folder, new_kernel)
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
    parser.add_argument("--new-kernel", action="store_true", help="count the imports, too")
    parser.add_argument("--ways", help=f"separated by commas, the first one to compare with; default: {','.join(WAYS)}")
    given = parser.parse_args()
    ways = [way for way in WAYS if way not in LIBRARIES or importlib.util.find_spec(LIBRARIES[way])]
    if not any(given.folder.glob("*.safetensors")):
        ways = [way for way in ways if way in FOR_BIN]
    ways = given.ways.split(",") if given.ways else ways
    size = sum(path.stat().st_size for path in weights_of(given.folder))
    print(f"{given.folder.name}: {size / 1e9:.2f} GB, {given.rounds} rounds, to the end of a first forward\n")
    print(f"| page cache | way | min | median | max | way / {ways[0]} | way / best other | CPU | CPU / best other's |")
    print("|---|---|---|---|---|---|---|---|---|")
    for warm in (False, True):
        if given.only in (None, "warm" if warm else "cold"):
            compare(given.folder, given.beneath, ways, given.rounds, warm=warm, new_kernel=given.new_kernel)
    if given.only != "warm":
        print()
        watch(given.folder, given.beneath, given.rounds, given.new_kernel)


if __name__ == "__main__":
    main()
