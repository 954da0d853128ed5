"""References to a model that should be freed: names of the notebook, its outputs, errors, running functions."""

from __future__ import annotations

import functools
import gc
import re
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nbloader._progress.freed import Holder
from nbloader._system.frames import frames_of_threads, readable_frames

_DEEPEST = 5
_MOST_LOOKS = 20_000  # objects to inspect for one name
_MOST_TOLD = 5
_OUTPUT = re.compile(r"(_+|_\d+|Out\[\d+\])([.\[].*)?")
_NOT_THE_USERS = ("_oh", "get_ipython", "exit", "quit", "In", "open")
_SHELLS = ("ipython", "ipykernel", "traitlets", "zmq", "tornado", "asyncio")
"""Packages, in lower case, whose objects belong to the notebook itself: every name can be reached through them."""

_LEAVES = (str, bytes, int, float, complex, type, types.ModuleType, types.CodeType)


def find_holders(targets: Iterable[Any]) -> tuple[Holder, ...]:
    """Return the references to `targets` that can be found, or one of kind ``"unknown"`` if there are none."""
    wanted = {id(target) for target in targets}
    found: dict[str, Holder] = {}
    for name, value, kind in _roots():
        path = _path_to(wanted, name, value)
        if path is not None:
            is_output = kind == "name" and _OUTPUT.fullmatch(path)
            holder = Holder(path, "output") if is_output else Holder(name if kind == "error" else path, kind)
            found.setdefault(kind if kind == "error" else path, holder)
    told = _without_doubles(list(found.values()))
    return tuple(told[:_MOST_TOLD]) or (Holder("", "unknown"),)


def _without_doubles(holders: list[Holder]) -> list[Holder]:
    """Return the holders, outputs first, without the other names that a notebook has for the same outputs."""
    outputs = [holder for holder in holders if holder.kind == "output"]
    cells = [holder for holder in outputs if holder.name.startswith("Out[")]
    return (cells or outputs[:1]) + [holder for holder in holders if holder not in outputs]


def _roots() -> Iterator[tuple[str, Any, str]]:
    for name, value in list(vars(sys.modules["__main__"]).items()):
        # The outputs are listed cell by cell.
        if name == "Out" and isinstance(value, Mapping):
            yield from ((f"Out[{cell!r}]", output, "name") for cell, output in list(value.items()))
        elif name not in _NOT_THE_USERS and not name.startswith("__"):
            yield name, value, "name"
    for name in ("last_exc", "last_value", "last_traceback"):
        error = getattr(sys, name, None)
        trace = error.__traceback__ if isinstance(error, BaseException) else error
        while trace is not None:
            with readable_frames():
                values = list(trace.tb_frame.f_locals.values())
            yield from ((f"sys.{name}", value, "error") for value in values)
            trace = trace.tb_next
    yield from _running_locals()


def _locals_of(frame: types.FrameType) -> list[tuple[str, Any]]:
    seen = frame.f_locals
    found = [(name, value) for name, value in seen.items() if name.isidentifier()]
    if sys.version_info < (3, 13):
        # `f_locals` is a copy that the frame keeps: it would keep the model alive after the function has dropped it.
        for name, value in found:
            if gc.is_tracked(value):
                seen.pop(name, None)
    return found


def _running_locals() -> list[tuple[str, Any, str]]:
    """Return the local variables of running functions, except those of nbloader."""
    own = {thread.ident for thread in threading.enumerate() if thread.name.startswith("nbloader-")}
    with frames_of_threads() as stacks:
        return [
            (f"{name} in {frame.f_code.co_name}()", value, "function")
            for thread, stack in stacks.items()
            if thread not in own
            for frame in stack
            if _is_users(frame)
            for name, value in _locals_of(frame)
        ]


def _is_users(frame: types.FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package != "nbloader" and frame.f_locals is not frame.f_globals


def _path_to(wanted: set[int], name: str, value: Any) -> str | None:
    """Return the Python expression that leads from `name` to a wanted object; None if there is none."""
    looks = 0
    if _is_passed_over(value):
        return None
    level, seen = [(name, value)], {id(value)}
    for _ in range(_DEEPEST):
        deeper = []
        for path, owner in level:
            if id(owner) in wanted:
                return path
            for step, part in _parts(owner):
                looks += 1
                if looks > _MOST_LOOKS:
                    return None
                if id(part) not in seen and not _is_passed_over(part):
                    seen.add(id(part))
                    deeper.append((path + step, part))
        level = deeper
    return next((path for path, owner in level if id(owner) in wanted), None)


def _is_passed_over(value: Any) -> bool:
    """Return whether to skip a value: a leaf, a module's namespace, or an object of the notebook itself."""
    is_namespace = isinstance(value, dict) and "__builtins__" in value
    package = str(type(value).__module__).partition(".")[0].lower()
    return isinstance(value, _LEAVES) or is_namespace or package in _SHELLS


def _parts(owner: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, dict):
        yield from ((f"[{key!r}]", part) for key, part in list(owner.items()))
    elif isinstance(owner, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(owner))
    elif isinstance(owner, (set, frozenset)):
        yield from (("", part) for part in list(owner))
    elif isinstance(owner, functools.partial):
        yield from (("", part) for part in (owner.func, *owner.args, *owner.keywords.values()))
    elif isinstance(owner, types.MethodType):
        yield "", owner.__self__
    elif isinstance(owner, types.FunctionType):
        yield from (("", cell.cell_contents) for cell in owner.__closure__ or () if _is_filled(cell))
    elif isinstance(getattr(owner, "__dict__", None), dict):
        yield from ((f".{key}", part) for key, part in list(vars(owner).items()))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
