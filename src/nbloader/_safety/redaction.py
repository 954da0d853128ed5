"""Redact what is shown: remove secrets, and escape characters with an effect where they are shown.

Names, architectures and errors come from checkpoints, Hubs and libraries, and may contain anything.
"""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from nbloader._errors import LoadError
from nbloader._text.catalogue import Text, text

_SHORTEST = 4  # characters; redacting a shorter secret would redact ordinary words
_MOST_SECRETS = 64

# Control characters except tab and line feed, and characters that change the direction of the text after them.
_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NUMBERS = (int, float, bool)
_secrets: dict[str, None] = {}

Value = TypeVar("Value")


def keep_secret(token: object) -> None:
    """Redact a token in all output from now on."""
    if isinstance(token, str) and len(token) >= _SHORTEST:
        _secrets[token] = None
        while len(_secrets) > _MOST_SECRETS:
            del _secrets[next(iter(_secrets))]


def clean(value: Value) -> Value:
    """Return a value that is safe to show; the same object if nothing has to change."""
    made: Any = _clean(value)
    return made  # type: ignore[no-any-return]


def _clean(value: Any) -> Any:
    if value is None or type(value) in _NUMBERS:  # the view of many shards has thousands of them
        return value
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, Mapping):
        keys, parts = _clean(tuple(value)), _clean(tuple(value.values()))
        is_same = all(old is new for old, new in zip((*value, *value.values()), (*keys, *parts), strict=True))
        return value if is_same else dict(zip(keys, parts, strict=True))
    if isinstance(value, (list, tuple)):
        parts = [_clean(part) for part in value]
        if all(old is new for old, new in zip(value, parts, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts_of = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {name: new for name, old in parts_of.items() if (new := _clean(old)) is not old}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def _clean_text(said: str) -> str:
    if not _must_change(said):
        return said
    if isinstance(said, Text):
        group, key, arguments = said._said
        made = Text(group, key, _clean(arguments), said._locale)
        if not _must_change(made):
            return made
    for secret in _secrets:
        said = str(said).replace(secret, "…")
    return _ACTIVE.sub(lambda found: repr(found[0])[1:-1], said)


def _must_change(said: str) -> bool:
    return any(secret in said for secret in _secrets) or _ACTIVE.search(said) is not None


def clean_error(error: LoadError) -> LoadError:
    """Return a copy of an error that is safe to show, without a traceback, cause or context."""
    made = error.fresh()
    made.args = clean(made.args)
    for name, value in vars(made).items():
        setattr(made, name, clean(value))
    made.__cause__ = made.__context__ = None
    return made


@contextmanager
def leaving(name: str) -> Iterator[None]:
    """Redact the errors that leave this context; `name` is what the errors are about."""
    try:
        yield
    except LoadError as error:
        raise clean_error(error) from None
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        if not any(secret in told for secret in _secrets):
            raise
        known = {"name": name, "error": f"{type(error).__name__}: {error}"}
        made = LoadError(text("error", "internal_error", **known), text("hint", "report"), told)
        raise clean_error(made) from None
