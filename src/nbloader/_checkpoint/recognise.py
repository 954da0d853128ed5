"""Recognise, by file names, what a folder or repository is if it is not a checkpoint of transformers.

Each error names what was found and the call that would work.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nbloader._errors import CheckpointError
from nbloader._text.catalogue import text
from nbloader._text.units import first_few

_BIN = "pytorch_model.bin"
_ADAPTER = "adapter_config.json"
_STEP = re.compile(r"checkpoint-(\d+)/(config|adapter_config)\.json")
_NO_WEIGHTS = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|adapter_model)")
_DEEPER = re.compile(r"([^/]+)/config\.json")
_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gguf", (".gguf",)),
    ("onnx", (".onnx",)),
    ("other_framework", (".h5", ".msgpack", ".ot", ".tflite", ".npz")),
    ("partial", (".incomplete",)),
    ("other_name", (".pt", ".pth", ".ckpt", ".bin", ".safetensors")),
)
"""(key in the catalogue of texts, file extensions), in the order of the search."""

_VARIANT = re.compile(r"(?:model|pytorch_model)(?:-\d+-of-\d+)?\.([a-z]\w*)(?:-\d+-of-\d+)?\.(?:safetensors|bin)$")
_CACHED = re.compile("models--([^/]+)/")
_MOST_NAMES = 10_000


def not_a_checkpoint(
    where: str, names: Collection[str], read: Callable[[str], Mapping[str, Any]], has_config: bool
) -> CheckpointError | None:
    """Return the error for a place without config or weights; None if nothing in it is recognised.

    Parameters
    ----------
    where
        The folder or repository, as the user would write it.
    names
        Paths of its files, relative to its top folder, with ``/``.
    read
        Returns the JSON object in one of these files. A file that cannot be read counts as an empty object.
    has_config
        True if the config is there and the weights are missing.
    """
    found = _find(where, set(names), read, has_config)
    if found is None:
        return None
    key, known = found
    return CheckpointError(text("found", key, where=where, **known), text("try", key, where=json.dumps(where), **known))


def names_in(folder: Path) -> list[str]:
    """Return the relative paths of the files in a folder and in two levels of subfolders."""
    names: list[str] = []
    for top, folders, files in os.walk(folder):
        depth = len(Path(top).relative_to(folder).parts)
        folders[:] = [] if depth >= 2 or len(names) > _MOST_NAMES else sorted(folders)
        names += [(Path(top) / file).relative_to(folder).as_posix() for file in files]
    return names


def _find(
    where: str, names: set[str], read: Callable[[str], Mapping[str, Any]], has_config: bool
) -> tuple[str, dict[str, Any]] | None:
    top = sorted(name for name in names if "/" not in name)
    if not has_config:
        found = _without_config(where, names, read)
        if found is not None:
            return found
    if "zero_to_fp32.py" in names or any(name.startswith("global_step") for name in names):
        return "zero", {}
    distributed = sorted(name for name in names if name.endswith(".distcp"))
    if distributed:
        name = distributed[0]
        folder = os.path.join(where, os.path.dirname(name))
        return "dcp", {"name": name, "folder": json.dumps(folder), "to": json.dumps(os.path.join(where, _BIN))}
    original = [name for name in top if name.startswith("consolidated.")]
    if original:
        return "consolidated", {"name": original[0]}
    variants = sorted({found[1] for found in map(_VARIANT.match, top) if found is not None})
    if has_config and variants:
        return "variant", {"variant": variants[0], "names": first_few([name for name in top if _VARIANT.match(name)])}
    steps = _steps(where, names, read)
    if steps:
        return steps
    near = [name for name in sorted(names) if name.count("/") == 0 or name.startswith("onnx/")]
    for key, endings in _ENDINGS:
        files = [name for name in near if name.lower().endswith(endings) and not _NO_WEIGHTS.match(name)]
        if key == "other_name" and not has_config:
            continue  # here the config is missing, not the weights
        if files:
            is_bin = not files[0].endswith(".safetensors")
            usual = "pytorch_model.bin" if is_bin else "model.safetensors"
            return key, {"name": files[0], "names": first_few(files), "usual": usual}
    return None


def _without_config(
    where: str, names: set[str], read: Callable[[str], Mapping[str, Any]]
) -> tuple[str, dict[str, Any]] | None:
    if _ADAPTER in names:
        base = _try(read, _ADAPTER).get("base_model_name_or_path")
        return ("adapter", {"base": json.dumps(base)}) if base else ("adapter_alone", {})
    cached = re.search(r"models--([^/\\]+)([/\\]snapshots)?[/\\]?$", where)
    if cached is not None:
        return "cache", {"id": json.dumps(cached[1].replace("--", "/"))}
    ids = sorted({found[1].replace("--", "/") for found in map(_CACHED.match, names) if found is not None})
    if ids:
        return "cache_root", {"names": first_few(ids), "id": json.dumps(ids[0])}
    folders = sorted(found[1] for found in map(_DEEPER.fullmatch, names) if found is not None)
    if "modules.json" in names:
        return "sentence_transformers", {"folder": json.dumps(folders[0] if folders else "")}
    if "model_index.json" in names:
        return "diffusers", {"folders": first_few(folders)}
    steps = _steps(where, names, read)
    if steps:
        return steps
    if folders:
        return "deeper", {"folder": json.dumps(folders[0]), "folders": first_few(folders)}
    return None


def _steps(where: str, names: set[str], read: Callable[[str], Mapping[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """Return the text key and its values for a Trainer's ``checkpoint-N`` folders; None if there are none."""
    found = sorted(((int(step[1]), step[2]) for step in map(_STEP.fullmatch, names) if step is not None), reverse=True)
    if not found:
        return None
    last, kind = found[0]
    counted = {"folder": json.dumps(f"checkpoint-{last}"), "count": len({step for step, _ in found})}
    if kind == "config":
        return "trainer", counted
    base = _try(read, f"checkpoint-{last}/{_ADAPTER}").get("base_model_name_or_path") or "base"
    adapter = json.dumps(os.path.join(where, f"checkpoint-{last}"))
    return "trainer_adapters", {**counted, "base": json.dumps(base), "adapter": adapter}


def _try(read: Callable[[str], Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    try:
        return read(name)
    except (CheckpointError, OSError):
        return {}
