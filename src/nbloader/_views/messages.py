"""The messages that a front end may send to the kernel: their kinds and their parts.

Any JavaScript in the page can send them, so no message is trusted. A message can do no more than a click in the panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbloader._text.catalogue import text

_MOST_CHOICES = 64
_MOST_TEXT = 4096  # characters of one text
_MOST_LANGUAGE = 64  # characters of a language tag

_KINDS: Mapping[str, Mapping[str, type]] = {
    "drawn": {"language": str},
    "adopts": {},
    "cancel": {"number": int},
    "unload": {},
    "answer": {"number": int, "question": int, "choice": int},
    "plan": {"choices": dict},
    "load": {"choices": dict},
    "load_so": {"choice": int},
    "use_run": {"choice": int},
    "use_resident": {},
    "download": {"choices": dict},
    "clear_history": {},
}
_MAY_LACK = {"drawn": "language"}


class Message(NamedTuple):
    """A message from the page, with the parts that its kind has.

    `number` is that of a load. `question` is that of a question; 0 means the error that the load ended with.
    """

    kind: str
    number: int | None = None
    question: int = 0
    choice: int = -1
    choices: Mapping[str, str] = {}
    language: str = ""


class RefusedError(Exception):
    """The message is not one that a click in the panel sends."""


def read_message(content: Any, buffers: Any = None) -> Message:
    """Return the content of a message.

    Raises
    ------
    RefusedError
        If it has an unknown kind, other parts than its kind has, or a part of the wrong type or size.
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
    """Return the first characters of a value that may be megabytes long."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value[:5])}]"
    return f"of type {type(value).__name__}"
