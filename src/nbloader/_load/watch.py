"""The watch thread of a load: samples memory, looks for stalls, writes the heartbeat, ends a load that hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbloader._progress import events as _events
from nbloader._system.memory import sample_memory
from nbloader._text.catalogue import speak, text

if TYPE_CHECKING:
    from nbloader._load.ending import Ending
    from nbloader._load.event_log import EventLog
    from nbloader._load.heartbeat import Heartbeat
    from nbloader._load.stall import StallWatch
    from nbloader._options.options import LoadOptions
    from nbloader._progress.reporter import Reporter

_SAMPLE_SECONDS = 0.25

CANCEL_SECONDS = 0.8
"""Seconds after which a cancelled load ends, even if its thread is in a call that cannot be stopped (an import)."""


def watch(
    options: LoadOptions,
    log: EventLog,
    ending: Ending,
    reporter: Reporter,
    heartbeat: Heartbeat,
    stall_watch: StallWatch,
) -> None:
    """Watch a load until it ends."""
    speak(options.locale)
    while not ending.done.wait(_SAMPLE_SECONDS):
        reporter.emit(_events.MemorySampled, sample_memory())
        _look_for_stall(log, reporter, stall_watch, options.stall_seconds)
        state = log.state
        if state.status == "running":
            heartbeat.beat(state)
        if reporter.is_cancelled and not ending.done.wait(CANCEL_SECONDS - _SAMPLE_SECONDS):
            stage = log.state.stage
            reporter.log("warning", "left_behind", stage=text("stage", stage) if stage else "")
            ending.end(None, None)


def _look_for_stall(log: EventLog, reporter: Reporter, stall_watch: StallWatch, offer_after: float) -> None:
    state = log.state
    stall = stall_watch.look(state, offer_after)
    if stall == state.stall:
        return
    if stall is not None and state.stall is None:
        reason = text("stall", stall.reason, **stall.arguments)
        reporter.log("info", "stalled", seconds=f"{state.now - stall.since:.0f}", reason=reason)
    reporter.emit(_events.Stalled, stall)
