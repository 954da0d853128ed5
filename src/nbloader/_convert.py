"""Convert a checkpoint's ``.bin`` files to safetensors, beside the originals."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nbloader._checkpoint.checkpoint import Checkpoint, read_checkpoint
from nbloader._checkpoint.headers import is_packed
from nbloader._checkpoint.source import find_source
from nbloader._errors import CheckpointError, LoadCancelled, LoadError, OptionError, first_line
from nbloader._hub.repository import save_tensors
from nbloader._libraries.transformers.errors import load_error_of
from nbloader._load.stages.download import download_all
from nbloader._options.options import LoadOptions
from nbloader._progress.reporter import Reporter
from nbloader._safety.redaction import leaving
from nbloader._safety.untrusted import TensorStub, read_pickle
from nbloader._system.own_files import is_alive, one_process
from nbloader._system.threads import Flag
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

_DRAFT = ".nbloader-convert-"
_PORTION = 1 << 24  # bytes
_ROOM = 1.02  # times the size of the tensors: room for headers and indices


class Converted(NamedTuple):
    """The result of a conversion: the files, in the checkpoint's folder, and the number of tensors in them."""

    files: tuple[Path, ...]
    bytes: int
    tensors: int


def convert(
    model: str | os.PathLike[str], options: LoadOptions, tell: Callable[[str], None] = lambda name: None
) -> Converted:
    """Write a checkpoint's ``.bin`` files as safetensors, which later loads use instead.

    The new files are written beside the ``.bin`` files, which stay: into the folder, or the snapshot in the Hub cache.
    Deleting the revision from the cache deletes them too. Pickles are read as tensors only (``weights_only``), and each
    tensor is compared with what was written. The files get their names only when all of them are complete.

    Parameters
    ----------
    model
        A folder, or the id of a repository. Files that are not cached are downloaded.
    options
        The load options that select the checkpoint.
    tell
        Called with the name of each file before it is read.

    Raises
    ------
    CheckpointError
        If there are no ``.bin`` files to convert, one holds anything but named tensors, or there is not enough room.
    OptionError
        If a `variant` is given.
    """
    if options.variant is not None:
        raise OptionError(
            text("error", "cannot_convert_variant", variant=repr(options.variant)), text("hint", "convert_own")
        )
    with leaving(str(model)):
        return _convert(model, options, tell)


def _convert(model: str | os.PathLike[str], options: LoadOptions, tell: Callable[[str], None]) -> Converted:
    with _as_checkpoint_error(model):
        checkpoint = _bring(model, replace(options, use_safetensors=None))
    _clear(checkpoint.folder)
    if checkpoint.format != "bin":
        raise CheckpointError(
            text("error", "has_safetensors", folder=checkpoint.folder, name=checkpoint.shards[0].name),
            text("hint", "nothing_to_convert"),
        )
    with _as_checkpoint_error(checkpoint.folder), _draft_in(checkpoint.folder) as draft:
        tensors = _read(checkpoint, tell)
        _check_room(checkpoint.folder, sum(tensor.nbytes for tensor in tensors.values()))
        save_tensors(tensors, draft)
        _check_equal(tensors, draft)
        names = sorted(os.listdir(draft), key=lambda name: name.endswith(".json"))  # the index last
        files = tuple(checkpoint.folder / name for name in names)
        for file in files:
            _settle(draft / file.name, checkpoint.shards[0].path)
            os.replace(draft / file.name, file)
    return Converted(files, sum(file.stat().st_size for file in files), len(tensors))


@contextmanager
def _as_checkpoint_error(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn exceptions of the libraries into a LoadError that says what happened and where."""
    try:
        yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:  # noqa: BLE001 - the libraries may raise anything
        known = {"folder": os.fspath(folder), "kind": type(error).__name__, "first": first_line(error) or "-"}
        raise CheckpointError(text("error", "conversion_failed", **known), text("hint", "as_it_was")) from None


def _bring(model: str | os.PathLike[str], options: LoadOptions) -> Checkpoint:
    source = find_source(model, options)
    reporter = Reporter(lambda event: None, lambda: 0.0, Flag())
    folder = download_all(source, options, reporter)
    return read_checkpoint(folder, options.variant, options.use_safetensors)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < _ROOM * size:
        raise CheckpointError(
            text(
                "error", "convert_insufficient_disk_space", folder=folder, free=size_text(free), bytes=size_text(size)
            ),
            text("hint", "free_disk"),
        )


@contextmanager
def _draft_in(folder: Path) -> Iterator[Path]:
    """Create a folder for drafts, on the same disk, and remove it afterwards."""
    own = one_process()
    draft = folder / f"{_DRAFT}{own['pid']}-{own['began']:.2f}-{own['machine']}-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir()
    except OSError as error:
        raise CheckpointError(
            text("error", "folder_not_writable", folder=folder, error=str(error.strerror)), text("hint", "convert_copy")
        ) from None
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove the folders that killed conversions left behind; those of running conversions stay."""
    for left in folder.glob(f"{_DRAFT}*"):
        pid, began, machine, *_ = [*left.name.removeprefix(_DRAFT).split("-"), "", "", ""]
        with suppress(ValueError):
            if is_alive({"pid": int(pid), "began": float(began), "machine": machine}) is False:
                shutil.rmtree(left, ignore_errors=True)


def _read(checkpoint: Checkpoint, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return every tensor of the files, each in memory of its own."""
    import torch

    tensors: dict[str, Any] = {}
    with_header = {tensor.shard for tensor in checkpoint.tensors.values()}
    for number, shard in enumerate(checkpoint.shards):
        tell(shard.name)
        try:
            is_mapped = number in with_header and not is_packed(shard.path)
            content = torch.load(shard.path, map_location="cpu", weights_only=True, mmap=is_mapped)
        except Exception as error:  # noqa: BLE001 - torch may raise anything for a broken file
            raise load_error_of(error, shard.path) from None
        if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
            raise CheckpointError(
                text("error", "not_a_state_dict", path=shard.path, type=type(content).__name__),
                text("hint", "state_dict"),
            )
        strange = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
        if strange:
            raise CheckpointError(
                text(
                    "error",
                    "non_tensor_in_checkpoint",
                    path=shard.path,
                    key=repr(strange[0]),
                    type=type(content[strange[0]]).__name__,
                ),
                text("hint", "state_dict"),
            )
        if number in with_header:
            _check_read(shard.path, content)
        tensors.update(content)
    if not tensors:
        raise CheckpointError(text("error", "no_tensors", folder=checkpoint.folder), text("hint", "state_dict"))
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        # Only the model knows whether two names mean one parameter, so each name keeps a tensor of its own.
        is_own = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        if not is_own or not tensor.is_contiguous():
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return tensors


def _check_read(path: Path, content: Mapping[str, Any]) -> None:
    """Compare what torch read from a file with the contents of its zip archive, bit by bit."""
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        top = entry.removesuffix("data.pkl")
        with suppress(KeyError):
            if archive.read(f"{top}byteorder").decode() != sys.byteorder:
                return  # torch swaps these bytes, so they differ
        with archive.open(entry) as pickled:
            stubs = read_pickle(pickled, archive.getinfo(entry).file_size)  # type: ignore[arg-type]
        storages = {stub.storage: name for name, stub in stubs.items() if isinstance(stub, TensorStub)}
        for storage, name in storages.items():
            packed = archive.getinfo(f"{top}data/{storage}")
            packed.CRC = None  # type: ignore[assignment] # torch can leave it out, and every bit is compared
            read = memoryview(_bits_of_storage(content[name]).numpy())
            with archive.open(packed) as file:
                is_same = all(file.read(_PORTION) == read[at : at + _PORTION] for at in range(0, len(read), _PORTION))
                if not is_same or file.read(1):
                    raise CheckpointError(
                        text("error", "tensor_read_mismatch", path=path, name=name), text("hint", "as_it_was")
                    )


def _bits_of_storage(tensor: Any) -> Any:
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _check_equal(tensors: Mapping[str, Any], folder: Path) -> None:
    """Compare what was written with what should have been written, bit by bit."""
    import torch
    from safetensors import safe_open

    left = dict(tensors)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is not a mapping
                written, wanted = file.get_tensor(name), left.pop(name)
                same = written.dtype == wanted.dtype and written.shape == wanted.shape
                if not same or not torch.equal(_bits(written), _bits(wanted)):
                    raise CheckpointError(
                        text("error", "converted_tensor_differs", path=path, name=name), text("hint", "disk_sound")
                    )
    if left:
        raise CheckpointError(
            text("error", "converted_tensor_missing", folder=folder, name=next(iter(left))), text("hint", "disk_full")
        )


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _settle(path: Path, origin: Path) -> None:
    """Flush a file to the disk, with the permissions of its origin."""
    with suppress(OSError), open(path, "rb+") as file:
        os.fsync(file.fileno())
        shutil.copymode(origin, path)
