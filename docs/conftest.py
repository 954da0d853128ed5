"""Runs every block of code in these pages: Python as one script a page, commands in a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.home import move_in
from support.hub import Hub, Repo
from support.pickles import as_pickle
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

_hub = Hub()
_home = move_in(_hub)


def run_in_shell(example: Example) -> None:
    """Run the commands of a block, each of which has to end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-ec", example.parsed]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def set_up(namespace: dict[str, Any]) -> None:
    """Have the Hub on loopback list what the pages load: the demo checkpoint under the names that they use."""
    from nbloader import demo_checkpoint

    small = demo_checkpoint("20MB", shards=4)
    pickled = as_pickle(small, Path(_home.name) / "pickled")
    _hub.repos.update({"Qwen/Qwen3-4B": Repo.of_folder(small), "test/pickled": Repo.of_folder(pickled)})


def tear_down(namespace: dict[str, Any]) -> None:
    """Unload what a page has loaded."""
    import nbloader

    namespace.clear()
    if nbloader.loaded():
        nbloader.unload()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=run_in_shell)],
    patterns=["*.md"],
    setup=set_up,
    teardown=tear_down,
    fixtures=["_nothing_is_left_behind"],
).pytest()
