"""The command ``nbloader``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from typing import Any

from nbloader._analysis.diagnose import diagnose
from nbloader._api import begin, plan, start
from nbloader._convert import convert
from nbloader._errors import LoadCancelled, LoadError
from nbloader._load.job import LoadJob
from nbloader._options.options import DTYPES, QUANTIZATIONS, merge_options
from nbloader._progress import events
from nbloader._safety.redaction import clean
from nbloader._text.catalogue import LOCALES, speak, text
from nbloader._text.units import size_text
from nbloader._views.terminal import error_lines, plan_lines, result_line, show_bar, tell_warnings

_PATIENCE = 2.0  # seconds for a cancelled load to end
_OWN = {"load": ("quiet",), "plan": ("context_length",), "doctor": ("no_load",), "convert": ()}
_IS_SET: Mapping[str, Any] = {"action": "store_true", "default": None}
_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended


def main() -> int:
    """Run the command of this process; returns its exit status, as `run` does."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal without Korean cannot show ends nothing
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has had enough. Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if status == _INTERRUPTED:
        # A load may be inside an import still, and neither end soon nor survive Python's end.
        sys.stderr.flush()
        os._exit(status)
    return status


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where the load failed, 130 where it was interrupted."""
    parsed = vars(_parser().parse_args(arguments))
    command, model = parsed.pop("command"), parsed.pop("model")
    own = {name: parsed.pop(name) for name in _OWN[command]}
    choices = {name: value for name, value in parsed.items() if value is not None}
    speak(choices.get("locale"))
    try:
        return _COMMANDS[command](model, choices, **own)
    except LoadError as error:
        print(error_lines(type(error).__name__, error.message, error.hint), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        return _INTERRUPTED


def _plan(model: str, choices: dict[str, Any], context_length: int) -> int:
    print(plan_lines(plan(model, **choices), clean(model), context_length))
    return 0


def _load(model: str, choices: dict[str, Any], quiet: bool) -> int:
    job = LoadJob(model, merge_options(None, choices))
    if not quiet:
        job.subscribe(_print_stage)
    status = _finish(begin(job), quiet=quiet)
    if status == 0:
        print(result_line(job.state))
    return status


def _finish(job: LoadJob, *, quiet: bool = False) -> int:
    """Wait for a load, with a bar; return the exit status, and say why where it did not end well."""
    try:
        with ExitStack() as ended:
            if not quiet and sys.stderr.isatty():
                show_bar(job)
            elif not quiet:
                ended.callback(tell_warnings, job)
            job.result()
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


_COMMANDS: Mapping[str, Callable[..., int]] = {
    "load": _load,
    "plan": _plan,
    "doctor": _doctor,
    "convert": _convert,
}


def _print_stage(event: events.Event) -> None:
    if isinstance(event, events.StageEnded):
        from tqdm import tqdm

        tqdm.write(f"{event.t:7.2f} s  {text('stage', event.stage)}  {event.detail}", file=sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbloader", description=text("cli", "description"))
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", help=text("cli", "load"))
    load.add_argument("--quiet", action="store_true", help=text("cli", "quiet"))
    look = commands.add_parser("plan", help=text("cli", "plan"))
    look.add_argument("--context-length", type=int, default=4096, help=text("cli", "context_length"))
    doctor = commands.add_parser("doctor", help=text("cli", "doctor"))
    doctor.add_argument("--no-load", action="store_true", help=text("cli", "no_load"))
    convert = commands.add_parser("convert", help=text("cli", "convert"))
    for command in (load, look, doctor):
        _add_choices(command)
    _add_places(convert)
    return parser


def _add_choices(command: argparse.ArgumentParser) -> None:
    settings: Mapping[str, Mapping[str, Any]] = {
        "dtype": {"choices": DTYPES},
        "device": {},
        "device_map": {},
        "max_memory": {},
        "offload_folder": {},
        "quantization": {"choices": QUANTIZATIONS},
        "attn_implementation": {},
        "variant": {},
        "use_safetensors": {"action": argparse.BooleanOptionalAction},
        "force": _IS_SET,
        "adapter": {},
        "merge_adapter": _IS_SET,
        "trust_remote_code": {"nargs": "?", "const": True, "metavar": "COMMIT"},
        "auto_class": {},
        "tokenizer": {"action": argparse.BooleanOptionalAction},
    }
    _add(command, settings)
    _add_places(command)


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=text("cli", "model"))
    places = ("revision", "token", "cache_dir", "subfolder")
    _add(command, {**{key: {} for key in places}, "local_files_only": _IS_SET, "locale": {"choices": LOCALES}})


def _add(command: argparse.ArgumentParser, settings: Mapping[str, Mapping[str, Any]]) -> None:
    for name, how in settings.items():
        command.add_argument(f"--{name.replace('_', '-')}", help=text("cli", name), **how)
