"""The panel in a saved notebook: HTML that needs no kernel, no widget and no script.

The reader's program may remove anything else. JupyterLab removes ``<style>``, ``<svg>`` and ``<script>`` from an
untrusted notebook, and GitHub every style too. So the panel is made of tables and text, and works without colours.
"""

from __future__ import annotations

import contextvars
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, Protocol
from xml.etree import ElementTree

from nbloader._progress.state import SUCCEEDED
from nbloader._text.catalogue import Text
from nbloader._text.units import seconds_text, size_text

_MARKS = {
    "idle": "○",
    "queued": "◌",
    "running": "●",
    "downloading": "●",
    "asking": "?",
    "ready": "✓",
    "downloaded": "✓",
    "failed": "✕",
    "cancelled": "⊘",
    "gone": "○",
}
_MOST_LANES, _MOST_LINES = 64, 50  # keeps the notebook file small
_PART_OF = {
    "resolve": "resolve",
    "download": "download",
    "check": "resolve",
    "imports": "imports",
    "tokenizer": "tokenizer",
    "config": "tokenizer",
    "weights": "cast",
    "adapter": "adapter",
}
"""The parts of a load whose colours its stages have."""

_LINE = "1px solid rgba(128, 128, 128, 0.35)"
_CHART = {"style": "width: 240px"}
_Tag = ElementTree.Element


@cache
def colors() -> Mapping[str, Mapping[str, str]]:
    """Return the colours of phases and parts, which the live panel uses too."""
    return json.loads(files("nbloader").joinpath("tokens.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


class Display(Protocol):
    """A notebook's display publisher."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
    ) -> None:
        """Send an output to the running cell, or update an output with the same display id."""


class Outputs:
    """The notebook outputs that show one panel, and the static copy in each of them.

    Each output holds either the widget's live view, which a notebook without its kernel cannot show, or the static
    copy. A page that adopts the panel lays it over the static copy, so the view is removed at once. Otherwise, it is
    removed when the load has ended, and comes back with the next load.

    Parameters
    ----------
    make_bundle
        Returns the static copy, by MIME type.
    """

    def __init__(self, make_bundle: Callable[[], Mapping[str, Any]]) -> None:
        self._make_bundle = make_bundle
        # All outputs share one display id, so one update changes all of them.
        self._transient = {"display_id": secrets.token_hex(8)}
        self._publisher: Display | None = None
        self._view: tuple[Mapping[str, Any], Mapping[str, Any]] = {}, {}
        self._has_view = self._stays = self._is_adopted = False
        self._kept: object = None
        self._lock = threading.Lock()

    def add(self, publisher: Display, view: Mapping[str, Any], metadata: Mapping[str, Any], *, stays: bool) -> None:
        """Show the live view in the running cell; unless a page adopts it, it is removed after the load, or `stays`."""
        with self._lock:
            self._publisher, self._view, self._stays, self._has_view = publisher, (view, metadata), stays, True
            publisher.publish({**view, **self._make_bundle()}, metadata, transient=self._transient)

    def adopt(self) -> None:
        """Remove the live views, because a page shows the panel without them."""
        self._is_adopted = True
        self._publish(is_over=False)

    def keep(self, known: object, *, is_over: bool, always: bool = False) -> None:
        """Update the outputs, unless they already hold the state `known`."""
        if known != self._kept or always:
            self._kept = known
            self._publish(is_over)

    def _publish(self, is_over: bool) -> None:
        with self._lock, suppress(Exception):  # a front end can raise anything
            goes = self._is_adopted or (is_over and not self._stays)
            if self._publisher is None or (self._has_view and not goes):
                return
            view, metadata = ({}, {}) if goes or is_over else self._view
            self._has_view = bool(view)
            bundle = {**view, **self._make_bundle()}
            # An empty context makes the running cell the sender. Programs that run a notebook without a page receive
            # only what that cell sends.
            publish = self._publisher.publish
            contextvars.Context().run(publish, bundle, metadata, transient=self._transient, update=True)


def panel_html(view: Mapping[str, Any], language: str, anchor: str) -> str:
    """Return a panel as HTML.

    Parameters
    ----------
    view
        What the front end draws, by trait name (`nbloader._views.publisher`).
    language
        The language of the other texts.
    anchor
        The class by which the page of a live widget finds the place for its panel.
    """
    state = {**view["_state"], **view["_now"]}
    says = _Says(language)
    root = _tag("div", {"class": f"nbl-saved {anchor}", "style": "max-width: 960px; line-height: 1.45"})
    root.extend(_head(state, says))
    if state["status"] != "idle" or state["gone"] is not None:
        root.append(_stages(state, says))
        root.extend(_memory(state, says))
        root.extend(_lanes(view, says))
        root.extend(_diagnosis(view.get("_diagnosis"), says))
        root.extend(_log(state, says))
    return ElementTree.tostring(root, encoding="unicode", method="html")


class _Says:
    """Returns texts of the catalogue in one language."""

    def __init__(self, language: str) -> None:
        self._language = language

    def __call__(self, group: str, key: str, /, **arguments: Any) -> Text:
        return Text(group, key, arguments, self._language)

    def seconds(self, seconds: float) -> Text:
        return seconds_text(seconds).in_locale(self._language)


def _head(state: Mapping[str, Any], says: _Says) -> Iterator[_Tag]:
    status = "gone" if state["gone"] is not None else state["status"]
    # A queued load with no load before it is about to start.
    word = "idle" if status == "queued" and not state["ahead"] else state["word"]
    parts: list[str | _Tag] = [
        _tag("strong", {}, f"{_MARKS[word]} {says('status', word)}"),
        " · ",
        _tag("code", {}, state["name"]),
    ]
    if state["commit"] is not None:
        parts += [" · ", _tag("code", {}, state["commit"][:7])]
    if state["elapsed"]:
        parts += [" · ", says.seconds(state["elapsed"])]
    yield _tag("p", {}, *parts)
    if status == "ready" and state["summary"] is not None:
        ended = state["summary"]
        known = {
            "model_class": ended["model_class"],
            "bytes": size_text(ended["bytes"]),
            "seconds": says.seconds(state["elapsed"]),
            "dtype": ended["dtype"],
            "device": ended["device"],
        }
        yield _tag("p", {}, says("panel", "already" if ended.get("already_loaded") else "summary", **known))
    if status == "gone":
        yield from _given_back(state["gone"], says)
    if state["error"] is not None:
        error = state["error"]
        code = _tag("code", {}, error["code"])
        yield _tag(
            "p", {}, _tag("strong", {}, says("panel", "error", kind=error["kind"])), " ", code, " ", error["message"]
        )
        yield _tag("p", {}, error["hint"])
    if status == "running":
        share = {"value": str(round(state["fraction"], 3)), "max": "1", "style": "width: 100%"}
        percent = f"{int(100 * state['fraction'])} %"  # a load that is not over is not at 100 %
        yield _tag("progress", share, percent)
        yield _tag("p", {}, " · ".join(filter(None, (percent, state["line"]))))
    yield _tag("p", {}, _tag("em", {}, says("saved", status)))


def _given_back(gone: Mapping[str, Any], says: _Says) -> Iterator[_Tag]:
    told = [
        says("panel", "given_back", name=name, before=size_text(before), after=size_text(after))
        for name, before, after in gone["places"]
    ]
    yield _tag("p", {}, says("panel", "unloaded", places="; ".join(told)))
    if gone["successor"]:
        yield _tag("p", {}, says("panel", "made_room", name=gone["successor"]))
    for holder in gone["holders"]:
        yield _tag("p", {}, f"⚠ {holder}")


def _stages(state: Mapping[str, Any], says: _Says) -> _Tag:
    is_over = state["status"] not in ("queued", "running")
    rows: list[list[str | _Tag]] = []
    is_whole = state["status"] in SUCCEEDED or state["gone"] is not None
    # What a load that is over did not need, such as a download, is no news.
    for stage in (stage for stage in state["stages"] if stage["started"] is not None or not is_whole):
        started, ended = stage["started"], stage["ended"]
        mark = "✓" if ended is not None else "○" if started is None else "✕" if is_over else "●"
        end = state["elapsed"] if ended is None else ended
        took, bars = "", []
        if started is not None and state["elapsed"]:
            took = says.seconds(end - started)
            color = colors()["parts"][_PART_OF.get(stage["name"], "other")]
            bars = [_bar(started / state["elapsed"], (end - started) / state["elapsed"], color)]
        name = f"{mark} {says('stage', stage['name'])}"
        rows.append([name, stage["detail"], took, _tag("div", _CHART, *bars)])
    return _table([says("panel", "stages"), "", says("fact", "time"), ""], rows)


def _memory(state: Mapping[str, Any], says: _Says) -> Iterator[_Tag]:
    if state["predicted_peak"] is not None and state["peak"]:
        sizes = {"observed": size_text(state["peak"]), "predicted": size_text(state["predicted_peak"])}
        yield _tag("p", {}, _tag("strong", {}, says("panel", "memory")), " ", says("panel", "peaks", **sizes))


def _lanes(view: Mapping[str, Any], says: _Says) -> Iterator[_Tag]:
    """Yield one row for each shard: its size, how long it was downloaded, read and placed, and when."""
    shards, lanes, whole = view["_shards"], view["_lanes"], view["_now"]["elapsed"]
    names = shards["names"]
    if not names or not whole:
        return
    seen = [phase for phase in colors()["phases"] if any(lane[f"{phase}_started"] is not None for lane in lanes)]
    rows: list[list[str | _Tag]] = []
    for index, (name, size) in enumerate(zip(names[:_MOST_LANES], shards["bytes"], strict=False)):
        took, chart = [], []
        for phase in seen:
            start, end = lanes[index][f"{phase}_started"], lanes[index][f"{phase}_ended"]
            end = whole if end is None else end
            took.append("" if start is None else says.seconds(end - start))
            if start is not None:
                chart.append(_bar(start / whole, (end - start) / whole, colors()["phases"][phase]))
        rows.append([name, size_text(size), *took, _tag("div", _CHART, *chart)])
    if len(names) > _MOST_LANES:
        rows.append([says("saved", "more", count=len(names) - _MOST_LANES)])
    title = f"{says('panel', 'shards')} · {shards['shards']}"
    yield _table([title, "", *(says("phase", phase) for phase in seen), ""], rows)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bar(left: float, width: float, color: str) -> _Tag:
    left, width = 100 * min(left, 0.99), 100 * max(0.01, width)
    style = f"margin-left: {left:.1f}%; width: {min(width, 100 - left):.1f}%; height: 5px; background-color: {color}"
    return _tag("div", {"style": style})


def _diagnosis(told: Mapping[str, Any] | None, says: _Says) -> Iterator[_Tag]:
    if told is None or told["measuring"]:
        return
    whole = sum(seconds for _, _, seconds in told["parts"]) or 1
    parts = [part for part in told["parts"] if part[2] >= 0.005]
    rows = [
        [
            name,
            says.seconds(seconds),
            _percent(seconds / whole),
            _tag("div", _CHART, _bar(0, seconds / whole, colors()["parts"][key])),
        ]
        for key, name, seconds in parts
    ]
    yield _table([says("diagnosis", "title"), "", "", ""], rows)
    if not told["remedies"]:
        yield _tag("p", {}, told["verdict"])
    for sentence, lines in told["remedies"]:
        yield _tag("p", {}, sentence)
        yield _tag("pre", {}, lines)
    facts = _table(None, [list(fact) for fact in told["facts"]])
    yield _tag("details", {}, _tag("summary", {}, says("diagnosis", "facts")), facts)


def _log(state: Mapping[str, Any], says: _Says) -> Iterator[_Tag]:
    lines = state["log"][-_MOST_LINES:]
    if lines:
        rows = [[says.seconds(line["t"]), f"{'⚠ ' * (line['level'] == 'warning')}{line['text']}"] for line in lines]
        count = f"{says('panel', 'log')} · {len(state['log'])}"
        yield _tag("details", {}, _tag("summary", {}, count), _table(None, rows))


def _table(names: Sequence[str] | None, rows: Sequence[Sequence[str | _Tag]]) -> _Tag:
    style = "border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums"
    cell = "padding: 2px 12px 2px 0; text-align: left; vertical-align: middle"
    made = _tag("table", {"style": style})
    if names is not None:
        head = [_tag("th", {"style": f"{cell}; border-bottom: {_LINE}"}, name) for name in names]
        made.append(_tag("thead", {}, _tag("tr", {}, *head)))
    body = [_tag("tr", {}, *[_tag("td", {"style": cell}, part) for part in row]) for row in rows]
    made.append(_tag("tbody", {}, *body))
    return made


def _tag(name: str, attributes: Mapping[str, str], *children: str | _Tag) -> _Tag:
    made = _Tag(name, dict(attributes))
    for child in children:
        if isinstance(child, _Tag):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made
