"""What a checkpoint holds: its config, its weight files and the tensors in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nbloader._checkpoint.headers import ShardFile, Tensor, read_tensors
from nbloader._checkpoint.layout import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    CONFIG,
    Weights,
    check_there,
    choose_weights,
    read_index,
    read_json,
    shard_file,
)
from nbloader._checkpoint.recognise import names_in, not_a_checkpoint
from nbloader._errors import CheckpointError
from nbloader._text.catalogue import text


class Beside(NamedTuple):
    """An adapter in the model's own folder. transformers attaches it if peft is installed."""

    file: ShardFile
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    `format` is ``"safetensors"`` or ``"bin"``. `tensors` maps a tensor's name in the file to its description. It is
    empty for shards in the format of torch before 1.6, which has no header. `index` is the metadata in the index of the
    shards; None without an index. `lacks_index` is True for shards without an index. `beside` is an adapter in the same
    folder that the load attaches.
    """

    folder: Path
    format: str
    config: Mapping[str, Any]
    shards: tuple[ShardFile, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    index: Mapping[str, Any] | None = None
    lacks_index: bool = False
    beside: Beside | None = None

    @property
    def files(self) -> tuple[ShardFile, ...]:
        """The shards, followed by the weight file of the adapter in the same folder."""
        return self.shards if self.beside is None else (*self.shards, self.beside.file)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)


def read_checkpoint(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> Checkpoint:
    """Return what the checkpoint in `folder` holds, reading headers only.

    `variant` and `use_safetensors` choose among several sets of weights: see `choose_weights`.

    Raises
    ------
    CheckpointError
        If the folder has no config or no weights, or if a file is missing, truncated or inconsistent.
    """
    config = read_config(folder)
    weights = find_weights(folder, config, variant, use_safetensors)
    index = None
    if weights.is_indexed:
        index = read_index(folder / weights.entry)
        check_there(folder, weights.entry, index.shards)
    names = weights.shards if index is None else index.shards
    shards = tuple(shard_file(folder, name, weights.entry) for name in names)
    tensors = read_tensors(weights.format, shards)
    check_not_empty(os.fspath(folder), tensors)
    metadata = None if index is None else index.metadata
    beside = _read_beside(folder)
    return Checkpoint(folder, weights.format, config, shards, tensors, metadata, weights.lacks_index, beside)


def check_not_empty(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose tensors are all empty.

    Raises
    ------
    CheckpointError
        If all tensors are empty; the message explains how that happens.
    """
    if tensors and not any(tensor.elements for tensor in tensors.values()):
        known = {"folder": where, "count": len(tensors), "name": min(tensors)}
        raise CheckpointError(text("error", "zero3_not_gathered", **known), text("hint", "zero3"))


_COUNTS = re.compile(r"(?!.*(?:dim|size|channel|width|length|_per_)).*(?:^|_)(?:layers?|blocks?|depths?|stages?)$")
_FEW = 1000  # a count up to this one is harmless, whatever the weights hold


def check_depth(where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config that asks for far more layers than the weights have tensors.

    Building such a model takes hours and all memory, and there are no weights for most of its layers.

    Raises
    ------
    CheckpointError
        If a count in the config is too large; the message names it.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_depth(where, value, tensors)
        counts = value if isinstance(value, list) else [value]  # one count per stage, or indices of layers
        count = max((each for each in counts if type(each) is int), default=0)
        if tensors and _COUNTS.match(str(key)) and count > max(_FEW, len(tensors)):
            known = {"where": where, "key": key, "value": min(count, 10**18), "count": len(tensors)}
            raise CheckpointError(text("error", "too_many_layers", **known), text("hint", "too_deep"))


def _read_beside(folder: Path) -> Beside | None:
    if not (folder / ADAPTER_CONFIG).is_file() or find_spec("peft") is None:
        return None
    found = next(((kind, name) for kind, name in ADAPTER_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            text("error", "bundled_adapter_incomplete", folder=folder, config=ADAPTER_CONFIG, name=ADAPTER_FILES[0][1]),
            text("hint", "beside_lacks", config=ADAPTER_CONFIG),
        )
    file = shard_file(folder, found[1], found[1])
    return Beside(file, read_tensors(found[0], (file,)))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checkpoint's ``config.json``.

    Raises
    ------
    CheckpointError
        If the file is missing, or is not a JSON object.
    """
    path = folder / CONFIG
    if path.is_file():
        return read_json(path)
    raise _recognised(folder, has_config=False) or CheckpointError(
        text("error", "no_config", folder=folder, config=CONFIG),
        text("hint", "saved_folder"),
    )


def _recognised(folder: Path, *, has_config: bool) -> CheckpointError | None:
    return not_a_checkpoint(
        os.fspath(folder), names_in(folder), lambda name: read_json(folder / name), has_config=has_config
    )


def find_weights(
    folder: Path, config: Mapping[str, Any], variant: str | None = None, use_safetensors: bool | None = None
) -> Weights:
    """Return the weights that transformers would load.

    Raises
    ------
    CheckpointError
        If the folder has no such weights; the message names what was found instead.
    """
    names = {path.name for path in folder.iterdir()}
    chosen = choose_weights(names, config, folder, variant, use_safetensors)
    if chosen is not None:
        return chosen
    raise _recognised(folder, has_config=True) or CheckpointError(
        text("error", "no_weights", folder=folder),
        text("hint", "interrupted"),
    )


def placing_order(names: Iterable[str]) -> list[str]:
    """Return tensor names in the order in which transformers places them: part by part, numbers by value."""
    return sorted(names, key=_placing_key)


def _placing_key(name: str) -> list[tuple[Any, ...]]:
    key: list[tuple[Any, ...]] = []
    for part in name.split("."):
        if part.isdigit():
            key.append((0, int(part)))
        else:
            word = part.rstrip("0123456789")
            key.append((1, word, int(part[len(word) :] or -1)))
    return key
