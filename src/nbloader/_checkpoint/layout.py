"""The names of a checkpoint's files: which of them are weights, and what an index contains.

File names in an index are checked: they must stay inside the folder. An index is the file ``*.index.json`` that
``save_pretrained`` writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbloader._checkpoint.headers import START, ShardFile, check_pointer, is_page, wrong_content
from nbloader._errors import CheckpointError
from nbloader._safety.files import open_regular
from nbloader._safety.untrusted import TooLargeError, is_inside, parse_json
from nbloader._text.catalogue import text
from nbloader._text.units import first_few

CONFIG = "config.json"
WEIGHT_FILES = (
    ("safetensors", "model.safetensors"),
    ("safetensors", "model.safetensors.index.json"),
    ("bin", "pytorch_model.bin"),
    ("bin", "pytorch_model.bin.index.json"),
)
"""(format, file) in the order in which transformers looks for them."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (("safetensors", "adapter_model.safetensors"), ("bin", "adapter_model.bin"))
"""(format, file) of an adapter's weights, in the order in which peft looks for them."""
OTHER_FORMATS = (".gguf", ".h5", ".msgpack", ".onnx", ".pth", ".ckpt", ".ot", ".tflite")
"""File extensions of weights that transformers does not load with torch."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the checkpoint.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or is not a JSON object.
    """
    try:
        with open_regular(path) as file:
            content = parse_json(file, os.fstat(file.fileno()).st_size)
    except TooLargeError:
        raise CheckpointError(text("error", "json_too_large", path=path), text("hint", "suspicious")) from None
    except (ValueError, RecursionError) as error:
        with open_regular(path) as file:
            start = file.read(START)
        check_pointer(path, start)
        if is_page(start):
            raise wrong_content(path, "html") from None
        raise CheckpointError(
            text("error", "invalid_json", path=path, error=str(error)), text("hint", "again")
        ) from None
    except OSError as error:
        raise CheckpointError(
            text("error", "json_unreadable", path=path, error=str(error.strerror)), text("hint", "permissions")
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            text("error", "json_not_an_object", path=path, type=type(content).__name__), text("hint", "again")
        )
    return content


class Weights(NamedTuple):
    """The weights in a folder: their format, and `entry`, the index, the single file or the first shard.

    `shards` are the weight files, if they are known without reading an index. `lacks_index` is True for a sharded
    checkpoint without an index.
    """

    format: str
    entry: str
    shards: tuple[str, ...] = ()
    lacks_index: bool = False

    @property
    def is_indexed(self) -> bool:
        """Whether an index names the shards."""
        return not self.shards


class Index(NamedTuple):
    """An index: the shards that it names, in order, and its metadata."""

    shards: tuple[str, ...]
    metadata: Mapping[str, Any]


def choose_weights(
    names: Collection[str],
    config: Mapping[str, Any],
    folder: Path,
    variant: str | None = None,
    use_safetensors: bool | None = None,
) -> Weights | None:
    """Return the weights among a folder's file names; None if there are none.

    For shards without an index, the file names show which ones belong together and whether the set is complete.

    Parameters
    ----------
    variant
        Consider only weights of this variant, such as ``"fp16"``.
    use_safetensors
        True for safetensors only, False for ``.bin`` only, None for both.

    Raises
    ------
    CheckpointError
        If the config names weights outside the folder, if shards are missing, or if no weights match the options.
    """
    named = config.get("transformers_weights")
    if isinstance(named, str):
        entry = _inside(folder / CONFIG, named)
        return Weights("safetensors", entry, () if entry.endswith(".json") else (entry,))
    formats = {None: ("safetensors", "bin"), True: ("safetensors",), False: ("bin",)}[use_safetensors]
    candidates = [(kind, _with_variant(name, variant)) for kind, name in WEIGHT_FILES if kind in formats]
    whole = ((kind, name) for kind, name in candidates if name in names)
    chosen = next((Weights(kind, name, () if name.endswith(".json") else (name,)) for kind, name in whole), None)
    if chosen is None:
        loose = ((kind, _loose_shards(names, name, folder)) for kind, name in candidates if not name.endswith(".json"))
        chosen = next((Weights(kind, shards[0], shards, lacks_index=True) for kind, shards in loose if shards), None)
    others = sorted(name for name in names if name.endswith((".safetensors", ".bin")))
    if chosen is None and others and (variant is not None or use_safetensors is not None):
        wanted = [f"variant={variant!r}"] if variant is not None else []
        wanted += [f"use_safetensors={use_safetensors}"] if use_safetensors is not None else []
        raise CheckpointError(
            text("error", "no_matching_weights", folder=folder, wanted=", ".join(wanted), names=first_few(others)),
            text("hint", "leave_out"),
        )
    return chosen


def _loose_shards(names: Collection[str], whole: str, folder: Path) -> tuple[str, ...]:
    """Return the shards, in order, into which the single file `whole` was split; empty if there are none."""
    stem, _, ending = whole.rpartition(".")
    stem, _, variant = stem.partition(".")
    pattern = re.compile(rf"{stem}-(\d+)-of-(\d+){re.escape(f'.{variant}' if variant else '')}\.{ending}")
    sets: dict[int, dict[int, str]] = {}
    for name in sorted(names):
        found = pattern.fullmatch(name)
        if found is not None:
            sets.setdefault(int(found[2]), {})[int(found[1])] = name
    complete = [shards for count, shards in sets.items() if shards.keys() == set(range(1, count + 1))]
    if complete:
        return tuple(complete[0].values())
    for count, shards in sets.items():
        known = {"found": len(shards), "count": count, "name": next(iter(shards.values()))}
        raise CheckpointError(text("error", "incomplete_shards", folder=folder, **known), text("hint", "incomplete"))
    return ()


def _with_variant(name: str, variant: str | None) -> str:
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def read_index(path: Path) -> Index:
    """Return the content of an index.

    Raises
    ------
    CheckpointError
        If the index is broken, lacks what transformers needs, or names a file outside its folder.
    """
    content = read_json(path)
    weight_map, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(text("error", "no_weight_map", path=path), text("hint", "again"))
    shards = {str(name): name for name in weight_map.values()}  # one entry per file, not per tensor
    for name in shards.values():
        _inside(path, name)
    if not isinstance(metadata, dict):
        raise CheckpointError(text("error", "no_index_metadata", path=path), text("hint", "add_metadata"))
    return Index(tuple(sorted(shards)), metadata)


def check_there(folder: Path, entry: str, shards: Sequence[str]) -> None:
    """Refuse an index that names missing files."""
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            text("error", "missing_shards", index=folder / entry, count=len(missing), names=first_few(missing)),
            text("hint", "incomplete"),
        )


def _inside(index: Path, name: object) -> str:
    if not is_inside(name):
        raise CheckpointError(
            text("error", "weights_outside_checkpoint", index=index, name=repr(name)),
            text("hint", "attack"),
        )
    return name


def shard_file(folder: Path, name: str, entry: str) -> ShardFile:
    """Return a weight file of a folder, with its size; `entry` is the file that names it."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(text("error", "missing_weight_file", path=folder / entry), text("hint", "again"))
    return ShardFile(name, path, os.path.getsize(path))
