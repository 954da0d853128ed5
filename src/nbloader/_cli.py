"""The command ``nbloader``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from nbloader import _events as events
from nbloader._errors import LoadCancelled, LoadError
from nbloader._job import LoadJob
from nbloader._locale import text
from nbloader._options import DTYPES, merge_options
from nbloader._terminal import result_line, show_bar

_PATIENCE = 2.0  # seconds for a cancelled load to end
_INTERRUPTED = 130  # as shells report a command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where the load failed, 130 where it was interrupted."""
    parsed = vars(_parser().parse_args(arguments))
    parsed.pop("command")
    model, quiet = parsed.pop("model"), parsed.pop("quiet")
    choices = {name: value for name, value in parsed.items() if value is not None}
    try:
        return _load(model, quiet, choices)
    except LoadError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, LoadCancelled):
        return _INTERRUPTED


def _load(model: str, quiet: bool, choices: dict[str, Any]) -> int:
    job = LoadJob(model, merge_options(None, choices))
    if not quiet:
        job.subscribe(_print_stage)
    job.start()
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
    load.add_argument("model", help="a folder, the id of a repository on the Hub, or 'demo'")
    load.add_argument("--quiet", action="store_true", help="print the result only")
    load.add_argument("--dtype", choices=DTYPES, help="the parameters' type in memory")
    load.add_argument("--device", help="cpu, cuda, cuda:1 or mps")
    load.add_argument("--device-map", help="auto, balanced, balanced_low_0 or sequential")
    load.add_argument("--max-memory", help="of each device, such as 8GB; for --device-map")
    load.add_argument("--offload-folder", help="for weights that fit on no device")
    load.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2, …")
    load.add_argument("--variant", help="the weights of this name, such as fp16")
    load.add_argument("--use-safetensors", action=argparse.BooleanOptionalAction, help="safetensors only, or .bin only")
    load.add_argument("--revision", help="branch, tag or commit hash")
    load.add_argument("--token", help="access token for the Hub")
    load.add_argument("--cache-dir", help="the Hub cache's folder")
    load.add_argument("--subfolder", help="the folder inside the checkpoint that holds the model")
    load.add_argument("--auto-class", help="the class that loads the model, such as AutoModelForCausalLM")
    load.add_argument("--local-files-only", action="store_true", default=None, help="do not ask the Hub")
    return parser
