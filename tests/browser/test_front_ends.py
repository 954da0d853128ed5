"""Front ends other than JupyterLab and Notebook: the panel is live in them, and its Cancel arrives."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect
from support.hub import Hub, Repo
from support.jupyter import free_port, open_browser, running

CODE = "from nbloader import LoaderWidget\nw = LoaderWidget({model!r}, cache_dir={cache!r})\nw.show()"
MARIMO = """
import marimo

app = marimo.App()


@app.cell
def _():
{code}
    return
"""


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as made:
        yield made


@contextmanager
def serving(arguments: Sequence[str], home: Path) -> Iterator[str]:
    """Run a server, and yield its address as soon as it answers."""
    url = f"http://127.0.0.1:{(port := free_port())}/"
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "JUPYTER_CONFIG_DIR": str(home)}
    command = [sys.executable, "-m", *arguments, f"--port={port}"]
    # Its page would run the notebook: what it does not have is asked for.
    with running(command, f"{url}static/none", home / "server.log", environment):
        yield url


@pytest.fixture
def repo(hub: Hub, demo_small: Path) -> Repo:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    return hub.repos["us/demo"]


def in_voila(folder: Path, code: str) -> list[str]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "page.ipynb")
    return ["voila", str(folder / "page.ipynb"), "--no-browser", "--Voila.ip=127.0.0.1"]


def in_marimo(folder: Path, code: str) -> list[str]:
    indented = "\n".join(f"    {line}" for line in code.splitlines())
    (folder / "page.py").write_text(MARIMO.format(code=indented))
    return ["marimo", "run", str(folder / "page.py"), "--headless", "--no-token", "--host=127.0.0.1"]


@pytest.mark.parametrize("front_end", [in_voila, in_marimo])
def test_the_panel_is_live_and_cancel_arrives(front_end: object, page: Page, repo: Repo, tmp_path: Path) -> None:
    assert callable(front_end)
    code = CODE.format(model="us/demo", cache=str(tmp_path / "cache"))
    with serving(front_end(tmp_path, code), tmp_path) as url:
        page.goto(url)
        panel = page.locator(".nbl-panel")
        expect(panel.locator(".nbl-stage.nbl-is-open").first).to_contain_text("Download")
        assert repo.stalled.wait(60)
        expect(panel).to_have_count(1)
        clock = panel.get_by_role("timer")
        before = clock.inner_text()
        expect(clock).not_to_have_text(before)
        expect(panel).to_contain_text("no bytes for")
        panel.get_by_role("button", name="Cancel").click()
        expect(panel).to_contain_text("The load was cancelled.")
    assert page.complaints == []  # type: ignore[attr-defined]
