"""Signatures with every option by name, for completion and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from nbloader._options.options import ROWS, LoadOptions
from nbloader._text.catalogue import texts

Taking = TypeVar("Taking", bound=Callable[..., Any])

_INDENT = "    "


def takes_options(function: Taking) -> Taking:
    """Let completion and ``help`` know the options that a function or class takes as further keyword arguments."""
    signature = inspect.signature(function)
    named = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {each.name for each in named}
    parameters = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=_default(each), annotation=each.type)
        for each in fields(LoadOptions)
        if each.name in ROWS and each.name not in taken
    ]
    function.__signature__ = signature.replace(parameters=[*named, *parameters])  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{_section()}"
    return function


def _default(option: Any) -> Any:
    return option.default if option.default is not MISSING else option.default_factory()


def _section() -> str:
    """Return the options as a section of a docstring, with one line each."""
    helps = texts("en")["option_help"]
    lines = [f"{name}\n{_INDENT}{_first_sentence(helps[name])}" for name in ROWS]
    return "\n".join(["Other Parameters", "----------------", *lines]) + "\n"


def _first_sentence(help_text: str) -> str:
    first, dot, _ = help_text.partition(". ")
    return f"{first}{dot.strip()}"
