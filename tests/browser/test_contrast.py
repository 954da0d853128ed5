"""Contrast, on a page of its own: in JupyterLab axe-core finds its check inapplicable, which says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page
from support.bare_page import THEMES, open_panel
from support.jupyter import AXE, open_browser

from nbloader import LoadState, Memory, events
from nbloader._progress.fold import fold
from nbloader._views.saved import colors
from nbloader._views.view import view_of

GB = 10**9
MEMORY = Memory(total=25 * GB, available=20 * GB, process=3 * GB)
SUMMARY = {"model_class": "LlamaModel", "parameters": 10**9, "bytes": 2 * GB, "dtype": "bfloat16", "device": "cpu"}


def folded(state: LoadState, *happened: events.Event) -> LoadState:
    for event in happened:
        state = fold(state, event)
    return state


LOADING = folded(
    LoadState(name="organisation/a-model-70B"),
    events.Started(0.0),
    events.StageStarted(0.0, "resolve"),
    events.StageEnded(0.1, "resolve", "folder"),
    events.ShardsFound(0.1, tuple((f"model-{shard}.safetensors", GB, GB) for shard in range(3))),
    events.PeakPredicted(0.1, 4 * GB),
    events.TimeExpected(0.1, events.Expected(2.0, 1e9, 3.0, 0.1, {"imports": 2.0, "weights": 3.0, "device": 0.1})),
    events.StageStarted(0.1, "imports"),
    events.MemorySampled(0.2, MEMORY),
    events.Read(0.5, 0, 0),
    events.Read(1.0, 0, GB),
    events.Logged(1.0, "warning", "offline", {"reason": "No route to the Hub"}),
    events.StageEnded(2.0, "imports", "transformers 5"),
    events.StageStarted(2.0, "weights"),
    events.Placed(2.0, 0, 0, 0),
    events.Placed(3.0, 0, GB, GB),
)
ASKED = events.Asked(
    3.0, "WontFitError", "It needs 3 GB, and 2 GB is free.", (({"dtype": "bfloat16"}, GB), ({"force": True}, 3 * GB)),
    available=2 * GB,
)  # fmt: skip
STALL = events.Stall(3.0, "storage", {"names": "model-1", "rate": "0 B"}, "stack", offers_cancel=True)
STATES = {
    "loading": LOADING,
    "stalled": folded(LOADING, events.Stalled(20.0, STALL)),
    "asking": folded(LOADING, ASKED),
    "queued": folded(LOADING, events.Queued(3.0, ((1, "us/first"),))),
    "failed": folded(LOADING, events.Failed(3.0, "CheckpointError", "It is broken.", "Download it again.")),
    "cancelled": folded(LOADING, events.Cancelled(3.0)),
    "ready": folded(LOADING, events.Ready(4.0, SUMMARY)),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", STATES)
def test_text_has_contrast_in_every_state_and_theme(name: str, theme: str, page: Page) -> None:
    view = view_of(STATES[name], 1)
    view["_state"]["code"] = "model, tokenizer = w.result()" if name == "ready" else ""
    open_panel(page, view, theme)
    if page.get_by_role("button", name="Show the timeline").count():
        page.get_by_role("button", name="Show the timeline").click()
    page.locator(".nbl-log summary").click() if page.locator(".nbl-log:not([open])").count() else None
    page.add_script_tag(path=AXE)
    result: dict[str, Any] = page.evaluate("axe.run('.nbl-panel', { runOnly: ['color-contrast'] })")
    failed = [
        f"{check['message']}: {node['html'][:120]}"
        for item in result["violations"]
        for node in item["nodes"]
        for check in node["any"]
    ]
    passed = sum(len(item["nodes"]) for item in result["passes"])
    assert (failed, passed >= 8) == ([], True), passed


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("group", ["phases", "parts"])
def test_bars_stand_out_from_light_and_dark_and_white_text_from_bars(group: str) -> None:
    for name, color in colors()[group].items():
        on = {ground: contrast(color, ground) for ground in ("#ffffff", "#212121")}
        assert min(on.values()) >= 3, (name, on)
        assert contrast("#ffffff", color) >= 4.5, name
