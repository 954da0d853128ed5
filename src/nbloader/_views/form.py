"""The form of options: its fields, their valid choices, and the call that reproduces them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from nbloader._errors import OptionError
from nbloader._options.as_code import limits_code, size_code
from nbloader._options.environment import parse_option
from nbloader._options.options import ROWS, TYPES, LoadOptions, merge_options
from nbloader._options.values import DEVICE_MAPS
from nbloader._planning.quantization import METHODS, why_not
from nbloader._planning.stored import has_cuda
from nbloader._system.memory import free_devices
from nbloader._text.catalogue import text
from nbloader._views import wire


class Field(NamedTuple):
    """A field of the form: its name, its kind, and its choices."""

    name: str
    kind: wire.FieldKind
    choices: tuple[str, ...]
    only_on_hub: bool


def _fields() -> dict[str, dict[str, Field]]:
    groups: dict[str, dict[str, Field]] = {}
    for option, row in ROWS.items():
        if row.group:
            fields, name = groups.setdefault(row.group, {}), row.field or option
            choices = (*fields[name].choices, *row.choices) if name in fields else row.choices
            fields[name] = Field(name, _kind(choices, TYPES[option]), choices, row.only_on_hub)
    return groups


def _kind(choices: tuple[str, ...], types: tuple[type, ...]) -> wire.FieldKind:
    if choices:
        return "choice"
    if types == (bool,):
        return "flag"
    return "number" if int in types and str not in types else "text"


_GROUPS = _fields()
_FIELDS = {name: field for fields in _GROUPS.values() for name, field in fields.items()}
_CODE = "code"
"""Placeholder in the form for a value that only code can set; the value is kept."""


def fields_of(options: LoadOptions, is_on_hub: bool, config: Mapping[str, Any]) -> list[wire.FieldGroup]:
    """Return the form's groups of fields, with values as text and, for what cannot be chosen, the reason."""
    return [
        {"name": group, "fields": [_field(field, options, is_on_hub, config) for field in fields.values()]}
        for group, fields in _GROUPS.items()
    ]


def _field(field: Field, options: LoadOptions, is_on_hub: bool, config: Mapping[str, Any]) -> wire.Field:
    name, value = field.name, _text_of(field.name, options)
    choices: list[wire.FieldChoice] = [
        {"value": choice, "why": _why_no_choice(name, choice, config)} for choice in field.choices
    ]
    if field.kind == "choice" and value not in field.choices:
        choices.append({"value": value, "why": ""})
    return {
        "name": name,
        "kind": field.kind,
        "value": value,
        "choices": choices,
        "why": _why_not(field, options, is_on_hub),
    }


def _why_not(field: Field, options: LoadOptions, is_on_hub: bool) -> str:
    """Return why a field does not apply; empty if it does."""
    is_spread = options.placement not in (None, "cpu") and options.device is None
    if field.name == "offload_folder" and not is_spread:
        return text("why_not", "offload")
    if field.name == "readers" and options.readahead is False:
        return text("why_not", "readers")
    if field.name == "merge_adapter" and options.adapter is None:
        return text("why_not", "adapter")
    if field.only_on_hub and not is_on_hub:
        return text("why_not", "folder")
    return ""


def _why_no_choice(name: str, choice: str, config: Mapping[str, Any]) -> str:
    if name == "quantization" and choice in METHODS:
        return why_not(choice, config)
    if choice == "cuda" and not has_cuda():
        return text("why_not", "cuda")
    if choice == "mps" and "mps" not in free_devices():
        return text("why_not", "mps")
    if choice == "flash_attention_2" and not has_cuda():
        return text("why_not", "cuda")
    return ""


def changed_by(options: LoadOptions, texts: Mapping[str, Any]) -> LoadOptions:
    """Return `options` with the texts of a form applied; an empty text is the default.

    Raises
    ------
    OptionError
        For a field that does not exist or a value that it cannot take.
    """
    changes: dict[str, Any] = {}
    for name, said in texts.items():
        if name not in _FIELDS or not isinstance(said, str) or len(said) > 4096:
            known = {"name": repr(name), "value": repr(str(said)[:100])}
            raise OptionError(text("error", "invalid_form_field", **known), text("hint", "report_form"))
        if said != _text_of(name, options):
            changes.update(_choice(name, said.strip()))
    return merge_options(options, changes)


def wrong_field(options: LoadOptions, texts: Mapping[str, Any]) -> str:
    """Return the name of the first field whose text alone makes the options invalid; empty if there is none."""
    for name, said in texts.items():
        if name in _FIELDS and _is_wrong(options, name, said):
            return name
    return ""


def _is_wrong(options: LoadOptions, name: str, said: Any) -> bool:
    try:
        changed_by(options, {name: said})
    except OptionError:
        return True
    return False


def _choice(name: str, said: str) -> dict[str, Any]:
    if name == "placement":
        return {"device_map": said} if said in DEVICE_MAPS else {"device": said or None}
    return {name: parse_option(name, said, TYPES[name]) if said else getattr(LoadOptions(), name)}


def _text_of(name: str, options: LoadOptions) -> str:
    value = options.placement if name == "placement" else getattr(options, name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "max_memory":
        return json.dumps(limits_code(value)) if isinstance(value, Mapping) else size_code(value)
    return str(value) if isinstance(value, (str, int)) else _CODE
