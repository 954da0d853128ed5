"""The outside of the package: its names, its texts, and what importing it brings in."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbloader
from nbloader._options.options import _OURS
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
    assert set(texts()["stage"]) == set(nbloader._progress.events.STAGES)
    front = "".join(path.read_text() for path in (SOURCES.parents[1] / "js/src").rglob("*.ts*"))
    for group in ("panel", "diagnosis"):
        used = set(re.findall(rf"texts\.{group}\??\.(\w+)", front)) | codes_used(rf'text\(\s*"{group}",\s+"(\w+)"')
        assert used == set(texts()[group]), group
    for group in ("error", "hint", "reason"):
        used = codes_used(rf'text\(\s*"{group}",\s+"(\w+)"')
        used |= codes_used(rf'text\(\s*"{group}",\s+"\w+" if \w+ else "(\w+)"')
        assert used | (set(_OURS.values()) if group == "hint" else set()) == set(texts()[group]), group
    assert set(re.findall(r"texts\.(\w+)", front)) <= set(FRONT_END)
    assert set(texts()["part"]) == set(nbloader._progress.events.PARTS)


def test_only_one_module_knows_transformers_and_one_the_hub() -> None:
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            place = path.relative_to(SOURCES).as_posix()
            assert "transformers" not in roots or place.startswith("_libraries/transformers/"), path
            assert "huggingface_hub" not in roots or place.startswith("_hub/"), path
