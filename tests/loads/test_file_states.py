"""The model is that of the files as they are now, and of one state of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import archs
from support.compare import differences, tensor_differences
from support.page_cache import make_cold

import nbloader
from nbloader import CheckpointError, LoadJob, LoadOptions, _convert
from nbloader._progress import events


def weights_below(folder: Path) -> Path:
    """Save a model whose index names shards in a folder below."""
    archs.save(archs.build("llama"), folder, shards=2)
    (folder / "w").mkdir()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / "w" / name)
    index["weight_map"] = {key: f"w/{name}" for key, name in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def changed_copy(path: Path, to: Path) -> Path:
    """Copy a shard with other values in it, and the same size and times."""
    shutil.copy2(path, to)
    with open(to, "r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\1\2" * 32)
    status = path.stat()
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
    return to


def overwrite(path: Path, other: Path) -> None:
    """Copy over a file, time included, as `cp -p` does."""
    shutil.copyfile(other, path)
    shutil.copystat(other, path)


def exchange(path: Path, other: Path) -> None:
    """Rename over a file, as `rsync -a` does."""
    os.replace(other, path)


@pytest.mark.parametrize("change", [overwrite, exchange])
@pytest.mark.parametrize("make", [lambda folder: archs.save(archs.build("llama"), folder, shards=2), weights_below])
def test_files_that_are_replaced_are_loaded_again(
    make: Callable[[Path], Path], change: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    first = nbloader.load(folder, progress=False).model
    assert nbloader.load(folder, progress=False).model is first
    shard = sorted(folder.rglob("*.safetensors"))[-1]
    before = shard.stat()
    change(shard, changed_copy(shard, tmp_path / "other"))
    after = shard.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    second = nbloader.load(folder, progress=False).model
    assert second is not first
    assert differences(second, transformers.AutoModelForCausalLM.from_pretrained(folder)) == []


def test_a_small_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system notes no time of change, or not finely."""
    folder = archs.save(archs.build("llama"), tmp_path / "model")
    first = nbloader.load(folder, progress=False).model
    config = (folder / "config.json").read_text()
    real = os.stat

    def blurred(path: Any, **how: Any) -> os.stat_result:
        told = real(path, **how)
        return os.stat_result((*told[:7], 0, 0, 0), {"st_mtime_ns": 0, "st_ctime_ns": 0})

    monkeypatch.setattr("nbloader._checkpoint.source.os.stat", blurred)
    assert nbloader.load(folder, progress=False, reload=True).model is not first
    (folder / "config.json").write_text(config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'))
    assert nbloader.load(folder, progress=False).model.config.rms_norm_eps == 1e-02


@pytest.mark.parametrize("when", ["tokenizer", "placed", "device"])
@pytest.mark.parametrize("which", ["weights", "config", "index", "adapter"])
def test_a_load_of_two_states_fails(which: str, when: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "model", shards=2)
    adapter = archs.make_adapter(folder, tmp_path / "lora", str(folder)) if which == "adapter" else None
    path = {
        "weights": sorted(folder.glob("*.safetensors"))[-1],
        "config": folder / "config.json",
        "index": folder / "model.safetensors.index.json",
        "adapter": tmp_path / "lora" / "adapter_model.safetensors",
    }[which]
    shutil.copy(path, tmp_path / "other")
    job = LoadJob(folder, LoadOptions(dtype="float32", adapter=None if adapter is None else str(adapter)))

    def change(event: events.Event) -> None:
        is_now = isinstance(event, events.Placed) if when == "placed" else getattr(event, "stage", "") == when
        if is_now and (tmp_path / "other").exists():
            os.replace(tmp_path / "other", path)

    job.subscribe(change)
    with pytest.raises(CheckpointError, match=f"changed during the load: {path.name}"):
        job.start().result(60)
    assert nbloader.load(folder, progress=False).model is not None


def test_what_is_no_part_of_the_model_may_change(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "model")
    job = LoadJob(folder, LoadOptions())
    for name in ("train.log", "trainer_state.json", "other.safetensors", "results.json"):
        job.subscribe(lambda event, name=name: (folder / name).write_text(str(event)) and None)
    assert job.start().result(60).model is not None


def pack(path: Path) -> None:
    """Write a zip anew, its entries compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("is_cold", [False, True])
def test_compressed_pickles_hold_what_was_saved(is_cold: bool, dtype: str, tmp_path: Path) -> None:
    folder = archs.save_bin(archs.build("llama"), tmp_path / "model", shards=2)
    shutil.copytree(folder, tmp_path / "plain")  # which that maps
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=dtype)
    for path in folder.glob("*.bin"):
        pack(path)
    if is_cold:
        make_cold(folder)
    assert tensor_differences(nbloader.load(folder, progress=False, dtype=dtype).model, plain) == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_conversion_is_compared_with_another_reading(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archs.save_bin(archs.build("llama"), tmp_path / "model", shards=2)
    expected = {key: value for path in folder.glob("*.bin") for key, value in torch.load(path).items()}
    for path in folder.glob("*.bin"):
        if packed:
            pack(path)
    # As torch reads a compressed one where it is mapped.
    with monkeypatch.context() as patch:
        real = torch.load
        patch.setattr(torch, "load", lambda *a, **k: {name: value + 1 for name, value in real(*a, **k).items()})
        with pytest.raises(CheckpointError, match="gave different results"):
            _convert.convert(folder, LoadOptions())
    assert not list(folder.glob("*.safetensors"))
    made = _convert.convert(folder, LoadOptions())
    written = {
        key: value for path in made.files if path.suffix == ".safetensors" for key, value in load_file(path).items()
    }
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


TRUNCATED = """
import os, sys
import nbloader
from nbloader._progress import events
folder, path, when, cold = sys.argv[1:]
job = nbloader.LoadJob(folder, nbloader.LoadOptions(dtype="float32"))
def cut(event):
    if getattr(event, "stage", type(event).__name__) == when and os.path.getsize(path) > 4096:
        os.truncate(path, 4096)
job.subscribe(cut)
try:
    job.start().result(60)
except nbloader.CheckpointError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("when", ["config", "PlacePlanned"])
@pytest.mark.parametrize("is_cold", [True, False])
def test_a_file_that_is_cut_short_meanwhile_kills_nobody(is_cold: bool, when: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama", hidden_size=256, intermediate_size=1024), tmp_path / "model", shards=2)
    path = sorted(folder.glob("*.safetensors"))[-1]
    if is_cold:
        make_cold(folder)
    arguments = [str(folder), str(path), when, str(is_cold)]
    done = subprocess.run([sys.executable, "-c", TRUNCATED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.startswith("CheckpointError"), done.stdout


def test_storage_that_fails_where_placing_reads_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A touch of a mapped file would: what cannot be read is found out by reading it first."""
    folder = archs.save(archs.build("llama"), tmp_path / "model", shards=2)
    make_cold(folder)

    def fail(path: str, begin: int, end: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with monkeypatch.context() as patch:
        patch.setattr("nbloader._load.stages.supply.read_through", fail)
        with pytest.raises(CheckpointError, match=r"-of-0000\d.safetensors could not be read: Input/output"):
            nbloader.load(folder, progress=False, readahead=False)
    assert nbloader.load(folder, progress=False, readahead=False).model is not None
