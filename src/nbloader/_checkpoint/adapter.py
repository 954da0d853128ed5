"""Adapters: their config, their tensors, and whether they fit the checkpoint.

Source: peft's files (https://huggingface.co/docs/peft/developer_guides/checkpoint). The name of the base model only
says what the adapter was made for. The names and shapes of its modules decide whether it can be attached.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._checkpoint.headers import ShardFile, Tensor, read_tensors
from nbloader._checkpoint.layout import ADAPTER_CONFIG as CONFIG
from nbloader._checkpoint.layout import ADAPTER_FILES, read_json
from nbloader._checkpoint.source import state_of
from nbloader._errors import CheckpointError, SourceError
from nbloader._hub.cache import cached_file, kept_bytes, snapshot_folder
from nbloader._hub.download import DownloadWatcher, download_files, open_file
from nbloader._hub.find import find_repository
from nbloader._hub.repository import Repository, is_repo_id
from nbloader._options.options import LoadOptions
from nbloader._safety.files import open_regular
from nbloader._text.catalogue import text

_PART = re.compile(
    r"base_model\.model\.(?P<module>.+?)(\.(?P<part>lora_[AB]|lora_embedding_[AB]|hada_w1_[ab]|ia3_l))?(\.weight)?"
)
_TIED = re.compile(r"lora_embedding|\blm_head\.|embed_tokens\.|\bwte\.")


@dataclass(frozen=True)
class Adapter:
    """An adapter: its weight file, and its tensors by name. `repository` is None for a folder or an offline cache."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    weights: ShardFile
    tensors: Mapping[str, Tensor]
    repository: Repository | None = None

    @property
    def base(self) -> str:
        """The base model that the adapter's config names; empty if it names none."""
        named = self.config.get("base_model_name_or_path")
        return named if isinstance(named, str) else ""

    @property
    def modules(self) -> set[str]:
        """Names of the base model's modules that the adapter changes."""
        found = map(_PART.fullmatch, self.tensors)
        return {each["module"] for each in found if each is not None and each["part"] is not None}


def adapter_options(options: LoadOptions) -> LoadOptions:
    """Return the options for the adapter's repository, without the model's revision, subfolder and variant."""
    return replace(options, revision=None, subfolder="", variant=None, notices=())


def find_adapter(options: LoadOptions, check_cancelled: Callable[[], None] = lambda: None) -> Adapter | None:
    """Return the adapter that `options` name, or None if they name none.

    Only the headers of its weight file are read; the weights are not downloaded.

    Raises
    ------
    SourceError, DownloadError
        If the adapter cannot be found or reached.
    CheckpointError
        If the adapter is broken.
    """
    if options.adapter is None:
        return None
    folder = Path(options.adapter).expanduser()
    if folder.is_dir():
        return _read(str(options.adapter), folder, None, {path.name for path in folder.iterdir()}, open_local)
    if not is_repo_id(options.adapter):
        raise SourceError(text("error", "adapter_not_found", adapter=repr(options.adapter)), text("hint", "spelling"))
    own = adapter_options(options)
    repository = find_repository(options.adapter, own, CONFIG)
    if repository.files is None:
        folder = snapshot_folder(repository.repo_id, repository.commit, own, CONFIG)
        return _read(options.adapter, folder, None, {path.name for path in folder.iterdir()}, open_local)
    if CONFIG in repository.files:
        bring(repository, [CONFIG], own, check_cancelled)
        folder = snapshot_folder(repository.repo_id, repository.commit, own, CONFIG)

    def open_remote(shard: ShardFile) -> BinaryIO:
        if shard.path.is_file():
            return open_local(shard)
        return open_file(repository, shard.name, own, check_cancelled)

    return _read(options.adapter, folder, repository, set(repository.files), open_remote)


def adapter_state(options: LoadOptions) -> tuple[Any, ...] | None:
    """Return a value that changes when the adapter's files change; None if the options name no adapter."""
    if options.adapter is None:
        return None
    folder = Path(options.adapter).expanduser()
    if folder.is_dir():
        return os.path.realpath(folder), state_of(folder)
    if not is_repo_id(options.adapter):
        return (options.adapter,)
    return options.adapter, find_repository(options.adapter, adapter_options(options), CONFIG).commit


def missing_bytes(adapter: Adapter, options: LoadOptions) -> int:
    """Return how many bytes of the adapter's weights are not on this machine."""
    if adapter.repository is None:
        return 0
    kept = kept_bytes(adapter.repository, adapter.weights.name, adapter_options(options))
    return adapter.weights.bytes - kept


def bring(
    repository: Repository,
    names: list[str],
    options: LoadOptions,
    check_cancelled: Callable[[], None],
    on_bytes: Callable[[int], None] = lambda size: None,
    on_wait: Callable[[str, float, str], None] = lambda name, seconds, reason: None,
) -> None:
    """Download those files of an adapter that are not in the cache.

    `on_bytes` gets the number of bytes that arrived. `on_wait` gets a file's name, the seconds until the next attempt,
    and the reason.
    """
    missing = [name for name in names if cached_file(repository.repo_id, repository.commit, name, options) is None]
    watcher = DownloadWatcher(
        on_bytes=lambda name, size: on_bytes(size),
        on_file=lambda name: None,
        on_wait=on_wait,
        check_cancelled=check_cancelled,
    )
    download_files(repository, missing, options, watcher)


def open_local(shard: ShardFile) -> BinaryIO:
    """Open a weight file on this machine for reading."""
    return open_regular(shard.path)


def _read(
    name: str,
    folder: Path,
    repository: Repository | None,
    names: set[str],
    opened: Callable[[ShardFile], BinaryIO],
) -> Adapter:
    found = next(((kind, file) for kind, file in ADAPTER_FILES if file in names), None)
    if CONFIG not in names or found is None:
        lacking = CONFIG if CONFIG not in names else ADAPTER_FILES[0][1]
        raise CheckpointError(
            text("error", "not_an_adapter", name=repr(name), lacking=lacking), text("hint", "adapter_folder")
        )
    kind, file = found
    path = folder / file
    size = path.stat().st_size if repository is None else repository.expected(file).bytes
    shard = ShardFile(file, path, size)
    tensors = read_tensors(kind, (shard,), opened)
    return Adapter(name, folder, read_json(folder / CONFIG), shard, tensors, repository)


def check_adapter(adapter: Adapter, base: str, checkpoint: Checkpoint, options: LoadOptions) -> str:
    """Refuse an adapter that was made for another base model.

    `base` is the model's name as the user wrote it. Return the name of the adapter's base model if it differs from
    `base` but the load may continue; the caller reports it. Otherwise return "".

    Raises
    ------
    CheckpointError
        If the checkpoint lacks the adapter's modules, or has them with other shapes. Also if the adapter's config
        names another repository (``force=True`` allows that), or if a merge would change tied weights.
    """
    tied = next(filter(_TIED.search, adapter.tensors), None)
    if options.merge_adapter and checkpoint.config.get("tie_word_embeddings") and tied is not None:
        raise CheckpointError(
            text("error", "adapter_on_tied_weights", name=repr(adapter.name), tied=tied, base=repr(base)),
            text("hint", "leave_merge"),
        )
    misfit = _misfit(adapter, checkpoint)
    if misfit:
        known = {"name": repr(adapter.name), "base": repr(base), "misfit": misfit}
        raise CheckpointError(
            text("error", "adapter_base_mismatch", **known, own=repr(adapter.base))
            if adapter.base
            else text("error", "adapter_mismatch", **known),
            text("hint", "own_base"),
        )
    if not adapter.base or _model_name(adapter.base) == _model_name(base):
        return ""
    if is_repo_id(base) and "/" in base and not os.path.isdir(base) and not options.force:
        error = CheckpointError(
            text("error", "adapter_other_base", name=repr(adapter.name), own=repr(adapter.base), base=repr(base)),
            text("hint", "attach_anyway", own=repr(adapter.base)),
        )
        error.suggestions = ({"force": True},)
        raise error
    return adapter.base


def _model_name(name: str) -> str:
    """Return a model's short name, without its owner, its folder and the layout of the Hub cache."""
    parts = [part for part in re.split(r"[/\\]", name) if part]
    cached = next((part for part in parts if part.startswith("models--")), None)
    return (cached.split("--")[-1] if cached else parts[-1] if parts else "").lower()


def _misfit(adapter: Adapter, checkpoint: Checkpoint) -> str:
    """Return why the adapter does not fit the checkpoint; empty if it fits, or if that is not known."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in adapter.tensors.items():
        found = _PART.fullmatch(key)
        if found is not None and len(tensor.shape) == 2:
            parts.setdefault(found["module"], {})[found["part"] or "whole"] = tensor.shape
    for module, shapes in parts.items():
        if len({"lora_A", "lora_B"} & shapes.keys()) == 1:
            return text("reason", "one_side", module=module)
    if "quantization_config" in checkpoint.config or not checkpoint.tensors:
        return ""
    # A base class without a head has module names without the head's prefix.
    ends = {key.rpartition(".")[0]: tensor for key, tensor in checkpoint.tensors.items() if key.endswith(".weight")}
    known = {module: ends[module] for module in parts if module in ends}
    if checkpoint.config.get("tie_word_embeddings"):
        parts.pop("lm_head", None)  # tied to the embedding, so no file has this name
    if parts and not known and not any(_same_end(module, ends) for module in parts):
        return text("reason", "no_module", module=next(iter(parts)))
    for module, tensor in known.items():
        wanted = _wanted_shape(parts.get(module, {}))
        if len(wanted) == 1 and len(tensor.shape) == 2 and wanted[0] not in tensor.shape:
            return text("reason", "wants_shape", module=module, shape=list(tensor.shape), wanted=list(wanted))
        if len(wanted) == 2 and tensor.shape not in (wanted, wanted[::-1]):
            return text("reason", "wants_shape", module=module, shape=list(tensor.shape), wanted=list(wanted))
    return ""


def _wanted_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the known dimensions (two, one or none) of the weight that an adapter's parts belong to."""
    for outer, inner in (("lora_B", "lora_A"), ("hada_w1_a", "hada_w1_b")):
        if outer in shapes and inner in shapes:
            return shapes[outer][0], shapes[inner][1]
    if "lora_embedding_A" in shapes and "lora_embedding_B" in shapes:
        return shapes["lora_embedding_A"][1], shapes["lora_embedding_B"][0]
    if "ia3_l" in shapes:
        return (max(shapes["ia3_l"]),)
    return shapes.get("whole", ())


def _same_end(module: str, ends: Mapping[str, Tensor]) -> bool:
    return any(module.endswith(f".{end}") or end.endswith(f".{module}") for end in ends)
