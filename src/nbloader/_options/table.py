"""The row that defines an option; its check, variable, form field and documentation are derived from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_ROW = "row"


@dataclasses.dataclass(frozen=True)
class Row:
    """What defines an option, in addition to its name, annotation and default.

    Parameters
    ----------
    take
        Converts the user's value to the stored one, before the type is checked.
    check
        Raises OptionError for a value of the right type that is not valid.
    group
        The group of the form that shows it; empty if the form does not show it.
    field
        The form field that it shares with other options; empty if it has its own.
    choices
        The choices in the form, as text; empty for a text field.
    only_on_hub
        Whether it applies only to repositories on the Hub, not to folders.
    finds_files
        Whether it determines where the files are.
    makes_another
        Whether another value makes a different model, not the same one in another way.
    in_command
        Whether the command line has it.
    """

    take: Callable[[Any], Any] | None = None
    check: Callable[[Any], None] | None = None
    group: str = ""
    field: str = ""
    choices: tuple[str, ...] = ()
    only_on_hub: bool = False
    finds_files: bool = False
    makes_another: bool = True
    in_command: bool = True


def option(*, default: Any = None, default_factory: Any = None, repr: bool = True, **row: Any) -> Any:
    """Return a dataclass field for an option, with its default and its row."""
    metadata = {_ROW: Row(**row)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, repr=repr, metadata=metadata)
    return dataclasses.field(default=default, repr=repr, metadata=metadata)


def rows_of(owner: type) -> Mapping[str, Row]:
    """Return the options of a dataclass by name."""
    return {field.name: field.metadata[_ROW] for field in dataclasses.fields(owner) if _ROW in field.metadata}


def types_of(owner: type) -> Mapping[str, tuple[type, ...]]:
    """Return the types that each option accepts, from its annotation; empty for any."""
    hints = get_type_hints(owner)
    return {name: _types(hints[name]) for name in rows_of(owner)}


def _types(hint: Any) -> tuple[type, ...]:
    if hint is Any:
        return ()
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found = tuple(get_origin(part) or part for part in parts)
    return (*found, int) if float in found else found


def is_of(value: Any, types: tuple[type, ...]) -> bool:
    """Return whether a value has one of these types; a bool is not a number."""
    if isinstance(value, bool) and types:
        return bool in types
    return not types or isinstance(value, types)
