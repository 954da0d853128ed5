"""Times what a user waits for first: the import, show(), and the first paint of the panel in Chromium.

Run it with: .venv/bin/python benchmarks/first_paint.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.jupyter import open_browser, open_notebook, run, serve

import nbloader

_IMPORT = "import time; t = time.perf_counter(); import nbloader; print(time.perf_counter() - t)"
_SHOW = """
import time
w = LoaderWidget({folder!r})
clicked = time.time()
began = time.perf_counter()
w.show()
print(json.dumps([clicked, time.perf_counter() - began]))
"""
# The moment of the first frame that has the panel in it, on the same clock as time.time().
_WATCH = """
window.painted = null;
new MutationObserver((_, observer) => {
  if (document.querySelector(".nbl-panel .nbl-header")) {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.painted = Date.now() / 1000; }));
  }
}).observe(document.body, { subtree: true, childList: true });
"""


def import_seconds() -> float:
    """Return what importing the package takes in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout)


def show_and_paint(folder: Path) -> tuple[float, float]:
    """Return the seconds that show() took, and those from its call to the first frame with the panel."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root, serve(Path(root)) as server:
        cells = ["import json\nfrom nbloader import LoaderWidget", _SHOW.format(folder=str(folder))]
        with open_browser() as page:
            open_notebook(page, server, server.write("paint.ipynb", cells))
            run(page, 0)
            page.evaluate(_WATCH)
            printed = run(page, 1)
            page.wait_for_function("window.painted !== null")
            clicked, show = json.loads(printed.strip().splitlines()[-1])
            return show, page.evaluate("window.painted") - clicked


def main() -> None:
    """Print min, median and max of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = nbloader.demo_checkpoint()
    shows, paints = zip(*(show_and_paint(folder) for _ in range(rounds)), strict=True)
    rows = {
        "import nbloader": [import_seconds() for _ in range(rounds)],
        "show() returns": list(shows),
        "call of show() to first paint": list(paints),
    }
    for name, values in rows.items():
        print(
            f"{name:30} min {min(values) * 1000:4.0f}  median {statistics.median(values) * 1000:4.0f}  "
            f"max {max(values) * 1000:4.0f} ms, {rounds} rounds"
        )


if __name__ == "__main__":
    main()
