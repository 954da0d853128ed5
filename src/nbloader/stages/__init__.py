"""A load, stage by stage: one module a stage, run in this order on the loading thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._errors import RemoteCodeError
from nbloader.stages.adapter import attach_adapter
from nbloader.stages.config import choose_class
from nbloader.stages.device import settle
from nbloader.stages.download import fetching
from nbloader.stages.metadata import describe
from nbloader.stages.resolve import resolve
from nbloader.stages.tokenizer import make_tokenizer
from nbloader.stages.weights import place, reading

if TYPE_CHECKING:
    from nbloader._options import LoadOptions
    from nbloader._plan import LoadPlan
    from nbloader._reporter import Reporter
    from nbloader._source import Source


class Outcome(NamedTuple):
    """What a load made: the model, its tokenizer, and what is said of them."""

    model: Any
    tokenizer: Any
    summary: Mapping[str, Any]


def run(
    model: str | os.PathLike[str], options: LoadOptions, reporter: Reporter, on_plan: Callable[[LoadPlan], None]
) -> Outcome:
    """Load `model`, telling `reporter` everything and `on_plan` the plan once it is made.

    Raises
    ------
    LoadError
        Where it could not be loaded.
    LoadCancelled
        Where the load was cancelled.
    """
    source = resolve(model, options, reporter)
    with (
        fetching(model, source, options, reporter, on_plan) as fetched,
        reading(fetched.whole, options, reporter) as supply,
    ):
        with _consenting(source, options) as allows_code:
            tokenizer = make_tokenizer(fetched, source, options, reporter, allows_code=allows_code)
            chosen = choose_class(fetched, options, reporter, allows_code=allows_code)
        checkpoint, plan = reporter.wait(fetched.whole)
        loaded = place(checkpoint, plan, chosen, options, reporter, supply)
    settle(loaded, checkpoint, reporter, may_be_missing=supply.may_be_missing)
    if fetched.adapter is not None:
        loaded = attach_adapter(loaded, fetched.adapter, plan, options, reporter)
    summary = describe(loaded, tokenizer, source, plan, reporter)
    return Outcome(loaded, tokenizer, summary)


@contextmanager
def _consenting(source: Source, options: LoadOptions) -> Iterator[bool]:
    """Give whether the checkpoint's own code may run, and say of code that may not where it is and how to allow it."""
    try:
        yield source.allows_code(options)
    except RemoteCodeError as error:
        files, commit = source.code(options)
        was = f" What was allowed is {options.trust_remote_code}." if options.trust_remote_code else ""
        raise RemoteCodeError(
            f"{error.message} Its files: {', '.join(files) or 'none were found'}.{was}",
            f"Read them. If you trust them, allow this state of them with trust_remote_code={commit!r}.",
            files,
            commit,
        ) from None
