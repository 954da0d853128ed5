"""The command ``nbloader``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from nbloader import _events as events
from nbloader._errors import LoadCancelled, LoadError
from nbloader._job import LoadJob
from nbloader._load import begin, plan
from nbloader._locale import text
from nbloader._options import DTYPES, QUANTIZATIONS, merge_options
from nbloader._terminal import plan_lines, result_line, show_bar

_PATIENCE = 2.0  # seconds for a cancelled load to end
_OWN = {"load": ("quiet",), "plan": ("context_length",)}
_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended


def main() -> int:
    """Run the command of this process; returns its exit status, as `run` does."""
    status = run()
    if status == _INTERRUPTED:
        # A load may be inside an import still, and neither end soon nor survive Python's end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where the load failed, 130 where it was interrupted."""
    parsed = vars(_parser().parse_args(arguments))
    command, model = parsed.pop("command"), parsed.pop("model")
    own = {name: parsed.pop(name) for name in _OWN[command]}
    choices = {name: value for name, value in parsed.items() if value is not None}
    try:
        return _load(model, choices, **own) if command == "load" else _plan(model, choices, **own)
    except LoadError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        return _INTERRUPTED


def _plan(model: str, choices: dict[str, Any], context_length: int) -> int:
    print(plan_lines(plan(model, **choices), model, context_length))
    return 0


def _load(model: str, choices: dict[str, Any], quiet: bool) -> int:
    job = LoadJob(model, merge_options(None, choices))
    if not quiet:
        job.subscribe(_print_stage)
    begin(job)
    try:
        if not quiet and sys.stderr.isatty():
            show_bar(job)
        job.result()
    except LoadError:
        print(result_line(job.state), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        with suppress(LoadError, LoadCancelled, TimeoutError):
            job.result(_PATIENCE)
        print(result_line(job.state), file=sys.stderr)
        return _INTERRUPTED
    print(result_line(job.state))
    return 0


def _print_stage(event: events.Event) -> None:
    if isinstance(event, events.StageEnded):
        from tqdm import tqdm

        tqdm.write(f"{event.t:7.2f} s  {text('stage', event.stage)}  {event.detail}", file=sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbloader", description="Load transformers checkpoints with true progress.")
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", help="load a checkpoint, print its stages and one line of result")
    load.add_argument("--quiet", action="store_true", help="print the result only")
    look = commands.add_parser("plan", help="say what loading a checkpoint will move and hold, without loading it")
    look.add_argument("--context-length", type=int, default=4096, help="tokens to count the KV cache for")
    for command in (load, look):
        _add_choices(command)
    return parser


def _add_choices(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="a folder, the id of a repository on the Hub, or 'demo'")
    command.add_argument("--dtype", choices=DTYPES, help="the parameters' type in memory")
    command.add_argument("--device", help="cpu, cuda, cuda:1 or mps")
    command.add_argument("--device-map", help="auto, balanced, balanced_low_0 or sequential")
    command.add_argument("--max-memory", help="what the weights may take of each device, such as 8GB")
    command.add_argument("--offload-folder", help="for weights that fit on no device")
    command.add_argument("--quantization", choices=QUANTIZATIONS, help="make the weights smaller while they are placed")
    command.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2, …")
    command.add_argument("--variant", help="the weights of this name, such as fp16")
    command.add_argument("--use-safetensors", action=argparse.BooleanOptionalAction, help="only these, or only .bin")
    command.add_argument("--force", action="store_true", default=None, help="load what takes more memory than is free")
    command.add_argument("--adapter", help="a LoRA adapter to attach: a folder, or the id of a repository")
    command.add_argument("--merge-adapter", action="store_true", default=None, help="merge it into the weights")
    command.add_argument(
        "--trust-remote-code",
        nargs="?",
        const=True,
        metavar="COMMIT",
        help="run the checkpoint's own code, of a commit",
    )
    command.add_argument("--revision", help="branch, tag or commit hash")
    command.add_argument("--token", help="access token for the Hub")
    command.add_argument("--cache-dir", help="the Hub cache's folder")
    command.add_argument("--subfolder", help="the folder inside the checkpoint that holds the model")
    command.add_argument("--auto-class", help="the class that loads the model, such as AutoModelForCausalLM")
    command.add_argument("--local-files-only", action="store_true", default=None, help="do not ask the Hub")
