"""What a saved notebook keeps of a panel, and when it is told."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nbloader
from nbloader import LoadState
from nbloader._progress.freed import Freed, Holder
from nbloader._progress.state import ErrorInfo
from nbloader._system.memory import Memory
from nbloader._views.saved import Outputs, panel_html
from nbloader._views.view import view_of, view_of_diagnosis


class Page(HTMLParser):
    """Reads a page: its tags and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += f"{data}|"


def page_of(state: LoadState, language: str = "en", **more: Any) -> Page:
    return Page(panel_html({**view_of(state), **more}, language, "nbl-7"))


class Loaded(NamedTuple):
    """How a load ended, and why it took as long as it did."""

    state: LoadState
    told: nbloader.Diagnosis


@pytest.fixture(scope="module")
def loaded(demo_small: Path) -> Loaded:
    job = nbloader.start(demo_small, reload=True)
    model = job.result()
    told = Loaded(job.state, nbloader.diagnose(job))
    del model
    return told


def test_it_tells_what_the_panel_does(loaded: Loaded) -> None:
    page = page_of(loaded.state, **view_of_diagnosis(loaded.told))
    for part in ("✓ Ready", "LlamaForCausalLM", "19.4 MB in", "Weights", "model-00004-of-00004.safetensors", "peak"):
        assert part in page.text
    assert "Where the time went" in page.text
    assert loaded.told.verdict.partition(";")[0] in page.text


def test_shares_of_a_short_load_are_those_of_its_verdict(loaded: Loaded) -> None:
    short = ("queue", "resolve", "download", "imports", "tokenizer", "storage")
    parts = {**dict.fromkeys(short, 0.0014), "other": 0.0914}
    told = replace(loaded.told, seconds=sum(parts.values()), parts=parts, remedies=(), rate=None)
    assert "Largest part: Other (92 % of the time)" in told.verdict
    assert "|Other|91 ms|92 %|" in page_of(loaded.state, **view_of_diagnosis(told)).text


def test_it_needs_nothing_that_is_taken_from_a_notebook_of_a_stranger(loaded: Loaded) -> None:
    page = page_of(loaded.state, **view_of_diagnosis(loaded.told))
    # All but `progress`, whose text stays, are kept by GitHub's html-pipeline too.
    assert page.tags <= {
        "div", "p", "strong", "em", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary",
        "progress",
    }  # fmt: skip
    assert page.attributes <= {"class", "style", "value", "max"}


def test_names_are_text(loaded: Loaded) -> None:
    page = page_of(replace(loaded.state, name="<script>alert(1)</script> & <b>"))
    assert "<script>alert(1)</script> & <b>" in page.text
    assert not page.tags & {"script", "b"}


def test_it_speaks_korean(loaded: Loaded) -> None:
    page = page_of(loaded.state, "ko")
    assert "✓ 준비 완료" in page.text
    assert "Stages" not in page.text


def test_a_load_under_way_says_how_far_it_was(loaded: Loaded) -> None:
    page = page_of(replace(loaded.state, status="running", summary=None))
    assert "Saved during the load" in page.text
    assert "progress" in page.tags
    assert "99 %" in page.text


def test_a_load_that_failed_says_why(loaded: Loaded) -> None:
    page = page_of(
        replace(
            loaded.state,
            status="failed",
            error=ErrorInfo("SourceError", "No such folder.", "Mend it.", code="no-folder"),
        )
    )
    assert "✕ Failed" in page.text
    assert "SourceError| |no-folder| No such folder.|Mend it.|" in page.text


def test_nothing_was_loaded() -> None:
    page = page_of(LoadState(name="demo"))
    assert "Saved before anything was loaded here" in page.text
    assert "table" not in page.tags


def test_a_thousand_shards_are_cut_short(loaded: Loaded) -> None:
    one = loaded.state.shards[0]
    page = page_of(replace(loaded.state, shards=tuple(replace(one, name=f"shard-{n}") for n in range(1000))))
    assert "shard-63|" in page.text
    assert "shard-64|" not in page.text
    assert "and 936 more" in page.text


def test_a_model_that_was_unloaded_was_loaded_once(loaded: Loaded) -> None:
    memory = Memory(total=10**10, available=10**9, process=2 * 10**9)
    gone = Freed(memory, replace(memory, process=10**9), (Holder("w", "name"),), "another")
    page = page_of(replace(loaded.state, status="idle", gone=gone))
    assert "○ Unloaded" in page.text
    assert "2.00 GB before, 1.00 GB after" in page.text
    assert "The model made room for another." in page.text
    assert "w still refers to the model." in page.text
    assert "model-00004-of-00004.safetensors" in page.text


class Notebook:
    """Takes what is displayed, as a kernel's display publisher does; what it keeps is of the last output."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.names: set[str] = set()
        self.told = 0

    def publish(self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False) -> None:
        assert bool(metadata) == ("view" in data), "the metadata are the view's"
        assert not update or transient["display_id"] in self.names
        self.names.add(transient["display_id"])
        self.kept = set(data)
        self.told += 1


BOTH = {"view", "text/html"}
VIEW: tuple[Any, Any] = {"view": 1}, {"colab": 1}


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def outputs() -> Outputs:
    return Outputs(lambda: {"text/html": "<p>kept</p>"})


def test_the_view_stays_until_the_load_has_ended_and_comes_again_with_another(
    notebook: Notebook, outputs: Outputs
) -> None:
    outputs.add(notebook, *VIEW, stays=False)
    outputs.keep("running", is_over=False)
    assert (notebook.kept, notebook.told) == (BOTH, 1)
    outputs.keep("ready", is_over=True)
    assert notebook.kept == {"text/html"}
    outputs.keep("unloaded", is_over=True)
    assert (notebook.kept, notebook.told) == ({"text/html"}, 3)
    outputs.keep("running again", is_over=False)
    assert notebook.kept == BOTH
    outputs.keep("ready again", is_over=True)
    assert notebook.kept == {"text/html"}


def test_a_workbench_stays_a_workbench(notebook: Notebook, outputs: Outputs) -> None:
    outputs.add(notebook, *VIEW, stays=True)
    outputs.keep("ready", is_over=True)
    assert (notebook.kept, notebook.told) == (BOTH, 1)


def test_a_page_that_adopts_has_no_view_from_then_on(notebook: Notebook, outputs: Outputs) -> None:
    outputs.add(notebook, *VIEW, stays=True)
    outputs.adopt()
    assert notebook.kept == {"text/html"}
    outputs.keep("weights", is_over=False)
    assert (notebook.kept, notebook.told) == ({"text/html"}, 3)
    outputs.add(notebook, *VIEW, stays=True)
    outputs.adopt()
    assert notebook.kept == {"text/html"}
    assert len(notebook.names) == 1, "what is told once is told every output"


def test_nothing_is_told_twice(notebook: Notebook, outputs: Outputs) -> None:
    outputs.add(notebook, *VIEW, stays=False)
    outputs.adopt()
    for _ in range(3):
        outputs.keep("weights", is_over=False)
    assert notebook.told == 3
    outputs.keep("weights", is_over=False, always=True)
    assert notebook.told == 4


def test_a_page_that_is_gone_ends_nothing(outputs: Outputs) -> None:
    class Closed(Notebook):
        def publish(self, *arguments: Any, **more: Any) -> None:
            if more.get("update"):
                raise RuntimeError("closed")

    outputs.add(Closed(), *VIEW, stays=False)
    outputs.adopt()
    outputs.keep("ready", is_over=True)
