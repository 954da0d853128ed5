"""Folders that are not checkpoints of transformers, as other tools and other times leave them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from support import archs

Change = Callable[[Path], None]


def llama(folder: Path) -> Path:
    """Save a Llama in one file of safetensors."""
    return archs.save(archs.build("llama"), folder)


def without(*names: str) -> Change:
    """Return what removes files."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def renamed(name: str, to: str) -> Change:
    """Return what renames a file, into a folder of its own where the new name has one."""

    def change(folder: Path) -> None:
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder / name, folder / to)

    return change


def moved(*names: str) -> Change:
    """Return what moves the whole checkpoint into folders of these names, and puts files beside them."""

    def change(folder: Path) -> None:
        content = list(folder.iterdir())
        for name in names:
            (folder / name).mkdir(parents=True)
            for path in content:
                shutil.copy(path, folder / name / path.name)
        for path in content:
            path.unlink()

    return change


def holding(name: str, content: bytes) -> Change:
    """Return what writes a file, in place of the weights."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def both(*changes: Change) -> Change:
    """Return what makes several changes."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def pickled(make: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Return what saves something made of the state dict as ``pytorch_model.bin``."""

    def change(folder: Path) -> None:
        state = OrderedDict(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        torch.save(make(state), folder / "pytorch_model.bin")

    return change


def zipped(folder: Path) -> None:
    """Compress the weights, under the name that they would have without."""
    pickled(lambda state: state)(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(gzip.compress(path.read_bytes()))


def scripted(folder: Path) -> None:
    """Save a program of TorchScript as the weights."""
    (folder / "model.safetensors").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "pytorch_model.bin")


def sharded(count: int, ending: str = "safetensors") -> Change:
    """Return what saves the weights in shards that no index names."""
    whole, stem = ("model.safetensors", "model") if ending == "safetensors" else ("pytorch_model.bin", "pytorch_model")

    def change(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        for number in range(count):
            part = {key: state[key] for key in list(state)[number::count]}
            path = folder / f"{stem}-{number + 1:05}-of-{count:05}.{ending}"
            save_file(part, path) if ending == "safetensors" else torch.save(part, path)
        assert not (folder / whole).exists()

    return change


def indexed(**content: object) -> Change:
    """Return what writes an index of one shard that says this besides."""

    def change(folder: Path) -> None:
        shard = "model-00001-of-00001.safetensors"
        os.rename(folder / "model.safetensors", folder / shard)
        names = dict.fromkeys(load_file(folder / shard), shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names, **content}))

    return change


def untyped(folder: Path) -> None:
    """Take the type out of the config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": None}))
