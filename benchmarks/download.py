"""Times downloads from a Hub on loopback that gives each connection its share, as content networks do.

    python benchmarks/download.py [--files 1x900 12x200] [--rates 10 40] [--rounds 5] [--only http|xet|load]

Every way is timed in a process of its own, into a new cache, all ways in turns: snapshot_download and nbloader, over
plain HTTP and from Xet storage, to the end of the download; and nbloader's download with the load of the model, against
its download alone. The processor time is that of the process that downloads; the Hub runs in another one.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TESTS = Path(__file__).parents[1] / "tests"

_HUB = """
import sys, threading
from pathlib import Path
from support.hub import Hub, Repo

folder, rate = Path(sys.argv[1]), float(sys.argv[2]) * 1e6
hub = Hub()
files = {path.name: path.read_bytes() for path in folder.iterdir()}
hub.repos = {"us/http": Repo(files, rate=rate), "us/xet": Repo(files, xet=True, rate=rate)}
hub.xet.rate = rate
print(hub.repos["us/xet"].commit, hub.url, flush=True)
threading.Event().wait()
"""

_DOWNLOAD = """
import json, os, sys, threading, time
way, repository, cache = sys.argv[1:]
import huggingface_hub
import nbloader
from nbloader._hub.download import DownloadWatcher, download_files
from nbloader._hub.find import find_repository
if way == "load":
    import transformers
    transformers.LlamaForCausalLM

began, before = time.perf_counter(), time.process_time()
if way == "load":
    nbloader.load(repository, cache_dir=cache, progress=False)
elif way == "nbloader":
    options = nbloader.LoadOptions(cache_dir=cache)
    found = find_repository(repository, options, "config.json")
    watcher = DownloadWatcher(lambda name, size: None, lambda name: None, lambda *wait: None, lambda: None)
    download_files(found, list(found.files), options, watcher)
else:
    huggingface_hub.snapshot_download(repository, cache_dir=cache)
print(json.dumps((time.perf_counter() - began, time.process_time() - before)))
"""


@contextmanager
def hub(folder: Path, rate: float) -> Iterator[str]:
    """Serve a folder; yields the address."""
    path = {**os.environ, "PYTHONPATH": str(_TESTS)}
    command = [sys.executable, "-c", _HUB, str(folder), str(rate)]
    with subprocess.Popen(command, env=path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[1]
        finally:
            server.terminate()


def seconds(way: str, repository: str, url: str) -> tuple[float, float]:
    """Return how long one download takes, and the processor time of it."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": f"{cache}/home", "XDG_STATE_HOME": f"{cache}/state"}
        environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        command = [sys.executable, "-c", _DOWNLOAD, way, repository, f"{cache}/cache"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        shutil.rmtree(f"{cache}/cache")
    passed, processor = json.loads(done.stdout.splitlines()[-1])
    return passed, processor


def compare(folder: Path, label: str, rate: float, rounds: int, kinds: list[str]) -> None:
    """Print the rows of one set of files at one rate."""
    ways = {
        "http": [("snapshot_download", "us/http"), ("nbloader", "us/http")],
        "xet": [("snapshot_download", "us/xet"), ("nbloader", "us/xet")],
        "load": [("nbloader", "us/xet"), ("load", "us/xet")],
    }
    with hub(folder, rate) as url:
        for kind in kinds:
            taken: dict[str, list[tuple[float, float]]] = {way: [] for way, _ in ways[kind]}
            for turn in range(rounds):
                for way, repository in ways[kind][:: 1 if turn % 2 else -1]:
                    taken[way].append(seconds(way, repository, url))
            (first, base), (second, ours) = (
                (way, [statistics.median(each) for each in zip(*taken[way], strict=True)]) for way, _ in ways[kind]
            )
            print(
                f"| {label} | {rate:.0f} MB/s | {kind} | {first} {base[0]:.2f} s, {base[1]:.2f} s "
                f"| {second} {ours[0]:.2f} s, {ours[1]:.2f} s | {ours[0] / base[0]:.2f} | {ours[1] / base[1]:.2f} |",
                flush=True,
            )


def main() -> None:
    """Print one table."""
    from nbloader import demo_checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=["1x900", "12x200"], help="number of shards x MB of each")
    parser.add_argument("--rates", nargs="+", type=float, default=[10, 40], help="MB/s of a connection")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["http", "xet", "load"], choices=["http", "xet", "load"])
    given = parser.parse_args()
    print("| files | a connection | kind | compared with | this | time | CPU |")
    print("|---|---|---|---|---|---|---|")
    for label in given.files:
        count, size = map(int, label.split("x"))
        folder = demo_checkpoint(f"{count * size}MB", shards=count)
        for rate in given.rates:
            compare(folder, label, rate, given.rounds, given.only)


if __name__ == "__main__":
    main()
