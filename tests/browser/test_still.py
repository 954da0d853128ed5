"""Nothing in the panel moves while a load runs, on a page of its own, so that a button is where it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page
from support.bare_page import open_panel, show
from support.jupyter import open_browser

from nbloader import LoadState, Memory, events
from nbloader._progress.fold import fold
from nbloader._views.view import view_of

GB = 10**9
SHARDS = 8
STAGES = {"imports": 2.0, "tokenizer": 0.2, "config": 0.1, "weights": 4.0, "device": 0.1}
# By position and the first class: where each element is and how large. Bars and curves are what should move.
BOXES = """
() => Object.fromEntries(
  [...document.querySelectorAll(".nbl-panel, .nbl-panel :is(div, p, section, button, details, .nbl-label)")]
    .filter((node) => !node.matches(".nbl-fill, .nbl-bar-of"))
    .map((node, index) => {
      const { x, y, width, height } = node.getBoundingClientRect();
      return [`${index} ${node.classList[0] ?? node.tagName}`, [x, y, width, height].map(Math.round)];
    }),
)
"""


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser(viewport={"width": 1000, "height": 1400}) as made:
        yield made


def run_of_a_load() -> Iterator[LoadState]:
    """Yield the states of a load from the moment that its files are known."""
    state = LoadState(name="organisation/a-model-70B-instruct")
    sizes = tuple((f"model-{shard}.safetensors", GB, GB) for shard in range(SHARDS))
    happened: list[events.Event] = [
        events.Started(0.0),
        events.StageStarted(0.0, "resolve"),
        events.SourceResolved(0.1, "organisation/a-model-70B-instruct", "0123456789abcdef", "hub"),
        events.StageEnded(0.1, "resolve", "hub"),
        events.DownloadPlanned(0.1, tuple((name, size, 0) for name, size, _ in sizes)),
        events.ShardsFound(0.1, sizes),
        events.PeakPredicted(0.1, 10 * GB),
        events.MemorySampled(0.1, Memory(total=25 * GB, available=20 * GB, process=GB)),
        events.StageStarted(0.2, "download"),
    ]
    for event in happened:
        state = fold(state, event)
    yield state
    told = events.TimeExpected(0.3, events.Expected(2.3, 1e9, 4.0, 0.1, STAGES))
    yield (state := fold(state, told))
    for shard in range(SHARDS):
        for part in range(4):
            state = fold(state, events.Downloaded(0.4 + shard + part / 4, shard, GB // 4))
            yield state
    state = fold(state, events.StageEnded(8.5, "download", "8.00 GB"))
    now = 8.5
    for name in ("imports", "tokenizer", "config"):
        state = fold(state, events.StageStarted(now, name))
        yield state
        now += STAGES[name]
        yield (state := fold(state, events.StageEnded(now, name, "transformers 5")))
    state = fold(state, events.StageStarted(now, "weights"))
    for shard in range(SHARDS):
        for event in (events.Read(now, shard, GB), events.Placed(now + 0.3, shard, GB, GB)):
            yield (state := fold(state, event))
        now += 0.5
    memory = Memory(total=25 * GB, available=12 * GB, process=9 * GB)
    yield (state := fold(state, events.MemorySampled(now, memory)))
    yield (state := fold(state, events.StageStarted(now, "device")))


@pytest.mark.parametrize("width", [420, 848])
def test_nothing_moves_while_a_load_runs(page: Page, width: int) -> None:
    states = run_of_a_load()
    open_panel(page, view_of(next(states), 1))
    page.locator("#panel").evaluate("(node, width) => node.style.width = `${width}px`", width)
    first = page.evaluate(BOXES)
    assert len(first) > 40
    for state in states:
        show(page, view_of(state, 1))
        page.evaluate("new Promise(requestAnimationFrame)")
        now = page.evaluate(BOXES)
        # What was empty has its text now, in the same row.
        moved = {name: (box, now.get(name)) for name, box in first.items() if box[3] > 0 and now.get(name) != box}
        assert moved == {}, state.now
