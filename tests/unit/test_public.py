"""The outside of the package: its names, its texts, and what importing it brings in."""

from __future__ import annotations

import ast
import collections.abc
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import nbloader
from nbloader._options.options import _OURS
from nbloader._progress import events as _events
from nbloader._text.catalogue import FRONT_END, texts

SOURCES = Path(nbloader.__file__).parent
VIEWS = {
    "nbloader.widget",
    "nbloader._views.controller",
    "nbloader._views.notebook",
    "nbloader._views.page",
    "nbloader._views.publisher",
    "nbloader._views.terminal",
    "nbloader._cli",
    "nbloader.__main__",
}


def imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_names_are_sorted_and_there() -> None:
    assert nbloader.__all__ == sorted(nbloader.__all__)
    for name in nbloader.__all__:
        assert getattr(nbloader, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        nbloader.nothing  # noqa: B018


@pytest.mark.parametrize("name", nbloader.__all__)
def test_every_name_is_documented(name: str) -> None:
    thing = getattr(nbloader, name)
    assert inspect.getdoc(thing)
    for key, member in vars(thing).items() if isinstance(thing, type) else ():
        if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{name}.{key}"


def annotations_of(thing: Any, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a function, a property or a class says of its parameters, results and attributes."""
    if isinstance(thing, property):
        thing = thing.fget
    if not isinstance(thing, type):
        yield from get_type_hints(thing, localns=dict(names)).items()
        return
    yield from get_type_hints(thing, localns=dict(names)).items()
    for key, member in vars(thing).items():
        is_public = key == "__init__" or not key.startswith("_")
        if is_public and (inspect.isfunction(member) or isinstance(member, property)):
            yield from ((f"{key}.{name}", hint) for name, hint in annotations_of(member, names))


def classes_in(hint: Any) -> Iterator[type]:
    parts = hint if isinstance(hint, list) else get_args(hint)
    if isinstance(hint, type) and not parts:
        yield hint
    for part in parts:
        yield from classes_in(part)


def test_every_class_that_a_public_annotation_names_is_public() -> None:
    known: dict[str, Any] = {**vars(collections.abc), "os": os}
    for info in pkgutil.walk_packages([str(SOURCES)], "nbloader."):
        if info.name not in ("nbloader.__main__", "nbloader._views.wire"):  # the page's types have the same names
            module = importlib.import_module(info.name)
            known |= {name: thing for name, thing in vars(module).items() if not name.startswith("_")}
    public = [getattr(nbloader, name) for name in nbloader.__all__]
    public += [thing for thing in vars(nbloader.events).values() if isinstance(thing, type)]
    hidden = [
        f"{getattr(thing, '__name__', thing)}.{name}: {named.__name__}"
        for thing in public
        if callable(thing)
        for name, hint in annotations_of(thing, known)
        if not name.split(".")[-1].startswith("_")
        for named in classes_in(hint)
        if named.__module__.startswith("nbloader") and named not in public
    ]
    assert hidden == []


def test_every_kind_of_event_is_public() -> None:
    kinds = [
        name
        for name, thing in vars(_events).items()
        if isinstance(thing, type) and thing.__module__ == _events.__name__
    ]
    assert sorted(kinds) == nbloader.events.__all__


def test_a_job_shows_nothing_that_is_not_for_users() -> None:
    job = nbloader.LoadJob("demo", nbloader.LoadOptions())
    assert {name for name in dir(job) if not name.startswith("_")} == {
        "answer", "cancel", "done", "events", "model", "number", "options", "plan", "result", "start", "state",
        "subscribe", "timeline", "unload",
    }  # fmt: skip


def test_every_public_name_stands_in_the_reference() -> None:
    reference = (SOURCES.parents[1] / "docs/reference.md").read_text(encoding="utf-8")
    documented = set(
        re.findall(r"^\.\. auto(?:class|function|exception|module):: (?:nbloader\.)?(\w+)", reference, re.M)
    )
    assert documented == set(nbloader.__all__)


def test_importing_brings_in_neither_torch_nor_transformers() -> None:
    modules = imported_by("import nbloader; from nbloader import LoaderWidget")
    assert not modules & {"torch", "transformers", "huggingface_hub", "tokenizers", "safetensors"}


def test_the_core_never_imports_a_view() -> None:
    core = [info.name for info in pkgutil.walk_packages([str(SOURCES)], "nbloader.") if info.name not in VIEWS]
    assert len(core) > 15
    modules = imported_by("; ".join(f"import {name}" for name in core))
    assert not modules & {"ipywidgets", "anywidget", "IPython", *VIEWS}
    for name in core:
        assert "IPython" not in Path(importlib.import_module(name).__file__ or "").read_text(), name


def codes_used(pattern: str) -> set[str]:
    return {code for path in SOURCES.rglob("*.py") for code in re.findall(pattern, path.read_text())}


def test_every_text_is_there_and_none_too_many() -> None:
    logged = codes_used(r'(?:\.log|\._add_line)\(\s*"?\w+"?, "(\w+)"') | codes_used(r'Notice\("(\w+)"')
    logged |= codes_used(r'Logged\([\w.()]+, "\w+", "(\w+)"')
    logged |= {"missing_keys", "unexpected_keys", "mismatched_keys"}
    assert logged == set(texts()["log"])
    assert set(texts()["stage"]) == set(_events.STAGES)
    front = "".join(path.read_text() for path in (SOURCES.parents[1] / "js/src").rglob("*.ts*"))
    for group in ("panel", "diagnosis"):
        used = set(re.findall(rf"texts\.{group}\??\.(\w+)", front))
        used |= codes_used(rf'(?:text|says)\(\s*"{group}",\s+"(\w+)"')
        assert used == set(texts()[group]), group
    for group in ("error", "hint", "reason"):
        used = codes_used(rf'text\(\s*"{group}",\s+"(\w+)"')
        used |= codes_used(rf'text\(\s*"{group}",\s+"\w+" if \w+ else "(\w+)"')
        assert used | (set(_OURS.values()) if group == "hint" else set()) == set(texts()[group]), group
    assert set(re.findall(r"texts\.(\w+)", front)) <= set(FRONT_END)
    assert set(texts()["part"]) == set(_events.PARTS)


def test_only_one_module_knows_transformers_and_one_the_hub() -> None:
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            place = path.relative_to(SOURCES).as_posix()
            assert "transformers" not in roots or place.startswith("_libraries/transformers/"), path
            assert "huggingface_hub" not in roots or place.startswith("_hub/"), path
