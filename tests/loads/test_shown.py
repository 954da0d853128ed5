"""What leaves for people to see holds no secret, and no character that does something where it is shown."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import archs

import nbloader
from nbloader import LoadOptions, OptionError
from nbloader._options.environment import parse_option
from nbloader._options.options import TYPES
from nbloader._progress import events
from nbloader._safety import redaction
from nbloader._safety.redaction import clean
from nbloader._text.catalogue import Text, in_locale, text

SECRET = "hf_NobodyMaySeeThis"
ACTIVE = "\x1b[31mred\x1b]0;title\x07\r\u202e"
WORDS = st.text(max_size=20) | st.sampled_from([SECRET, f"Bearer {SECRET}", ACTIVE, "plain", "line\nline\ttab"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda parts: st.lists(parts, max_size=3) | st.tuples(parts, parts) | st.dictionaries(WORDS, parts, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_nothing_of_it_is_left_and_what_is_harmless_stays_the_same(value: Any) -> None:
    redaction.keep_secret(SECRET)
    made = clean(value)
    assert SECRET not in repr(made)
    assert not [mark for mark in ("\\x1b", "\\u202e", "\\x07", "\\r") if mark in repr(made).replace("\\\\", "")]
    assert clean(made) is made
    assert type(made) is type(value)


def test_a_text_can_still_be_said_in_another_language() -> None:
    redaction.keep_secret(SECRET)
    made = clean(text("error", "no_config", folder=f"/{SECRET}/\x1b", config="config.json"))
    assert isinstance(made, Text)
    assert str(in_locale(made, "ko")).startswith(r"/…/\x1b")


def test_every_event_is_cleaned_and_not_one_more_is_kept_than_can_be_used(demo_small: Path) -> None:
    job = nbloader.LoadJob(demo_small, LoadOptions(token=SECRET))
    for number in range(12_000):
        job._add_line("warning", "library_says", text=f"{number} {SECRET}")
    assert len(job.events) == 10_000
    job._log.append(events.StageStarted(0.0, "weights"))
    assert isinstance(job.events[-1], events.StageStarted)
    assert SECRET not in repr(job.events) + repr(job.state)
    assert job.state.log[-1].arguments["text"].startswith("11999")


def test_names_with_escapes_reach_no_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred\x07"
    archs.save(archs.build("llama"), folder)
    for call in (
        ["load", str(folder)],
        ["plan", str(folder)],
        ["load", str(folder / "\x1b[2Jnowhere")],
        ["doctor", str(folder), "--no-load"],
        ["convert", str(folder)],
    ):
        done = subprocess.run([sys.executable, "-m", "nbloader", *call], capture_output=True, timeout=120, check=False)
        said = (done.stdout + done.stderr).decode()
        assert "red" in said
        assert "\x1b[31m" not in said
        assert "\x1b[2J" not in said
        assert "\x07" not in said


@pytest.mark.parametrize(
    "choice",
    [
        {"readers": "²"},
        {"readers": 10**400},
        {"max_memory": "9" * 400 + "TB"},
        {"max_memory": "²GB"},
        {"max_memory": 10**400},
        {"max_memory": {"9" * 5000: 1}},
        {"max_memory": {"cpu": "9" * 5000 + "B"}},
        {"stall_seconds": 10**400},
        {"device": "cuda:" + "9" * 5000},
        {"device_map": "cuda:" + "9" * 5000},
    ],
    ids=lambda choice: f"{next(iter(choice))}={str(next(iter(choice.values())))[:12]}",
)
def test_numbers_that_are_none_are_refused(choice: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError):
        LoadOptions(**choice)
    (name, value), *_ = choice.items()
    if isinstance(value, str):
        monkeypatch.setenv(f"NBLOADER_{name.upper()}", value)
        with pytest.raises(OptionError):
            LoadOptions()


@given(st.text(max_size=30))
def test_any_text_of_the_environment_is_taken_or_refused(value: str) -> None:
    numbers = ("readers", "max_memory", "stall_seconds")
    for name in numbers:
        try:
            LoadOptions(**{name: parse_option(name, value, TYPES[name])})
        except OptionError:
            continue


def test_an_error_leaves_without_what_led_to_it() -> None:
    redaction.keep_secret(SECRET)

    def fail() -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise nbloader.CheckpointError(f"It says {error}.") from error

    with pytest.raises(nbloader.LoadError) as raised, redaction.leaving("model"):
        fail()
    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, True)
    assert SECRET not in str(raised.value)
    with pytest.raises(nbloader.LoadError, match="ValueError: …"), redaction.leaving("model"):
        raise ValueError(SECRET)
    with pytest.raises(ValueError, match="harmless"), redaction.leaving("model"):
        raise ValueError("harmless")


def test_a_plan_is_cleaned(demo_small: Path) -> None:
    redaction.keep_secret(SECRET)
    plan = dataclasses.replace(nbloader.plan(demo_small), format=SECRET)
    assert clean(plan).format == "…"
