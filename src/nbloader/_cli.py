"""The command ``nbloader``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from difflib import get_close_matches
from io import TextIOWrapper
from types import NoneType
from typing import Any, NoReturn

from nbloader._analysis.diagnose import diagnose
from nbloader._api import begin, plan, start
from nbloader._convert import convert
from nbloader._errors import LoadCancelled, LoadError
from nbloader._load.job import LoadJob
from nbloader._options.environment import parse_option
from nbloader._options.options import ROWS, TYPES, LoadOptions, merge_options
from nbloader._options.table import Row
from nbloader._progress import events
from nbloader._progress.state import ErrorInfo
from nbloader._safety.redaction import clean
from nbloader._text.catalogue import LOCALES, speak, text
from nbloader._text.units import size_text
from nbloader._verify import verify
from nbloader._version import __version__
from nbloader._views.terminal import error_lines, plan_lines, print_over_bars, result_line, show_bar, tell_warnings

_PATIENCE = 2.0  # seconds for a cancelled load to end
_OWN = {
    "load": ("quiet",),
    "download": ("quiet",),
    "plan": ("context_length",),
    "doctor": ("no_load",),
    "convert": (),
    "verify": ("fetch",),
}
_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended


def main() -> int:
    """Run the command line of this process; return the exit status, as `run` does."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no error for a character it cannot show
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Without this, Python would report the error once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if status == _INTERRUPTED:
        # The load's thread may be in the middle of an import: it would not end soon, and could crash as Python exits.
        sys.stderr.flush()
        os._exit(status)
    return status


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0 for success, 1 for a failed load, 130 for an interrupt."""
    parsed = vars(_parser().parse_args(arguments))
    command, model = parsed.pop("command"), parsed.pop("model")
    own = {name: parsed.pop(name) for name in _OWN[command]}
    given = {name: value for name, value in parsed.items() if value is not None}
    speak(given.get("locale") if given.get("locale") in LOCALES else None)  # errors use it too
    try:
        choices = {name: _value(name, value) for name, value in given.items()}
        speak(LoadOptions(**choices).locale)
        return _COMMANDS[command](model, choices, **own)
    except LoadError as error:
        told = ErrorInfo(type(error).__name__, error.message, error.hint, code=error.code)
        print(error_lines(told), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        return _INTERRUPTED


def _value(name: str, given: Any) -> Any:
    return parse_option(f"--{name.replace('_', '-')}", given, TYPES[name]) if isinstance(given, str) else given


def _plan(model: str, choices: dict[str, Any], context_length: int) -> int:
    print(plan_lines(plan(model, **choices), clean(model), context_length))
    return 0


def _load(model: str, choices: dict[str, Any], quiet: bool, *, download_only: bool = False) -> int:
    job = LoadJob(model, merge_options(None, choices), download_only=download_only)
    if not quiet:
        job.subscribe(_print_stage)
    status = _finish(begin(job), quiet=quiet)
    if status == 0:
        print(result_line(job.state))
    return status


def _download(model: str, choices: dict[str, Any], quiet: bool) -> int:
    return _load(model, choices, quiet, download_only=True)


def _finish(job: LoadJob, *, quiet: bool = False) -> int:
    """Wait for a load, with a bar; return the exit status, and print the reason if the load did not succeed."""
    try:
        with ExitStack() as ended:
            if not quiet and sys.stderr.isatty():
                show_bar(job)
            elif not quiet:
                ended.callback(tell_warnings, job)
            job._join()
    except LoadError:
        print(result_line(job.state), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        with suppress(LoadError, LoadCancelled, TimeoutError):
            job.result(_PATIENCE)
        print(result_line(job.state), file=sys.stderr)
        return _INTERRUPTED
    return 0


def _doctor(model: str, choices: dict[str, Any], no_load: bool) -> int:
    if no_load:
        print(clean(str(diagnose(model, **choices))))
        return 0
    job = start(model, **choices)
    status = _finish(job)
    if status == 0:
        print(clean(str(diagnose(job))))
    return status


def _convert(model: str, choices: dict[str, Any]) -> int:
    made = convert(model, merge_options(None, choices), lambda name: print(text("convert", "reads", name=clean(name))))
    names = clean(", ".join(file.name for file in made.files))
    where = clean(str(made.files[0].parent))
    print(text("convert", "made", names=names, where=where, size=size_text(made.bytes), tensors=made.tensors))
    return 0


def _verify(model: str, choices: dict[str, Any], fetch: bool) -> int:
    def tell(name: str, is_right: bool) -> None:
        print(text("verify", "right" if is_right else "wrong", name=clean(name)), flush=True)

    found = verify(model, merge_options(None, choices), tell, fetch=fetch)
    counts = {"right": len(found.right), "wrong": len(found.wrong)}
    if not found.wrong:
        print(text("verify", "all_right", **counts))
        return 0
    print(text("verify", "fetched" if fetch else "differ", **counts))
    return 0 if fetch else 1


_COMMANDS: Mapping[str, Callable[..., int]] = {
    "load": _load,
    "download": _download,
    "plan": _plan,
    "doctor": _doctor,
    "convert": _convert,
    "verify": _verify,
}


def _print_stage(event: events.Event) -> None:
    if isinstance(event, events.StageEnded):
        print_over_bars(f"{event.t:7.2f} s  {text('stage', event.stage)}  {event.detail}", sys.stdout)


class _Parser(argparse.ArgumentParser):
    """A parser that names the argument that was probably meant."""

    def error(self, message: str) -> NoReturn:
        known = [*self._option_string_actions, *(_COMMANDS if self.prog == "nbloader" else ())]
        for word in re.findall(r"--[\w-]+|(?<=invalid choice: ')\w+", message):
            near = get_close_matches(word, known, n=1)
            if near and near != [word]:
                message = f"{message}. {text('hint', 'did_you_mean', name=near[0])}"
                break
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments where the command's own are known: the main parser does not know them."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog != "nbloader":
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nbloader", description=text("cli", "description"))
    parser.add_argument("--version", action="version", version=f"nbloader {__version__}", help=text("cli", "version"))
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", help=text("cli", "load"))
    download = commands.add_parser("download", help=text("cli", "download"))
    for command in (load, download):
        command.add_argument("--quiet", action="store_true", help=text("cli", "quiet"))
    look = commands.add_parser("plan", help=text("cli", "plan"))
    look.add_argument("--context-length", type=int, default=4096, help=text("cli", "context_length"))
    doctor = commands.add_parser("doctor", help=text("cli", "doctor"))
    doctor.add_argument("--no-load", action="store_true", help=text("cli", "no_load"))
    convert = commands.add_parser("convert", help=text("cli", "convert"))
    check = commands.add_parser("verify", help=text("cli", "verify"))
    check.add_argument("--fetch", action="store_true", help=text("cli", "fetch"))
    for command in (load, download, look, doctor):
        _add_options(command)
    for command in (convert, check):
        _add_options(command, finds_files=True)
    return parser


def _add_options(command: argparse.ArgumentParser, *, finds_files: bool = False) -> None:
    """Add an argument for every option or, with `finds_files`, only for those that locate the files."""
    # The demo is written in the format that convert makes, and no Hub lists it.
    command.add_argument("model", help=text("cli", "stored_model") if finds_files else text("cli", "model"))
    for name, row in ROWS.items():
        if row.in_command and (row.finds_files or name == "locale" or not finds_files):
            shown = text("option_help", name).replace("%", "%%")
            command.add_argument(f"--{name.replace('_', '-')}", help=shown, **_argument(row, TYPES[name]))


def _argument(row: Row, types: tuple[type, ...]) -> Mapping[str, Any]:
    if types == (bool,):
        return {"action": "store_true", "default": None}
    if bool in types and (row.choices or str not in types):
        return {"action": argparse.BooleanOptionalAction}
    if bool in types and NoneType not in types:  # a flag with an optional value
        return {"nargs": "?", "const": True}
    return {}
