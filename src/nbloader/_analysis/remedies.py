"""The rules that turn measurements into remedies for a slow load."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._analysis.diagnosis import AT_LIMIT, Diagnosis, Remedy
from nbloader._options.as_code import as_arguments, as_code, quoted
from nbloader._options.options import LoadOptions
from nbloader._planning.load_plan import LoadPlan
from nbloader._progress.events import PARTS
from nbloader._system.probe import LEAST_BYTES, Probe
from nbloader._system.storage import Storage
from nbloader._text.units import seconds_text, size_text

if TYPE_CHECKING:
    from nbloader._progress.state import LoadState


_WORTH_SECONDS, _WORTH_SHARE = 0.3, 0.05  # of the load; a smaller saving is not worth a remedy
FASTER = 1.2  # other storage, or other readers, must beat the rate of the load by this factor
_FULL = ("reading_in_window", "too_large_to_read_ahead")
"""Codes of the log that say that memory was too short for full read-ahead."""


class Measured(NamedTuple):
    """What was measured during a load or after it; None for what was not needed or could not be measured.

    `tokenizer` is how many seconds the tokenizer takes to load once it is saved. For a model in ``.bin`` files,
    `on_hub` is the size of the safetensors on the Hub. `has_safetensors` says whether the folder holds some too.
    """

    storage: Storage | None = None
    probe: Probe | None = None
    elsewhere: tuple[Path, Probe] | None = None
    tokenizer: float | None = None
    on_hub: int | None = None
    has_safetensors: bool = False
    memory_limit: int | None = None
    memory_pressure: float | None = None


def is_worth(seconds: float, of: float) -> bool:
    """Return whether a saving of this many seconds is worth a remedy, for a load of `of` seconds."""
    return seconds >= max(_WORTH_SECONDS, _WORTH_SHARE * of)


def diagnosis_of(state: LoadState, plan: LoadPlan, options: LoadOptions, measured: Measured) -> Diagnosis:
    """Return the diagnosis of a load that is ready; a pure function of the figures."""
    known = {part: state.spent[part] for part in PARTS if state.spent.get(part)}
    known["other"] = known.get("other", 0.0) + max(0.0, state.elapsed - sum(known.values()))
    read = _reading(state)
    told = Diagnosis(
        name=state.name,
        seconds=state.elapsed,
        parts=known,
        format=plan.format,
        files=tuple(shard.name for shard in state.shards),
        bytes=state.bytes_to_read,
        resident=state.bytes_resident,
        dtypes=plan.bytes_by_dtype,
        dtype=other_type(plan),
        storage=measured.storage,
        rate=read.rate,
        probe=measured.probe,
        others=_others(state),
        available=plan.available,
        memory_limit=measured.memory_limit,
        memory_pressure=measured.memory_pressure,
    )
    wanted = wanted_of(state.origin, state.name, state.folder or "", options)
    remedies = [
        *_for_storage(state, plan, wanted, measured, read, known),
        *_for_format(state, wanted, measured, known),
        *_for_placing(state, plan, wanted, known),
        *_for_the_rest(state, wanted, measured, known),
    ]
    worth = [remedy for remedy in remedies if is_worth(remedy.seconds, state.elapsed)]
    return replace(told, remedies=tuple(sorted(worth, key=lambda remedy: -remedy.seconds)))


def other_type(plan: LoadPlan) -> str:
    """Return the type of the weights in memory; empty if it is the same as in the files."""
    return "" if list(plan.bytes_by_dtype) == [plan.placed_as] else plan.placed_as


class _Reading(NamedTuple):
    """Bytes read from storage, the seconds that took (0: not known), and how many of them overlapped other work."""

    bytes: int
    seconds: float
    ahead: float

    @property
    def rate(self) -> float | None:
        return self.bytes / self.seconds if self.bytes >= LEAST_BYTES and self.seconds > 0 else None

    def waits(self, rate: float) -> float:
        """Return how many seconds the load would wait for the same bytes at another rate."""
        return max(0.0, self.bytes / rate - self.ahead)


def _reading(state: LoadState) -> _Reading:
    weights = next(stage for stage in state.stages if stage.name == "weights")
    ahead = max(0.0, (weights.started or 0.0) - (state.found or 0.0))
    mixed = state.spent.get("mixed", 0.0)
    waited = state.spent.get("storage", 0.0) + mixed
    absent = sum(shard.bytes - shard.bytes_resident for shard in state.shards)
    if mixed and state.placing_copies:
        return _Reading(absent, 0.0, ahead)  # how much of that time was copying is not known
    spans = [shard for shard in state.shards if shard.read_started is not None and shard.bytes_read]
    ended = [shard.read_ended for shard in spans if shard.read_ended is not None]
    if mixed or not spans or not ended:
        return _Reading(absent, waited, ahead)
    began = min(shard.read_started for shard in spans if shard.read_started is not None)
    seconds = max(ended) - began
    if 2 * absent < state.bytes_to_read and 2 * waited < seconds:
        return _Reading(absent, 0.0, ahead)  # a few bytes, read now and then beside other work, give no rate
    # The wait and the duration of reading are known: the difference overlapped other work.
    return _Reading(absent, seconds, max(0.0, seconds - waited))


def _others(state: LoadState) -> int | None:
    if len(state.reads) < 2:
        return None
    disk, own = (last - first for first, last in zip(state.reads[0], state.reads[-1], strict=True))
    return max(0, disk - own)


def _for_storage(
    state: LoadState,
    plan: LoadPlan,
    wanted: _Wanted,
    measured: Measured,
    read: _Reading,
    parts: Mapping[str, float],
) -> Iterator[Remedy]:
    """Yield at most one remedy for the time spent waiting for storage; changing an option comes before moving files."""
    waited = parts.get("storage", 0.0) + parts.get("mixed", 0.0)
    if not read.bytes or not waited or read.rate is None:
        return
    figures = {"size": size_text(read.bytes), "rate": size_text(read.rate), "seconds": seconds_text(waited)}
    here, storage, code = measured.probe, measured.storage, _own_fault(state, wanted.options)
    if here is not None and here.rate >= FASTER * read.rate and code:
        figures |= {"probed": size_text(here.rate), "readers": str(here.readers)}
        figures |= {"free": size_text(plan.available or 0), "needed": size_text(plan.needed_memory)}
        lines = _UNLOADING if code == "memory" else wanted.show(**{code: getattr(LoadOptions(), code)})
        yield Remedy(code, waited - min(waited, read.waits(here.rate)), figures, lines)
    elif measured.elsewhere is not None and measured.elsewhere[1].rate >= FASTER * read.rate:
        folder, there = measured.elsewhere
        figures |= {"place": str(folder), "probed": size_text(there.rate)}
        yield Remedy("move", waited - min(waited, read.waits(there.rate)), figures, wanted.moved_to(folder))
    elif storage is not None and read.bytes <= (plan.available or 0):
        if storage.limit is not None and read.rate >= AT_LIMIT * storage.limit:
            figures |= {"limit": size_text(storage.limit)}
            yield Remedy("limit", waited, figures, wanted.preload())
        elif storage.kind in ("network", "fuse"):
            yield Remedy("warm", waited, figures, wanted.preload())


def _own_fault(state: LoadState, options: LoadOptions) -> str:
    """Return which remedy helps a load that read slower than its storage can; empty if that is not known."""
    if options.readahead is False:
        return "readahead"
    if any(line.code in _FULL for line in state.log):
        return "memory"
    return "readers" if options.readers is not None else ""


_UNLOADING = "import nbloader\n\nnbloader.loaded()  # what else is in memory\nnbloader.unload()"


class _Wanted(NamedTuple):
    """The load that a remedy is for, written as code that runs as it is, with every option that was chosen.

    `model` is the folder or id that the user asked for, `folder` the folder that holds its files.
    """

    model: str
    folder: Path
    options: LoadOptions

    @property
    def is_folder(self) -> bool:
        return self.model == os.fspath(self.folder)

    def show(self, **changes: Any) -> str:
        """Return the code that loads it, with some options changed."""
        return f"from nbloader import LoaderWidget\n\n{as_code(self.model, replace(self.options, **changes))}"

    def preload(self) -> str:
        arguments = as_arguments(self.model, self.options)
        return f"import nbloader\n\nnbloader.preload({arguments})  # as the notebook's first cell"

    def saved(self, kind: str, *, with_tokenizer: bool) -> str:
        """Return the code that loads it, saves the result, and loads that from then on."""
        name = quoted(f"{self.folder.name if self.is_folder else self.model.rpartition('/')[2]}-{kind}")
        saving = "".join(f"{part}.save_pretrained({name})\n" for part in ("model", "tokenizer")[: 1 + with_tokenizer])
        return f"{self._load()}{saving}w = nbloader.LoaderWidget({name}).show()"

    def with_tokenizer(self) -> str:
        """Return the code that saves the tokenizer beside the model's files."""
        return f"{self._load()}tokenizer.save_pretrained({quoted(os.fspath(self.folder))})"

    def _load(self) -> str:
        arguments = as_arguments(self.model, self.options)
        return f"import nbloader\n\nmodel, tokenizer = nbloader.load({arguments})\n"

    def converted(self) -> str:
        command = ["nbloader", "convert", self.model]
        for name in ("revision", "cache_dir", "subfolder"):
            value = getattr(self.options, name)
            command += [f"--{name.replace('_', '-')}", os.fspath(value)] if value else []
        return shlex.join(command)

    def moved_to(self, place: Path) -> str:
        """Return the code that copies it to another place, and loads it from there."""
        cache = next((parent for parent in self.folder.parents if parent.name.startswith("models--")), None)
        if cache is None or self.is_folder:
            there = os.fspath(place / self.folder.name)
            copied, links, code = self.folder, "", as_code(there, self.options)
        else:
            hub = place / "huggingface" / "hub"
            there = os.fspath(hub / cache.name)
            code = as_code(self.model, replace(self.options, cache_dir=os.fspath(hub)))
            copied, links = cache, ", symlinks=True"  # the snapshot's links point to the blobs
        return (
            f"import shutil\n\nfrom nbloader import LoaderWidget\n\n"
            f"shutil.copytree({quoted(os.fspath(copied))}, {quoted(there)}{links})\n{code}"
        )


def wanted_of(origin: str | None, name: str, folder: str | os.PathLike[str], options: LoadOptions) -> _Wanted:
    """Return the load that remedies are written for, with its model and options as code."""
    if origin != "folder":
        return _Wanted(name, Path(folder), options)
    return _Wanted(os.fspath(folder), Path(folder), replace(options, subfolder=""))


def _for_format(state: LoadState, wanted: _Wanted, measured: Measured, parts: Mapping[str, float]) -> Iterator[Remedy]:
    unpickled = parts.get("unpickle", 0.0)
    known = {"seconds": seconds_text(unpickled), "size": size_text(state.bytes_to_read)}
    if measured.has_safetensors:
        code = "beside" if wanted.options.use_safetensors is False else "converted"
        yield Remedy(code, unpickled, known, wanted.show(use_safetensors=None))
    elif measured.on_hub is not None:
        known["download"] = size_text(measured.on_hub)
        yield Remedy("safetensors", unpickled, known, wanted.show(use_safetensors=True))
    elif wanted.options.variant is None:
        yield Remedy("convert", unpickled, known, wanted.converted())


def _for_placing(state: LoadState, plan: LoadPlan, wanted: _Wanted, parts: Mapping[str, float]) -> Iterator[Remedy]:
    method = wanted.options.quantization
    with_tokenizer = (state.summary or {}).get("tokenizer_class") is not None
    if plan.copies and method is None:
        known = {
            "seconds": seconds_text(parts.get("cast", 0.0)),
            "stored": ", ".join(plan.bytes_by_dtype),
            "dtype": plan.placed_as,
            "extra": size_text(max(0, sum(plan.bytes_to_place) - sum(plan.bytes_by_dtype.values()))),
        }
        if sum(plan.bytes_to_place) > sum(plan.bytes_by_dtype.values()):
            yield Remedy("dtype", parts.get("cast", 0.0), known, wanted.show(dtype="auto"))
        elif plan.dtype is not None:
            yield Remedy("save", parts.get("cast", 0.0), known, wanted.saved(plan.dtype, with_tokenizer=with_tokenizer))
    if method in ("8bit", "4bit"):
        seconds = parts.get("quantization", 0.0)
        known = {"seconds": seconds_text(seconds), "method": str(method)}
        yield Remedy("quantized", seconds, known, wanted.saved(str(method), with_tokenizer=with_tokenizer))


def _for_the_rest(
    state: LoadState, wanted: _Wanted, measured: Measured, parts: Mapping[str, float]
) -> Iterator[Remedy]:
    if measured.tokenizer is not None:
        took = parts.get("tokenizer", 0.0)
        known: dict[str, str] = {"seconds": seconds_text(took), "trial": seconds_text(measured.tokenizer)}
        yield Remedy("tokenizer", max(0.0, took - measured.tokenizer), known, wanted.with_tokenizer())
    waited = state.imports_waited or 0.0
    known = {"seconds": seconds_text(parts.get("imports", 0.0)), "waited": seconds_text(waited)}
    yield Remedy("imports", waited, known, 'python -c "import torch, transformers"')
    downloaded = state.bytes_downloaded - state.bytes_cached
    took = parts.get("download", 0.0)
    if downloaded > 0 and took > 0:
        known = {"seconds": seconds_text(took), "size": size_text(downloaded), "rate": size_text(downloaded / took)}
        yield Remedy("download", took, known, wanted.preload())
