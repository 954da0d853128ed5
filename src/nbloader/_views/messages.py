"""What a front end may say to the kernel: the kinds of messages, and their parts.

Whoever can run JavaScript in the page can send them, so that none is trusted: what a message may do at most is what a
click in the panel does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbloader._text.catalogue import text

_MOST_CHOICES = 64
_MOST_TEXT = 4096  # characters of one text
_MOST_LANGUAGE = 64  # characters of a language's name

_KINDS: Mapping[str, Mapping[str, type]] = {
    "drawn": {"language": str},
    "adopts": {},
    "cancel": {"number": int},
    "unload": {},
    "answer": {"number": int, "question": int, "choice": int},
    "plan": {"choices": dict},
    "load": {"choices": dict},
    "clear_history": {},
}
_MAY_LACK = {"drawn": "language"}


class Message(NamedTuple):
    """What was said; of the parts what its kind has.

    `number` is a load's, `question` that of what it asks, 0 for the error that it ended with.
    """

    kind: str
    number: int | None = None
    question: int = 0
    choice: int = -1
    choices: Mapping[str, str] = {}
    language: str = ""


class RefusedError(Exception):
    """Nobody who clicks in the panel says this."""


def read_message(content: Any, buffers: Any = None) -> Message:
    """Return what a message says.

    Raises
    ------
    RefusedError
        Where it is none of the kinds above, has other parts, or parts of another type or size.
    """
    if buffers:
        raise RefusedError(text("reason", "buffers", count=len(buffers)))
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RefusedError(text("reason", "kind", kind=_shown(kind)))
    parts, said = _KINDS[kind], {name: part for name, part in content.items() if name != "kind"}
    lacks = parts.keys() - said.keys() - {_MAY_LACK.get(kind)}
    if lacks or said.keys() - parts.keys():
        raise RefusedError(text("reason", "parts", kind=kind, parts=_shown(list(said))))
    for name, part in said.items():
        if type(part) is not parts[name]:
            raise RefusedError(text("reason", "of_type", name=name, type=type(part).__name__))
    if len(said.get("language", "")) > _MOST_LANGUAGE:
        raise RefusedError(text("reason", "language"))
    for name, choice in said.get("choices", {}).items():
        if not isinstance(name, str) or not isinstance(choice, str) or len(choice) > _MOST_TEXT:
            raise RefusedError(text("reason", "no_text", name=_shown(name)))
    if len(said.get("choices", ())) > _MOST_CHOICES:
        raise RefusedError(text("reason", "choices", count=len(said["choices"])))
    return Message(kind, **said)


def _shown(value: Any) -> str:
    """Return a few characters of something that may be megabytes."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value[:5])}]"
    return f"of type {type(value).__name__}"
