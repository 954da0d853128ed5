"""Observe what transformers does on a thread, and make it wait for weights that are still being read."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from nbloader._checkpoint.headers import is_packed
from nbloader._errors import CheckpointError
from nbloader._libraries import isolation
from nbloader._libraries.output import records_to
from nbloader._libraries.transformers.hooks import missing_hooks
from nbloader._system.page_cache import can_touch
from nbloader._text.catalogue import text

_WEIGHTS_BAR = "Loading weights"


@dataclass(frozen=True)
class PlacedItem:
    """One step of transformers' placing: the tensors that it took from the files, and their bytes in the model.

    `bytes` is None if the step does not know it, such as for a tensor that was made inside the step.
    """

    sources: tuple[str, ...]
    bytes: int | None


@dataclass(frozen=True)
class Watcher:
    """Callbacks for a load with transformers on one thread.

    Parameters
    ----------
    on_open
        Called once with the names of all tensors that will be placed.
    on_placed
        Called after each step.
    on_warning
        Called with the text that transformers would have printed.
    check_cancelled
        Called before each step; its exception ends the load.
    gate
        Makes transformers wait for weights that are still being read; None if it can use the files directly.
    on_stranger
        Called when another thread loads with transformers directly: on that thread, with its name.
    before_step
        Called before each step with the names of its tensors, and the futures that load them in the background.
    spending
        Called with one of `nbloader._progress.events.PARTS`. Returns the context of the work that counts as this part.
    """

    on_open: Callable[[Sequence[str]], None]
    on_placed: Callable[[PlacedItem], None]
    on_warning: Callable[[str], None]
    check_cancelled: Callable[[], None]
    gate: Gate | None = None
    on_stranger: Callable[[str], None] = lambda name: None
    before_step: Callable[[Sequence[str], Sequence[Future[Any]]], None] = lambda keys, tensors: None
    spending: Callable[[str], AbstractContextManager[None]] = lambda part: contextlib.nullcontext()


class OtherThreads:
    """Other threads that load with transformers directly; each name is reported once."""

    def __init__(self, on_first: Callable[[str], None]) -> None:
        self._on_first = on_first
        self.seen: set[str] = set()

    def note(self) -> None:
        """Record the calling thread."""
        name = threading.current_thread().name
        if name not in self.seen:
            self.seen.add(name)
            self._on_first(name)


class Gate(Protocol):
    """Weight files that are still being read."""

    def wait_for(self, path: str, key: str) -> None:
        """Wait until the elements of a tensor can be used; called on any thread."""

    def path_of(self, path: str) -> str:
        """Return the path to open instead of a weight file."""


_watchers: dict[int, Watcher] = {}


@contextlib.contextmanager
def watched(watcher: Watcher, on_other: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Observe what transformers does on this thread; progress bars and warnings of other threads do not change.

    If another thread places weights meanwhile, `on_other` is called on that thread.
    """
    from transformers.utils import logging as transformers_logging

    thread = threading.get_ident()
    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda hook: hook)
    previous = set_hook(None)

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watching = _watchers.get(threading.get_ident())
        if watching is not None:
            return _bar(watching, args, kwargs)
        if kwargs.get("desc") == _WEIGHTS_BAR:
            on_other()
        return factory(*args, **kwargs) if previous is None else previous(factory, args, kwargs)

    def keep(record: logging.LogRecord) -> bool:
        is_theirs = record.name.partition(".")[0] == "transformers"
        if is_theirs:
            watcher.on_warning(record.getMessage())
        return is_theirs

    set_hook(hook)
    _watchers[thread] = watcher
    try:
        with records_to(keep):
            yield
    finally:
        del _watchers[thread]
        replaced = set_hook(previous)
        if replaced is not hook:  # other code set its own hook meanwhile
            set_hook(replaced)


def can_wait() -> bool:
    """Return whether this version of transformers opens weight files with the functions that `waiting` patches."""
    return not missing_hooks("waiting")


@contextlib.contextmanager
def waiting(watcher: Watcher) -> Iterator[None]:
    """Make transformers wait, on this thread, until each tensor that it loads has been read.

    transformers opens every file before it places the first tensor. Here it gets file handles that wait when elements
    are accessed. Other threads are not affected.
    """
    gate = watcher.gate
    if not can_wait():
        yield
        return
    import torch
    from transformers import modeling_utils as module

    safe_open: Any = module.safe_open
    load_state_dict: Any = module.load_state_dict

    def open_waiting(filename: Any, *args: Any, **kwargs: Any) -> Any:
        assert gate is not None
        name = os.fspath(filename)
        return _WaitingFile(safe_open(gate.path_of(name), *args, **kwargs), name, gate)

    def load_waiting(checkpoint_file: Any, *args: Any, **kwargs: Any) -> Any:
        name = os.fspath(checkpoint_file)
        if name.endswith(".safetensors"):
            return load_state_dict(checkpoint_file, *args, **kwargs)
        path = checkpoint_file if gate is None else gate.path_of(name)
        with watcher.spending("unpickle"):
            if is_packed(path):  # otherwise torch would map the compressed bytes
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
            else:
                tensors = load_state_dict(path, *args, **kwargs)
        if gate is None:
            return tensors
        return {key: _WaitingTensor(tensor, name, key, gate) for key, tensor in tensors.items()}

    with contextlib.ExitStack() as stack:
        if gate is not None:
            stack.enter_context(isolation.patched_on_this_thread(module, "safe_open", open_waiting))
        stack.enter_context(isolation.patched_on_this_thread(module, "load_state_dict", load_waiting))
        yield


class _WaitingTensor:
    """A tensor, or a slice of safetensors, that waits for its elements when they are accessed."""

    def __init__(self, tensor: Any, path: str, key: str, gate: Gate) -> None:
        self._tensor, self._path, self._key, self._gate = tensor, path, key, gate

    def __getitem__(self, index: Any) -> Any:
        self._gate.wait_for(self._path, self._key)
        tensor = self._tensor[index]
        if not can_touch(tensor.data_ptr(), tensor.nbytes):
            raise CheckpointError(text("error", "truncated_during_load", path=self._path), text("hint", "again"))
        return tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


class _WaitingFile:
    """An open safetensors file whose slices wait for their elements when these are accessed."""

    def __init__(self, file: Any, path: str, gate: Gate) -> None:
        self._file, self._path, self._gate = file, path, gate

    def __enter__(self) -> _WaitingFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def get_slice(self, name: str) -> _WaitingTensor:
        return _WaitingTensor(self._file.get_slice(name), self._path, name, self._gate)

    def get_tensor(self, name: str) -> Any:
        self._gate.wait_for(self._path, name)
        return self._file.get_tensor(name)

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_HEADERS:
            # Another method may read any elements, so wait for the whole file.
            self._gate.wait_for(self._path, "")
        return getattr(self._file, name)


_OF_HEADERS = {"keys", "metadata", "offset_keys"}


class _SilentBar:
    """The part of tqdm's interface that transformers uses; it draws nothing.

    A disabled tqdm would work, too. But it starts a monitor thread that keeps its class, and all that the class refers
    to, in memory forever.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __enter__(self) -> _SilentBar:
        return self

    def __exit__(self, *error: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _bar(watcher: Watcher, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _SilentBar:
    items = args[0] if args else kwargs.get("iterable") or ()
    return _SilentBar(_watch_items(watcher, items) if kwargs.get("desc") == _WEIGHTS_BAR else items)


def _watch_items(watcher: Watcher, items: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    steps = list(items)
    watcher.on_open([key for _, mapping in steps for key in _sources(mapping)])
    for step in steps:
        watcher.check_cancelled()
        sources = _sources(step[1])
        # Keep the tensors until the step is over and the model holds them: the step drops its own references earlier.
        tensors = [tensor for group in getattr(step[1], "collected_tensors", {}).values() for tensor in group]
        watcher.before_step(sources, [tensor for tensor in tensors if isinstance(tensor, Future)])
        yield step
        watcher.on_placed(PlacedItem(sources, _bytes_of(tensors)))


def _sources(mapping: Any) -> tuple[str, ...]:
    return tuple(sorted({key for keys in getattr(mapping, "layer_targets", {}).values() for key in keys}))


def _bytes_of(tensors: Iterable[Any]) -> int | None:
    total = 0
    for tensor in tensors:
        ready = tensor.result() if isinstance(tensor, Future) else tensor
        if not hasattr(ready, "nbytes"):
            return None
        total += ready.nbytes
    return total
