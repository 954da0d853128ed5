"""Completion, help and printing: what a person gets who does not open the documentation."""

from __future__ import annotations

import inspect
import io
import pydoc
import traceback
from pathlib import Path
from typing import Any

import pytest

import nbloader
from nbloader import LoadState, OptionError, events
from nbloader._cli import run
from nbloader._options.options import ROWS
from nbloader._progress.fold import fold
from nbloader._version import __version__
from nbloader._views.terminal import plan_lines, print_over_bars


def takers() -> dict[str, Any]:
    """Return every public function, class and method that takes options as further keyword arguments."""
    things = {name: getattr(nbloader, name) for name in nbloader.__all__ if callable(getattr(nbloader, name))}
    methods = {
        f"{name}.{method}": value
        for name, thing in things.items()
        if inspect.isclass(thing)
        for method, value in vars(thing).items()
        if not method.startswith("_")
    }
    return {name: thing for name, thing in {**things, **methods}.items() if _further(thing) in ("choices", "changes")}


def _further(thing: Any) -> str:
    """Return the name of a callable's further keyword arguments; empty if it takes none."""
    function = vars(thing).get("__init__") if inspect.isclass(thing) else thing
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & inspect.CO_VARKEYWORDS:
        return ""
    place = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    return str(code.co_varnames[place])


def test_all_that_take_options_are_found() -> None:
    assert {"LoaderWidget", "load", "start", "plan", "preload", "download", "LoaderWidget.load"} <= takers().keys()


@pytest.mark.parametrize("name", sorted(takers().keys() - {"LoadOptions"}))
def test_completion_knows_every_option(name: str) -> None:
    parameters = inspect.signature(takers()[name]).parameters
    assert [option for option in ROWS if option not in parameters] == []
    assert parameters["dtype"].default == "auto"
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def test_ipython_completes_options() -> None:
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.user_ns["nbloader"] = nbloader
    for line in ("nbloader.load(quant", "nbloader.LoaderWidget('x', quant"):
        for by_jedi in (True, False):
            shell.Completer.use_jedi = by_jedi
            with provisionalcompleter():
                found = [completion.text for completion in shell.Completer.completions(line, len(line))]
            assert found == ["quantization="], (line, by_jedi)


@pytest.mark.parametrize("thing", [nbloader.LoaderWidget, nbloader.load])
def test_help_lists_every_option_with_one_line(thing: Any) -> None:
    said = pydoc.render_doc(thing, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    lines = [line.strip(" |") for line in said.splitlines()]
    for option in ROWS:
        place = lines.index(option)
        assert len(lines[place + 1]) > 20, option


def test_a_plan_prints_as_the_command_prints_it(demo_small: Path) -> None:
    plan = nbloader.plan(demo_small)
    assert str(plan) == plan_lines(plan, "x", 4096).removeprefix("x\n")
    assert "safetensors, 4 shards" in str(plan)
    assert repr(plan).startswith("LoadPlan(format=")
    html = plan._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == len(str(plan).splitlines())


def test_a_state_prints_how_far_it_is() -> None:
    state = fold(LoadState(name="us/demo"), events.Started(0.0))
    assert str(state) == "us/demo: Loading, 0 %, 0 ms"
    state = fold(state, events.Failed(2.0, "CheckpointError", "It is broken.", "Download it again."))
    assert str(state) == "us/demo: Failed, 0 %, 2.0 s\nCheckpointError: It is broken.\nDownload it again."


def test_an_error_in_a_notebook_is_the_user_s_line_and_what_to_do() -> None:
    code = compile("\n\nnbloader.load('demo', dytpe='auto')", "<cell>", "exec")
    with pytest.raises(OptionError) as raised:
        exec(code, {"nbloader": nbloader})
    lines = raised.value._render_traceback_()
    assert "Traceback (most recent call last)" in raised.value.details
    assert lines[0] == "cell, line 3"
    assert lines[-2].startswith("OptionError [unknown-option]: ")
    assert "'dtype'" in lines[-1]
    assert len(lines) == 5
    assert len(traceback.format_exception(raised.value)) > 5  # outside of IPython, all of it


def test_ipython_shows_it_so(capsys: pytest.CaptureFixture[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_cell("import nbloader\nx = 1\nnbloader.load('demo', dytpe='auto')")
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert "----> 3 nbloader.load('demo', dytpe='auto')" in lines
    assert len(lines) <= 5
    assert "options.py" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("arguments", "meant"), [(["load", "demo", "--dytpe", "auto"], "--dtype"), (["laod", "demo"], "load")]
)
def test_the_command_says_what_was_probably_meant(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    assert f"Did you mean {meant}?" in capsys.readouterr().err


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--version"])
    assert capsys.readouterr().out.strip() == f"nbloader {__version__}"


def test_the_demo_is_not_offered_where_it_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for command, is_offered in (("load", True), ("convert", False), ("verify", False)):
        with pytest.raises(SystemExit):
            run([command, "--help"])
        assert ("'demo'" in capsys.readouterr().out) == is_offered, command


def test_bars_make_room_for_a_line() -> None:
    from nbloader._views.terminal import _Bar, _Steady

    stream = io.StringIO()
    with _Bar(total=100, file=_Steady(stream), desc="us/demo", leave=True, ncols=60) as bar:
        bar.update(10)
        before = len(stream.getvalue())
        print_over_bars("A line.", stream)  # type: ignore[arg-type]
        written = stream.getvalue()[before:]
    # What was drawn is blanked, and the line begins at the left edge.
    assert written.split("A line.")[0].strip("\r ") == ""
    assert "us/demo" in written.split("A line.")[1]
