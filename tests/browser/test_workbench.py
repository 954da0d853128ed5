"""The workbench in Chromium: the whole way by mouse and by keyboard, light and dark, narrow and wide."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from support import archs
from support.jupyter import AXE, Server, begin, finish, open_browser, open_notebook, run, serve

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


@pytest.fixture(scope="module", params=THEMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp(request.param), settings={"theme": THEMES[request.param]}) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser(permissions=["clipboard-read", "clipboard-write"]) as opened:
        yield opened


def open_workbench(page: Page, server: Server, model: object, more: str = "", *cells: str) -> Locator:
    # The kernel may be that of an earlier test, with its model.
    code = f"from nbloader import *\nunload()\nw = LoaderWidget({str(model)!r}{more})\nw.clear_history()\nw"
    open_notebook(page, server, server.write("workbench.ipynb", [code, *cells]))
    run(page, 0)
    return page.locator(".nbl-panel")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with the panel."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    found: list[dict[str, Any]] = page.evaluate("axe.run('.nbl-panel').then(result => result.violations)")
    return [f"{item['id']}: {node['html'][:200]}" for item in found for node in item["nodes"]]


def is_too_wide(panel: Locator) -> bool:
    return bool(panel.evaluate("node => node.scrollWidth > node.clientWidth"))


def test_the_whole_way_by_mouse(server: Server, page: Page, demo_small: Path) -> None:
    show = "print(w.model.dtype, len(w.history))"
    panel = open_workbench(page, server, demo_small, "", show)
    expect(panel.locator(".nbl-verdict")).to_contain_text("it fits")
    expect(panel).to_contain_text("4 shards")
    expect(panel.locator(".nbl-bar")).to_have_count(0)
    panel.get_by_label("Type").select_option("float32")
    expect(panel.locator(".nbl-facts")).to_contain_text("38.8 MB float32")
    code = f'w = LoaderWidget("{demo_small}", dtype="float32").show()\nmodel, tokenizer = w.result()'
    panel.get_by_role("button", name="Copy as code").click()
    expect(panel.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == code
    limit = panel.get_by_label("Memory limit")
    limit.fill("eight")
    expect(panel.get_by_role("alert")).to_contain_text("'eight' is not a valid size")
    assert limit.get_attribute("aria-invalid") == "true"
    expect(panel.locator(".nbl-verdict")).to_have_text("—")
    expect(panel.get_by_role("button", name="Load", exact=True)).to_be_disabled()
    limit.fill("8 GB")
    expect(panel.locator(".nbl-facts")).to_contain_text("38.8 MB of 8.00 GB")
    limit.fill("")
    expect(panel.locator(".nbl-facts")).not_to_contain_text("8.00 GB")
    panel.get_by_role("button", name="Load", exact=True).click()
    expect(panel.locator(".nbl-clock")).to_contain_text("38.8 MB")
    # The form has folded to one line.
    expect(panel.locator(".nbl-form")).to_have_count(0)
    expect(panel.locator(".nbl-code")).to_contain_text('dtype="float32"')
    assert "torch.float32 1" in run(page, 1)
    panel.locator(".nbl-runs summary").click()
    expect(panel.locator(".nbl-run")).to_have_count(1)
    expect(panel.locator(".nbl-run-options")).to_have_text("dtype='float32'")
    panel.get_by_role("button", name="Change").click()
    expect(panel.locator(".nbl-facts")).to_contain_text("earlier load")
    panel.get_by_role("button", name="Clear").click()
    expect(panel).to_contain_text("No load of this model is recorded on this machine.")
    assert page.complaints == []  # type: ignore[attr-defined]


def test_the_whole_way_by_keyboard(server: Server, page: Page, demo_small: Path) -> None:
    panel = open_workbench(page, server, demo_small)
    expect(panel.locator(".nbl-verdict")).to_contain_text("it fits")
    kind = panel.get_by_label("Type")
    kind.focus()
    expect(panel.locator(".nbl-help")).to_contain_text("type in memory")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(panel.locator(".nbl-facts")).to_contain_text("float16")
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(panel.get_by_label("Memory limit")).to_be_focused()
    page.keyboard.type("15MB")
    expect(panel.locator(".nbl-verdict")).to_contain_text("it will not fit")
    # The way on is above the form.
    for _ in range(10):
        if panel.get_by_role("button", name="Load", exact=True).evaluate("node => node === document.activeElement"):
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    question = panel.get_by_role("alert")
    expect(question).to_contain_text("needs 19.4 MB of memory at its peak. max_memory allows 15.0 MB")
    # The keyboard has gone to the first choice.
    expect(question.get_by_role("button").first).to_be_focused()
    panel.get_by_role("button", name="Load anyway").focus()
    page.keyboard.press("Enter")
    expect(panel.locator(".nbl-status")).to_contain_text("Ready")
    expect(panel.locator(".nbl-code")).to_contain_text("force=True")


def test_a_cell_that_waits_gets_what_was_chosen(server: Server, page: Page, demo_small: Path) -> None:
    panel = open_workbench(page, server, demo_small, ", max_memory='15MB'", "print(w.result().model.num_parameters())")
    begin(page, 1)
    expect(panel.locator(".nbl-status")).to_contain_text("Waiting for your choice")
    panel.locator(".nbl-way").filter(has_text="4bit ✓").get_by_role("button", name="Load so").click()
    assert finish(page, 1).split()[-1].isdigit()  # bitsandbytes may have said something before
    expect(panel.locator(".nbl-status")).to_contain_text("Ready")
    expect(panel.locator(".nbl-code")).to_contain_text("4bit")


@pytest.mark.parametrize("width", [400, 1400])
def test_nobody_is_left_out(server: Server, page: Page, demo_small: Path, tmp_path: Path, width: int) -> None:
    folder = Path(shutil.copytree(demo_small, tmp_path / "demo"))
    page.set_viewport_size({"width": max(width, 700), "height": 1200})
    panel = open_workbench(page, server, folder, ", dtype='float32', max_memory='30MB'")
    panel.evaluate(f"node => {{ node.style.width = '{width}px'; node.style.maxWidth = 'none' }}")
    expect(panel.locator(".nbl-verdict")).to_contain_text("it will not fit")
    panel.locator(".nbl-more summary").click()
    assert (violations(page), is_too_wide(panel)) == ([], False)
    panel.get_by_role("button", name="Load", exact=True).click()
    expect(panel.get_by_role("button", name="Load anyway")).to_be_visible()
    expect(panel.locator(".nbl-status")).to_contain_text("Waiting for your choice")
    assert (violations(page), is_too_wide(panel)) == ([], False)
    panel.get_by_role("button", name="Load so").first.click()
    expect(panel.locator(".nbl-status")).to_contain_text("Ready")
    panel.locator(".nbl-runs summary").click()
    expect(panel.locator(".nbl-run")).to_have_count(1)
    assert (violations(page), is_too_wide(panel)) == ([], False)
    panel.get_by_role("button", name="Change").click()
    panel.locator(".nbl-more summary").click()
    panel.get_by_label("Subfolder").fill("nowhere")
    expect(panel.get_by_role("alert")).to_contain_text("nowhere")
    expect(panel.get_by_role("button", name="Load", exact=True)).to_be_disabled()
    assert (violations(page), is_too_wide(panel)) == ([], False)
    panel.get_by_label("Subfolder").fill("")
    expect(panel.locator(".nbl-verdict")).to_contain_text("it fits")
    panel.get_by_label("Type").select_option("bfloat16")
    os.truncate(folder / "model-00002-of-00004.safetensors", 1000)
    panel.get_by_role("button", name="Load", exact=True).click()
    expect(panel.locator(".nbl-status")).to_contain_text("Failed")
    assert (violations(page), is_too_wide(panel)) == ([], False)


PLACES = {
    "VBox": "VBox([w])",
    "HBox": "HBox([w])",
    "Tab": "Tab([w])",
    "Output": "out = Output()\nwith out:\n    display(w)\nout",
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_the_same_workbench_inside_of_other_widgets(
    server: Server, page: Page, demo_small: Path, place: str
) -> None:
    made = f"unload()\nw = LoaderWidget({str(demo_small)!r})"
    code = f"from ipywidgets import *\nfrom nbloader import *\n{made}\n{PLACES[place]}"
    open_notebook(page, server, server.write("inside.ipynb", [code]))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    expect(panel.locator(".nbl-verdict")).to_contain_text("it fits")
    panel.get_by_role("button", name="Load", exact=True).click()
    expect(panel.locator(".nbl-status")).to_contain_text("Ready")


@pytest.mark.parametrize("when", ["before Load", "after Load"])
def test_a_double_click_answers_one_question(server: Server, page: Page, tmp_path: Path, when: str) -> None:
    """The first question is whether to load what will not fit; the next, whether the checkpoint's code may run."""
    folder = archs.with_code(tmp_path / "mine", "double")
    panel = open_workbench(page, server, folder, ", max_memory='1kB'")
    if when == "after Load":
        panel.get_by_role("button", name="Load", exact=True).click()
        expect(panel.locator(".nbl-status")).to_contain_text("Waiting for your choice")
    expect(panel.get_by_role("alert")).to_contain_text("memory")
    panel.get_by_role("button", name="Load anyway").dblclick()
    consent = panel.get_by_role("alert").filter(has_text="Python code")
    expect(consent).to_be_visible()
    page.wait_for_timeout(700)  # a second click took up to half a second to do harm
    expect(consent).to_be_visible()
    consent.get_by_role("button").first.click()
    expect(panel.get_by_role("status")).to_contain_text("MineForCausalLM")
