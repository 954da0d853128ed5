"""Checkpoints as older tools saved them: pickles."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return what the safetensors of a folder hold."""
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


def as_pickle(folder: Path, into: Path, *, is_zip: bool = True) -> Path:
    """Write the checkpoint of `folder` into `into` as one pickle: a zip archive, or the older form, never mapped."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
    torch.save(tensors_of(folder), into / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    return into
