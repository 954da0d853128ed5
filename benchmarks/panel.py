"""What the panel costs: messages to the page and the page's main thread, while a load of many shards runs.

::

    python benchmarks/panel.py --shards 200 --seconds 20

A load is played back in real time, through the widget's own messages, to a page of Chromium that draws the panel. One
line is printed: messages and bytes a second, the share of the main thread and layouts a second. `idle` is the same once
the load has ended. First paint is the time from the message to the first frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import comm
from support.bare_page import STATIC, open_panel
from support.comm import RecordingComm
from support.jupyter import open_browser

from nbloader import LoaderWidget, LoadState, Memory, events
from nbloader._progress.fold import fold
from nbloader._views.publisher import INTERVAL
from nbloader._views.view import view_of

GB = 10**9
STEPS = 20  # events of each kind between two updates


def states(shards: int, seconds: float) -> Iterator[LoadState]:
    """Yield the states of a load at every update."""
    state = LoadState(name="organisation/a-model-of-many-shards")
    sizes = tuple((f"model-{shard:05}-of-{shards:05}.safetensors", GB, GB) for shard in range(shards))
    begin = [events.Started(0.0), events.StageStarted(0.0, "resolve"), events.StageEnded(0.1, "resolve", "folder")]
    for event in [*begin, events.ShardsFound(0.1, sizes), events.StageStarted(0.1, "weights")]:
        state = fold(state, event)
    updates = int(seconds / INTERVAL)
    portion = shards * GB // (updates * STEPS)
    done = 0
    for update in range(updates):
        for step in range(STEPS):
            t = INTERVAL * (update + step / STEPS)
            shard = min(done // GB, shards - 1)
            ahead = min(shard + 4, shards - 1)
            state = fold(fold(state, events.Read(t, ahead, portion)), events.Placed(t, shard, portion, portion))
            done += portion
        memory = Memory(total=100 * GB, available=60 * GB, process=2 * GB + done // 2)
        state = fold(state, events.MemorySampled(INTERVAL * (update + 1), memory))
        yield state


def main() -> None:
    """Play a load back and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    comm.create_comm = RecordingComm
    widget = LoaderWidget("demo")
    sent = widget.comm.messages
    with open_browser() as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        played = states(given.shards, given.seconds)
        state = next(played)
        widget._page.send(view_of(state, 1))
        painted = sorted(open_panel(page, widget._page._traits) for _ in range(5))
        sent.clear()
        before, began = measured(session), time.monotonic()
        for state in played:
            due = began + state.now
            at = len(sent)
            widget._page.send(view_of(state, 1))
            for _, _, data in sent[at:]:
                page.evaluate("changes => window.show(changes)", data["state"])
            time.sleep(max(0.0, due - time.monotonic()))
        passed = time.monotonic() - began
        after = measured(session)
        size = sum(len(json.dumps(data)) for _, _, data in sent)
        tell("loading", before, after, passed, len(sent), size)
        time.sleep(5.0)
        tell("idle", after, measured(session), 5.0, 0, 0)
    print(f"first paint: {painted[2]:.0f} ms (median of 5: {painted[0]:.0f} to {painted[-1]:.0f})")
    print("bundle", (STATIC / "widget.js").stat().st_size, "bytes;", "style", (STATIC / "style.css").stat().st_size)


def measured(session: Any) -> dict[str, float]:
    """Return Chromium's counters of the page."""
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def tell(name: str, before: dict[str, float], after: dict[str, float], passed: float, count: int, size: int) -> None:
    """Print one line."""
    spent = {key: after[key] - before[key] for key in ("TaskDuration", "ScriptDuration", "LayoutCount")}
    print(
        f"{name}: {count / passed:.1f} messages/s, {size / passed / 1000:.1f} kB/s, main thread"
        f" {100 * spent['TaskDuration'] / passed:.1f} % (script {100 * spent['ScriptDuration'] / passed:.1f} %), "
        f"{spent['LayoutCount'] / passed:.1f} layouts/s"
    )


if __name__ == "__main__":
    main()
