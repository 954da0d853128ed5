"""Times what a user waits for: the import, show(), the first paint, and the plan after a change in the form.

The last two are taken in Chromium; the plan also while a cell is running, and for a checkpoint of 20 000 tensors.

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

from scaling import make
from support.jupyter import begin, open_browser, open_notebook, run, serve

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


# From the change of a menu to the first frame that shows the figure that follows from it.
_CHANGE = """
async ([text]) => {
  const menu = document.querySelector(".nbl-panel select");
  const costs = document.querySelector(".nbl-costs");
  const shown = new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (costs.textContent.includes(` ${text}host`)) {
        observer.disconnect();
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
      }
    });
    observer.observe(costs, { subtree: true, childList: true, characterData: true });
  });
  const began = performance.now();
  menu.value = text;
  menu.dispatchEvent(new Event("change", { bubbles: true }));
  return (await shown - began) / 1000;
}
"""


def plan_seconds(folder: Path, rounds: int, *, busy: bool) -> list[float]:
    """Return the seconds from a change in the form to the plan for it on the screen."""
    cells = [
        f"from nbloader import LoaderWidget\nw = LoaderWidget({str(folder)!r})\nw",
        "import time\nwhile True:\n    time.sleep(0.05)",
    ]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root,
        serve(Path(root)) as server,
        open_browser() as page,
    ):
        open_notebook(page, server, server.write("plan.ipynb", cells))
        run(page, 0)
        page.wait_for_selector(".nbl-verdict-fits")
        if busy:
            begin(page, 1)
            page.wait_for_function("nb.state(1) === 'running'")
        return [page.evaluate(_CHANGE, [("float32", "float16")[index % 2]]) for index in range(rounds)]


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
        "change to plan": plan_seconds(folder, 2 * rounds, busy=False),
        "change to plan, a cell running": plan_seconds(folder, 2 * rounds, busy=True),
    }
    with tempfile.TemporaryDirectory() as many:
        make(Path(many), tensors=20_000, shards=100)
        rows["change to plan, 20 000 tensors"] = plan_seconds(Path(many), 2 * rounds, busy=False)
    for name, values in rows.items():
        print(
            f"{name:32} min {min(values) * 1000:4.0f}  median {statistics.median(values) * 1000:4.0f}  "
            f"max {max(values) * 1000:4.0f} ms, {len(values)} times"
        )


if __name__ == "__main__":
    main()
