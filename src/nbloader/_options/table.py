"""What an option is: one row, from which its check, its variable, its fields and its documentation follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_ROW = "row"


@dataclasses.dataclass(frozen=True)
class Row:
    """One option, beside its name, its annotation and its default.

    Parameters
    ----------
    take
        Turns what a user gives into what is kept, before its type is checked.
    check
        Raises OptionError for a value of the right type that cannot be used.
    group
        The group of the form that it stands in; empty where the form does not have it.
    field
        The field of the form that it shares with others; empty where it has its own.
    choices
        What the form offers, as text; empty for a field to type in.
    only_on_hub
        Whether it means nothing for a folder.
    finds_files
        Whether it says where the files are.
    makes_another
        Whether another value makes another model, rather than the same one in another way.
    in_command
        Whether the command line takes it.
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
    """Return a dataclass's field that is an option: its default, and its row."""
    metadata = {_ROW: Row(**row)}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, repr=repr, metadata=metadata)
    return dataclasses.field(default=default, repr=repr, metadata=metadata)


def rows_of(owner: type) -> Mapping[str, Row]:
    """Return the options of a dataclass by name."""
    return {field.name: field.metadata[_ROW] for field in dataclasses.fields(owner) if _ROW in field.metadata}


def types_of(owner: type) -> Mapping[str, tuple[type, ...]]:
    """Return what values each option may have, by its annotation; empty for any."""
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
