"""The panel in a real browser: JupyterLab and Notebook 7, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.hub import Hub, Repo
from support.jupyter import Server, begin, finish, open_browser, open_notebook, run, serve


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["lab", "notebook"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("lab")) as running:
        yield running


SHOW = "from nbloader import LoaderWidget\nw = LoaderWidget({model!r}{more}).show()"


def show(model: object, more: str = "") -> str:
    return SHOW.format(model=str(model), more=more)


def test_a_load_from_first_paint_to_ready(server: Server, page: Page, demo_small: Path) -> None:
    name = server.write("ready.ipynb", [show(demo_small), "model, tokenizer = w.result()\nprint(model.dtype)"])
    open_notebook(page, server, name)
    begin(page, 0)
    panel = page.locator(".nbl-panel")
    expect(panel).to_contain_text("Loading")
    expect(panel.locator(".nbl-form")).to_have_count(0)
    chart = panel.locator(".nbl-rows")
    top = chart.bounding_box()["y"] - panel.bounding_box()["y"]  # type: ignore[index]
    assert "torch.bfloat16" in run(page, 1)
    expect(panel).to_contain_text("Ready")
    expect(panel.locator(".nbl-clock")).to_contain_text("LlamaForCausalLM · 19.4 MB bfloat16 on cpu")
    # Folded: what it made, where the time went, and how to get it.
    expect(panel.locator(".nbl-result")).to_contain_text("model, tokenizer = w.result()")
    assert panel.bounding_box()["height"] < 120  # type: ignore[index]
    panel.get_by_role("button", name="Copy").click()
    expect(panel.get_by_role("button", name="Copied")).to_be_visible()
    panel.get_by_role("button", name="Show the timeline").click()
    expect(panel.locator(".nbl-shard")).to_have_count(4)
    expect(panel.locator(".nbl-stage.nbl-is-done")).to_have_count(5)
    expect(panel.locator(".nbl-shard .nbl-lane.nbl-place")).to_have_count(4)
    expect(panel.get_by_role("button", name="Unload")).to_be_enabled()
    assert chart.bounding_box()["y"] - panel.bounding_box()["y"] >= top  # type: ignore[index]
    panel.get_by_role("slider").press("Home")
    expect(panel.locator(".nbl-read-out")).to_contain_text("at 0 ms")
    panel.locator(".nbl-table summary").click()
    expect(panel.get_by_role("row", name="1 model-00001-of-00004.safetensors")).to_contain_text("Place")
    panel.locator(".nbl-diagnosis summary").click()
    expect(panel.locator(".nbl-diagnosis dd").first).to_be_visible()
    panel.get_by_role("button", name="Hide the timeline").click()
    assert page.complaints == []  # type: ignore[attr-defined]


def test_a_click_on_cancel_arrives_while_a_cell_is_blocked(
    server: Server, page: Page, hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    cells = [
        show("us/demo", f", cache_dir={str(tmp_path)!r}"),
        "import nbloader\ntry:\n    w.result()\nexcept nbloader.LoadCancelled as error:\n    print('told:', error)",
    ]
    open_notebook(page, server, server.write("cancel.ipynb", cells))
    run(page, 0)
    assert repo.stalled.wait(60)
    panel = page.locator(".nbl-panel")
    expect(panel).to_contain_text("us/demo")
    begin(page, 1)
    page.wait_for_function("nb.state(1) === 'running'")
    panel.get_by_role("button", name="Cancel").click()
    # The download is stalled and the cell waits for it: nothing but the click can end either.
    assert "told: The load was cancelled." in finish(page, 1)
    expect(panel).to_contain_text("Cancelled")
    expect(panel).to_contain_text("The load was cancelled.")


def test_cancel_by_keyboard_alone(lab: Server, page: Page, hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    open_notebook(page, lab, lab.write("keys.ipynb", [show("us/demo", f", cache_dir={str(tmp_path)!r}")]))
    run(page, 0)
    assert hub.repos["us/demo"].stalled.wait(60)
    button = page.locator(".nbl-panel").get_by_role("button", name="Cancel")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".nbl-panel")).to_contain_text("Cancelled")


def test_no_bytes_for_some_seconds_is_shown(
    lab: Server, page: Page, hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    cells = [show("us/demo", f", cache_dir={str(tmp_path)!r}"), "w.result(); print('done')"]
    open_notebook(page, lab, lab.write("stall.ipynb", cells))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    expect(panel).to_contain_text("no bytes for 3 s", timeout=30_000)
    clock = panel.get_by_role("timer")
    before = clock.inner_text()
    expect(clock).not_to_have_text(before)
    expect(panel).to_contain_text(repo.commit[:7])
    repo.release.set()
    assert "done" in run(page, 1)
    expect(panel.locator(".nbl-name")).to_have_attribute("title", f"us/demo · {repo.commit}")


def test_what_files_say_is_shown_as_text(lab: Server, page: Page, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = tmp_path / evil.replace("/", "_")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": evil, "architectures": [evil]}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    open_notebook(page, lab, lab.write("evil.ipynb", [show(folder)]))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    expect(panel.get_by_role("alert")).to_contain_text(evil)
    expect(panel.get_by_role("alert")).to_contain_text("which transformers")
    expect(panel.locator(".nbl-name")).to_have_text(folder.name)
    assert panel.locator("img").count() == 0
    assert page.complaints == []  # type: ignore[attr-defined]


def test_two_hundred_shards_stay_readable(lab: Server, page: Page) -> None:
    from nbloader import demo_checkpoint

    folder = demo_checkpoint("40MB", shards=200)
    open_notebook(page, lab, lab.write("many.ipynb", [show(folder), "w.result(); print('done')"]))
    run(page, 0)
    assert "done" in run(page, 1)
    panel = page.locator(".nbl-panel")
    panel.get_by_role("button", name="Show the timeline").click()
    expect(panel).to_contain_text("Shards · 200 of 200")
    expect(panel.locator(".nbl-shard")).to_have_count(0)
    assert panel.bounding_box()["height"] < 700  # type: ignore[index]
    panel.get_by_role("button", name="show all 200").click()
    expect(panel.locator(".nbl-shard")).to_have_count(200)
    assert panel.bounding_box()["height"] < 900  # type: ignore[index]
    assert "model-00200-of-00200" in (panel.locator(".nbl-shard").last.get_attribute("title") or "")
    panel.get_by_role("button", name="Hide the timeline").click()


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_overflows(width: int, lab: Server, page: Page, demo_small: Path) -> None:
    open_notebook(page, lab, lab.write(f"wide{width}.ipynb", [show(demo_small), "w.result(); print('done')"]))
    run(page, 0)
    run(page, 1)
    panel = page.locator(".nbl-panel")
    panel.evaluate(f"node => node.style.width = '{width - 40}px'")
    overflowing = panel.evaluate("node => node.scrollWidth > node.clientWidth")
    assert overflowing is False


def test_the_panel_follows_the_theme(lab: Server, page: Page, demo_small: Path) -> None:
    open_notebook(page, lab, lab.write("dark.ipynb", [show(demo_small)]))
    run(page, 0)
    panel = page.locator(".nbl-panel")
    light = panel.evaluate("node => getComputedStyle(node).backgroundColor")
    page.evaluate("nb.app().commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    assert panel.evaluate("node => getComputedStyle(node).backgroundColor") != light
    page.evaluate("nb.app().commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")


def test_a_widget_shown_twice_is_the_same_load(lab: Server, page: Page, demo_small: Path) -> None:
    open_notebook(page, lab, lab.write("twice.ipynb", [show(demo_small), "w.result()\nw"]))
    run(page, 0)
    run(page, 1)
    expect(page.locator(".nbl-panel")).to_have_count(2)
    for index in range(2):
        expect(page.locator(".nbl-panel").nth(index)).to_contain_text("Ready")
