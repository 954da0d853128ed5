"""The house: which folder may import which. Each import goes down the list, those for type checking included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nbloader

SOURCES = Path(nbloader.__file__).parent
# By folder, from the top of the house down: what it imports of the others. "." is what lies in no folder.
ALLOWED = {
    ".": {
        "_views", "_analysis", "_load", "_registry", "_libraries", "_planning", "_checkpoint", "_hub", "_progress",
        "_options", "_system", "_safety", "_text",
    },
    "_views": {
        "_analysis", "_load", "_registry", "_planning", "_checkpoint", "_progress", "_options", "_system", "_safety",
        "_text",
    },
    "_analysis": {
        "_load", "_registry", "_libraries", "_planning", "_checkpoint", "_progress", "_options", "_system", "_safety",
        "_text",
    },
    "_load": {
        "_registry", "_libraries", "_planning", "_checkpoint", "_hub", "_progress", "_options", "_reading", "_system",
        "_safety", "_text",
    },
    "_registry": {"_planning", "_checkpoint", "_progress", "_options", "_system", "_text"},
    "_libraries": {"_checkpoint", "_options", "_system", "_safety", "_text"},
    "_planning": {"_checkpoint", "_options", "_system", "_text"},
    "_checkpoint": {"_hub", "_options", "_safety", "_text"},
    "_hub": {"_options", "_system", "_safety", "_text"},
    "_progress": {"_system", "_text"},
    "_options": {"_safety", "_text"},
    "_reading": {"_system"},
    "_system": {"_safety", "_text"},
    "_safety": {"_text"},
    "_text": set(),
}  # fmt: skip
FLOORS = list(ALLOWED)
ANYWHERE = {"nbloader._errors", "nbloader._version"}
"""Below all folders but ``_text``."""

FILES = sorted(SOURCES.rglob("*.py"))


def folder_of(path: Path) -> str:
    return path.relative_to(SOURCES).parts[0] if path.parent != SOURCES else "."


def imported_by(path: Path) -> set[str]:
    """Return the modules of nbloader that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {
                name if is_module(name := f"{node.module}.{alias.name}") else str(node.module) for alias in node.names
            }
    return {name for name in found if name.partition(".")[0] == "nbloader"}


def is_module(name: str) -> bool:
    path = SOURCES.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def home_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (SOURCES / parts[1]).is_dir() else "."


def test_every_folder_has_its_floor() -> None:
    assert {folder_of(path) for path in FILES} == set(ALLOWED)
    assert all(FLOORS.index(lower) > FLOORS.index(upper) for upper, lowers in ALLOWED.items() for lower in lowers)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_imports_go_down(path: Path) -> None:
    here = folder_of(path)
    others = {module for module in imported_by(path) - ANYWHERE if here == "." or home_of(module) != here}
    if here == ".":
        others = {module for module in others if home_of(module) != "."}
    assert [module for module in sorted(others) if home_of(module) not in ALLOWED[here]] == []


def test_what_is_allowed_is_used() -> None:
    used = {folder: set[str]() for folder in ALLOWED}
    for path in FILES:
        used[folder_of(path)] |= {home_of(module) for module in imported_by(path)} - {folder_of(path), "."}
    assert used == ALLOWED


def test_no_module_imports_itself_through_others() -> None:
    names = {path: ".".join(("nbloader", *path.relative_to(SOURCES).with_suffix("").parts)) for path in FILES}
    known = {name.removesuffix(".__init__"): path for path, name in names.items()}
    left = {name: imported_by(path) & set(known) for name, path in known.items()}
    while ends := [name for name, modules in left.items() if not modules]:
        left = {name: modules - set(ends) for name, modules in left.items() if name not in ends}
    assert left == {}
