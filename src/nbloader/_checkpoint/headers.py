"""The headers of weight files: the names, types, shapes and positions of their tensors.

Headers are not trusted: their sizes are checked against the files. Sources: the safetensors format
(https://github.com/huggingface/safetensors#format), and the zip file that ``torch.save`` writes.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nbloader._errors import CheckpointError
from nbloader._safety.files import open_regular
from nbloader._safety.untrusted import (
    BITS,
    BoundedFile,
    TensorStub,
    TooLargeError,
    is_shape,
    is_size,
    parse_json,
    read_pickle,
)
from nbloader._text.catalogue import text

_LFS = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
FLOATS = {"float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""Types that a load may cast, by torch's name: their code in a safetensors header, and the bytes per element."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as its header describes it: `shard` is an index into the shards, `dtype` a safetensors code.

    Its elements are in the shard's file, from byte `begin` to byte `end`. In a ``.bin`` file it is the range of the
    tensor's storage, including a zip header.
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


def read_tensors(
    kind: str,
    shards: Sequence[ShardFile],
    open_shard: Callable[[ShardFile], BinaryIO] = lambda shard: open_regular(shard.path),
) -> dict[str, Tensor]:
    """Return the tensors that the headers of shards describe, by name.

    `open_shard` opens a shard's file for reading and seeking. Only the headers are read.

    Raises
    ------
    CheckpointError
        If a file is truncated, or its header does not match its content.
    """
    tensors: dict[str, Tensor] = {}
    read_header = _safetensors_header if kind == "safetensors" else _bin_header
    for index, shard in enumerate(shards):
        with open_shard(shard) as file:
            tensors.update(read_header(index, shard, file))
    return tensors


def _check_start(kind: str, shard: ShardFile, start: bytes) -> None:
    """Refuse what is not a weight file: an empty file, a pointer of Git LFS, or a file of another format."""
    if not start:
        raise CheckpointError(text("error", "empty_file", path=shard.path), text("hint", "again"))
    check_pointer(shard.path, start)
    content = next((name for name, is_it in _CONTENTS if is_it(start)), kind)
    if content != kind:
        raise wrong_content(shard.path, content)


def check_pointer(path: Path, start: bytes) -> None:
    """Refuse a file that is only a pointer of Git LFS.

    Raises
    ------
    CheckpointError
        If the file starts like such a pointer; the hint says how to get the real file.
    """
    if start.startswith(_LFS):
        raise CheckpointError(text("error", "git_lfs_pointer", path=path), text("hint", "lfs_pull"))


def wrong_content(path: Path, content: str) -> CheckpointError:
    """Return the error for a file whose content has another format than its name says."""
    return CheckpointError(
        text("error", "wrong_file_format", path=path, content=text("content", content)), text("content_hint", content)
    )


def is_page(start: bytes) -> bool:
    """Return whether a file starts like an HTML or XML page."""
    return start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


START = 64  # bytes that are enough to recognise a format
_CONTENTS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    # First, because the length at the start of a safetensors file may look like another format.
    ("safetensors", lambda start: start[8:9] == b"{" and start[4:8] == b"\0\0\0\0"),
    ("html", is_page),
    ("gzip", lambda start: start.startswith(b"\x1f\x8b")),
    ("bin", lambda start: start.startswith((b"PK\3\4", b"\x80\2"))),
    ("gguf", lambda start: start.startswith(b"GGUF")),
    ("json", lambda start: start.lstrip().startswith((b'{"', b'{ "', b"[{"))),
)
"""(format, function that recognises it by the first bytes of a file)"""


def _safetensors_header(index: int, shard: ShardFile, file: BinaryIO) -> dict[str, Tensor]:
    start = file.read(START)
    _check_start("safetensors", shard, start)
    prefix = start[:8]
    file.seek(len(prefix))
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > shard.bytes - 8:
        raise CheckpointError(
            text("error", "safetensors_truncated", path=shard.path, length=length, bytes=shard.bytes),
            text("hint", "again"),
        )
    try:
        header = parse_json(file, length)
    except TooLargeError:
        raise CheckpointError(text("error", "header_too_large", path=shard.path), text("hint", "suspicious")) from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(text("error", "invalid_safetensors_header", path=shard.path), text("hint", "again"))
    header.pop("__metadata__", None)
    _check_offsets(shard, header, shard.bytes - 8 - length)
    return {key: _tensor(index, shard, key, entry, 8 + length) for key, entry in header.items()}


def _check_offsets(shard: ShardFile, header: Mapping[str, Any], size: int) -> None:
    expected = 0
    for begin, end, key in sorted((*_offsets(shard, key, entry), key) for key, entry in header.items()):
        if begin != expected or end < begin:
            raise CheckpointError(
                text(
                    "error",
                    "invalid_tensor_offsets",
                    path=shard.path,
                    key=repr(key),
                    begin=begin,
                    end=end,
                    expected=expected,
                ),
                text("hint", "again"),
            )
        expected = end
    if expected != size:
        raise CheckpointError(
            text("error", "file_size_mismatch", path=shard.path, expected=expected, size=size),
            text("hint", "again"),
        )


def _offsets(shard: ShardFile, key: str, entry: Any) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        begin = end = None
    if not is_size(begin) or not is_size(end):
        raise CheckpointError(text("error", "no_tensor_offsets", path=shard.path, key=repr(key)), text("hint", "again"))
    return begin, end


def _tensor(index: int, shard: ShardFile, key: str, entry: Mapping[str, Any], start: int) -> Tensor:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(shape, list) or not is_shape(shape):
        raise CheckpointError(
            text("error", "invalid_tensor_shape", path=shard.path, key=repr(key)), text("hint", "again")
        )
    begin, end = entry["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is not None and (math.prod(shape) * bits + 7) // 8 != end - begin:
        raise CheckpointError(
            text(
                "error",
                "tensor_size_mismatch",
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
    start = file.read(START)
    _check_start("bin", shard, start)
    if not start.startswith(b"PK\3\4"):
        return {}  # a pickle of torch before 1.6: its tensors are known only after loading it
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
            text("error", "bin_truncated", path=shard.path, error=str(error)), text("hint", "again")
        ) from None
    except (StopIteration, OSError) as error:
        raise CheckpointError(
            text("error", "not_a_torch_checkpoint", path=shard.path, error=str(error) or "data.pkl"),
            text("hint", "again"),
        ) from None
    except TooLargeError:
        raise CheckpointError(text("error", "header_too_large", path=shard.path), text("hint", "suspicious")) from None
    except Exception as error:  # noqa: BLE001 - a broken pickle can raise any exception
        raise CheckpointError(
            text("error", "invalid_pickle", path=shard.path, error=repr(error)), text("hint", "again")
        ) from None
    if is_program:
        raise wrong_content(shard.path, "zip_script")
    return _stubs_of(index, shard, content, storages)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Return whether a ``.bin`` is a zip with compressed entries, so that its tensors cannot be mapped."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(BoundedFile(file)) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (OSError, TooLargeError, zipfile.BadZipFile):
        return False


def _storage_ranges(archive: zipfile.ZipFile, prefix: str, size: int) -> dict[str, tuple[int, int]]:
    """Return each storage's byte range, including its zip header: an entry ends where the next one begins."""
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
        raise CheckpointError(text("error", "not_a_state_dict", path=shard.path, type=kind), text("hint", "state_dict"))
    nested = next((key for key, value in content.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise CheckpointError(
            text("error", "nested_state_dict", path=shard.path, key=repr(nested)),
            text("hint", "unnest", key=repr(nested)),
        )
    return {
        str(key): Tensor(index, stub.dtype, stub.shape, stub.bytes, *storages.get(stub.storage, (0, shard.bytes)))
        for key, stub in content.items()
        if isinstance(stub, TensorStub)
    }
