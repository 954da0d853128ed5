"""What can go wrong, and how it is told.

Exception tree::

    LoadError                 a load did not end in a model
    ├── OptionError           an option that does not exist, or a value it cannot take
    ├── SourceError           no checkpoint where the user said there is one
    ├── DownloadError         the Hub, or the way to it, failed
    ├── CheckpointError       the files are there and are broken, or not what they claim
    │   └── RemoteCodeError   the checkpoint brings Python code that would have to run
    ├── WontFitError          the checkpoint needs more memory than is free
    └── DependencyError       an optional package that this checkpoint needs is missing
    LoadCancelled             somebody cancelled the load
"""

from __future__ import annotations

import copy
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from nbloader._text.catalogue import Text, text
from nbloader._text.units import first_few

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MOST_KNOWN = 40  # words that are worth listing


class LoadError(Exception):
    """A load ended without a model.

    Parameters
    ----------
    message
        What happened, and where: names the file, the repository or the option.
    hint
        What to do about it, as a whole sentence.
    details
        The technical cause (a formatted traceback), kept as text so that no frame keeps tensors alive.

    Attributes
    ----------
    suggestions
        Choices with which the load would go on, as keyword arguments; empty where no choice helps.
    """

    suggestions: tuple[Mapping[str, Any], ...] = ()

    def __init__(self, message: str, hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    @property
    def code(self) -> str:
        """A stable name for what went wrong, such as ``"no-config"``; the docs list them all."""
        message = self.message
        if not isinstance(message, Text):
            return "other"
        key, found = message.key_in("error"), message.key_in("found")
        return (key or (f"found_{found}" if found else "other")).replace("_", "-")

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def fresh(self) -> LoadError:
        """Return a copy without a traceback, so that several threads can each raise their own."""
        return copy.copy(self).with_traceback(None)


class OptionError(LoadError):
    """An option that does not exist, or a value it cannot take."""


class SourceError(LoadError):
    """There is no checkpoint where the user said there is one."""


class DownloadError(LoadError):
    """The Hub refused, or could not be reached, or sent something else than it promised."""


class CheckpointError(LoadError):
    """The checkpoint's files are incomplete, broken, or not what they claim to be."""


def os_failure(error: OSError, name: str, details: str = "") -> CheckpointError:
    """Return what is told where the system refuses a file of the checkpoint `name`."""
    known = {"path": str(error.filename or name), "error": str(error.strerror or error)}
    return CheckpointError(text("error", "os_error", **known), text("hint", "check_file"), details)


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, and the next where it only announces that; empty without any."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines and lines[0].endswith(":") else next(iter(lines), "")


class RemoteCodeError(CheckpointError):
    """The checkpoint brings Python code of its own that would have to run, and nobody has allowed it.

    Parameters
    ----------
    files
        The code's files: addresses on the Hub at the commit, or paths.
    commit
        What a consent is for: the commit, or of a folder the digest of its code. None where no consent helps.
    """

    def __init__(self, message: str, hint: str = "", files: Sequence[str] = (), commit: str | None = None) -> None:
        super().__init__(message, hint)
        self.files = tuple(files)
        self.commit = commit
        self.suggestions = ({"trust_remote_code": commit},) if commit is not None else ()


class WontFitError(LoadError):
    """The weights take more memory than is free.

    `suggestions` are choices that would fit and, at last, ``{"force": True}``, which loads them all the same;
    `needed` is what the weights take with each, in bytes.
    """

    def __init__(
        self, message: str, hint: str = "", suggestions: Sequence[Mapping[str, Any]] = (), needed: Sequence[int] = ()
    ) -> None:
        super().__init__(message, hint)
        self.suggestions = tuple(suggestions)
        self.needed = tuple(needed)


class DependencyError(LoadError):
    """An optional package that this checkpoint needs is not installed."""


class LoadCancelled(Exception):  # noqa: N818 - the public name; being cancelled is not an error
    """The load was cancelled: by the button, by ``cancel()`` or by an interrupt."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence naming the known word nearest to `word`, or listing them all."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return text("hint", "did_you_mean", name=repr(near[0]))
    return text("hint", "known", names=first_few(names, _MOST_KNOWN))
