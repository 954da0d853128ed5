"""What is in a checkpoint: its config, its format, its shards and its tensors.

Only headers are read, and nothing in them is believed: sizes are held against the files, names against the folder.

Sources: the safetensors format (https://github.com/huggingface/safetensors#format); the zip container of
``torch.save`` (https://docs.pytorch.org/docs/stable/notes/serialization.html); the ``*.index.json`` of sharded
checkpoints (https://huggingface.co/docs/transformers/big_models).
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nbloader._checkpoint.recognise import names_in, not_a_checkpoint
from nbloader._errors import CheckpointError
from nbloader._safety.files import open_regular
from nbloader._safety.untrusted import (
    BITS,
    BoundedFile,
    TensorStub,
    TooLargeError,
    is_inside,
    is_shape,
    is_size,
    parse_json,
    read_pickle,
)
from nbloader._text.catalogue import text
from nbloader._text.units import some

CONFIG = "config.json"
_LFS = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
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
"""Endings of weights that are not for transformers on torch."""

FLOATS = {"float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""The types that a load may cast, by torch's name: their code in a header, and the bytes an element takes."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as the headers describe it: `shard` is an index into the shards, `dtype` a safetensors code.

    Its elements lie in the shard's file between the bytes `begin` and `end`; in a ``.bin`` that range holds a little
    more than them.
    """

    shard: int
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ShardFile:
    """One weight file: its name inside the checkpoint, its path and its size in bytes."""

    name: str
    path: Path
    bytes: int


class Beside(NamedTuple):
    """An adapter that lies beside a model, which transformers attaches where peft is installed."""

    file: ShardFile
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    `format` is ``"safetensors"`` or ``"bin"``; `tensors` maps a tensor's name in the file to its description, and is
    empty for shards in the format of torch before 1.6, which has no header. `index` is what the index of the shards
    says beside their names, None where there is one file; `lacks_index` tells of shards that have none. `beside` is an
    adapter in the same folder, where the load attaches it.
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
        """The shards, and behind them the weights of the adapter beside the model."""
        return self.shards if self.beside is None else (*self.shards, self.beside.file)

    @property
    def bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(shard.bytes for shard in self.shards)


def read_checkpoint(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> Checkpoint:
    """Return what the checkpoint in `folder` holds, reading headers only.

    `variant` and `use_safetensors` say which weights, where there are several: see `choose_weights`.

    Raises
    ------
    CheckpointError
        For a folder without config or weights, a file that is missing, cut short or lies about itself.
    """
    config = read_config(folder)
    weights = find_weights(folder, config, variant, use_safetensors)
    index = None
    if weights.is_indexed:
        index = read_index(folder / weights.entry)
        _check_there(folder, weights.entry, index.shards)
    names = weights.shards if index is None else index.shards
    shards = tuple(_shard_file(folder, name, weights.entry) for name in names)
    tensors = read_tensors(weights.format, shards)
    check_not_empty(os.fspath(folder), tensors)
    metadata = None if index is None else index.metadata
    beside = _read_beside(folder)
    return Checkpoint(folder, weights.format, config, shards, tensors, metadata, weights.lacks_index, beside)


def check_not_empty(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are all empty.

    Raises
    ------
    CheckpointError
        Saying how that comes about.
    """
    if tensors and not any(tensor.elements for tensor in tensors.values()):
        known = {"folder": where, "count": len(tensors), "name": min(tensors)}
        raise CheckpointError(text("error", "zero3", **known), text("hint", "zero3"))


_COUNTS = re.compile(r"(?!.*(?:dim|size|channel|width|length|_per_)).*(?:^|_)(?:layers?|blocks?|depths?|stages?)$")
_FEW = 1000  # of anything that a config counts: so many do no harm, whatever the weights hold


def check_depth(where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config that asks for far more layers than the weights have tensors.

    Building such a model takes hours and all memory, and nothing of it would be loaded.

    Raises
    ------
    CheckpointError
        Naming what the config asks for.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_depth(where, value, tensors)
        counts = value if isinstance(value, list) else [value]  # of each stage, or the places of some
        count = max((each for each in counts if type(each) is int), default=0)
        if tensors and _COUNTS.match(str(key)) and count > max(_FEW, len(tensors)):
            known = {"where": where, "key": key, "value": min(count, 10**18), "count": len(tensors)}
            raise CheckpointError(text("error", "too_deep", **known), text("hint", "too_deep"))


def _read_beside(folder: Path) -> Beside | None:
    if not (folder / ADAPTER_CONFIG).is_file() or find_spec("peft") is None:
        return None
    found = next(((kind, name) for kind, name in ADAPTER_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(
            text("error", "beside_lacks", folder=folder, config=ADAPTER_CONFIG, name=ADAPTER_FILES[0][1]),
            text("hint", "beside_lacks", config=ADAPTER_CONFIG),
        )
    file = _shard_file(folder, found[1], found[1])
    return Beside(file, read_tensors(found[0], (file,)))


def read_tensors(
    kind: str,
    shards: Sequence[ShardFile],
    open_shard: Callable[[ShardFile], BinaryIO] = lambda shard: open_regular(shard.path),
) -> dict[str, Tensor]:
    """Return the tensors that the headers of shards describe, by name.

    `open_shard` returns a shard's file to read and to seek in; only the headers are read of it.

    Raises
    ------
    CheckpointError
        For a file that is cut short or lies about itself.
    """
    tensors: dict[str, Tensor] = {}
    read_header = _safetensors_header if kind == "safetensors" else _bin_header
    for index, shard in enumerate(shards):
        with open_shard(shard) as file:
            tensors.update(read_header(index, shard, file))
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checkpoint's ``config.json``.

    Raises
    ------
    CheckpointError
        Where there is none, or it is no JSON object.
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the checkpoint.

    Raises
    ------
    CheckpointError
        Where the file cannot be read or is no JSON object.
    """
    try:
        with open_regular(path) as file:
            content = parse_json(file, os.fstat(file.fileno()).st_size)
    except TooLargeError:
        raise CheckpointError(text("error", "too_large", path=path), text("hint", "suspicious")) from None
    except (ValueError, RecursionError) as error:
        with open_regular(path) as file:
            start = file.read(_START)
        check_pointer(path, start)
        if _is_page(start):
            raise _wrong_content(path, "html") from None
        raise CheckpointError(text("error", "bad_json", path=path, error=str(error)), text("hint", "again")) from None
    except OSError as error:
        raise CheckpointError(
            text("error", "cannot_read", path=path, error=str(error.strerror)), text("hint", "permissions")
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(text("error", "no_object", path=path, type=type(content).__name__), text("hint", "again"))
    return content


class Weights(NamedTuple):
    """Which of a folder's files are the weights: their format, and the file that names them, an index or the only one.

    `shards` are the files themselves, where they are known without reading an index; `lacks_index` tells that they
    are those of a sharded checkpoint.
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
    """An index: the shards that it names, in order, and what it says beside that."""

    shards: tuple[str, ...]
    metadata: Mapping[str, Any]


def find_weights(
    folder: Path, config: Mapping[str, Any], variant: str | None = None, use_safetensors: bool | None = None
) -> Weights:
    """Return the weights that transformers would load.

    Raises
    ------
    CheckpointError
        Where the folder has none, saying which others lie there.
    """
    names = {path.name for path in folder.iterdir()}
    chosen = choose_weights(names, config, folder, variant, use_safetensors)
    if chosen is not None:
        return chosen
    raise _recognised(folder, has_config=True) or CheckpointError(
        text("error", "no_weights", folder=folder),
        text("hint", "interrupted"),
    )


def choose_weights(
    names: Collection[str],
    config: Mapping[str, Any],
    folder: Path,
    variant: str | None = None,
    use_safetensors: bool | None = None,
) -> Weights | None:
    """Return the weights among a folder's file names; None if none are.

    Of shards without an index the names tell that they belong together, and whether all are there.

    Parameters
    ----------
    variant
        Those of this name only, such as ``"fp16"``.
    use_safetensors
        True for safetensors only, False for ``.bin`` only.

    Raises
    ------
    CheckpointError
        Where the config names weights outside the folder, or the choice leaves none of those that there are.
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
            text("error", "no_such_weights", folder=folder, wanted=", ".join(wanted), names=some(others)),
            text("hint", "leave_out"),
        )
    return chosen


def _loose_shards(names: Collection[str], whole: str, folder: Path) -> tuple[str, ...]:
    """Return the shards, in order, that a checkpoint of the one file `whole` would be split into; empty if none are."""
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
        raise CheckpointError(text("error", "loose_shards", folder=folder, **known), text("hint", "incomplete"))
    return ()


def _with_variant(name: str, variant: str | None) -> str:
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def read_index(path: Path) -> Index:
    """Return what an index says.

    Raises
    ------
    CheckpointError
        Where the index is broken, lacks what transformers asks of it, or names a file outside its folder.
    """
    content = read_json(path)
    weight_map, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(text("error", "no_weight_map", path=path), text("hint", "again"))
    shards = {str(name): name for name in weight_map.values()}  # as many as files, not as tensors
    for name in shards.values():
        _inside(path, name)
    if not isinstance(metadata, dict):
        raise CheckpointError(text("error", "no_index_metadata", path=path), text("hint", "add_metadata"))
    return Index(tuple(sorted(shards)), metadata)


def _check_there(folder: Path, entry: str, shards: Sequence[str]) -> None:
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            text("error", "index_lacks", index=folder / entry, count=len(missing), names=some(missing)),
            text("hint", "incomplete"),
        )


def _inside(index: Path, name: object) -> str:
    if not is_inside(name):
        raise CheckpointError(
            text("error", "outside", index=index, name=repr(name)),
            text("hint", "attack"),
        )
    return name


def _shard_file(folder: Path, name: str, entry: str) -> ShardFile:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(text("error", "not_there", path=folder / entry), text("hint", "again"))
    return ShardFile(name, path, os.path.getsize(path))


def _check_start(kind: str, shard: ShardFile, start: bytes) -> None:
    """Refuse what is not a weight file: what an interrupted copy has left, git without its LFS, or another format."""
    if not start:
        raise CheckpointError(text("error", "empty", path=shard.path), text("hint", "again"))
    check_pointer(shard.path, start)
    content = next((name for name, is_it in _CONTENTS if is_it(start)), kind)
    if content != kind:
        raise _wrong_content(shard.path, content)


def check_pointer(path: Path, start: bytes) -> None:
    """Refuse a file that begins as a pointer of Git LFS does.

    Raises
    ------
    CheckpointError
        Saying how to get the file itself.
    """
    if start.startswith(_LFS):
        raise CheckpointError(text("error", "lfs", path=path), text("hint", "lfs_pull"))


def _wrong_content(path: Path, content: str) -> CheckpointError:
    return CheckpointError(
        text("error", "wrong_content", path=path, content=text("content", content)), text("content_hint", content)
    )


def _is_page(start: bytes) -> bool:
    return start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


_START = 64  # bytes that tell one format from another
_CONTENTS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    # First, as the length that it begins with may look like anything.
    ("safetensors", lambda start: start[8:9] == b"{" and start[4:8] == b"\0\0\0\0"),
    ("html", _is_page),
    ("gzip", lambda start: start.startswith(b"\x1f\x8b")),
    ("bin", lambda start: start.startswith((b"PK\3\4", b"\x80\2"))),
    ("gguf", lambda start: start.startswith(b"GGUF")),
    ("json", lambda start: start.lstrip().startswith((b'{"', b'{ "', b"[{"))),
)
"""(what a file may hold, whether it begins so)"""


def _safetensors_header(index: int, shard: ShardFile, file: BinaryIO) -> dict[str, Tensor]:
    start = file.read(_START)
    _check_start("safetensors", shard, start)
    prefix = start[:8]
    file.seek(len(prefix))
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > shard.bytes - 8:
        raise CheckpointError(
            text("error", "header_cut", path=shard.path, length=length, bytes=shard.bytes),
            text("hint", "again"),
        )
    try:
        header = parse_json(file, length)
    except TooLargeError:
        raise CheckpointError(text("error", "header_too_large", path=shard.path), text("hint", "suspicious")) from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(text("error", "header_broken", path=shard.path), text("hint", "again"))
    header.pop("__metadata__", None)
    _check_offsets(shard, header, shard.bytes - 8 - length)
    return {key: _tensor(index, shard, key, entry, 8 + length) for key, entry in header.items()}


def _check_offsets(shard: ShardFile, header: Mapping[str, Any], size: int) -> None:
    expected = 0
    for begin, end, key in sorted((*_offsets(shard, key, entry), key) for key, entry in header.items()):
        if begin != expected or end < begin:
            raise CheckpointError(
                text("error", "header_holes", path=shard.path, key=repr(key), begin=begin, end=end, expected=expected),
                text("hint", "again"),
            )
        expected = end
    if expected != size:
        raise CheckpointError(
            text("error", "not_whole", path=shard.path, expected=expected, size=size),
            text("hint", "again"),
        )


def _offsets(shard: ShardFile, key: str, entry: Any) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        begin = end = None
    if not is_size(begin) or not is_size(end):
        raise CheckpointError(text("error", "no_offsets", path=shard.path, key=repr(key)), text("hint", "again"))
    return begin, end


def _tensor(index: int, shard: ShardFile, key: str, entry: Mapping[str, Any], start: int) -> Tensor:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(shape, list) or not is_shape(shape):
        raise CheckpointError(text("error", "bad_shape", path=shard.path, key=repr(key)), text("hint", "again"))
    begin, end = entry["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is not None and (math.prod(shape) * bits + 7) // 8 != end - begin:
        raise CheckpointError(
            text(
                "error",
                "wrong_size",
                path=shard.path,
                key=repr(key),
                shape=shape,
                dtype=dtype,
                takes=math.prod(shape) * bits // 8,
                given=end - begin,
            ),
            text("hint", "again"),
        )
    return Tensor(index, str(dtype), tuple(shape), end - begin, start + begin, start + end)


def _bin_header(index: int, shard: ShardFile, file: BinaryIO) -> dict[str, Tensor]:
    start = file.read(_START)
    _check_start("bin", shard, start)
    if not start.startswith(b"PK\3\4"):
        return {}  # a pickle from before torch 1.6, which says how large it is only as it is loaded
    try:
        with zipfile.ZipFile(BoundedFile(file)) as archive:
            names = archive.namelist()
            entry = next(name for name in names if name.endswith("data.pkl"))
            is_program = any("/code/" in name for name in names)
            with archive.open(entry) as pickled:
                content = read_pickle(pickled, archive.getinfo(entry).file_size)  # type: ignore[arg-type]
            storages = _storage_ranges(archive, entry.removesuffix("data.pkl"), shard.bytes)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            text("error", "zip_cut", path=shard.path, error=str(error)), text("hint", "again")
        ) from None
    except (StopIteration, OSError) as error:
        raise CheckpointError(
            text("error", "no_torch_save", path=shard.path, error=str(error) or "data.pkl"), text("hint", "again")
        ) from None
    except TooLargeError:
        raise CheckpointError(text("error", "header_too_large", path=shard.path), text("hint", "suspicious")) from None
    except Exception as error:  # noqa: BLE001 - a pickle can fail in any way it likes
        raise CheckpointError(
            text("error", "bad_pickle", path=shard.path, error=repr(error)), text("hint", "again")
        ) from None
    if is_program:
        raise _wrong_content(shard.path, "zip_script")
    return _stubs_of(index, shard, content, storages)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Tell whether a ``.bin`` is a zip with compressed entries: its bytes are not those of its tensors."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(BoundedFile(file)) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (OSError, TooLargeError, zipfile.BadZipFile):
        return False


def _storage_ranges(archive: zipfile.ZipFile, prefix: str, size: int) -> dict[str, tuple[int, int]]:
    """Return where each storage lies in the file, with its zip header: an entry ends where the next one begins."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [entry.header_offset for entry in entries[1:]] + [size]
    return {
        entry.filename.removeprefix(f"{prefix}data/"): (entry.header_offset, end)
        for entry, end in zip(entries, ends, strict=True)
    }


def _stubs_of(index: int, shard: ShardFile, content: Any, storages: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        kind = type(content).__name__ if isinstance(content, (list, str, int, float)) else "Python object"
        kind = "Tensor" if isinstance(content, TensorStub) else kind
        raise CheckpointError(text("error", "no_named_tensors", path=shard.path, type=kind), text("hint", "state_dict"))
    nested = next((key for key, value in content.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise CheckpointError(
            text("error", "nested", path=shard.path, key=repr(nested)), text("hint", "unnest", key=repr(nested))
        )
    return {
        str(key): Tensor(index, stub.dtype, stub.shape, stub.bytes, *storages.get(stub.storage, (0, shard.bytes)))
        for key, stub in content.items()
        if isinstance(stub, TensorStub)
    }


def placing_order(names: Iterable[str]) -> list[str]:
    """Return tensor names in the order in which transformers places them: by their parts, numbers as numbers."""
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
