"""Takes the pictures of the documentation in Chromium, from real loads in JupyterLab.

``make screenshots`` writes docs/panel.png, docs/panel-dark.png and docs/workbench.png. With a folder as argument every
state is taken to be looked at, light and dark, wide and narrow, some in Korean too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import conftest  # noqa: E402 - the loopback Hub, before anything imports huggingface_hub
from support.hub import Repo  # noqa: E402
from support.jupyter import Server, open_browser, open_notebook, run, serve  # noqa: E402

import nbloader  # noqa: E402

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
NARROW = 420  # pixels
MODEL, STALLED = "nbloader/demo-model", "nbloader/demo-model-that-stalls"


def main() -> None:
    """Take the pictures."""
    everything = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    folder = everything or ROOT / "docs"
    folder.mkdir(exist_ok=True)
    demo = nbloader.demo_checkpoint("400MB", shards=8)
    stalled = Repo.of_folder(demo, stall="model-00006-of-00008.safetensors")
    conftest._hub.repos |= {MODEL: Repo.of_folder(demo), STALLED: stalled}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        for theme in THEMES:
            home = Path(root) / theme
            home.mkdir()
            with serve(home, settings={"theme": THEMES[theme]}) as server:
                if everything:
                    take_all(server, folder, theme, stalled)
                elif theme == "dark":
                    take_ready(server, folder / "panel-dark.png")
                else:
                    take_ready(server, folder / "panel.png")
                    take_workbench(server, folder / "workbench.png")


BEFORE = f"""\
import os
from pathlib import Path

import nbloader
from nbloader import LoaderWidget

job = nbloader.start({MODEL!r})  # downloads it, and imports everything
job.result()
nbloader.unload()
os.sync()  # what is not on disk yet stays in memory
for file in Path(job.state.folder).iterdir():
    with open(file, "rb") as opened:  # cold, so that there is something to read
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)"""


def take_ready(server: Server, path: Path) -> None:
    """Take the panel of a load that has ended: a cast to float32, so that placing takes its time."""
    cell = f"w = LoaderWidget({MODEL!r}, dtype='float32').show()\nw.result()"
    with open_browser(device_scale_factor=2) as page:
        open_notebook(page, server, server.write("ready.ipynb", [BEFORE, cell]))
        run(page, 0)
        run(page, 1)
        page.get_by_role("button", name="Show the timeline").click()
        page.wait_for_selector(".nbl-panel .nbl-diagnosis details")
        page.locator(".nbl-panel").screenshot(path=path)


def take_workbench(server: Server, path: Path) -> None:
    """Take the workbench with two loads behind it, the second of them cast."""
    cell = f"w = LoaderWidget({MODEL!r})\nw.clear_history()\nw"
    with open_browser(device_scale_factor=2, viewport={"width": 1200, "height": 1600}) as page:
        open_notebook(page, server, server.write("workbench.ipynb", [BEFORE, cell]))
        run(page, 0)
        run(page, 1)
        panel = page.locator(".nbl-panel")
        for dtype in ("auto", "float32"):
            panel.get_by_label("Type").select_option(dtype)
            panel.get_by_role("button", name="Load", exact=True).click()
            page.wait_for_selector(".nbl-status.nbl-is-ready")
            panel.get_by_role("button", name="Change").click()
        page.wait_for_selector(".nbl-facts >> text=earlier load")
        panel.locator(".nbl-runs summary").click()
        panel.screenshot(path=path)
        panel.evaluate(f"node => node.style.width = '{NARROW}px'")
        if path.parent.name != "docs":
            panel.screenshot(path=path.with_stem(f"{path.stem}-narrow"))


def take_download(server: Server, path: Path) -> None:
    """Take the workbench of a model that is not cached, before and after it is downloaded."""
    cell = f"from nbloader import LoaderWidget\nw = LoaderWidget({MODEL!r}, cache_dir={tempfile.mkdtemp()!r})\nw"
    with open_browser(viewport={"width": 1200, "height": 1600}) as page:
        open_notebook(page, server, server.write("download.ipynb", [cell]))
        run(page, 0)
        panel = page.locator(".nbl-panel")
        button = panel.get_by_role("button", name="Download only")
        button.wait_for()
        panel.screenshot(path=path.with_stem(f"{path.stem}-before"))
        button.click()
        page.wait_for_selector(".nbl-status.nbl-is-downloaded")
        button.wait_for(state="detached")
        panel.screenshot(path=path)


def take_form(server: Server, path: Path, model: str) -> None:
    """Take the workbench of a small model: what will not fit, a field that is not valid, a model that is loaded."""
    cells = ["from nbloader import *\nunload()", f"w = LoaderWidget({model!r}, dtype='float32', max_memory='50MB')\nw"]
    cells += [f"w = LoaderWidget({model!r})\nw", f"loaded = load({model!r})\nw = LoaderWidget({model!r})\nw"]
    with open_browser(viewport={"width": 1200, "height": 1600}) as page:
        open_notebook(page, server, server.write("form.ipynb", cells))
        run(page, 0)
        for cell, (state, until) in enumerate(
            {"unfit": ".nbl-question", "invalid": "[aria-invalid=true]", "resident": ".nbl-resident"}.items(), 1
        ):
            run(page, cell)
            panel = page.locator(".nbl-panel").nth(cell - 1)
            if state == "invalid":
                panel.get_by_label("Memory limit").fill("eight")
            panel.locator(until).wait_for()
            panel.locator(".nbl-summary[aria-busy=false]").wait_for()
            for stem, width in ((state, ""), (f"{state}-narrow", f"{NARROW}px")):
                panel.evaluate("(node, width) => node.style.width = width", width)
                panel.screenshot(path=path.with_stem(f"{path.stem}-{stem}"))


def with_code(checkpoint: Path, folder: Path) -> Path:
    """Return a checkpoint that brings Python code."""
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_mine.py", "modeling_mine.py"):
        (folder / name).write_text("")
    for path in checkpoint.glob("model*"):
        (folder / path.name).symlink_to(path)
    return folder


def take_all(server: Server, folder: Path, theme: str, stalled: Repo) -> None:
    """Take every state, wide and narrow."""
    # A cache of its own for each: one that was released goes on downloading.
    caches = [tempfile.mkdtemp() for _ in range(5)]
    small = str(nbloader.demo_checkpoint("40MB", shards=4))
    brings_code = with_code(Path(small), Path(caches[0]) / "mine")
    ready = ".nbl-panel .nbl-status.nbl-is-ready"
    states = {
        "loading": (f"LoaderWidget({STALLED!r}, cache_dir={caches[0]!r})", ".nbl-panel >> text=no bytes for"),
        "cancelled": (f"LoaderWidget({STALLED!r}, cache_dir={caches[1]!r})", ".nbl-panel .nbl-is-cancelled"),
        "stalled": (
            f"LoaderWidget({STALLED!r}, cache_dir={caches[2]!r}, stall_seconds=15)",
            ".nbl-panel .nbl-stall button",
        ),
        "queued": (
            f"nbloader.start({STALLED!r}, cache_dir={caches[3]!r}) and LoaderWidget({small!r})",
            ".nbl-panel .nbl-line",
        ),
        "importing": (f"LoaderWidget({small!r})", ".nbl-panel >> text=Importing"),
        "placing": ("LoaderWidget('demo', dtype='float32')", ".nbl-panel .nbl-lane.nbl-place >> nth=1"),
        "ready": ("LoaderWidget('demo')", ready),
        "unfolded": ("LoaderWidget('demo')", ready),
        "unloaded": (f"LoaderWidget({small!r})", ready),
        "already": (f"LoaderWidget({small!r}, locale=str(nbloader.load({small!r}) and 'en'))", ready),
        "shards": (f"LoaderWidget({str(nbloader.demo_checkpoint('40MB', shards=200))!r})", ready),
        "asking": (f"LoaderWidget({small!r}, dtype='float32', max_memory='50MB')", ".nbl-panel .nbl-question"),
        "asking-ko": (
            f"LoaderWidget({small!r}, dtype='float32', max_memory='50MB', locale='ko')",
            ".nbl-panel .nbl-question",
        ),
        "loading-ko": (
            f"LoaderWidget({STALLED!r}, cache_dir={caches[4]!r}, locale='ko')",
            ".nbl-panel .nbl-lane.nbl-download >> nth=5",
        ),
        "code": (f"LoaderWidget({str(brings_code)!r})", ".nbl-panel .nbl-question"),
        "failed": ("LoaderWidget('./models/no-such-folder')", ".nbl-panel .nbl-outcome.nbl-is-failed"),
    }
    only = sys.argv[2:] or ["workbench", "download", "form", *states]
    if "workbench" in only:
        take_workbench(server, folder / f"workbench-{theme}.png")
    if "download" in only:
        take_download(server, folder / f"download-{theme}.png")
    if "form" in only:
        take_form(server, folder / f"form-{theme}.png", small)
    for state, (code, until) in [item for item in states.items() if item[0] in only]:
        stalled.stalled.clear()
        stalled.release.clear()
        with open_browser() as page:
            cell = f"import nbloader\nfrom nbloader import LoaderWidget\nw = {code}.show()"
            open_notebook(page, server, server.write(f"{state}.ipynb", [cell]))
            run(page, 0)
            if state == "cancelled":
                stalled.stalled.wait(60)
                page.locator(".nbl-cancel").click()
            page.wait_for_selector(until)
            if state == "stalled":
                page.locator(".nbl-stall summary").click()
            if state == "unfolded":
                page.get_by_role("button", name="Show the timeline").click()
                page.wait_for_selector(".nbl-panel .nbl-diagnosis details")
            if state == "unloaded":
                page.get_by_role("button", name="Unload").click()
                page.wait_for_selector(".nbl-status.nbl-is-gone")
            panel = page.locator(".nbl-panel")
            panel.screenshot(path=folder / f"{state}-{theme}.png")
            panel.evaluate(f"node => node.style.width = '{NARROW}px'")
            panel.screenshot(path=folder / f"{state}-{theme}-narrow.png")
        threading.Timer(0, stalled.release.set).start()


if __name__ == "__main__":
    main()
