"""Takes the pictures of the documentation in Chromium, from real loads in JupyterLab.

``make screenshots`` writes docs/panel.png, docs/panel-dark.png and docs/workbench.png. With a folder as argument every
state is taken, light, dark and narrow, to be looked at: loading, stalled, ready, failed, cancelled, asking, and the
workbench.
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
    caches = [tempfile.mkdtemp() for _ in range(3)]
    brings_code = with_code(nbloader.demo_checkpoint("40MB", shards=4), Path(caches[0]) / "mine")
    states = {
        "loading": (f"LoaderWidget({STALLED!r}, cache_dir={caches[0]!r})", ".nbl-panel >> text=no bytes for"),
        "cancelled": (f"LoaderWidget({STALLED!r}, cache_dir={caches[1]!r})", ".nbl-panel .nbl-is-cancelled"),
        "stalled": (
            f"LoaderWidget({STALLED!r}, cache_dir={caches[2]!r}, stall_seconds=15)",
            ".nbl-panel .nbl-stall button",
        ),
        "ready": ("LoaderWidget('demo')", ".nbl-panel .nbl-status.nbl-is-ready"),
        "shards": (f"LoaderWidget({str(nbloader.demo_checkpoint('40MB', shards=200))!r})", ".nbl-status.nbl-is-ready"),
        "asking": (
            f"LoaderWidget({str(nbloader.demo_checkpoint('40MB', shards=4))!r}, dtype='float32', max_memory='50MB')",
            ".nbl-panel .nbl-question",
        ),
        "code": (f"LoaderWidget({str(brings_code)!r})", ".nbl-panel .nbl-question"),
        "failed": ("LoaderWidget('./models/no-such-folder')", ".nbl-panel .nbl-outcome.nbl-is-failed"),
    }
    take_workbench(server, folder / f"workbench-{theme}.png")
    take_download(server, folder / f"download-{theme}.png")
    for state, (code, until) in states.items():
        stalled.stalled.clear()
        stalled.release.clear()
        with open_browser() as page:
            cell = f"from nbloader import LoaderWidget\nw = {code}.show()"
            open_notebook(page, server, server.write(f"{state}.ipynb", [cell]))
            run(page, 0)
            if state == "cancelled":
                stalled.stalled.wait(60)
                page.locator(".nbl-cancel").click()
            page.wait_for_selector(until)
            if state == "stalled":
                page.locator(".nbl-stall summary").click()
            panel = page.locator(".nbl-panel")
            panel.screenshot(path=folder / f"{state}-{theme}.png")
            panel.evaluate(f"node => node.style.width = '{NARROW}px'")
            panel.screenshot(path=folder / f"{state}-{theme}-narrow.png")
        threading.Timer(0, stalled.release.set).start()


if __name__ == "__main__":
    main()
