"""Takes the pictures of the documentation in Chromium, from real loads in JupyterLab.

``make screenshots`` writes docs/panel.png. With a folder as argument every state is taken, light, dark and narrow, to
be looked at: loading, ready, failed, cancelled.
"""

from __future__ import annotations

import os
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


def main() -> None:
    """Take the pictures."""
    everything = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    folder = everything or ROOT / "docs"
    folder.mkdir(exist_ok=True)
    demo = nbloader.demo_checkpoint("400MB", shards=8)
    stalled = Repo.of_folder(demo, stall="model-00006-of-00008.safetensors")
    conftest._hub.repos["nbloader/demo-model"] = stalled
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        for theme in THEMES if everything else ["light"]:
            home = Path(root) / theme
            home.mkdir()
            with serve(home, settings={"theme": THEMES[theme]}) as server:
                if everything:
                    take_all(server, folder, theme, stalled)
                else:
                    take_ready(server, folder / "panel.png", demo)


def take_ready(server: Server, path: Path, checkpoint: Path) -> None:
    """Take the panel of a load that has ended: a cast to float32, so that placing takes its time."""
    cell = (
        "import torch, transformers\nfrom nbloader import LoaderWidget\n"
        f"w = LoaderWidget({str(checkpoint)!r}, dtype='float32').show()\nw.result()"
    )
    for file in checkpoint.iterdir():
        with open(file, "rb") as opened:  # cold, so that there is something to read
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with open_browser(device_scale_factor=2) as page:
        open_notebook(page, server, server.write("ready.ipynb", [cell]))
        run(page, 0)
        page.wait_for_selector(".nbl-panel .nbl-outcome.nbl-is-ready")
        page.locator(".nbl-panel").screenshot(path=path)


def take_all(server: Server, folder: Path, theme: str, stalled: Repo) -> None:
    """Take every state, wide and narrow."""
    # A cache of its own for each: one that was released goes on downloading.
    caches = [tempfile.mkdtemp() for _ in range(2)]
    states = {
        "loading": (f"LoaderWidget('nbloader/demo-model', cache_dir={caches[0]!r})", ".nbl-panel >> text=no bytes for"),
        "cancelled": (f"LoaderWidget('nbloader/demo-model', cache_dir={caches[1]!r})", ".nbl-panel .nbl-is-cancelled"),
        "ready": ("LoaderWidget('demo')", ".nbl-panel .nbl-outcome.nbl-is-ready"),
        "shards": (f"LoaderWidget({str(nbloader.demo_checkpoint('40MB', shards=200))!r})", ".nbl-outcome.nbl-is-ready"),
        "failed": ("LoaderWidget('./models/no-such-folder')", ".nbl-panel .nbl-outcome.nbl-is-failed"),
    }
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
            panel = page.locator(".nbl-panel")
            panel.screenshot(path=folder / f"{state}-{theme}.png")
            panel.evaluate(f"node => node.style.width = '{NARROW}px'")
            panel.screenshot(path=folder / f"{state}-{theme}-narrow.png")
        threading.Timer(0, stalled.release.set).start()


if __name__ == "__main__":
    main()
