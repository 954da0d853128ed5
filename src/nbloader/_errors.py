"""The exceptions of nbloader, and how they are worded.

Exception tree::

        LoadError                 a load ended without a model
        ├── OptionError           an option that does not exist, or a value it cannot take
        ├── SourceError           no checkpoint at the given path or id
        ├── DownloadError         the Hub, or the connection to it, failed
        ├── CheckpointError       the files are broken, or not what they claim to be
        │   └── RemoteCodeError   the checkpoint brings Python code that would have to run
        ├── WontFitError          the checkpoint needs more memory than is free
        └── DependencyError       an optional package that this checkpoint needs is missing
        LoadCancelled             the load was cancelled
"""

from __future__ import annotations

import copy
import os
import traceback
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from nbloader._text.catalogue import Text, text
from nbloader._text.units import first_few, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MOST_KNOWN = 40  # a list of more words than this would not help


CODED = ("error", "found")
"""The groups of texts whose keys are error codes."""


def code_of(group: str, key: str) -> str:
    """Return the code of the errors with this text."""
    return (f"found_{key}" if group == "found" else key).replace("_", "-")


class LoadError(Exception):
    """A load ended without a model.

    Parameters
    ----------
    message
        What happened, and where: it names the file, the repository or the option.
    hint
        What to do about it, as a whole sentence.
    details
        The technical cause (a formatted traceback). It is text, because frames would keep tensors alive.

    Attributes
    ----------
    suggestions
        Choices with which the load would go on, as keyword arguments; empty if no choice helps.
    """

    suggestions: tuple[Mapping[str, Any], ...] = ()

    def __init__(self, message: str, hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    @property
    def code(self) -> str:
        """A stable name for the error, such as ``"no-config"``; the docs list them all."""
        keys = {group: self.message.key_in(group) for group in CODED} if isinstance(self.message, Text) else {}
        return next((code_of(group, key) for group, key in keys.items() if key), "other")

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the user's own line, what happened and what to do; `details` has the rest."""
        self.details = self.details or "".join(traceback.format_exception(self))
        return [*user_lines(self), f"{type(self).__name__} [{self.code}]: {self.message}", self.hint]

    def fresh(self) -> LoadError:
        """Return a copy without a traceback, so that several threads can each raise their own."""
        return copy.copy(self).with_traceback(None)


def user_lines(error: BaseException) -> list[str]:
    """Return the last line of the user's own code in a traceback, and where it is."""
    package = os.path.dirname(__file__)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(package)]
    # The frames of the notebook's program come before the user's.
    before = next((at for at, frame in enumerate(frames) if frame.filename.startswith(package)), len(frames))
    last = frames[before - 1] if 0 < before <= len(frames) else own[-1] if own else None
    if last is None:
        return []
    place = last.filename if os.path.exists(last.filename) else last.name.replace("<module>", "cell")
    return [f"{place}, line {last.lineno}", f"----> {last.lineno} {last.line}", ""]


class OptionError(LoadError):
    """An option that does not exist, or a value it cannot take."""


class SourceError(LoadError):
    """There is no checkpoint at the given path or repository id."""


class DownloadError(LoadError):
    """The Hub refused, could not be reached, or sent other content than it promised."""


class CheckpointError(LoadError):
    """The checkpoint's files are incomplete, broken, or not what they claim to be."""


def os_failure(error: OSError, name: str, details: str = "") -> CheckpointError:
    """Return the error for an OSError about a file of the checkpoint `name`."""
    known = {"path": str(error.filename or name), "error": str(error.strerror or error)}
    return CheckpointError(text("error", "os_error", **known), text("hint", "check_file"), details)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, with the next one if the first ends in a colon; empty if none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines and lines[0].endswith(":") else next(iter(lines), "")


class RemoteCodeError(CheckpointError):
    """The checkpoint brings Python code of its own that would have to run, and the user has not allowed it.

    Parameters
    ----------
    files
        The code's files: addresses on the Hub at the commit, or paths.
    commit
        What to allow: the commit or, for a folder, the digest of its code. None if allowing it does not help.
    """

    def __init__(self, message: str, hint: str = "", files: Sequence[str] = (), commit: str | None = None) -> None:
        named = [text("detail", "code_files", names=", ".join(files))] if files else []
        super().__init__(sentences(message, *named), hint)
        self.reason = message  # without the files, where they are listed beside it
        self.files = tuple(files)
        self.commit = commit
        self.suggestions = ({"trust_remote_code": commit},) if commit is not None else ()


class WontFitError(LoadError):
    """The weights take more memory than is free.

    `suggestions` are choices that would fit. The last one is ``{"force": True}``, which loads the weights anyway.
    `needed` is the number of bytes that the load needs with each choice, and `available` the number that it may take.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        suggestions: Sequence[Mapping[str, Any]] = (),
        needed: Sequence[int] = (),
        available: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.suggestions = tuple(suggestions)
        self.needed = tuple(needed)
        self.available = available


class DependencyError(LoadError):
    """An optional package that this checkpoint needs is not installed."""


class LoadCancelled(Exception):  # noqa: N818 - the public name; being cancelled is not an error
    """The load was cancelled, by the button, by ``cancel()`` or by an interrupt."""

    def _render_traceback_(self) -> list[str]:
        return [*user_lines(self), f"LoadCancelled: {self}"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known word nearest to `word`, or lists all known words."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return text("hint", "did_you_mean", name=repr(near[0]))
    return text("hint", "known", names=first_few(names, _MOST_KNOWN))
