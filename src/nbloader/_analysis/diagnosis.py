"""Why a load took as long as it did, and what would make it faster: from measurements only."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._analysis.forecast import look_at, resident_bytes
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._errors import LoadError
from nbloader._libraries.transformers.tokenizers import load_tokenizer
from nbloader._options.as_code import as_arguments, as_code, quoted
from nbloader._options.options import LoadOptions, merge_options
from nbloader._planning.plan import LoadPlan
from nbloader._progress.events import PARTS
from nbloader._registry.models import find_resident
from nbloader._system.memory import memory_limit, memory_pressure
from nbloader._system.storage import LEAST_BYTES, Probe, Storage, find_places, find_storage, probe
from nbloader._text.catalogue import columns, seconds_text, sentences, size_text, span_text, text, types_text

if TYPE_CHECKING:
    from nbloader._progress.state import LoadState

_WORTH_SECONDS, _WORTH_SHARE = 0.3, 0.05  # of the load: less is not worth a remedy
_AT_LIMIT = 0.8  # of what storage delivers, from which on nothing but other storage is faster
_FASTER = 1.2  # times the rate of the load, from which on other storage, or other readers, are
_TOKENIZER_SECONDS = 0.5  # from which on it is tried how long a tokenizer that is saved as it is would take
_FULL = ("reading_in_window", "too_large_to_read_ahead")
"""Codes of the log that tell that memory was too short to read ahead as far as placing could use it."""


@dataclass(frozen=True)
class Remedy:
    """What would make a load faster.

    Parameters
    ----------
    code
        Which: a key of the locale files' ``remedy``.
    seconds
        What it saves, from the figures in `arguments`.
    arguments
        Those of its text.
    lines
        What to run, as it is.
    """

    code: str
    seconds: float
    arguments: Mapping[str, str] = field(default_factory=dict)
    lines: str = ""

    def __str__(self) -> str:
        return text("remedy", self.code, saved=seconds_text(self.seconds), **self.arguments)


@dataclass(frozen=True)
class Diagnosis:
    """Where the time of a load went, what was really read, and what would make it faster.

    Sizes in bytes, times in seconds, rates in bytes a second. What was not or could not be measured is None.

    Parameters
    ----------
    name
        What is loaded.
    seconds
        How long the load took; None before a load.
    parts
        What of that went to what (`nbloader._progress.events.PARTS`); they add up to `seconds`.
    format
        ``"safetensors"`` or ``"bin"``.
    files
        The weight files.
    bytes
        Their size.
    resident
        How much of them was in memory when the load began.
    dtypes
        What the tensors take in the files, by type.
    dtype
        The types of the weights in memory; empty where they are those of the files.
    storage
        Where they lie; None where that cannot be found out.
    rate
        How fast they were read from there.
    probe
        What a short probe told that it can deliver.
    others
        What was read of the same disk meanwhile by others.
    available
        What was free in memory when the load began.
    remedies
        What would make the load faster, the most seconds first.
    memory_limit
        What a control group (a container) allows this process; None where it may have all of the host's memory.
    memory_pressure
        The share of the last minute in which processes of this host waited for memory.
    to_download
        What is not on this machine yet; only before a load.
    expected
        The least and the most seconds that a load should take, by earlier ones; only before a load.
    """

    name: str
    seconds: float | None
    parts: Mapping[str, float]
    format: str
    files: tuple[str, ...]
    bytes: int
    resident: int
    dtypes: Mapping[str, int]
    dtype: str
    storage: Storage | None
    rate: float | None = None
    probe: Probe | None = None
    others: int | None = None
    available: int | None = None
    remedies: tuple[Remedy, ...] = ()
    expected: tuple[float, float] | None = None
    to_download: int = 0
    memory_limit: int | None = None
    memory_pressure: float | None = None

    @property
    def verdict(self) -> str:
        """The first remedy or, where there is none, what tells that nothing is to be mended; one sentence."""
        if self.remedies:
            return str(self.remedies[0])
        if self.seconds is None:
            return self._expectation()
        if self.rate is not None and self.probe is not None and self.rate >= _AT_LIMIT * self.probe.rate:
            return text("diagnosis", "at_limit", share=f"{100 * min(1, self.rate / self.probe.rate):.0f}")
        most = max(self.parts, key=lambda part: self.parts[part])
        largest = text(
            "diagnosis", "largest", part=text("part", most), share=f"{100 * self.parts[most] / self.seconds:.0f}"
        )
        if self.bytes - self.resident < LEAST_BYTES:
            resident = f"{100 * self.resident / max(1, self.bytes):.0f}"
            return sentences(text("diagnosis", "warm", resident=resident), largest)
        return sentences(text("diagnosis", "healthy"), largest)

    def _expectation(self) -> str:
        if self.to_download:
            return text("diagnosis", "will_download", size=size_text(self.to_download))
        absent = self.bytes - self.resident
        if absent < LEAST_BYTES:
            return text("diagnosis", "will_find", size=size_text(self.resident))
        if self.probe is not None:
            return text(
                "diagnosis",
                "will_read",
                size=size_text(absent),
                rate=size_text(self.probe.rate),
                seconds=seconds_text(absent / self.probe.rate),
            )
        return text("diagnosis", "will_read_untold", size=size_text(absent))

    @property
    def facts(self) -> Mapping[str, str]:
        """What was really read, and from where: a line a figure, by the keys of the locale files' ``fact``."""
        facts = {
            "weights": text(
                "diagnosis",
                "weights",
                format=self.format,
                count=len(self.files),
                size=size_text(self.bytes),
                names=", ".join(self.files[:2]) + (", …" if len(self.files) > 2 else ""),
            ),
            "types": (types_text(self.dtypes) or text("diagnosis", "no_header"))
            + (f" → {self.dtype}" if self.dtype else ""),
            "memory" if self.seconds is not None else "memory_now": text(
                "diagnosis", "resident", share=f"{100 * self.resident / self.bytes if self.bytes else 100:.0f}"
            ),
        }
        if self.available is not None:
            facts["free"] = size_text(self.available)
        if self.memory_limit is not None:
            facts["memory_limit"] = size_text(self.memory_limit)
        if self.memory_pressure is not None and round(100 * self.memory_pressure):
            facts["pressure"] = text("diagnosis", "pressure", share=f"{100 * self.memory_pressure:.0f}")
        storage = self.storage
        if storage is not None:
            facts["path"] = str(storage.path)
            if storage.linked_from is not None:
                facts["link"] = str(storage.linked_from)
            facts["storage"] = ", ".join(_storage_words(storage))
        if self.rate is not None:
            facts["rate"] = text("diagnosis", "rate", rate=size_text(self.rate))
        if self.probe is not None:
            facts["probe"] = text(
                "diagnosis", "probe", rate=size_text(self.probe.rate), size=size_text(self.probe.bytes)
            )
        if self.others is not None and self.others >= LEAST_BYTES:
            facts["others"] = text("diagnosis", "others", size=size_text(self.others))
        if self.expected is not None:
            facts["time"] = span_text(*map(seconds_text, self.expected))
        return facts

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}"]
        if self.seconds:
            shown = {name: seconds for name, seconds in self.parts.items() if name == "other" or round(seconds, 2)}
            shares = {name: f"{took:8.2f} s  {100 * took / self.seconds:3.0f} %" for name, took in shown.items()}
            lines += columns("part", shares)
        lines += columns("fact", self.facts)
        for number, remedy in enumerate(self.remedies, 1):
            lines += [f"{number}. {remedy}", *(f"     {line}" for line in remedy.lines.splitlines())]
        return "\n".join(lines)


def _storage_words(storage: Storage) -> Iterator[str]:
    yield f"{storage.filesystem or '?'} ({text('storage', storage.kind)})"
    yield text("diagnosis", "mounted", mount=storage.mount)
    if storage.is_rotational is not None:
        yield text("storage", "rotational" if storage.is_rotational else "solid")
    if storage.read_ahead:
        yield f"read_ahead_kb {storage.read_ahead >> 10}"
    if storage.limit is not None:
        yield text("diagnosis", "limited", rate=size_text(storage.limit))


def diagnose(model_or_job: Any, **choices: Any) -> Diagnosis:
    """Return why a load took as long as it did, and what would make it faster.

    Of a model that is loaded in this process it is that load; of any other model, what loading it would meet: then
    nothing is loaded, only headers are read and storage is probed.

    A probe reads 512 MB in 2 s at most, past the page cache, and writes nothing. It is made only where a load waited
    for storage, or would have to.

    Parameters
    ----------
    model_or_job
        A folder, the id of a repository, ``"demo"``, a model that is loaded, a `LoadJob`, or what has one as its
        ``job``.
    **choices
        For a model: the options of its load, see `LoadOptions`.

    Raises
    ------
    LoadError
        Where a load failed, was cancelled or has not ended, or there is no such checkpoint.
    """
    asked = getattr(model_or_job, "job", model_or_job)
    if asked is None:
        raise _undiagnosed(type(model_or_job).__name__, "idle")
    resident = None if choices else find_resident(asked)
    if resident is not None and resident.state is not None and resident.plan is not None:
        return _diagnose_load(resident.state, resident.plan, resident.options, resident.tokenizer)
    if not hasattr(asked, "events"):
        return _look(asked, choices)
    state = asked.state
    if state.summary is None or asked.plan is None:  # a model that was unloaded since had been loaded all the same
        raise _undiagnosed(state.name, state.status if state.gone is None else "gone")
    return _diagnose_load(state, asked.plan, asked.options, None)


def _undiagnosed(name: str, status: str) -> LoadError:
    return LoadError(
        text("diagnosis", "not_ended", name=name, status=text("status", status)), text("diagnosis", "not_ended_hint")
    )


def _diagnose_load(state: LoadState, plan: LoadPlan, options: LoadOptions, tokenizer: Any) -> Diagnosis:
    return explain(state, plan, options, _measure(state, options, tokenizer))


class Measured(NamedTuple):
    """What was measured beside a load, or after it; None is what was not needed, or could not be.

    `tokenizer` are the seconds that it takes to load once it is saved. Of a model in ``.bin``, `on_hub` are the bytes
    of the safetensors that the Hub has, and `has_safetensors` tells whether some lie beside them.
    """

    storage: Storage | None = None
    probe: Probe | None = None
    elsewhere: tuple[Path, Probe] | None = None
    tokenizer: float | None = None
    on_hub: int | None = None
    has_safetensors: bool = False
    memory_limit: int | None = None
    memory_pressure: float | None = None


def _measure(state: LoadState, options: LoadOptions, tokenizer: Any) -> Measured:
    folder = Path(state.folder or "")
    files = [folder / shard.name for shard in state.shards if (folder / shard.name).is_file()]
    measured = Measured(storage=_storage_of(files), memory_limit=memory_limit(), memory_pressure=memory_pressure())
    waited = state.spent.get("storage", 0.0) + state.spent.get("mixed", 0.0)
    if is_worth(waited, state.elapsed):
        measured = measured._replace(probe=probe(files), elsewhere=_elsewhere(files))
    if state.spent.get("tokenizer", 0.0) >= _TOKENIZER_SECONDS and not (folder / "tokenizer.json").is_file():
        measured = measured._replace(tokenizer=_try_tokenizer(tokenizer))
    if state.format == "bin" and _has_safetensors(folder, options):
        measured = measured._replace(has_safetensors=True)
    elif state.format == "bin" and state.origin != "folder":
        measured = measured._replace(on_hub=_safetensors_on_hub(state.name, options))
    return measured


def _storage_of(files: list[Path]) -> Storage | None:
    with suppress(OSError, IndexError):
        return find_storage(files[0])
    return None


def _elsewhere(files: list[Path]) -> tuple[Path, Probe] | None:
    """Return the fastest other storage of this machine with room for the files, and what a probe of it told."""
    found = []
    with suppress(OSError):
        size = sum(file.stat().st_size for file in files)
        for folder, file in find_places(files[0], size):
            told = probe([file], seconds=0.6, most=128_000_000)
            if told is not None:
                found.append((folder, told))
    return max(found, key=lambda place: place[1].rate, default=None)


def _try_tokenizer(tokenizer: Any) -> float | None:
    """Return how long the tokenizer takes to load once it is saved in the form that it was made into."""
    with suppress(Exception), tempfile.TemporaryDirectory(prefix="nbloader-") as folder:
        tokenizer.save_pretrained(folder)
        if not Path(folder, "tokenizer.json").is_file():
            return None
        began = time.monotonic()
        load_tokenizer(Path(folder), lambda warning: None, allows_code=False)
        return time.monotonic() - began
    return None


def _has_safetensors(folder: Path, options: LoadOptions) -> bool:
    with suppress(OSError, LoadError):
        return read_checkpoint(folder, options.variant, use_safetensors=True).format == "safetensors"
    return False


def _safetensors_on_hub(model: str, options: LoadOptions) -> int | None:
    """Return what downloading the model's safetensors takes; None where the Hub has none, or was not to be asked."""
    if options.local_files_only:
        return None
    with suppress(LoadError):
        return look_at(model, replace(options, use_safetensors=True))[2].bytes_to_download
    return None


def is_worth(seconds: float, of: float) -> bool:
    """Tell whether so many of a load's seconds are worth a remedy."""
    return seconds >= max(_WORTH_SECONDS, _WORTH_SHARE * of)


def explain(state: LoadState, plan: LoadPlan, options: LoadOptions, measured: Measured) -> Diagnosis:
    """Return what the figures of a load that is ready tell; a pure function of them."""
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
        resident=sum(shard.bytes_resident for shard in state.shards),
        dtypes=plan.bytes_by_dtype,
        dtype=_other_type(plan),
        storage=measured.storage,
        rate=read.rate,
        probe=measured.probe,
        others=_others(state),
        available=plan.available,
        memory_limit=measured.memory_limit,
        memory_pressure=measured.memory_pressure,
    )
    wanted = _wanted(state.origin, state.name, state.folder or "", options)
    remedies = [
        *_for_storage(state, plan, wanted, measured, read, known),
        *_for_format(state, wanted, measured, known),
        *_for_placing(state, plan, wanted, known),
        *_for_the_rest(state, wanted, measured, known),
    ]
    worth = [remedy for remedy in remedies if is_worth(remedy.seconds, state.elapsed)]
    return replace(told, remedies=tuple(sorted(worth, key=lambda remedy: -remedy.seconds)))


def _other_type(plan: LoadPlan) -> str:
    return "" if list(plan.bytes_by_dtype) == [plan.placed_as] else plan.placed_as


class _Reading(NamedTuple):
    """What was read from storage, in how many seconds (0: not known), and how many of those were not waited for."""

    bytes: int
    seconds: float
    ahead: float

    @property
    def rate(self) -> float | None:
        return self.bytes / self.seconds if self.bytes >= LEAST_BYTES and self.seconds > 0 else None

    def waits(self, rate: float) -> float:
        """Return the seconds that would be waited for the same bytes at another rate."""
        return max(0.0, self.bytes / rate - self.ahead)


def _reading(state: LoadState) -> _Reading:
    weights = next(stage for stage in state.stages if stage.name == "weights")
    ahead = max(0.0, (weights.started or 0.0) - (state.found or 0.0))
    mixed = state.spent.get("mixed", 0.0)
    waited = state.spent.get("storage", 0.0) + mixed
    absent = sum(shard.bytes - shard.bytes_resident for shard in state.shards)
    if mixed and state.placing_copies:
        return _Reading(absent, 0.0, ahead)  # what of that was copying is not known
    spans = [shard for shard in state.shards if shard.read_started is not None and shard.bytes_read]
    ended = [shard.read_ended for shard in spans if shard.read_ended is not None]
    if mixed or not spans or not ended:
        return _Reading(absent, waited, ahead)
    began = min(shard.read_started for shard in spans if shard.read_started is not None)
    seconds = max(ended) - began
    if 2 * absent < state.bytes_to_read and 2 * waited < seconds:
        return _Reading(absent, 0.0, ahead)  # a little, now and then beside other work: that is no rate
    # What was waited for is known, and so is how long reading took: the difference went on beside other work.
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
    """Yield at most one remedy for the time that storage was waited for: an option comes before moving files."""
    waited = parts.get("storage", 0.0) + parts.get("mixed", 0.0)
    if not read.bytes or not waited or read.rate is None:
        return
    figures = {"size": size_text(read.bytes), "rate": size_text(read.rate), "seconds": seconds_text(waited)}
    here, storage, code = measured.probe, measured.storage, _own_fault(state, wanted.options)
    if here is not None and here.rate >= _FASTER * read.rate and code:
        figures |= {"probed": size_text(here.rate), "readers": str(here.readers)}
        figures |= {"free": size_text(plan.available or 0), "needed": size_text(plan.needed_memory)}
        lines = _UNLOADING if code == "memory" else wanted.show(**{code: getattr(LoadOptions(), code)})
        yield Remedy(code, waited - min(waited, read.waits(here.rate)), figures, lines)
    elif measured.elsewhere is not None and measured.elsewhere[1].rate >= _FASTER * read.rate:
        folder, there = measured.elsewhere
        figures |= {"place": str(folder), "probed": size_text(there.rate)}
        yield Remedy("move", waited - min(waited, read.waits(there.rate)), figures, wanted.moved_to(folder))
    elif storage is not None and read.bytes <= (plan.available or 0):
        if storage.limit is not None and read.rate >= _AT_LIMIT * storage.limit:
            figures |= {"limit": size_text(storage.limit)}
            yield Remedy("limit", waited, figures, wanted.preload())
        elif storage.kind in ("network", "fuse"):
            yield Remedy("warm", waited, figures, wanted.preload())


def _own_fault(state: LoadState, options: LoadOptions) -> str:
    """Return which remedy helps a load that read slower than its storage can; empty where that is not known."""
    if options.readahead is False:
        return "readahead"
    if any(line.code in _FULL for line in state.log):
        return "memory"
    return "readers" if options.readers is not None else ""


_UNLOADING = "import nbloader\n\nnbloader.loaded()  # what else is in memory\nnbloader.unload()"


class _Wanted(NamedTuple):
    """What a remedy is to load: as lines that run as they are, with every option that was chosen.

    `model` is the folder or the id that it is asked for by, `folder` where its files lie.
    """

    model: str
    folder: Path
    options: LoadOptions

    @property
    def is_folder(self) -> bool:
        return self.model == os.fspath(self.folder)

    def show(self, **changes: Any) -> str:
        """Return the lines that load it, with some options changed."""
        return f"from nbloader import LoaderWidget\n\nw = {as_code(self.model, replace(self.options, **changes))}"

    def preload(self) -> str:
        arguments = as_arguments(self.model, self.options)
        return f"import nbloader\n\nnbloader.preload({arguments})  # as the notebook's first cell"

    def saved(self, kind: str, *, with_tokenizer: bool) -> str:
        """Return the lines that load it, and save it as it is then, to be loaded from there."""
        name = quoted(f"{self.folder.name if self.is_folder else self.model.rpartition('/')[2]}-{kind}")
        saving = "".join(f"{part}.save_pretrained({name})\n" for part in ("model", "tokenizer")[: 1 + with_tokenizer])
        return f"{self._load()}{saving}w = nbloader.LoaderWidget({name}).show()"

    def with_tokenizer(self) -> str:
        """Return the lines that put the tokenizer that was made beside its files."""
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
        """Return the lines that copy it to another place, and load it from there."""
        cache = next((parent for parent in self.folder.parents if parent.name.startswith("models--")), None)
        if cache is None or self.is_folder:
            there = os.fspath(place / self.folder.name)
            copied, links, code = self.folder, "", as_code(there, self.options)
        else:
            hub = place / "huggingface" / "hub"
            there = os.fspath(hub / cache.name)
            code = as_code(self.model, replace(self.options, cache_dir=os.fspath(hub)))
            copied, links = cache, ", symlinks=True"  # they lead from its snapshots to its blobs
        return (
            f"import shutil\n\nfrom nbloader import LoaderWidget\n\n"
            f"shutil.copytree({quoted(os.fspath(copied))}, {quoted(there)}{links})\nw = {code}"
        )


def _wanted(origin: str | None, name: str, folder: str | os.PathLike[str], options: LoadOptions) -> _Wanted:
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
    downloaded = state.bytes_downloaded - sum(file.bytes_cached for file in state.downloads)
    took = parts.get("download", 0.0)
    if downloaded > 0 and took > 0:
        known = {"seconds": seconds_text(took), "size": size_text(downloaded), "rate": size_text(downloaded / took)}
        yield Remedy("download", took, known, wanted.preload())


def _look(model: str | os.PathLike[str], choices: Mapping[str, Any]) -> Diagnosis:
    """Return what loading a model would meet, without loading it."""
    options = merge_options(None, choices)
    source, checkpoint, plan = look_at(model, options)
    files = [shard.path for shard in checkpoint.shards if shard.path.is_file()]
    absent = checkpoint.bytes - resident_bytes(checkpoint)
    here = probe(files) if absent >= LEAST_BYTES else None
    told = Diagnosis(
        name=os.fspath(model),
        seconds=None,
        parts={},
        format=plan.format,
        files=tuple(shard.name for shard in checkpoint.shards),
        bytes=checkpoint.bytes,
        resident=sum(file.stat().st_size for file in files) - absent,
        to_download=plan.bytes_to_download,
        dtypes=plan.bytes_by_dtype,
        dtype=_other_type(plan),
        storage=_storage_of(files),
        probe=here,
        available=plan.available,
        memory_limit=memory_limit(),
        memory_pressure=memory_pressure(),
        expected=plan.seconds,
    )
    elsewhere = _elsewhere(files) if here is not None and is_worth(absent / here.rate, 0.0) else None
    if here is None or elsewhere is None or elsewhere[1].rate < _FASTER * here.rate:
        return told
    folder, there = elsewhere
    known = {
        "size": size_text(absent),
        "rate": size_text(here.rate),
        "seconds": seconds_text(absent / here.rate),
        "place": str(folder),
        "probed": size_text(there.rate),
    }
    wanted = _wanted(source.origin, os.fspath(model), checkpoint.folder, options)
    remedy = Remedy("move_first", absent / here.rate - absent / there.rate, known, wanted.moved_to(folder))
    return replace(told, remedies=(remedy,))
