"""The panel in VS Code's own renderer, on a real kernel: live, cancelled, after a reload; dark, narrow, Korean."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from support.bare_page import THEMES
from support.hub import Hub, Repo
from support.jupyter import Server, open_browser, serve

HERE = Path(__file__).parent / "vscode"
ESBUILD = Path(__file__).parents[2] / "js/node_modules/.bin/esbuild"
ANYWIDGET = Path(sys.prefix) / "share/jupyter/nbextensions/anywidget/index.js"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vscode") / "page.js"
    command = [ESBUILD, HERE / "page.js", "--bundle", "--format=esm", "--log-level=error", f"--outfile={made}"]
    subprocess.run([*map(str, command), "--loader:.svg=text", "--define:global=window"], check=True)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    # The page's own address is not a real one, and from there Chromium would not reach the server.
    with open_browser(permissions=["local-network-access"]) as made:
        yield made


def open_output(page: Page, server: Server, script: Path, theme: str, width: int, kernel: str = "") -> Locator:
    """Open a page with one output, as wide as this, and return the panel that will be in it."""
    colors = "".join(f"{name}: {value};" for name, value in THEMES[theme].items())
    style = f"{colors} background: var(--vscode-editor-background); width: {width}px; margin: 0"
    html = (
        f"<!doctype html><html lang='en'><title>output</title><body style='{style}'><div id='output'></div>"
        "<script src='/vscode/require.js'></script><script type='module' src='/vscode/page.js'></script>"
    )
    files = {"page.js": script, "anywidget.js": ANYWIDGET, "require.js": HERE / "node_modules/requirejs/require.js"}

    def answer(route: Route) -> None:
        name = route.request.url.partition("?")[0].rpartition("/")[2]
        if name in files:
            route.fulfill(body=files[name].read_text(encoding="utf-8"), content_type="text/javascript")
        else:
            route.fulfill(body=html, content_type="text/html")

    page.route("**/vscode/**", answer)
    page.goto(f"{server.url}/vscode/output?token={server.token}&kernel={kernel}")
    page.wait_for_function("window.kernel")
    return page.locator(".nbl-panel")


def run(page: Page, code: str) -> str:
    return str(page.evaluate("code => window.run(code)", code))


@pytest.mark.parametrize(
    ("theme", "width", "language"), [("code light", 800, "en"), ("code dark", 420, "en"), ("code dark", 800, "ko")]
)
def test_a_load_from_first_paint_to_ready(
    server: Server, script: Path, page: Page, demo_small: Path, theme: str, width: int, language: str
) -> None:
    panel = open_output(page, server, script, theme, width)
    code = f"from nbloader import LoaderWidget\nw = LoaderWidget({str(demo_small)!r}, locale={language!r}).show()"
    run(page, code)
    expect(panel.locator(".nbl-headline")).to_be_visible()
    expect(panel.locator(".nbl-status")).to_contain_text({"en": "Ready", "ko": "완료"}[language])
    assert panel.evaluate("node => getComputedStyle(node).backgroundColor") == page.evaluate(
        "getComputedStyle(document.body).backgroundColor"
    )
    # The renderer has JupyterLab's colours too, which are always light.
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--jp-layout-color1')")
    assert panel.evaluate("node => node.scrollWidth <= node.clientWidth")
    panel.locator(".nbl-fold").first.click()
    expect(panel.locator(".nbl-shard")).to_have_count(4)
    assert run(page, "print(w.model.num_parameters())").strip().isdigit()
    assert page.complaints == []  # type: ignore[attr-defined]


def test_cancel_arrives_and_a_reload_of_the_page_brings_the_panel_back(
    server: Server, script: Path, page: Page, hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    panel = open_output(page, server, script, "code dark", 800)
    run(page, f"from nbloader import LoaderWidget\nw = LoaderWidget('us/demo', cache_dir={str(tmp_path)!r}).show()")
    assert repo.stalled.wait(60)
    expect(panel.locator(".nbl-stage.nbl-is-open").first).to_contain_text("Download")
    kernel, shown = page.evaluate("[window.kernel, window.shown]")
    panel = open_output(page, server, script, "code dark", 800, kernel)
    page.evaluate("id => window.restore(id)", shown)
    expect(panel.locator(".nbl-stage.nbl-is-open").first).to_contain_text("Download")
    clock = panel.get_by_role("timer")
    before = clock.inner_text()
    expect(clock).not_to_have_text(before)
    panel.get_by_role("button", name="Cancel").click()
    expect(panel).to_contain_text("The load was cancelled.")
    assert page.complaints == []  # type: ignore[attr-defined]
