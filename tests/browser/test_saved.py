"""What a notebook that was saved shows, once its kernel is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect
from support.hub import Hub, Repo
from support.jupyter import TOOLS, Server, open_browser, open_notebook, run, serve


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("saved")) as made:
        yield made


def save(page: Page, server: Server, name: str) -> nbformat.NotebookNode:
    """Save the notebook, and return what is in the file."""
    page.evaluate("nb.app().commands.execute('docmanager:save')")
    return nbformat.read(server.root / name, as_version=4)


def wait_until_kept(page: Page) -> None:
    """Wait until the page has the last that there is to keep, which comes after the panel has drawn it."""
    kept = page.locator(".nbl-saved")
    expect(kept).to_contain_text("Saved after the load")
    expect(kept.locator("> table").last).to_contain_text("Where the time went")


def reopen(page: Page, server: Server, name: str, *, is_trusted: bool) -> Locator:
    """Open what was saved where its kernel is not, and return its outputs."""
    copy = f"again-{name}"
    notebook = nbformat.read(server.root / name, as_version=4)
    notebook.metadata["sent"] = True  # the signature is of all there is
    nbformat.write(notebook, server.root / copy)
    if is_trusted:
        command = [sys.executable, "-m", "jupyter", "trust", str(server.root / copy)]
        subprocess.run(command, check=True, capture_output=True, env=server.environment)
    open_notebook(page, server, copy)
    assert page.evaluate("nb.content().model.cells.get(0).trusted") == is_trusted
    return page.locator(".jp-OutputArea-output")


def show(model: object, more: str = "") -> str:
    return f"from nbloader import *\nw = LoaderWidget({str(model)!r}{more}).show()"


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_load_that_ended(server: Server, page: Page, demo_small: Path, is_trusted: bool) -> None:
    name = server.write(f"ended-{is_trusted}.ipynb", [show(demo_small)])
    open_notebook(page, server, name)
    run(page, 0)
    panel = page.locator(".nbl-panel")
    wait_until_kept(page)
    expect(panel.locator(".nbl-result")).to_be_visible()
    expect(panel).to_have_count(1)
    expect(page.locator(".nbl-saved > p").first).to_be_hidden()
    kept = save(page, server, name).cells[0].outputs[0].data
    assert set(kept) == {"text/html", "text/plain"}
    assert kept["text/plain"].endswith("ready")
    output = reopen(page, server, name, is_trusted=is_trusted)
    expect(output.first).to_contain_text("✓ Ready")
    expect(output.first).to_contain_text("LlamaForCausalLM · 19.4 MB bfloat16 on cpu")
    expect(output.first).to_contain_text("Where the time went")
    expect(output.first).to_contain_text("model-00001-of-00004.safetensors")
    expect(output.first).to_contain_text("run the cell again")
    expect(page.locator(".nbl-panel")).to_have_count(0)
    assert page.complaints == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_load_whose_kernel_died(
    server: Server, page: Page, hub: Hub, demo_small: Path, tmp_path: Path, is_trusted: bool
) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    name = server.write(
        f"died-{is_trusted}.ipynb", [show("us/demo", f", cache_dir={str(tmp_path)!r}"), "import os\nos.getpid()"]
    )
    open_notebook(page, server, name)
    run(page, 0)
    assert repo.stalled.wait(60)
    panel = page.locator(".nbl-panel")
    expect(panel.locator(".nbl-stage.nbl-is-open").first).to_contain_text("Download")
    os.kill(int(run(page, 1).split()[-1]), signal.SIGKILL)
    # The server starts another kernel, to which the widget is unknown.
    page.get_by_role("button", name="Ok", exact=True).click()
    expect(panel).to_contain_text("The kernel has sent nothing", timeout=30_000)
    save(page, server, name)
    output = reopen(page, server, name, is_trusted=is_trusted)
    expect(output.first).to_contain_text("Saved during the load")
    expect(output.first).to_contain_text("Downloading")


def test_the_panel_that_is_kept_is_live(server: Server, page: Page, demo_small: Path) -> None:
    open_notebook(page, server, server.write("live.ipynb", [show(demo_small), "w", "w.load(dtype='float32')"]))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    wait_until_kept(page)
    run(page, 1)
    expect(panel).to_have_count(2)
    page.evaluate("nb.app().commands.execute('docmanager:save')")
    # Another page, which has not seen the load.
    page.reload()
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(TOOLS)
    page.wait_for_function("nb.ready()")
    expect(panel).to_have_count(2)
    run(page, 2)
    expect(panel.locator(".nbl-clock").first).to_contain_text("38.8 MB")
    panel.first.get_by_role("button", name="Unload").click()
    expect(panel.last).to_contain_text("Unloaded")


def test_what_is_unfolded_and_has_the_keyboard_stays_so(server: Server, page: Page, demo_small: Path) -> None:
    open_notebook(page, server, server.write("focus.ipynb", [show(demo_small), "w._page.keep(always=True)"]))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    wait_until_kept(page)
    panel.get_by_role("button", name="Show the timeline").click()
    panel.locator(".nbl-log summary").click()
    panel.get_by_role("button", name="Unload").focus()
    page.evaluate("window.kept = document.querySelector('.nbl-saved')")
    page.evaluate("""nb.kernel().requestExecute({code: "w._page.keep(always=True)"}).done.then(() => true)""")
    page.wait_for_function("!window.kept.isConnected")
    expect(panel.locator(".nbl-log ul")).to_be_visible()
    expect(panel.get_by_role("button", name="Unload")).to_be_focused()


def test_nbconvert_shows_it(server: Server, page: Page, demo_small: Path) -> None:
    name = server.write("convert.ipynb", [show(demo_small)])
    open_notebook(page, server, name)
    run(page, 0)
    wait_until_kept(page)
    save(page, server, name)
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", str(server.root / name)]
    subprocess.run(command, check=True, capture_output=True, env=server.environment)
    page.goto((server.root / "convert.html").as_uri())
    expect(page.locator(".nbl-saved")).to_contain_text("✓ Ready")
    expect(page.locator(".nbl-saved")).to_contain_text("Where the time went")
