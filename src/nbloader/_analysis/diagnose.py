"""Measurements for a diagnosis, of a load that has ended or of a checkpoint before it is loaded."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._analysis.diagnosis import Diagnosis, Remedy
from nbloader._analysis.forecast import look_at, resident_bytes
from nbloader._analysis.remedies import FASTER, Measured, diagnosis_of, is_worth, other_type, wanted_of
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._errors import LoadError
from nbloader._libraries.transformers.tokenizers import load_tokenizer
from nbloader._options.options import LoadOptions, merge_options
from nbloader._options.signature import takes_options
from nbloader._planning.load_plan import LoadPlan
from nbloader._registry.models import find_loaded
from nbloader._system.memory import memory_limit, memory_pressure
from nbloader._system.probe import LEAST_BYTES, Probe, find_places, probe
from nbloader._system.storage import Storage, find_storage
from nbloader._text.catalogue import text
from nbloader._text.units import seconds_text, size_text

if TYPE_CHECKING:
    from nbloader._progress.state import LoadState


_TOKENIZER_SECONDS = 0.5  # a tokenizer stage at least this long is worth a trial load of the saved tokenizer


@takes_options
def diagnose(model_or_job: Any, **choices: Any) -> Diagnosis:
    """Return why a load took as long as it did, and what would make it faster.

    For a model that is loaded in this process, the diagnosis is of its load. For any other model, it is a forecast:
    nothing is loaded, only headers are read and storage is probed.

    A probe reads at most 512 MB in at most 2 s, bypasses the page cache, and writes nothing. Storage is probed only if
    the load waited for it, or would have to.

    Parameters
    ----------
    model_or_job
        A folder, the id of a repository, ``"demo"``, a loaded model, a `LoadJob`, or an object with a `LoadJob` as its
        ``job``.
    **choices
        For a model: the options of the load, see `LoadOptions`.

    Raises
    ------
    LoadError
        If the load failed, was cancelled or is still running, or if there is no such checkpoint.
    """
    asked = getattr(model_or_job, "job", model_or_job)
    if asked is None:
        raise _undiagnosed(type(model_or_job).__name__, "idle")
    resident = None if choices else find_loaded(asked)
    if resident is not None and resident.state is not None and resident.plan is not None:
        return _diagnose_load(resident.state, resident.plan, resident.options, resident.tokenizer)
    if not hasattr(asked, "events"):
        return _look(asked, choices)
    state = asked.state
    if state.summary is None or asked.plan is None:  # a model that has been unloaded still has its summary
        raise _undiagnosed(state.name, state.status if state.gone is None else "gone")
    return _diagnose_load(state, asked.plan, asked.options, None)


def _undiagnosed(name: str, status: str) -> LoadError:
    return LoadError(
        text("diagnosis", "not_ended", name=name, status=text("status", status)), text("diagnosis", "not_ended_hint")
    )


def _diagnose_load(state: LoadState, plan: LoadPlan, options: LoadOptions, tokenizer: Any) -> Diagnosis:
    return diagnosis_of(state, plan, options, _measure(state, options, tokenizer))


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
    """Return the fastest other storage of this machine with room for the files, and the result of its probe."""
    found = []
    with suppress(OSError):
        size = sum(file.stat().st_size for file in files)
        for folder, file in find_places(files[0], size):
            told = probe([file], seconds=0.6, most=128_000_000)
            if told is not None:
                found.append((folder, told))
    return max(found, key=lambda place: place[1].rate, default=None)


def _try_tokenizer(tokenizer: Any) -> float | None:
    """Return how many seconds the tokenizer takes to load from its saved form; None if that fails."""
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
    """Return the download size of the model's safetensors; None if the Hub has none or may not be contacted."""
    if options.local_files_only:
        return None
    with suppress(LoadError):
        return look_at(model, replace(options, use_safetensors=True))[2].bytes_to_download
    return None


def _look(model: str | os.PathLike[str], choices: Mapping[str, Any]) -> Diagnosis:
    """Return a forecast of the load of a model, without loading it."""
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
        dtype=other_type(plan),
        storage=_storage_of(files),
        probe=here,
        available=plan.available,
        memory_limit=memory_limit(),
        memory_pressure=memory_pressure(),
        expected=plan.seconds,
    )
    elsewhere = _elsewhere(files) if here is not None and is_worth(absent / here.rate, 0.0) else None
    if here is None or elsewhere is None or elsewhere[1].rate < FASTER * here.rate:
        return told
    folder, there = elsewhere
    known = {
        "size": size_text(absent),
        "rate": size_text(here.rate),
        "seconds": seconds_text(absent / here.rate),
        "place": str(folder),
        "probed": size_text(there.rate),
    }
    wanted = wanted_of(source.origin, os.fspath(model), checkpoint.folder, options)
    remedy = Remedy("move_first", absent / here.rate - absent / there.rate, known, wanted.moved_to(folder))
    return replace(told, remedies=(remedy,))
