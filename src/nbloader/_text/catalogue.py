"""The texts for the user, in English and Korean, from ``locale/*.json``; the front end gets them too.

A `Text` keeps its key and arguments, so it can be translated later. The reader's language is not known during a load.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Any

LOCALES = ("en", "ko")
"""The supported languages; the first is the default."""
FRONT_END = (
    "status", "stage", "row", "phase", "shard", "timeline", "panel", "plan", "plan_line", "memory_part", "verdict",
    "form", "group", "option", "option_help", "choice", "runs", "diagnosis", "unit",
)  # fmt: skip
"""The groups of texts that are sent to the front end."""
_chosen: ContextVar[str | None] = ContextVar("nbloader_locale", default=None)


class Text(str):
    """A text of the catalogue in one language, which can be translated to another (`in_locale`)."""

    def __new__(cls, group: str, key: str, arguments: Mapping[str, Any], locale: str) -> Text:
        """Fill in the arguments; arguments that are texts themselves are translated to the same language."""
        filled = {name: in_locale(value, locale) for name, value in arguments.items()}
        made = super().__new__(cls, texts(locale)[group][key].format(**filled))
        made._said = group, key, arguments
        made._locale = locale
        return made

    _said: tuple[str, str, Mapping[str, Any]]
    _locale: str

    def key_in(self, group: str) -> str:
        """Return the key of this text in a group, or that of its first argument in it; empty if none."""
        own, key, arguments = self._said
        parts = (part.key_in(group) for part in arguments.values() if isinstance(part, Text))
        return key if own == group else next(filter(None, parts), "")

    def in_locale(self, locale: str) -> Text:
        """Return the same text in another language."""
        return self if locale == self._locale else Text(*self._said, locale)

    def __getnewargs__(self) -> tuple[str, str, Mapping[str, Any], str]:  # type: ignore[override]
        return *self._said, self._locale

    def __deepcopy__(self, memo: object) -> Text:
        return self  # it is immutable


@cache
def texts(locale: str = LOCALES[0]) -> Mapping[str, Mapping[str, str]]:
    """Return the texts of a language by group and key."""
    content = files("nbloader").joinpath(f"locale/{locale}.json").read_text(encoding="utf-8")
    return json.loads(content)  # type: ignore[no-any-return]


def text(group: str, key: str, /, **arguments: Any) -> Text:
    """Return a text with its ``{names}`` filled in, in the current language."""
    return Text(group, key, arguments, locale())


def in_locale(value: Any, locale: str) -> Any:
    """Return `value` with every text in this language: a text, or a dict or list for the front end.

    The result contains plain strings, because some ways to the front end do not accept subclasses.
    """
    if isinstance(value, Text):
        return str(value.in_locale(locale))
    if isinstance(value, Mapping):
        return {key: in_locale(part, locale) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_locale(part, locale) for part in value]
    return value


def locale() -> str:
    """Return the current language: the one set for this thread, else that of the environment.

    Source: the order of LC_ALL, LC_MESSAGES and LANG is POSIX's,
    https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/V1_chap08.html.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return nearest(next(filter(None, named), ""))


def speak(chosen: str | None) -> None:
    """Set the language of this thread and of the threads that it starts; None for that of the environment."""
    _chosen.set(chosen)


def nearest(language: str) -> str:
    """Return the supported language for a tag: Korean for ``"ko-KR"`` and ``"ko_KR.UTF-8"``, English for others."""
    spoken = language.replace("_", "-").partition("-")[0].partition(".")[0].lower()
    return spoken if spoken in LOCALES else LOCALES[0]
